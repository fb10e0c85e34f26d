"""Who makes the shards of a corpus: processes of this machine, tasks of a job, hosts of a run; in any company.

Works are shared one by one: each is locked while it is made, and what is finished is never made again. So a build that
was killed goes on where it was, and two at once share.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from tqdm import tqdm

from lmjax.data.config import DataConfig
from lmjax.data.corpus import fetched, shard, unit
from lmjax.data.corpus.cache import Cache
from lmjax.data.sources import remote
from lmjax.data.sources.documents import Work
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import DataError, reason
from lmjax.workdir import lock
from lmjax.workdir.files import json_digest

# About what a work reads.
WORK_BYTES = 32_000_000
# Below it, starting processes takes longer than they save.
_WORTH_PROCESSES = 20_000_000
_POLL_SECONDS = 0.5


class Share(NamedTuple):
  """Which works are begun with: number I of every N; where it `takes_over`, then those that nobody has begun."""

  task: int = 0
  tasks: int = 1
  takes_over: bool = True


class Job(NamedTuple):
  """What a process needs to make a work."""

  cache_dir: str
  settings: unit.Settings
  tokenizer_file: str

  def key(self, work: Work) -> str:
    """Names the entry of a work in the cache."""
    return json_digest([self.settings.key, work.facts])


def entries_of(
  config: DataConfig, tokenizer: Tokenizer, works: Sequence[Work], share: Share, progress: bool
) -> list[unit.Entry | None]:
  """The entry of each work, made if it is not there; None: it is another task's.

  Raises DataError: a source cannot be read, twice, or the cache cannot be written.
  """
  cache, settings = Cache(config.cache_dir), unit.Settings(tokenizer.hash, config.bad_text)
  file = f'tokenizers/{tokenizer.hash[:32]}.json'
  job = Job(config.cache_dir, settings, cache.path(file))
  found = [found_entry(cache, job.key(work)) for work in works]
  missing = [number for number, entry in enumerate(found) if entry is None]
  if not missing:
    return found
  if not cache.has(file):
    cache.write(file, tokenizer.text.encode('utf-8'))
  order = [number for number in missing if number % share.tasks == share.task]
  others = [number for number in missing if number % share.tasks != share.task] if share.takes_over else []
  silent = not (progress and sys.stderr.isatty())
  size = sum(works[number].size for number in [*order, *others])
  bar = tqdm(desc='tokenising', total=size, unit='B', unit_scale=True, disable=silent, leave=False)
  with bar, _runner(job, tokenizer, size) as run:
    waiting = [*order, *_rotated(others, share)]
    while waiting:
      before, again = len(waiting), []
      for number, entry in run([(number, works[number]) for number in waiting]):
        if entry is None:
          again.append(number)
        else:
          found[number] = entry
          bar.update(works[number].size)
      waiting = again
      if len(waiting) == before:  # others are at all of them
        time.sleep(_POLL_SECONDS)
  return found


def _rotated(numbers: list[int], share: Share) -> list[int]:
  """So that no two tasks go for the same work first."""
  start = len(numbers) * share.task // share.tasks
  return numbers[start:] + numbers[:start]


def found_entry(cache: Cache, key: str) -> unit.Entry | None:
  """What the cache has of a work, where all of its shards are there."""
  found = cache.read_json(f'read/{key}.json')
  if found is None:
    return None
  entry = unit.Entry(found['shards'], found['counts'])
  return entry if all(cache.has_shard(f'shards/{name}{shard.ENDING}') for name in entry.shards) else None


def make(job: Job, tokenizer: Tokenizer, work: Work) -> unit.Entry | None:
  """The entry of a work, made if it is not there; None: another process is making it."""
  cache, key = Cache(job.cache_dir), job.key(work)
  with _claimed(cache, key) as is_ours:
    if (entry := found_entry(cache, key)) is not None:
      return entry
    if not is_ours:
      return None
    entry = unit.build(work, job.settings, tokenizer, cache)
    cache.write_json(f'read/{key}.json', entry.as_json)
    return entry


@contextlib.contextmanager
def _claimed(cache: Cache, key: str) -> Iterator[bool]:
  """Whether nobody else is at a work; where there are no locks, two may make the same."""
  if remote.is_url(cache.folder):
    yield True
    return
  path = cache.path(f'read/{key}.lock')
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    file = open(path, 'a')
  except OSError as error:
    raise DataError(
      f'{path}: {error.strerror}; data.cache_dir must be a folder that can be written; name another'
    ) from None
  with file:
    is_ours = lock.acquire(file, wait=False) is not False
    yield is_ours
    if is_ours:
      with contextlib.suppress(OSError):
        os.unlink(path)


@functools.cache
def _tokenizer(path: str) -> Tokenizer:
  return Tokenizer.load(fetched.local(path))


def _make_in_process(job: Job, work: Work) -> unit.Entry | None:
  tokenizer = _tokenizer(job.tokenizer_file)
  if tokenizer.hash != job.settings.tokenizer:
    raise DataError(f'{job.tokenizer_file}: is another tokenizer; remove it, and it is written again')
  return make(job, tokenizer, work)


def _initialise() -> None:
  os.environ['TOKENIZERS_PARALLELISM'] = 'false'  # each process is one core's


Runner = Callable[[list[tuple[int, Work]]], Iterator[tuple[int, unit.Entry | None]]]


@contextlib.contextmanager
def _runner(job: Job, tokenizer: Tokenizer, size: int) -> Iterator[Runner]:
  """Makes works as they are asked for; a failed one is tried once more."""
  if size < _WORTH_PROCESSES:
    yield lambda works: ((number, _tried(make, job, tokenizer, work)) for number, work in works)
    return
  start = multiprocessing.get_context('spawn')
  new = lambda: concurrent.futures.ProcessPoolExecutor(os.cpu_count(), start, _initialise)
  pools = [new()]

  def again(job: Job, work: Work) -> unit.Entry | None:
    return pools[-1].submit(_make_in_process, job, work).result()

  def run(works):
    futures = {pools[-1].submit(_make_in_process, job, work): (number, work) for number, work in works}
    for future in concurrent.futures.as_completed(futures):
      number, work = futures[future]
      try:
        yield number, future.result()
      except Exception as error:
        if isinstance(error, BrokenProcessPool):
          pools.append(new())
        yield number, _tried(again, job, work, times=1)

  try:
    yield run
  finally:
    for pool in pools:
      pool.shutdown(wait=False, cancel_futures=True)


def _tried(call: Callable, *arguments, times: int = 2):
  """What a call gives, at the second try if not at the first; the last argument is a work.

  Raises DataError: it fails at the last.
  """
  for left in reversed(range(times)):
    try:
      return call(*arguments)
    except Exception as error:
      if left:
        continue
      if isinstance(error, DataError):
        raise
      work = arguments[-1]
      where = work.pieces[0].file.name if work.pieces else work.path
      raise DataError(f'{where}: cannot be tokenised ({reason(error)}); it was tried twice; check the file') from error
