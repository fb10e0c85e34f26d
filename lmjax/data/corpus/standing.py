"""Which documents of a corpus stand, as training or as held-out text: decided from the digests in its shards alone.

Of documents with the same text the first stands, in the order of sources, parts and places. Which of them are held out
is a function of the normalised digest, one share for all sources: so every copy of a text, in other case or spacing,
falls on the same side. A source of which that holds out nothing (20 novels, say) adds its lowest digest.

Nothing here grows with a corpus in memory: digests are compared in partitions by their highest bits, which lie on disk,
as do the roles that come of it.
"""

import concurrent.futures
import math
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lmjax.data.corpus import shard
from lmjax.data.corpus.cache import Cache

# What a document is: a byte in the file of a corpus.
LEFT_OUT, TRAIN, HELD_OUT = range(3)
# Documents that are compared at once, at about 60 bytes each; at most so many partitions, which are open files.
_PARTITION, _MOST_PARTITIONS = 3_000_000, 512
# Shards of which something is read at once: at an address each takes a while, on a disk each takes memory.
_READERS_OF_AN_ADDRESS, _READERS_OF_A_DISK = 16, 2
_ROW = np.dtype([('digest', '<u8'), ('place', '<u8')])


class Shards(NamedTuple):
  """The shards of a corpus, in order."""

  cache: Cache
  names: list[str]
  folder: str = 'shards'  # of the cache

  @property
  def readers(self) -> int:
    """How many of them are read at once."""
    return _READERS_OF_AN_ADDRESS if self.cache.is_address else _READERS_OF_A_DISK

  def columns(self, first: int = 0, end: int | None = None) -> Iterator[shard.Columns]:
    """Those of each shard from `first` on, in order. Raises DataError: one is missing or damaged."""
    names = self.names[first:end]
    with concurrent.futures.ThreadPoolExecutor(self.readers) as pool:
      for start in range(0, len(names), self.readers):
        yield from pool.map(self._columns, names[start : start + self.readers])

  def file(self, name: str) -> str:
    """Where a shard is in the cache."""
    return f'{self.folder}/{name}{shard.ENDING}'

  def _columns(self, name: str) -> shard.Columns:
    file = self.file(name)
    return shard.columns(lambda start, stop: self.cache.part(file, start, stop), self.cache.path(file), name)


def limit_of(share: float) -> int:
  """The highest normalised digest that is held out in any source."""
  return min(int(share * 2.0**64), 2**64 - 1)


def first_of_each(shards: Shards, documents: int, folder: str) -> tuple[np.ndarray, list[int]]:
  """(uint8 [documents of all shards], in a file of a folder: TRAIN for the first with its digest, LEFT_OUT for others;
  where each shard's begin, and where the last one's end).

  Args:
    shards: of all sources.
    documents: about how many they have.
    folder: for files.
  """
  bits = math.ceil(math.log2(min(max(documents / _PARTITION, 1), _MOST_PARTITIONS)))
  files = [open(os.path.join(folder, f'{number}.rows'), 'wb') for number in range(1 << bits)]
  total, bounds_of_shards = 0, [0]
  for columns in shards.columns():
    digests, rows = columns.digests, np.empty(len(columns.digests), _ROW)
    # numpy shifts by 64 bits as by none
    prefixes = (digests >> np.uint64(64 - bits)).astype(np.int64) if bits else np.zeros(len(digests), np.int64)
    order = np.argsort(prefixes, kind='stable')
    rows['digest'], rows['place'] = digests[order], order + total
    bounds = np.searchsorted(prefixes[order], np.arange((1 << bits) + 1))
    for file, low, high in zip(files, bounds, bounds[1:]):
      file.write(rows[low:high].tobytes())
    total += len(digests)
    bounds_of_shards.append(total)
  for file in files:
    file.close()
  path = os.path.join(folder, 'roles')
  with open(path, 'wb') as file:
    file.truncate(total)
  roles = np.memmap(path, np.uint8, 'r+') if total else np.zeros(0, np.uint8)
  roles[:] = TRAIN
  for file in files:
    rows = np.fromfile(file.name, _ROW)
    os.unlink(file.name)
    roles[repeated(rows['digest'], rows['place'])] = LEFT_OUT
  return roles, bounds_of_shards


def repeated(digests: np.ndarray, places: np.ndarray) -> np.ndarray:
  """The places of those that are not the first of their value; places ascend."""
  order = np.argsort(digests, kind='stable')
  ordered = digests[order]
  return places[order[1:][ordered[1:] == ordered[:-1]]]


def above_limit(shards: Shards, bounds: Sequence[int], sizes: Sequence[int], roles: np.ndarray, limit: int):
  """uint64, sorted: the lowest normalised digest of each source in which none that stands is up to the limit.

  Args:
    shards: of all sources.
    bounds: where the documents of each begin, and where those of the last one end.
    sizes: how many of the shards each source has.
    roles: whether each document stands.
    limit: see `limit_of`.
  """
  found, first = [], 0
  for size in sizes:
    lowest = 2**64
    for number, columns in enumerate(shards.columns(first, first + size), first):
      here = columns.normalised[roles[bounds[number] : bounds[number + 1]] != LEFT_OUT]
      lowest = min(lowest, int(here.min())) if len(here) else lowest
      if lowest <= limit:  # of a large source one shard is enough
        break
    if limit < lowest < 2**64:
      found.append(lowest)
    first += size
  return np.unique(np.array(found, np.uint64))


def hold_out(normalised: np.ndarray, roles: np.ndarray, limit: int, above: np.ndarray) -> None:
  """Marks, in the roles of a shard, what stands and is held out; `above` are those above the limit."""
  roles[((normalised <= limit) | np.isin(normalised, above)) & (roles == TRAIN)] = HELD_OUT
