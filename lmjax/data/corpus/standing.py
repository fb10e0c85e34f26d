"""Which documents of a corpus stand, as training or as held-out text: decided from the digests in its shards alone.

Of documents with the same text the first stands, in the order of sources, parts and places. Which of them are held out
is a function of the normalised digest, one share for all sources: so every copy of a text, in other case or spacing,
falls on the same side. A source of which that holds out nothing (20 novels, say) adds its lowest digest.

Digests are compared in partitions by their highest bits, so that a partition fits in memory.
"""

import os
import tempfile
from collections.abc import Sequence

import numpy as np

from lmjax.data.corpus.shard import Shard

# What a document is: a byte in the file of a corpus.
LEFT_OUT, TRAIN, HELD_OUT = range(3)
# Documents that are compared at once, at about 40 bytes each.
_PARTITION = 8_000_000


def roles_of(sources: Sequence[Sequence[Shard]], share: float) -> np.ndarray:
  """uint8 [documents of all shards], in the order of sources, shards and documents.

  Args:
    sources: the shards of each source.
    share: of the documents, to hold out.
  """
  shards = [shard for source in sources for shard in source]
  stands = _first_of_each([shard.digests for shard in shards])
  limit, roles = limit_of(share), np.empty(len(stands), np.uint8)
  own, begin = set(), 0
  for source in sources:
    lowest, end = [], begin
    for shard in source:
      here = stands[end : end + len(shard.lengths)]
      end += len(shard.lengths)
      if here.any():
        lowest.append(int(shard.normalised[here].min()))
    if lowest and min(lowest) > limit:
      own.add(min(lowest))
    begin = end
  begin = 0
  extra = np.array(sorted(own), np.uint64)
  for shard in shards:
    end = begin + len(shard.lengths)
    roles[begin:end] = roles_in(shard, stands[begin:end], limit, extra)
    begin = end
  return roles


def limit_of(share: float) -> int:
  """The highest normalised digest that is held out in any source."""
  return min(int(share * 2.0**64), 2**64 - 1)


def roles_in(shard: Shard, stands: np.ndarray, limit: int, extra: np.ndarray) -> np.ndarray:
  """uint8, the roles in a shard of which is known what `stands`; `extra` are held out above the limit."""
  is_held_out = (shard.normalised <= limit) | np.isin(shard.normalised, extra)
  return np.where(stands, np.where(is_held_out, HELD_OUT, TRAIN), LEFT_OUT).astype(np.uint8)


def _first_of_each(digests: Sequence[np.ndarray]) -> np.ndarray:
  """bool [all of them, end to end]: whether each is the first of its value."""
  total = sum(map(len, digests))
  stands = np.ones(total, bool)
  if total <= _PARTITION:
    strike(np.concatenate([np.zeros(0, np.uint64), *digests]), np.arange(total), stands)
    return stands
  bits = max(int(np.ceil(np.log2(total / _PARTITION))), 1)
  with tempfile.TemporaryDirectory() as folder:
    files = [open(os.path.join(folder, str(number)), 'wb') for number in range(1 << bits)]
    begin = 0
    for part in digests:
      numbers = (part >> np.uint64(64 - bits)).astype(np.int64)
      order = np.argsort(numbers, kind='stable')
      bounds = np.searchsorted(numbers[order], np.arange((1 << bits) + 1))
      rows = np.stack([part[order], (order + begin).astype(np.uint64)], axis=1)
      for file, low, high in zip(files, bounds, bounds[1:]):
        file.write(rows[low:high].tobytes())
      begin += len(part)
    for file in files:
      file.close()
      rows = np.fromfile(file.name, np.uint64).reshape(-1, 2)
      strike(rows[:, 0], rows[:, 1].astype(np.int64), stands)
      os.unlink(file.name)
  return stands


def strike(digests: np.ndarray, places: np.ndarray, stands: np.ndarray) -> None:
  """Notes in `stands` which are not the first of their value; places ascend."""
  order = np.argsort(digests, kind='stable')
  ordered = digests[order]
  stands[places[order[1:][ordered[1:] == ordered[:-1]]]] = False
