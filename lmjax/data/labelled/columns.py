"""Columns of labelled records: values end to end in arrays; one is made when it is read.

Legend: N values of a column.
"""

import array
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

_DUMP = json.JSONEncoder(ensure_ascii=False).encode
_ENCODE = json.encoder.encode_basestring_ascii  # of a string what json.dumps gives, without its call
# What a column gives for a record that lacks the field.
ABSENT: Any = object()


class Column(Protocol):
  """Values that can be looked up; `arrays` holds all of it, and `from_arrays` takes it back."""

  def __len__(self) -> int: ...

  def __getitem__(self, place: int) -> Any: ...

  def values(self, places: np.ndarray) -> Iterator[Any]:
    """The values at int64 places, in their order."""

  def as_json(self, places: np.ndarray) -> Iterator[str]:
    """The same as json.dumps with sorted keys writes them."""

  def arrays(self) -> dict[str, np.ndarray]:
    """{name: array}; the name of the first begins with that of the class."""


class Texts:
  """Strings as UTF-8: uint8 [bytes], and int64 [N + 1], where each begins; the last is where the last one ends."""

  def __init__(self, data, begins: np.ndarray):
    self.data, self.begins = memoryview(data), begins

  def __len__(self):
    return len(self.begins) - 1

  def __getitem__(self, place: int) -> str:
    return str(self.data[self.begins[place] : self.begins[place + 1]], 'utf-8')

  def values(self, places: np.ndarray) -> Iterator[str]:
    """See Column."""
    data = self.data
    for begins, ends in _in_parts(places, lambda part: (self.begins[part], self.begins[part + 1])):
      for begin, end in zip(begins.tolist(), ends.tolist()):
        yield str(data[begin:end], 'utf-8')

  def as_json(self, places: np.ndarray) -> Iterator[str]:
    """See Column."""
    return map(_ENCODE, self.values(places))

  def arrays(self) -> dict[str, np.ndarray]:
    """See Column."""
    return {'data': np.frombuffer(self.data, np.uint8), 'begins': self.begins}


class Json:
  """Values of any kind, each as JSON; a text without characters stands for none at all (`ABSENT`)."""

  def __init__(self, texts: Texts):
    self.texts = texts

  def __len__(self):
    return len(self.texts)

  def __getitem__(self, place: int) -> Any:
    text = self.texts[place]
    return json.loads(text) if text else ABSENT

  def values(self, places: np.ndarray) -> Iterator[Any]:
    """See Column."""
    return (json.loads(text) if text else ABSENT for text in self.texts.values(places))

  def as_json(self, places: np.ndarray) -> Iterator[str]:
    """See Column."""
    return (json.dumps(value, sort_keys=True) for value in self.values(places))

  def arrays(self) -> dict[str, np.ndarray]:
    """See Column."""
    return self.texts.arrays()


class Coded:
  """Values of which many are alike: int32 [N] numbers into a column of the different ones."""

  def __init__(self, codes: np.ndarray, different: Texts | Json):
    self.codes, self.different = codes, different

  def __len__(self):
    return len(self.codes)

  def __getitem__(self, place: int) -> Any:
    return self.different[self.codes[place]]

  def _looked_up(self, found: Iterator[Any], places: np.ndarray) -> Iterator[Any]:
    values = list(found)
    for [codes] in _in_parts(places, lambda part: (self.codes[part],)):
      yield from map(values.__getitem__, codes.tolist())

  def values(self, places: np.ndarray) -> Iterator[Any]:
    """See Column."""
    return self._looked_up(self.different.values(np.arange(len(self.different))), places)

  def as_json(self, places: np.ndarray) -> Iterator[str]:
    """See Column."""
    return self._looked_up(self.different.as_json(np.arange(len(self.different))), places)

  def arrays(self) -> dict[str, np.ndarray]:
    """See Column."""
    return {'codes': self.codes, **self.different.arrays()}


class Numbers:
  """Floats: float64 [N]."""

  def __init__(self, numbers: np.ndarray):
    self.numbers = numbers

  def __len__(self):
    return len(self.numbers)

  def __getitem__(self, place: int) -> float:
    return float(self.numbers[place])

  def values(self, places: np.ndarray) -> Iterator[float]:
    """See Column."""
    return iter(self.numbers[places].tolist())

  def as_json(self, places: np.ndarray) -> Iterator[str]:
    """See Column."""
    return map(json.dumps, self.values(places))

  def arrays(self) -> dict[str, np.ndarray]:
    """See Column."""
    return {'numbers': self.numbers}


class Counted:
  """Whole numbers, int64 [N], which are read as strings: ids of records that have none of their own."""

  def __init__(self, numbers: np.ndarray):
    self.numbers = numbers

  def __len__(self):
    return len(self.numbers)

  def __getitem__(self, place: int) -> str:
    return str(self.numbers[place])

  def values(self, places: np.ndarray) -> Iterator[str]:
    """See Column."""
    return map(str, self.numbers[places].tolist())

  def as_json(self, places: np.ndarray) -> Iterator[str]:
    """See Column."""
    return (f'"{number}"' for number in self.values(places))

  def arrays(self) -> dict[str, np.ndarray]:
    """See Column."""
    return {'numbers': self.numbers}


_PART = 65_536


def _in_parts(places: np.ndarray, look_up: Callable[[np.ndarray], tuple]) -> Iterator[tuple]:
  """What is looked up for some places at a time, so that no list of all of them is made."""
  for first in range(0, len(places), _PART):
    yield look_up(places[first : first + _PART])


# ---- as arrays, and back


def kind_of(column: Column) -> str:
  """What `from_arrays` makes the column again by."""
  inner = f' {type(column.different).__name__}' if isinstance(column, Coded) else ''
  return type(column).__name__ + inner


def from_arrays(kind: str, arrays: Mapping[str, np.ndarray]) -> Column:
  """The column of which `kind_of` and `arrays` were these."""
  name, _, inner = kind.partition(' ')
  if name == 'Numbers':
    return Numbers(arrays['numbers'])
  if name == 'Counted':
    return Counted(arrays['numbers'])
  texts: Any = Texts(arrays['data'], arrays['begins'])
  if 'Json' in (name, inner):
    texts = Json(texts)
  return Coded(arrays['codes'], texts) if name == 'Coded' else texts


# ---- made of values, one after the other


class TextsBuilder:
  """Collects a Texts, or the Json of values."""

  def __init__(self, as_json: bool = False):
    self._data, self._sizes, self._as_json = bytearray(), array.array('i'), as_json

  def __len__(self):
    return len(self._sizes)

  def extend(self, values: Iterable[Any]) -> None:
    """Adds values at the end."""
    if self._as_json:
      values = ('' if value is ABSENT else _DUMP(value) for value in values)
    encoded = [value.encode('utf-8') for value in values]
    self._sizes.extend(map(len, encoded))
    self._data += b''.join(encoded)

  def column(self) -> Texts | Json:
    """All of them."""
    begins = np.zeros(len(self._sizes) + 1, np.int64)
    np.cumsum(np.frombuffer(self._sizes, np.int32), out=begins[1:])
    texts = Texts(self._data, begins)
    return Json(texts) if self._as_json else texts


class CodedBuilder:
  """Collects a Coded of strings, or of whatever JSON has and can be looked up."""

  def __init__(self, as_json: bool = False):
    self._number_of: dict[Any, int] = {}
    self._codes, self._as_json = array.array('i'), as_json

  def __len__(self):
    return len(self._codes)

  def extend(self, values: Iterable[Any]) -> None:
    """Adds values at the end."""
    numbers = self._number_of
    self._codes.extend(numbers.setdefault(value, len(numbers)) for value in values)

  def column(self) -> Coded:
    """All of them."""
    different = TextsBuilder(self._as_json)
    different.extend(self._number_of)
    return Coded(np.frombuffer(self._codes, np.int32), different.column())


class NumbersBuilder:
  """Collects a Numbers, or a Counted of int64."""

  def __init__(self, counted: bool = False):
    self._numbers, self._counted = array.array('q' if counted else 'd'), counted

  def __len__(self):
    return len(self._numbers)

  def extend(self, values: Iterable[Any]) -> None:
    """Adds values at the end."""
    self._numbers.extend(values)

  def column(self) -> Numbers | Counted:
    """All of them."""
    kind: Any = (Counted, np.int64) if self._counted else (Numbers, np.float64)
    return kind[0](np.frombuffer(self._numbers, kind[1]))


Builder = TextsBuilder | CodedBuilder | NumbersBuilder
