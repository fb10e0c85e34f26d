"""Who makes a corpus that is too large for the machines of `build`: workers of Apache Beam (https://beam.apache.org).

Two pipelines do what is heavy, with the functions that `build` and `deciding` call, so the files are the same:

  works                        -> token shards and entries, in the cache
  shards, a group at a time    -> (prefix of the digest, digests of documents)
    | GroupByKey               -> which are not the first of their text, in all sources
    | per group                -> rows of the manifest, roles, held-out documents: a folder of the cache, while it lasts

Who runs them reads what the second one wrote, and writes the corpus. The cache must be one that all workers see.
"""

import collections
import contextlib
import difflib
import functools
import io
import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from lmjax.data.config import DataConfig
from lmjax.data.corpus import build, deciding, shard, standing, unit, worker
from lmjax.data.corpus.cache import Cache
from lmjax.data.corpus.deciding import Decided, HeldOut
from lmjax.data.corpus.standing import Shards
from lmjax.data.sources.documents import Work
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import ConfigError, DataError, reason
from lmjax.schema.validate import line

# Documents whose digests are compared at once, and the most that are settled at once; at most so many shards.
_PARTITION, _GROUP_DOCUMENTS, _GROUP_SHARDS = 1_000_000, 1_000_000, 64
# What is compared of a document; its place is that in its group.
_ROW = np.dtype([('digest', '<u8'), ('normalised', '<u8'), ('n_bytes', '<u4'), ('place', '<u4')])
_HIGHEST = 2**64 - 1  # a digest that no other is above
_FAILED = 'failed.json'
# What logs where a job is and how it fares.
_REPORTS = ('apache_beam.runners.dataflow', 'apache_beam.runners.portability.portable_runner')
# With the first, Beam's DirectRunner does not fetch a program from the network (PrismRunner) to run in its place; of
# triggers, which could be unsafe, there are none here.
_DIRECT = ('--allow_unsafe_triggers', '--default_sdk_harness_log_level=ERROR')


class Group(NamedTuple):
  """Shards of a source that follow one another."""

  source: str
  names: list[str]


class Summary(NamedTuple):
  """What is known of a source from all digests."""

  lowest: int  # normalised digest of what stands
  digests: np.ndarray  # normalised, of what is held out, the lowest first, up to a size
  sizes: np.ndarray  # bytes of these


class Settling(NamedTuple):
  """What a worker needs to know of a corpus."""

  cache_dir: str
  folder: str  # in the cache, for what is found
  limit: int  # of held-out digests
  kept_bytes: int | None


class Pipelines:
  """Makes the works of a corpus, and decides what stands, on a runner; a context, with a folder in the cache.

  Raises ConfigError: Beam knows no such runner, or refuses an option.
  """

  def __init__(self, runner: str, words: Sequence[str], cache_dir: str):
    self._name, self._options = runner, _options(runner, words)
    self._cache, self._folder = Cache(cache_dir), f'beam-{secrets.token_hex(8)}.tmp'

  def __enter__(self) -> 'Pipelines':
    return self

  def __exit__(self, *_) -> None:
    self._cache.remove_folder(self._folder)

  def entries_of(self, config: DataConfig, tokenizer: Tokenizer, works: Sequence[Work]) -> list[unit.Entry | None]:
    """The entry of each work, made if it is not there. Raises DataError: as `build.entries_of`."""
    cache, job = self._cache, build.job_of(config, tokenizer)
    found = build.found_entries(cache, job, works)
    missing = {job.key(work): work for work, entry in zip(works, found) if entry is None}
    if missing:
      build.make_ready(cache, tokenizer)
      lines = [json.dumps([job, work]) for work in missing.values()]
      self._run(lambda start: start | beam.Create(lines) | beam.Reshuffle() | beam.Map(_tokenise, self._folder))
      found = build.found_entries(cache, job, works)
    if None in found:
      rule = 'what workers wrote is not here; all must see one cache'
      raise DataError(f'{cache.folder}: {rule}; set data.cache_dir to an address, or to a folder that they share')
    return found

  def decide(
    self, cache: Cache, entries: Mapping[str, Sequence[unit.Entry]], share: float, limit: int | None, folder: str
  ) -> dict[str, Decided]:
    """What stands of each source. Raises DataError: as `deciding.decide`, or the pipeline failed."""
    groups = [Group(source, names) for source, own in entries.items() for names in _groups(own)]
    total = sum(entry.counts['documents'] for own in entries.values() for entry in own)
    bits = max(math.ceil(math.log2(max(total, 1) / _PARTITION)), 0)
    settling = Settling(cache.folder, self._folder, standing.limit_of(share), limit)
    if groups:
      self._run(lambda start: _deciding(start, list(enumerate(groups)), settling, bits))
    found = {}
    for number, source in enumerate(entries):
      numbers = [str(number) for number, group in enumerate(groups) if group.source == source]
      found[source] = self._read(numbers, limit, os.path.join(folder, f'{number}.roles'))
    return found

  def _read(self, numbers: list[str], limit: int | None, path: str) -> Decided:
    """What workers wrote of the groups of a source; its roles are put into a file."""
    rows, kept, counts = [], HeldOut(limit), collections.Counter()
    shards = Shards(self._cache, numbers, self._folder)
    with open(path, 'wb') as file:
      for number, (name, columns) in enumerate(zip(numbers, shards.columns())):
        found = self._cache.read_json(f'{self._folder}/{name}.json')
        rows += map(deciding.parsed, found['rows'])
        counts.update(found['counts'])
        file.write(self._cache.read(f'{self._folder}/{name}.roles') or b'')
        kept.add(number, columns, np.full(len(columns.lengths), standing.HELD_OUT, np.uint8))
    roles = np.memmap(path, np.uint8, 'r') if os.path.getsize(path) else np.zeros(0, np.uint8)
    return Decided(rows, counts, roles, kept.read(shards))

  def _run(self, steps: Callable[[Any], Any]) -> None:
    """Runs a pipeline. Raises DataError: what a worker noted, or that it failed."""
    try:
      with beam.Pipeline(options=self._options) as pipeline:
        steps(pipeline)
      if (state := pipeline.result.state) != PipelineState.DONE:
        raise RuntimeError(f'it ended as {state}')
    except Exception as error:
      last = [line for line in str(error).splitlines() if line.strip()][-1:] or [reason(error)]
      rule = f'the pipeline failed ({last[0].strip()})'
      remedy = "look into the runner's log; what is finished stays, and the same command continues"
      raise DataError(f'--runner = {self._name}: {rule}; {remedy}') from error
    if (failure := self._cache.read_json(f'{self._folder}/{_FAILED}')) is not None:
      raise DataError(failure)


def _options(runner: str, words: Sequence[str]) -> PipelineOptions:
  """Beam's options for a runner. Raises ConfigError: it knows no such runner, or refuses one of them."""
  is_direct = runner.lower() in ('direct', 'directrunner', 'switchingdirectrunner')
  problems = [line(word, None, 'no option of Beam', 'give --NAME=VALUE') for word in words if word[:2] != '--']
  if problems:
    raise ConfigError(problems)
  options = PipelineOptions([*(_DIRECT if is_direct else ()), *words, f'--runner={runner}'])
  printed = io.StringIO()
  logging.getLogger('apache_beam').setLevel(logging.ERROR)
  try:
    with contextlib.redirect_stderr(printed):
      known, given = options.get_all_options(), options.get_all_options(retain_unknown_options=True)
      beam.Pipeline(options=options)
  except SystemExit as error:  # of argparse, which has printed why
    shown = printed.getvalue().rpartition('error: ')[2].strip()
    raise ConfigError(f'--runner = {runner}: an option of Beam is wrong ({shown}); correct it') from error
  except Exception as error:
    shown = ' '.join(str(error).split())
    raise ConfigError(f'--runner = {runner}: Beam refuses it or its options ({shown}); give others') from error
  if is_direct and (unknown := sorted(given.keys() - known.keys())):  # other runners may have more than Beam knows
    raise ConfigError([line(f'--{name}', None, 'no option of Beam', _meant(name, known)) for name in unknown])
  if not is_direct:
    logging.basicConfig()
    for name in _REPORTS:
      logging.getLogger(name).setLevel(logging.INFO)
  return options


def _meant(name: str, known: Iterable[str]) -> str:
  close = difflib.get_close_matches(name, known, 1)
  return f'did you mean --{close[0]}?' if close else 'leave it out'


def _groups(entries: Sequence[unit.Entry]) -> Iterator[list[str]]:
  """The shards of a source, in groups that one worker settles at once."""
  names: list[str] = []
  count = 0.0
  for entry in entries:
    for name in entry.shards:
      names.append(name)
      count += entry.counts['documents'] / len(entry.shards)
      if len(names) >= _GROUP_SHARDS or count >= _GROUP_DOCUMENTS:
        yield names
        names, count = [], 0.0
  if names:
    yield names


def _deciding(start: Any, groups: list[tuple[int, Group]], settling: Settling, bits: int) -> None:
  """Adds the steps of the second pipeline."""
  listed = start | beam.Create([(number, tuple(group)) for number, group in groups]) | beam.Reshuffle()
  digests = listed | 'Digests' >> beam.FlatMap(_digests, settling, bits) | beam.GroupByKey()
  compared = digests | 'Compare' >> beam.FlatMap(_compare, settling).with_outputs('repeated', main='summaries')
  summaries = compared.summaries | beam.CombinePerKey(functools.partial(_merged, settling.kept_bytes))
  together = {'group': listed, 'repeated': compared.repeated} | beam.CoGroupByKey()
  together | 'Settle' >> beam.Map(_settle, settling, beam.pvalue.AsDict(summaries))


# What follows runs on workers.


def _unless_failed(cache_dir: str, folder: str, call: Callable[[], Iterable[Any]]) -> list:
  """What a call gives; nothing where it, or another one, fails: that is noted for who waits, not raised.

  Of an exception a runner would try the same again, and print its traceback in the midst of its own.
  """
  cache, name = Cache(cache_dir), f'{folder}/{_FAILED}'
  if cache.has(name):
    return []
  try:
    return list(call())
  except DataError as error:
    cache.write_json(name, str(error))
    return []


def _tokenise(job_and_work: str, folder: str) -> None:
  os.environ['TOKENIZERS_PARALLELISM'] = 'false'  # the runner decides how many works a machine makes at once
  job, work = worker.parsed(job_and_work)

  def make() -> tuple:
    while build.tried(lambda work: worker.make(job, work), work) is None:  # another process is making it
      time.sleep(build.POLL_SECONDS)
    return ()

  _unless_failed(job.cache_dir, folder, make)


def _digests(element: tuple[int, tuple], settling: Settling, bits: int) -> list[tuple[int, tuple[int, str, bytes]]]:
  """(prefix of digests, (number of the group, source, rows of its documents)) of a group."""
  number, (source, names) = element

  def found() -> Iterator[tuple[int, tuple[int, str, bytes]]]:
    tables = [np.zeros(0, _ROW)]
    for columns in Shards(Cache(settling.cache_dir), names).columns():
      tables.append(table := np.empty(len(columns.digests), _ROW))
      table['digest'], table['normalised'] = columns.digests, columns.normalised
      table['n_bytes'] = columns.n_bytes
    rows = np.concatenate(tables)
    rows['place'] = np.arange(len(rows))
    prefixes = np.zeros(len(rows), np.int64) if not bits else (rows['digest'] >> np.uint64(64 - bits)).astype(np.int64)
    order = np.argsort(prefixes, kind='stable')
    bounds = np.searchsorted(prefixes[order], np.arange((1 << bits) + 1))
    for prefix, (low, high) in enumerate(zip(bounds, bounds[1:])):
      if low < high:
        yield prefix, (number, source, rows[order[low:high]].tobytes())

  return _unless_failed(settling.cache_dir, settling.folder, found)


def _compare(element: tuple[int, Iterable[tuple[int, str, bytes]]], settling: Settling) -> Iterator[Any]:
  """(source, its summary), and of each group the places of documents that are not the first of their text."""
  parts = sorted(element[1])
  tables = [np.frombuffer(data, _ROW) for _, _, data in parts]
  digests = np.concatenate([table['digest'] for table in tables])
  stands, begin = np.ones(len(digests), bool), 0
  stands[standing.repeated(digests, np.arange(len(digests)))] = False
  for (number, source, _), table in zip(parts, tables):
    here = stands[begin : begin + len(table)]
    begin += len(table)
    if not here.all():
      yield beam.pvalue.TaggedOutput('repeated', (number, table['place'][~here].tobytes()))
    if here.any():
      digests = table['normalised'][here]
      held_out = digests <= settling.limit
      summary = Summary(int(digests.min()), digests[held_out], table['n_bytes'][here][held_out])
      yield source, _merged(settling.kept_bytes, [summary])


def _merged(kept_bytes: int | None, summaries: Iterable[Summary]) -> Summary:
  """One summary of parts of a source."""
  found = [Summary(_HIGHEST, np.zeros(0, np.uint64), np.zeros(0, np.uint32)), *summaries]
  lowest = min(one.lowest for one in found)
  if kept_bytes is None:
    return found[0]._replace(lowest=lowest)
  digests, sizes = (np.concatenate(column) for column in list(zip(*found))[1:])
  order = np.argsort(digests, kind='stable')
  order = order[: int(np.searchsorted(np.cumsum(sizes[order], dtype=np.int64), kept_bytes)) + 1]
  return Summary(lowest, digests[order], sizes[order])


def _settle(element: tuple[int, Mapping], settling: Settling, summaries: Mapping[str, Summary]) -> None:
  """Writes rows, roles and held-out documents of a group."""
  number, found = element
  [(source, names)] = found['group']

  def write() -> tuple:
    cache, folder = Cache(settling.cache_dir), settling.folder
    lowest = [one.lowest for one in summaries.values() if one.lowest > settling.limit]
    above, last = np.unique(np.array(lowest, np.uint64)), _last_kept(summaries.get(source), settling)
    repeated = np.sort(
      np.concatenate([np.zeros(0, '<u4'), *(np.frombuffer(data, '<u4') for data in found['repeated'])])
    )
    rows, roles, kept, counts = [], [], HeldOut(settling.kept_bytes), collections.Counter()
    shards, begin = Shards(cache, names), 0
    for place, columns in enumerate(shards.columns()):
      end = begin + len(columns.lengths)
      here = np.full(end - begin, standing.TRAIN, np.uint8)
      here[repeated[slice(*np.searchsorted(repeated, (begin, end)))] - begin] = standing.LEFT_OUT
      standing.hold_out(columns.normalised, here, settling.limit, above)
      rows.append(deciding.row_of(names[place], columns, here, counts))
      kept.add(place, columns, np.where(columns.normalised > last, standing.LEFT_OUT, here))
      roles.append(here.tobytes())
      begin = end
    cache.write(f'{folder}/{number}{shard.ENDING}', shard.as_bytes(str(number), kept.read(shards), {}))
    cache.write(f'{folder}/{number}.roles', b''.join(roles))
    cache.write_json(f'{folder}/{number}.json', {'rows': rows, 'counts': counts})
    return ()

  _unless_failed(settling.cache_dir, settling.folder, write)


def _last_kept(summary: Summary | None, settling: Settling) -> int:
  """The highest normalised digest of a source's held-out documents that may be kept."""
  if summary is None or settling.kept_bytes is None or summary.sizes.sum(dtype=np.int64) < settling.kept_bytes:
    return _HIGHEST
  return int(summary.digests[-1])
