"""What stands of each source of a corpus, shard by shard, and the held-out text that is kept for evaluations."""

import collections
import concurrent.futures
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lmjax.data.corpus import shard, standing
from lmjax.data.corpus.cache import Cache
from lmjax.data.corpus.standing import HELD_OUT, LEFT_OUT, TRAIN, Shards
from lmjax.data.corpus.unit import Entry

# Held-out documents of which is known where they lie, before those that will not be kept are dropped.
_CANDIDATES = 200_000
# How much of a shard may be read for each byte that is needed, rather than document by document.
_DENSE = 4
_ROW = np.dtype(
  [('normalised', '<u8'), ('digests', '<u8'), ('lengths', '<u4'), ('n_bytes', '<u4'), ('shard', '<u4'), ('at', '<u8')]
)


class ShardRow(NamedTuple):
  """A shard of a source, as the manifest has it."""

  name: str
  documents: int
  train: tuple[int, int]  # documents and tokens of them
  held_out: tuple[int, int]
  roles_crc32: int


class Decided(NamedTuple):
  """What stands of a source."""

  rows: list[ShardRow]
  counts: collections.Counter[str]
  roles: np.ndarray  # uint8, of all its documents
  kept: dict[str, np.ndarray]  # held-out documents, those with the lowest digests first: the arrays of a shard


class HeldOut:
  """The held-out documents with the lowest digests, up to a size in bytes; None: all.

  They are ordered by (normalised digest, shard, place), and known by where they lie until they are read.
  """

  def __init__(self, limit: int | None):
    self._limit, self._rows, self._pruned = limit, np.zeros(0, _ROW), 0
    self._dtype = np.dtype('<u2')

  def add(self, number: int, columns: shard.Columns, roles: np.ndarray) -> None:
    """Those of a shard; shards come in order."""
    places, self._dtype = np.flatnonzero(roles == HELD_OUT), columns.dtype
    rows = np.empty(len(places), _ROW)
    for key in shard.COLUMNS:
      rows[key] = getattr(columns, key)[places]
    begins = np.cumsum(columns.lengths, dtype=np.int64) - columns.lengths
    rows['shard'], rows['at'] = number, columns.tokens_at + begins[places] * columns.dtype.itemsize
    self._rows = np.concatenate([self._rows, rows])
    if len(self._rows) > 2 * self._pruned + _CANDIDATES:
      self._rows = self._first()
      self._pruned = len(self._rows)

  def _first(self) -> np.ndarray:
    ordered = self._rows[np.argsort(self._rows['normalised'], kind='stable')]
    if self._limit is None:
      return ordered
    ends = np.cumsum(ordered['n_bytes'], dtype=np.int64)
    return ordered[: int(np.searchsorted(ends, self._limit)) + 1]

  def read(self, shards: Shards) -> dict[str, np.ndarray]:
    """The arrays of a shard that holds them."""
    rows = self._first()
    ends = np.cumsum(rows['lengths'], dtype=np.int64)
    tokens = np.empty(int(ends[-1]) if len(rows) else 0, self._dtype)
    order = np.argsort(rows['shard'], kind='stable')
    groups = np.split(order, np.flatnonzero(np.diff(rows['shard'][order])) + 1) if len(rows) else []
    with concurrent.futures.ThreadPoolExecutor(shards.readers) as pool:
      for start in range(0, len(groups), shards.readers):
        some = groups[start : start + shards.readers]
        for group, found in zip(some, pool.map(lambda group: self._tokens(shards, rows[group]), some)):
          for end, ids in zip(ends[group].tolist(), found):
            tokens[end - len(ids) : end] = ids
    return {key: np.ascontiguousarray(rows[key]) for key in shard.COLUMNS} | {'tokens': tokens}

  def _tokens(self, shards: Shards, rows: np.ndarray) -> list[np.ndarray]:
    """Of documents of one shard; where they are much of what lies between them, all of it is read at once."""
    begins = rows['at'].astype(np.int64)
    ends = begins + rows['lengths'].astype(np.int64) * self._dtype.itemsize
    read = functools.partial(shards.cache.part, shards.file(shards.names[rows['shard'][0]]))
    low, high = int(begins.min()), int(ends.max())
    if _DENSE * int((ends - begins).sum()) < high - low:
      return [np.frombuffer(read(begin, end), self._dtype) for begin, end in zip(begins.tolist(), ends.tolist())]
    data = read(low, high)
    lengths = rows['lengths'].tolist()
    return [np.frombuffer(data, self._dtype, n, begin - low) for n, begin in zip(lengths, begins.tolist())]


def decide(
  cache: Cache, entries: Mapping[str, Sequence[Entry]], share: float, limit: int | None, folder: str
) -> dict[str, Decided]:
  """What stands of each source.

  Args:
    cache: has the shards.
    entries: of each source.
    share: of the documents, to hold out.
    limit: bytes of held-out text, of each source, that are kept; None: all.
    folder: for files, which must stay while `roles` are used.

  Raises DataError: a shard is missing or damaged.
  """
  names = {source: [name for entry in own for name in entry.shards] for source, own in entries.items()}
  shards, sizes = Shards(cache, [name for own in names.values() for name in own]), [len(own) for own in names.values()]
  documents = sum(entry.counts['documents'] for own in entries.values() for entry in own)
  roles, bounds = standing.first_of_each(shards, documents, folder)
  highest = standing.limit_of(share)
  above = standing.above_limit(shards, bounds, sizes, roles, highest)
  found, first = {}, 0
  for source, size in zip(names, sizes):
    rows, counts, kept = [], collections.Counter(), HeldOut(limit)
    for number, columns in enumerate(shards.columns(first, first + size), first):
      here = roles[bounds[number] : bounds[number + 1]]
      standing.hold_out(columns.normalised, here, highest, above)
      rows.append(row_of(shards.names[number], columns, here, counts))
      kept.add(number, columns, here)
    here = roles[bounds[first] : bounds[first + size]]
    first += size
    found[source] = Decided(rows, counts, here, kept.read(shards))
  return found


def parsed(row: Sequence) -> ShardRow:
  """A row as JSON has it."""
  name, documents, train, held_out, crc32 = row
  return ShardRow(name, documents, tuple(train), tuple(held_out), crc32)


def row_of(name: str, columns: shard.Columns, roles: np.ndarray, counts: collections.Counter[str]) -> ShardRow:
  """The row of a shard; what is counted in it is added to `counts`."""
  sizes = {role: (int((roles == role).sum()), int(columns.lengths[roles == role].sum())) for role in (TRAIN, HELD_OUT)}
  counts.update(columns.counts)
  counts['duplicates'] += int((roles == LEFT_OUT).sum())
  counts['standing_bytes'] += int(columns.n_bytes[roles != LEFT_OUT].sum())
  return ShardRow(name, len(roles), sizes[TRAIN], sizes[HELD_OUT], zlib.crc32(np.ascontiguousarray(roles).data))
