"""Which records are held out, a sample, or in two splits: by digests of what a model is given of them."""

import functools
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from lmjax.data.batches.order import mix
from lmjax.data.labelled.columns import Coded
from lmjax.data.labelled.table import Table

# What a model is not given.
_NOT_GIVEN = ('id', 'label', 'summary', 'answers')
_PART = 16_384


def keys(table: Table) -> Iterator[bytes]:
  """What makes two records the same example, all that a model is given: its canonical JSON."""
  names = sorted(name for name in table.columns if name not in _NOT_GIVEN)
  template = '{' + ', '.join(f'"{name}": %s' for name in names) + '}'
  for given in zip(*(table.columns[name].as_json(table.rows) for name in names)):
    yield (template % given).encode()


def digests(found: Iterable[bytes], count: int) -> np.ndarray:
  """uint64 [count]: `digest64` of each."""
  made, at, short = np.empty(count, np.uint64), 0, functools.partial(hashlib.blake2b, digest_size=8)
  found = iter(found)
  while at < count:
    part = b''.join(short(data).digest() for _, data in zip(range(min(_PART, count - at)), found))
    made[at : at + len(part) // 8] = np.frombuffer(part, '<u8')
    at += len(part) // 8
  return made


def held_out(table: Table, digests_N: np.ndarray, share: float, by_class: bool) -> np.ndarray:
  """Which records are held out, by their digests; by class: of each the same share, and never all of it; bool [N].

  All questions about a context are on one side.
  """
  if not len(table):
    return np.zeros(0, bool)
  if (contexts := table.columns.get('context')) is not None:
    assert isinstance(contexts, Coded)
    texts = [text.encode() for text in contexts.different.values(np.arange(len(contexts.different)))]
    codes_N, digests_C = contexts.codes[table.rows], digests(texts, len(texts))
    is_empty_C = np.array([not text for text in texts], bool)
    digests_N = np.where(is_empty_C[codes_N], digests_N, digests_C[codes_N])
  if not by_class:
    return digests_N < np.uint64(int(share * 2.0**64))
  labels = table.columns['label']
  assert isinstance(labels, Coded)
  codes_N, is_held = labels.codes[table.rows], np.zeros(len(table), bool)
  order = np.argsort(codes_N, kind='stable')
  for places in np.split(order, np.flatnonzero(np.diff(codes_N[order])) + 1):
    different = np.unique(digests_N[places])
    is_held[places] = np.isin(digests_N[places], different[: _rounded(share, len(different))])
  return is_held


def _rounded(share: float, count: int) -> int:
  """How many of so many are held out.

  >>> _rounded(0.1, 24), _rounded(0.1, 5), _rounded(0.1, 4), _rounded(0.9, 1)
  (2, 1, 0, 0)
  """
  return min(int(share * count + 0.5), count - 1)


def drawn(digests_N: np.ndarray, count: int | None, key: int) -> np.ndarray:
  """The numbers of a sample of `count` records, in their order; a smaller one is part of a larger one. None: all.

  Not the first so many: files are often sorted by label.
  """
  if count is None or count >= len(digests_N):
    return np.arange(len(digests_N))
  return np.sort(np.argsort(mix(digests_N, key), kind='stable')[:count])


def in_another(table: Table, digests_N: np.ndarray, others: list[tuple[Table, np.ndarray]]) -> np.ndarray:
  """Which records stand in one of the other splits, each given with its digests; bool [N]."""
  is_in = np.isin(digests_N, np.concatenate([found for _, found in others]))
  if not is_in.any():
    return is_in
  # two different ones may have the same digest
  alike = [other.some(np.isin(found, digests_N[is_in])) for other, found in others]
  seen = {key for other in alike for key in keys(other)}
  is_in[is_in] = [key in seen for key in keys(table.some(is_in))]
  return is_in
