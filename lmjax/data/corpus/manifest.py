"""A corpus: which shards its sources have, and what stands of them; made once, and then pinned by a run.

`find` needs the listing of the sources alone (names, sizes, times) where nothing changed.
"""

import collections
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from lmjax.console import print_line
from lmjax.data.config import DataConfig
from lmjax.data.corpus import build, deciding, shard, unit
from lmjax.data.corpus.cache import Cache
from lmjax.data.corpus.deciding import Decided, ShardRow
from lmjax.data.sources import documents
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import DataError
from lmjax.workdir.files import json_digest

# Held-out text of a source that is kept for evaluations, unless one reads more.
_HELD_OUT_BYTES = 64_000_000


class SourceRow(NamedTuple):
  """A source."""

  shards: list[ShardRow]
  counts: dict[str, int]


class Manifest(NamedTuple):
  """A corpus."""

  id: str
  tokenizer: str  # its hash
  vocab_size: int
  sources: dict[str, SourceRow]


class Elsewhere(Protocol):
  """Other machines, for what is more than one can do; see `beam`."""

  def entries_of(
    self, config: DataConfig, tokenizer: Tokenizer, works: Sequence[documents.Work]
  ) -> list[unit.Entry | None]:
    """As `build.entries_of`."""

  def decide(
    self, cache: Cache, entries: Mapping[str, Sequence[unit.Entry]], share: float, limit: int | None, folder: str
  ) -> dict[str, Decided]:
    """As `deciding.decide`."""


class Pin(NamedTuple):
  """What a run began with."""

  corpus: str
  tokenizer: Tokenizer


def find(
  config: DataConfig,
  tokenizer: Tokenizer,
  share: build.Share,
  progress: bool = False,
  elsewhere: Elsewhere | None = None,
) -> Manifest | None:
  """The corpus of a config as its sources are listed now; made if it is not there, `elsewhere` if that is given.

  None: other tasks are at it.

  Raises DataError: a source cannot be read, a split would be empty, or the cache cannot be written.
  """
  cache, listing = Cache(config.cache_dir), _listing(config, tokenizer.hash)
  if (manifest := _listed(cache, listing)) is not None:
    return manifest
  began = time.monotonic()
  works = {name: list(documents.works_of(source, build.WORK_BYTES)) for name, source in config.sources.items()}
  flat = [work for own in works.values() for work in own]
  if elsewhere is None:
    entries = build.entries_of(config, tokenizer, flat, share, progress)
  else:
    entries = elsewhere.entries_of(config, tokenizer, flat)
  if None in entries:
    return None
  rest = iter(entries)
  by_source = {name: [next(rest) for _ in own] for name, own in works.items()}
  with cache.claimed(f'listed/{listing}.lock', 'waiting for another process that decides which documents stand'):
    if (manifest := _listed(cache, listing)) is not None:
      return manifest
    decide = deciding.decide if elsewhere is None else elsewhere.decide
    manifest = _decide(config, tokenizer, cache, by_source, decide)
    first = {name: own[0].pieces[0].file.name if own[0].pieces else own[0].path for name, own in works.items()}
    cache.write_json(f'listed/{listing}.json', {'corpus': manifest.id, 'first_files': first})
  if progress:
    _report(manifest, tokenizer, time.monotonic() - began)
  return manifest


def _listed(cache: Cache, listing: str) -> Manifest | None:
  """The corpus that a listing led to, where the cache has all of it."""
  found = cache.read_json(f'listed/{listing}.json')
  return None if found is None else whole(cache, found['corpus'])


def _report(manifest: Manifest, tokenizer: Tokenizer, seconds: float) -> None:
  """Prints a line about each source."""
  total = sum(source.counts['bytes'] for source in manifest.sources.values()) / 1e6
  rate = f'{seconds:.1f} s ({total / max(seconds, 1e-9):.1f} MB/s)'
  shown = {'duplicates': 'duplicates left out', 'empty': 'empty', 'replaced': 'repaired', 'skipped': 'skipped'}
  shown |= {'filtered': 'filtered out'}
  for name, source in manifest.sources.items():
    counts = source.counts
    tokens = sum(row.train[1] + row.held_out[1] for row in source.shards)
    kept = f'{counts["train"]:,} train, {counts["valid"]:,} held out'
    others = ', '.join(f'{counts[key]:,} {text}' for key, text in shown.items())
    size = f'{counts["bytes"] / 1e6:.1f} MB, {tokens:,} tokens'
    print_line(f'tokenised {name}: {size} in {len(source.shards):,} shards; documents: {kept}, {others}')
  print_line(f'tokenised in {rate}')
  if tokenizer.by_tokenizers is not None:
    print_line(f'encoded by tokenizers, not by tiktoken, several times as fast: {tokenizer.by_tokenizers}')


def find_pinned(config: DataConfig, pin: Pin, share: build.Share, progress: bool = False) -> Manifest:
  """The corpus that a run began with, whatever its sources hold now; made again if it is gone and they are the same.

  Raises DataError: it is gone, and they have changed.
  """
  cache = Cache(config.cache_dir)
  manifest = whole(cache, pin.corpus)
  if manifest is None:
    again = find(config, pin.tokenizer, share, progress)
    if again is None or again.id != pin.corpus:
      rule = 'the token shards that this run began with are gone, and its sources have changed since'
      remedy = 'put the folder or the sources back, or begin another run in a new --workdir'
      raise DataError(f'{cache.folder}: {rule}; a run keeps its data; {remedy}')
    return again
  try:
    found = cache.read_json(f'listed/{_listing(config, pin.tokenizer.hash)}.json')
    changed = '' if found is not None and found['corpus'] == pin.corpus else 'have changed since the run began'
  except DataError as error:
    changed = f'cannot be listed ({error})'
  if changed:
    print_line(f'the sources {changed}: it continues on the token shards that it began with')
  return manifest


def _listing(config: DataConfig, tokenizer: str) -> str:
  """Changes when the listing of a source does, or what decides how it is kept."""
  facts = [[name, source.field, source.keep, documents.listed(source)] for name, source in config.sources.items()]
  settings = [unit.FORMAT, tokenizer, config.bad_text, config.valid_fraction, _kept_bytes(config)]
  return json_digest([settings, facts])


def whole(cache: Cache, corpus: str) -> Manifest | None:
  """A corpus by its id; None where the cache lacks it or any of its shards."""
  manifest = read(cache, corpus)
  if manifest is None:
    return None
  names = [f'shards/{row.name}{shard.ENDING}' for source in manifest.sources.values() for row in source.shards]
  names += [f'corpora/{corpus}.{source}{shard.ENDING}' for source in manifest.sources]
  if not cache.has(*names):
    return None
  cache.touch(f'corpora/{corpus}.json')
  return manifest


def _kept_bytes(config: DataConfig) -> int | None:
  return None if config.valid_bytes is None else max(config.valid_bytes, _HELD_OUT_BYTES)


def read(cache: Cache, corpus: str) -> Manifest | None:
  """A corpus by its id; None where the cache has none."""
  found = cache.read_json(f'corpora/{corpus}.json')
  if found is None or not cache.has(f'corpora/{corpus}.roles'):
    return None
  sources = {}
  for name, source in found['sources']:  # in the order in which roles are
    sources[name] = SourceRow([deciding.parsed(row) for row in source['shards']], source['counts'])
  return Manifest(corpus, found['tokenizer'], found['vocab_size'], sources)


def _decide(
  config: DataConfig,
  tokenizer: Tokenizer,
  cache: Cache,
  entries: Mapping[str, list[unit.Entry]],
  decide: Callable[..., dict[str, Decided]],
) -> Manifest:
  """What stands, written into the cache; the manifest last."""
  with cache.scratch() as folder:
    decided = decide(cache, entries, config.valid_fraction, _kept_bytes(config), folder)
    sources = {}
    for source, one in decided.items():
      counts = _summed(entries[source])
      counts.update(one.counts)
      counts['train'] = sum(row.train[0] for row in one.rows)
      counts['valid'] = sum(row.held_out[0] for row in one.rows)
      sources[source] = SourceRow(one.rows, dict(sorted(counts.items())))
      check_splits(source, config.sources[source].path, sources[source], config.valid_fraction)
    content = {
      'format': unit.FORMAT,
      'tokenizer': tokenizer.hash,
      'vocab_size': tokenizer.vocab_size,
      'valid_fraction': config.valid_fraction,
      'held_out_bytes': _kept_bytes(config),
      'sources': [[name, source._asdict()] for name, source in sources.items()],
    }
    corpus = json_digest(content)[:32]
    with open(roles := os.path.join(folder, 'all roles'), 'wb') as file:
      for one in decided.values():
        file.write(one.roles.data)
    cache.put(f'corpora/{corpus}.roles', roles)
  for source, one in decided.items():
    name = f'{corpus}.{source}'
    cache.write(f'corpora/{name}{shard.ENDING}', shard.as_bytes(name, one.kept, {}))
  cache.write_json(f'corpora/{corpus}.json', content)
  return Manifest(corpus, tokenizer.hash, tokenizer.vocab_size, sources)


def _summed(entries: list[unit.Entry]) -> collections.Counter:
  counts: collections.Counter[str] = collections.Counter()
  for entry in entries:
    counts.update(entry.counts)
  return counts


def check_splits(name: str, path: str, source: SourceRow, valid_fraction: float) -> None:
  """Raises DataError: a source has no document to train on, or none that is held out."""
  train, valid = source.counts['train'], source.counts['valid']
  if valid and (train or valid_fraction == 1):
    return
  if not train + valid:
    n = source.counts
    shown = {'empty': 'empty', 'skipped': 'skipped for bad text', 'filtered': 'filtered out'}
    if n.get('duplicates'):
      shown['duplicates'] = 'duplicates, of earlier sources too'
    left_out = ', '.join(f'{n.get(key, 0)} {text}' for key, text in shown.items())
    rule = f'holds no document with text ({left_out}); a source must hold some'
    raise DataError(f'{path}: {rule}; check the path, the field, keep and data.bad_text')
  given = f'{train + valid} different documents, data.valid_fraction = {valid_fraction}'
  empty = 'every document is held out' if valid else 'no document is left to hold out'
  rule = 'training and held-out split must each have one'
  remedy = 'add documents' if train + valid < 2 else 'lower data.valid_fraction or add documents'
  raise DataError(f'{name} ({path}): {given}: {empty}; {rule}; {remedy}')
