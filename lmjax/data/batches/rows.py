"""Rows of labelled examples as a table: arrays of different lengths end to end, and a dict for each row that is read.

Legend: N rows.
"""

import array
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ragged:
  """int32 arrays end to end: `flat`, and int64 `begins` [N + 1], the last of which is where the last one ends."""

  flat: np.ndarray
  begins: np.ndarray

  def __len__(self):
    return len(self.begins) - 1

  def __getitem__(self, index: int) -> np.ndarray:
    return self.flat[self.begins[index] : self.begins[index + 1]]

  @property
  def sizes(self) -> np.ndarray:
    """int64 [N]."""
    return np.diff(self.begins)

  def arrays(self, name: str) -> dict[str, np.ndarray]:
    """{name: array} of both; see `from_arrays`."""
    return {name: self.flat, f'{name} begins': self.begins}

  @classmethod
  def from_arrays(cls, name: str, arrays: Mapping[str, np.ndarray]) -> 'Ragged':
    """What `arrays` was of."""
    return cls(arrays[name], arrays[f'{name} begins'])


class RaggedBuilder:
  """Collects a Ragged."""

  def __init__(self):
    self._flat, self._sizes = bytearray(), array.array('q')

  def add(self, found: np.ndarray) -> None:
    """Adds an array at the end, of whole numbers that are below 2^31."""
    self._flat += np.ascontiguousarray(found, np.int32).data
    self._sizes.append(len(found))

  def made(self) -> Ragged:
    """All of them."""
    begins = np.zeros(len(self._sizes) + 1, np.int64)
    np.cumsum(np.frombuffer(self._sizes, np.int64), out=begins[1:])
    return Ragged(np.frombuffer(self._flat, np.int32), begins)


@dataclasses.dataclass(frozen=True)
class RowTable(Sequence):
  """Rows, one a record: a row is a dict of arrays, whole numbers, `counts` and what belongs to its record.

  Attributes:
    ragged: {name: arrays}.
    numbers: {name: int32 [N]}.
    counts: int32 [N, names]; a row has them as a dict.
    count_names: the names.
    of_record: (number of the record) -> what else its row has: the label.
  """

  ragged: dict[str, Ragged]
  numbers: dict[str, np.ndarray]
  counts: np.ndarray
  count_names: Sequence[str]
  of_record: Callable[[int], dict[str, Any]]

  def __len__(self):
    return len(self.counts)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    index = range(len(self))[index]
    row: dict[str, Any] = {name: found[index] for name, found in self.ragged.items()}
    row |= {name: int(found[index]) for name, found in self.numbers.items()}
    row['counts'] = dict(zip(self.count_names, self.counts[index].tolist()))
    return row | self.of_record(index)

  def totals(self) -> dict[str, int]:
    """The counts of all rows."""
    return dict(zip(self.count_names, self.counts.sum(0, dtype=np.int64).tolist()))

  def count(self, name: str) -> np.ndarray:  # type: ignore[override]
    """int32 [N]: one of the counts."""
    return self.counts[:, list(self.count_names).index(name)]

  def arrays(self) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays by name, what else it is, JSON-able), but for what belongs to the records."""
    arrays = {'counts': self.counts}
    for name, found in self.ragged.items():
      arrays |= found.arrays(f'ragged {name}')
    arrays |= {f'number {name}': found for name, found in self.numbers.items()}
    return arrays, {'ragged': list(self.ragged), 'numbers': list(self.numbers), 'counts': list(self.count_names)}

  @classmethod
  def from_arrays(cls, arrays: Mapping[str, np.ndarray], more: Mapping, of_record: Callable) -> 'RowTable':
    """What `arrays` was of."""
    ragged = {name: Ragged.from_arrays(f'ragged {name}', arrays) for name in more['ragged']}
    numbers = {name: arrays[f'number {name}'] for name in more['numbers']}
    return cls(ragged, numbers, arrays['counts'], more['counts'], of_record)

  @classmethod
  def of(cls, rows: Iterable[dict], of_record: Callable[[int], dict[str, Any]]) -> 'RowTable':
    """Collects rows, of which the first names what all have; they are not held as dicts."""
    ragged: dict[str, RaggedBuilder] = {}
    numbers: dict[str, array.array] = {}
    counts, names = array.array('i'), []
    for row in rows:
      for name, value in row.items():
        if isinstance(value, np.ndarray):
          ragged.setdefault(name, RaggedBuilder()).add(value)
        elif name != 'counts':
          numbers.setdefault(name, array.array('i')).append(value)
      names = names or list(row['counts'])
      counts.extend(row['counts'].values())
    table = np.frombuffer(counts, np.int32).reshape(-1, max(len(names), 1))
    found = {name: np.frombuffer(one, np.int32) for name, one in numbers.items()}
    return cls({name: one.made() for name, one in ragged.items()}, found, table, names, of_record)
