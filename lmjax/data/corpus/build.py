"""Who makes the shards of a corpus: processes of this machine, tasks of a job, hosts of a run; in any company.

Works are shared one by one: each is locked while it is made, and what is finished is never made again. So a build that
was killed continues where it was, and two at once share.
"""

import concurrent.futures
import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from lmjax.data.config import DataConfig
from lmjax.data.corpus import unit
from lmjax.data.corpus.cache import Cache
from lmjax.data.corpus.unit import Entry, Job
from lmjax.data.corpus.worker import Worker
from lmjax.data.sources.documents import Work
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import DataError, reason

# About what a work reads.
WORK_BYTES = 32_000_000
# Below it, starting processes takes longer than they save.
_WORTH_PROCESSES = 20_000_000
POLL_SECONDS = 0.5
# Entries that are read at once: at an address each takes a while.
_READERS = 16


class Share(NamedTuple):
  """Which works are begun with: number I of every N; where it `takes_over`, then those that nobody has begun."""

  task: int = 0
  tasks: int = 1
  takes_over: bool = True


def entries_of(
  config: DataConfig, tokenizer: Tokenizer, works: Sequence[Work], share: Share, progress: bool
) -> list[Entry | None]:
  """The entry of each work, made if it is not there; None: it is another task's.

  Raises DataError: a source cannot be read, twice, or the cache cannot be written.
  """
  cache, job = Cache(config.cache_dir), job_of(config, tokenizer)
  found = found_entries(cache, job, works)
  missing = [number for number, entry in enumerate(found) if entry is None]
  if not missing:
    return found
  make_ready(cache, tokenizer)
  own = [number for number in missing if number % share.tasks == share.task]
  others = [number for number in missing if number % share.tasks != share.task] if share.takes_over else []
  start = len(others) * share.task // share.tasks  # so that no two tasks go for the same work first
  waiting = [*own, *others[start:], *others[:start]]
  size = sum(works[number].size for number in waiting)
  silent = not (progress and sys.stderr.isatty())
  bar = tqdm(desc='tokenising', total=size, unit='B', unit_scale=True, disable=silent, leave=False)
  with bar, _runner(job, tokenizer, size) as run:
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
        time.sleep(POLL_SECONDS)
  left = [number for number, entry in enumerate(found) if entry is None]  # which others may have ended meanwhile
  for number, entry in zip(left, found_entries(cache, job, [works[number] for number in left])):
    found[number] = entry
  return found


def job_of(config: DataConfig, tokenizer: Tokenizer) -> Job:
  """What is needed to make the works of a config."""
  cache = Cache(config.cache_dir)
  return Job(cache.folder, unit.Settings(tokenizer.hash, config.bad_text), cache.path(_file_of(tokenizer)))


def found_entries(cache: Cache, job: Job, works: Sequence[Work]) -> list[Entry | None]:
  """The entries that are there."""
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    return list(pool.map(lambda work: unit.found_entry(cache, job.key(work)), works))


def make_ready(cache: Cache, tokenizer: Tokenizer) -> None:
  """Writes the tokenizer where processes look for it, and removes what builds that were killed left."""
  if not cache.has(file := _file_of(tokenizer)):
    cache.write(file, tokenizer.text.encode('utf-8'))
  cache.clear_temporary()


def _file_of(tokenizer: Tokenizer) -> str:
  return f'tokenizers/{tokenizer.hash[:32]}.json'


# Makes works, each with its number: gives the entry of each, in any order.
Runner = Callable[[list[tuple[int, Work]]], Iterator[tuple[int, Entry | None]]]


@contextlib.contextmanager
def _runner(job: Job, tokenizer: Tokenizer, size: int) -> Iterator[Runner]:
  """Makes works as they are asked for; a failed one is tried once more."""
  if size < _WORTH_PROCESSES:
    yield lambda works: ((number, tried(lambda work: unit.make(job, tokenizer, work), work)) for number, work in works)
    return
  workers: queue.Queue[Worker] = queue.Queue()
  # those that a job may use: schedulers give some of a machine
  count = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
  started, ended = [Worker() for _ in range(count)], threading.Event()
  for worker in started:
    workers.put(worker)

  def make(work: Work) -> Entry | None:
    worker = workers.get()
    try:
      return worker.make(job, work)
    except OSError:
      if not ended.is_set():
        worker.close()
        worker = Worker()
        started.append(worker)
      raise
    finally:
      workers.put(worker)

  with concurrent.futures.ThreadPoolExecutor(count) as threads:

    def run(works):
      futures = {threads.submit(tried, make, work): number for number, work in works}
      try:
        for future in concurrent.futures.as_completed(futures):
          yield futures[future], future.result()
      finally:
        for future in futures:
          future.cancel()

    try:
      yield run
    finally:
      ended.set()
      for worker in started:  # those at work, too
        worker.close()


def tried(call: Callable[[Work], Entry | None], work: Work) -> Entry | None:
  """What a call gives for a work, at the second try if not at the first. Raises DataError: it fails at the last."""
  for is_last in (False, True):
    try:
      return call(work)
    except (DataError, OSError) as error:
      if not is_last:
        continue
      if isinstance(error, DataError):
        raise
      where = work.pieces[0].file.name if work.pieces else work.path
      raise DataError(f'{where}: cannot be tokenised ({reason(error)}); it was tried twice; check the file') from error
  raise AssertionError('unreachable')
