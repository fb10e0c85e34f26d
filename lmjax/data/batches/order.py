"""Orders that are computed, not stored: a keyed permutation of row numbers and the quota of a mixture.

A stored permutation takes 8 bytes a row, on every host, and is made again in every epoch and after every restart: 8 GB
for 10^9 rows. Here any row of any epoch is found alone, so a batch needs no state but its number.
"""

import heapq

import numpy as np

from lmjax.data.digests import digest64
from lmjax.workdir.files import canonical_json

# Weights are kept to 1 in 65,536 (times the number of sources), and source numbers fit in 16 bits.
_SLOTS = 65_536
# 2^64 over the golden ratio: multiples of it are spread evenly.
_GOLDEN = 0x9E3779B97F4A7C15
# Of 50 rows under 4,000 keys, how often each goes to each place: chi-squared per degree of freedom 2.35 with 2 rounds,
# 0.96 to 1.02 with 3, 4, 6 and 8. Neighbours stay neighbours 2.5, 1.0, 1.2, 1.0 and 1.0 times as often as by chance. So
# 4 rounds are too few, and 8 leave a margin: a batch of 512 rows of 10^6 or 10^12 takes 0.15 or 0.19 ms.
_ROUNDS = 8
# Numbers that are permuted at once, which takes ten times their memory.
_BLOCK = 65_536


def key_of(*parts: int | str) -> int:
  """A 64-bit key from integers and strings, the same on every machine and in every run.

  >>> key_of(0, 'pydoc') == key_of(0, 'pydoc'), key_of(1, 23) == key_of(12, 3)
  (True, False)
  """
  # JSON keeps parts apart, and 1 from '1'. Python's own `hash` of a string differs between two processes.
  return digest64(canonical_json([int(part) if isinstance(part, np.integer) else part for part in parts]))


def mix(values: np.ndarray, key: int) -> np.ndarray:
  """A keyed hash of uint64 numbers, uint64 of the same shape: the finaliser of splitmix64.

  Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014.
  """
  # Arrays of at least one dimension wrap around without NumPy's overflow warning.
  x = np.atleast_1d(np.asarray(values, np.uint64)) + np.uint64(key)
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return (x ^ (x >> np.uint64(31))).reshape(np.shape(values))


def draws(keys: np.ndarray, stream: int, count: int) -> np.ndarray:
  """Random numbers by key: uint64 [..., count], of which number i is a function of the key, the stream and i alone.

  Args:
    keys: uint64, any shape.
    stream: numbers of two streams have nothing to do with each other.
    count: how many of each key.
  """
  counters = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
  return mix(mix(keys, key_of('draws', stream))[..., None] + counters, 0)


def as_fractions(numbers: np.ndarray) -> np.ndarray:
  """Random uint64 numbers as float64 from 0 up to, but without, 1."""
  return (numbers >> np.uint64(11)) * 2.0**-53


def below(numbers: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
  """Random uint64 numbers as int64 below a bound of at most 2^32, each about equally often."""
  return (((numbers >> np.uint64(32)) * np.asarray(bound, np.uint64)) >> np.uint64(32)).astype(np.int64)


def permute(index: np.ndarray | int, n: int, key: int) -> np.ndarray:
  """Where a keyed permutation of range(n) sends each index; O(1) memory and time whatever n is.

  A Feistel network is a bijection on 2^(2h) numbers whatever its round function; a value that falls outside
  range(n) is sent through again until it falls inside ("cycle walking": Black and Rogaway, Ciphers with
  Arbitrary Finite Domains, 2002). The domain is under 4n, so that takes four passes at most on average.

  Args:
    index: integers in range(n), any shape.
    n: how many there are, 1 to 2^62.
    key: 64 bits, as from `key_of`.

  Returns:
    int64 of index's shape. `permute(np.arange(n), n, key)` holds each of range(n) once.
  """
  index = np.asarray(index, np.int64)
  assert n >= 1 and (index.size == 0 or (index.min() >= 0 and index.max() < n)), (n, index)
  half = max(1, (int(n - 1).bit_length() + 1) // 2)
  flat = index.reshape(-1).astype(np.uint64)
  outside = np.arange(flat.size)
  while outside.size:
    flat[outside] = _feistel(flat[outside], half, key)
    outside = outside[flat[outside] >= np.uint64(n)]
  return flat.astype(np.int64).reshape(index.shape)


def permutation(n: int, key: int) -> np.ndarray:
  """int32 [n]: where `permute` sends each of range(n), some at a time; n is less than 2^31."""
  found = np.empty(n, np.int32)
  for start in range(0, n, _BLOCK):
    stop = min(start + _BLOCK, n)
    found[start:stop] = permute(np.arange(start, stop), n, key)
  return found


def _feistel(values: np.ndarray, half: int, key: int) -> np.ndarray:
  """Eight rounds on numbers of 2 * half bits."""
  bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
  left, right = values >> bits, values & mask
  for number in range(_ROUNDS):
    round_key = (key + number * _GOLDEN) % (1 << 64)  # no two rounds have similar keys
    left, right = right, left ^ (mix(right, round_key) & mask)
  return (left << bits) | right


class MixtureSchedule:
  """Which source each row of a mixture comes from, and its number there, in O(1).

  A pattern of 65,536 slots is repeated forever; in it each source has its share of slots, spread so evenly that after
  any number of rows every source is within one row of its share: drawn at random, a source would be off by some
  hundred rows after 100,000, and a row's number in its source would depend on all draws before. 6 bytes a slot. Each
  source gets at least one slot.

  >>> source, number = MixtureSchedule([2.0, 1.0]).locate(np.arange(6))
  >>> source.tolist(), number.tolist()
  ([0, 1, 0, 0, 1, 0], [0, 0, 1, 2, 1, 3])

  Attributes:
    counts: int64 [sources], slots of each source in a pattern.
    slots: length of the pattern.
  """

  def __init__(self, weights: list[float]):
    given = np.array(weights, np.float64)
    given = given if np.isfinite(given.sum()) else given / given.max()
    exact = given / np.sum(given) * (_SLOTS - len(weights))
    self.counts = np.floor(exact).astype(np.int64) + 1
    # Largest remainders take the slots that rounding down has left over.
    self.counts[np.argsort(self.counts - 1 - exact, kind='stable')[: _SLOTS - int(self.counts.sum())]] += 1
    if len(weights) == 1:  # a pattern of one slot, which takes no time to make
      self.counts = np.ones(1, np.int64)
    self.slots = int(self.counts.sum())
    self._source = _spread(self.counts)
    by_source = np.argsort(self._source, kind='stable')
    begins = np.cumsum(self.counts) - self.counts
    self._rank = np.empty(self.slots, np.int32)
    self._rank[by_source] = np.arange(self.slots) - np.repeat(begins, self.counts)

  def locate(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps rows of the mixture (int64 [N]) to (source index, row number within that source), int64 [N] each."""
    cycle, slot = np.divmod(np.asarray(row, np.int64), self.slots)
    source = self._source[slot].astype(np.int64)
    return source, cycle * self.counts[source] + self._rank[slot]


def _spread(counts: np.ndarray) -> np.ndarray:
  """uint16 [sum(counts)]: source of each slot, earliest deadline first.

  The k-th slot of a source with share p may come from floor(k / p) on and must come before ceil((k + 1) / p);
  serving the most urgent one that may come meets every deadline (Baruah et al., Proportionate Progress, 1996).
  """
  slots = int(counts.sum())
  source = np.repeat(np.arange(len(counts)), counts)
  k, share = np.arange(slots) - np.repeat(np.cumsum(counts) - counts, counts), counts[source]
  # in integers, as floats would round deadlines; -(-a // b) is ceil(a / b)
  may_come, deadline = k * slots // share, -(-(k + 1) * slots // share)
  order = np.argsort(may_come, kind='stable')
  arriving = (deadline * len(counts) + source)[order].tolist()  # the earlier deadline, then the earlier source
  upto = np.searchsorted(may_come[order], np.arange(slots), 'right').tolist()
  waiting: list[int] = []
  pattern, arrived = [], 0
  for until in upto:
    while arrived < until:
      heapq.heappush(waiting, arriving[arrived])
      arrived += 1
    pattern.append(heapq.heappop(waiting))
  return (np.array(pattern) % len(counts)).astype(np.uint16)
