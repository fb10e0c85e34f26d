"""Labelled records as a table: columns, and a dict for each row that is read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lmjax.data.config import RecordKind
from lmjax.data.labelled import columns
from lmjax.data.labelled.columns import ABSENT, Builder, Column

# So many records are put into columns at once.
_BLOCK = 4_096


class Table(Sequence):
  """Records, some or all rows of columns; a row is a dict, made when it is read.

  Attributes:
    columns: {field: column}, in the order of the fields; tables of one source share them.
    rows: int64 [N]: the places in the columns of the records, in their order.
  """

  def __init__(self, columns: Mapping[str, Column], rows: np.ndarray | None = None):
    self.columns = columns
    self.rows = np.arange(len(next(iter(columns.values()), ()))) if rows is None else rows

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return self.some(index)
    place = int(self.rows[index])
    row = {name: column[place] for name, column in self.columns.items()}
    return {name: value for name, value in row.items() if value is not ABSENT}

  def __iter__(self) -> Iterator[dict]:
    names = list(self.columns)
    for values in zip(*(column.values(self.rows) for column in self.columns.values())):
      yield {name: value for name, value in zip(names, values) if value is not ABSENT}

  def __eq__(self, other):
    is_like = isinstance(other, Sequence) and len(self) == len(other)
    return is_like and all(one == two for one, two in zip(self, other))

  def __add__(self, other) -> list[dict]:
    return [*self, *other]

  def some(self, kept: np.ndarray | slice) -> 'Table':
    """The records with these numbers, in the order of the numbers; or those of a bool [N]."""
    return Table(self.columns, self.rows[kept])

  def values(self, name: str, default=None) -> Iterator[Any]:
    """A field of each record."""
    if name not in self.columns:
      return iter([default] * len(self))
    return (default if value is ABSENT else value for value in self.columns[name].values(self.rows))

  def value(self, name: str, index: int) -> Any:
    """A field of one record that has it."""
    return self.columns[name][int(self.rows[index])]


def to_arrays(splits: Mapping[str, Table]) -> tuple[dict[str, np.ndarray], dict]:
  """(arrays by name, what else they are, JSON-able) of tables that may share their columns; see `from_arrays`."""
  arrays, kinds, numbers = {}, {}, {}
  for split, table in splits.items():
    arrays[f'rows {split}'] = table.rows
    number = numbers.setdefault(id(table.columns), len(numbers))
    kinds[split] = {name: [number, columns.kind_of(found)] for name, found in table.columns.items()}
    for name, found in table.columns.items():
      arrays |= {f'{number} {name} {part}': array for part, array in found.arrays().items()}
  return arrays, kinds


def from_arrays(arrays: Mapping[str, np.ndarray], kinds: Mapping[str, Mapping[str, list]]) -> dict[str, Table]:
  """The tables of which `to_arrays` were these."""
  splits: dict[str, Table] = {}
  for split, described in kinds.items():
    found = {}
    for name, (number, kind) in described.items():
      begin = f'{number} {name} '
      parts = {key.removeprefix(begin): array for key, array in arrays.items() if key.startswith(begin)}
      found[name] = columns.from_arrays(kind, parts)
    splits[split] = Table(found, arrays[f'rows {split}'])
  return splits


def column(items: Sequence[dict], name: str, default=None) -> Iterator[Any]:
  """A field of each record, of a table or a list; `default` of one without it.

  >>> list(column([{'text': 'a'}, {}], 'text', ''))
  ['a', '']
  """
  return items.values(name, default) if isinstance(items, Table) else (one.get(name, default) for one in items)


def with_fields(items: Sequence[dict], index: int, *names: str) -> dict:
  """A record with some of its fields, those that it has; of a table the others are not made."""
  if not isinstance(items, Table):
    return items[index]
  return {name: found for name in names if name in items.columns and (found := items.value(name, index)) is not ABSENT}


def value(items: Sequence[dict], name: str, index: int) -> Any:
  """A field of one record that has it, of a table or a list."""
  return items.value(name, index) if isinstance(items, Table) else items[index][name]


class TableBuilder:
  """Collects a Table of records of one kind, as dicts or by column.

  The fields are those of the first record; answers may be missing.
  """

  def __init__(self, kind: RecordKind):
    self._kind = kind
    self._builders: dict[str, Builder] = {}
    self._waiting: list[dict] = []

  def add(self, records: Iterable[dict]) -> None:
    """Adds records, of which 'id' is a whole number where they have none of their own."""
    for record in records:
      self._waiting.append(record)
      if len(self._waiting) == _BLOCK:
        self._add_waiting()

  def _add_waiting(self) -> None:
    waiting, self._waiting = self._waiting, []
    if waiting:
      self.add_columns({name: [one.get(name, ABSENT) for one in waiting] for name in self._names(waiting[0])})

  def _names(self, first: dict) -> Iterable[str]:
    return self._builders or dict.fromkeys([*first, *(['answers'] if self._kind == 'extractive_qa' else [])])

  def add_columns(self, values: Mapping[str, Sequence]) -> None:
    """Adds records by their fields, of which the first block names all."""
    self._add_waiting()
    for name, found in values.items():
      if name not in self._builders:
        self._builders[name] = self._builder(name, found[0])
      self._builders[name].extend(found)

  def _builder(self, name: str, first) -> Builder:
    if isinstance(first, int | float) and not isinstance(first, bool):
      return columns.NumbersBuilder(counted=isinstance(first, int))
    if name == 'answers' or isinstance(first, list):
      return columns.TextsBuilder(as_json=True)
    if not isinstance(first, str) or name in ('label', 'context'):
      return columns.CodedBuilder(as_json=not isinstance(first, str))
    return columns.TextsBuilder()

  def table(self) -> Table:
    """All that was added."""
    self._add_waiting()
    return Table({name: builder.column() for name, builder in self._builders.items()})
