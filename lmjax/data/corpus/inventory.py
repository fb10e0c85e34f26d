"""What a cache on a disk holds, and what of it nobody has used."""

import json
import os
import pathlib
import time
from collections.abc import Iterator

from lmjax.data.corpus import manifest, shard
from lmjax.data.corpus.cache import Cache
from lmjax.data.sources import remote
from lmjax.errors import DataError

_FOLDERS = ('corpora', 'shards', 'read', 'listed', 'tokenizers')


def lines(cache: Cache) -> Iterator[str]:
  """A line for each corpus, newest first, and one for all of the cache."""
  folder = _local(cache)
  used: set[str] = set()
  first = {row['corpus']: row['first_files'] for row in map(_value, folder.glob('listed/*.json')) if row}
  for file in sorted(folder.glob('corpora/*.json'), key=lambda file: -file.stat().st_mtime):
    corpus = manifest.read(cache, file.stem)
    if corpus is None:
      yield f'{file.stem}: damaged or unfinished'
      continue
    shards = [row for source in corpus.sources.values() for row in source.shards]
    used |= {row.name for row in shards}
    tokens = sum(row.train[1] + row.held_out[1] for row in shards)
    sources = ', '.join(f'{name} ({first.get(file.stem, {}).get(name, "?")})' for name in corpus.sources)
    days = (time.time() - file.stat().st_mtime) / 86_400
    yield f'corpus {corpus.id}: {sources}; {tokens:,} tokens in {len(shards):,} shards; opened {days:.1f} days ago'
  files = [file for name in _FOLDERS for file in folder.glob(f'{name}/*')]
  loose = [file for file in folder.glob(f'shards/*{shard.ENDING}') if file.stem not in used]
  size, unused = (sum(file.stat().st_size for file in group) / 1e6 for group in (files, loose))
  yield f'{folder}: {size:,.1f} MB in all; {len(loose):,} shards of no corpus ({unused:,.1f} MB)'


def remove_unused(cache: Cache, days: float) -> tuple[int, int]:
  """(files, bytes) removed: corpora that nobody has opened for so many days, and what is of no other corpus.

  A run that began with one of them needs its sources as they were to continue. Files younger than that stay, too, and
  tokenizers.

  Raises DataError: the cache is no folder of this machine.
  """
  folder, limit = _local(cache), time.time() - days * 86_400
  old = lambda file: file.stat().st_mtime < limit
  kept: set[str] = set()
  gone: list[pathlib.Path] = []
  for file in folder.glob('corpora/*.json'):
    corpus = manifest.read(cache, file.stem)
    if corpus is None or old(file):
      gone += folder.glob(f'corpora/{file.stem}.*')
    else:
      kept |= {row.name for source in corpus.sources.values() for row in source.shards}
  gone += [file for file in folder.glob(f'shards/*{shard.ENDING}') if file.stem not in kept and old(file)]
  left = set(gone)
  for file in folder.glob('listed/*.json'):
    path = folder / 'corpora' / f'{_value(file).get("corpus")}.json'
    if path in left or not path.exists():
      gone.append(file)
  for file in folder.glob('read/*.json'):
    shards = [folder / 'shards' / f'{name}{shard.ENDING}' for name in _value(file).get('shards', ())]
    if any(one in left or not one.exists() for one in shards):
      gone.append(file)
  stems = {file.stem for file in folder.glob('corpora/*.json')}
  gone += [file for file in folder.glob('corpora/*') if file.name.partition('.')[0] not in stems and old(file)]
  gone += [file for name in _FOLDERS for file in folder.glob(f'{name}/*.tmp') if old(file)]
  gone += [file for name in ('', *_FOLDERS) for file in (folder / name).glob('*.lock') if old(file)]
  gone = list(dict.fromkeys(gone))
  size = sum(file.stat().st_size for file in gone)
  for file in sorted(gone, key=lambda file: file.parent.name != 'listed'):  # what leads to others first
    file.unlink(missing_ok=True)
  return len(gone), size


def _local(cache: Cache) -> pathlib.Path:
  if remote.is_url(cache.folder) or not os.path.isdir(cache.folder):
    rule = 'a cache that is listed or cleared must be a folder of this machine'
    raise DataError(f'{cache.folder}: {rule}; use the tools of its store, or check data.cache_dir')
  return pathlib.Path(cache.folder)


def _value(file: pathlib.Path) -> dict:
  """What `Cache.write_json` wrote; {} where that is damaged."""
  try:
    return json.loads(file.read_bytes())['value']
  except (ValueError, KeyError, TypeError):
    return {}
