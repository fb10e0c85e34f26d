"""Which documents of a source are kept, by what other fields of their records hold."""

import collections
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from lmjax.data.sources import fields
from lmjax.errors import DataError

_FORM = re.compile(r'\s*([^=<>!|]+?)\s*(<=|>=|!=|=|<|>)\s*([^=<>!\s].*?)\s*')
_RANGES: dict[str, Callable[[Any, float], bool]] = {
  '<': lambda value, limit: value < limit,
  '<=': lambda value, limit: value <= limit,
  '>': lambda value, limit: value > limit,
  '>=': lambda value, limit: value >= limit,
}
RULE = 'must hold what a condition names'


class Condition(NamedTuple):
  """A field, and what it must hold."""

  text: str  # as it was given
  field: str
  sign: str  # =, !=, <, <=, > or >=
  values: tuple[str, ...]  # of = and !=, any of them; of others one number

  def holds(self, record: Mapping[str, Any], where: str) -> bool:
    """Whether it is true of a record; null is no value, so that != alone is true of it.

    Raises DataError: no such field, or one of a type that cannot be compared.
    """
    value = fields.value_in(record, self.field, where, RULE)
    value = value.decode('utf-8', 'replace') if isinstance(value, bytes) else value
    value = float(value) if _is_number(value) and not isinstance(value, int) else value  # decimals too
    if self.sign in _RANGES:
      found = self._number(value, where)
      return found is not None and _RANGES[self.sign](found, float(self.values[0]))
    return self._is_one(value, where) == (self.sign == '=')

  def _number(self, value: Any, where: str) -> Any:
    """The value as a number; None for null and an empty text. Nan is on no side of a limit."""
    if value is None or (isinstance(value, str) and not value.strip()):
      return None
    found = _number_in(value) if isinstance(value, str) else value if _is_number(value) else None
    if found is None:
      shown = f'holds {value[:40]!r}' if isinstance(value, str) else f'is of type {type(value).__name__}'
      raise self._refusal(where, shown, 'it must be a number, or text that is one')
    return found

  def _is_one(self, value: Any, where: str) -> bool:
    if value is None or isinstance(value, str):
      return value in self.values
    if isinstance(value, bool):
      compared: list[Any] = [text == 'true' for text in self.values if text in ('true', 'false')]
    elif _is_number(value):
      compared = [number for text in self.values if (number := _number_in(text)) is not None]
    else:
      raise self._refusal(where, f'is of type {type(value).__name__}', 'it must be text, a number, true or false')
    if not compared:
      kind = 'true or false' if isinstance(value, bool) else 'a number'
      raise self._refusal(where, f'is of type {type(value).__name__}', f'the condition must name {kind}')
    return value in compared

  def _refusal(self, where: str, shown: str, rule: str) -> DataError:
    return DataError(f'{where}: field {self.field!r} {shown}; {rule}; correct {self.text!r} of keep, or the file')


def _is_number(value: Any) -> bool:
  return hasattr(value, '__float__') and not isinstance(value, bool)


def _number_in(text: str) -> int | float | None:
  """The number that a text is, exact where it is whole; None where it is none."""
  for kind in (int, float):
    try:
      return None if '_' in text else kind(text)
    except ValueError:
      pass
  return None


def parsed(text: str) -> Condition:
  """A condition from its text. Raises ValueError: (rule, remedy).

  >>> parsed('meta.lang = en|de')[1:], parsed('score>=3')[1:]
  (('meta.lang', '=', ('en', 'de')), ('score', '>=', ('3',)))
  """
  match = _FORM.fullmatch(text)
  field, sign, value = match.groups() if match else ('', '', '')
  values = (value,) if sign in _RANGES else tuple(one.strip() for one in value.split('|'))
  if not match or not all(values):
    rule = f'{text!r} must be a field, one of = != < <= > >=, and a value'
    raise ValueError(rule, "write it as 'language=en|de' or 'score>=3'")
  if sign in _RANGES and ((number := _number_in(value)) is None or number != number):
    raise ValueError(f'{text!r} must name a number after {sign}', f"write it as '{field}{sign}3', or take = or !=")
  return Condition(text, field, sign, values)


class Filter:
  """The conditions of a source; what they leave out is counted as 'filtered'.

  Attributes:
    conditions: in their order.
    fields: what is read of a record for them.
  """

  def __init__(self, keep: Iterable[str] = (), counts: collections.Counter | None = None):
    self.conditions = [parsed(text) for text in keep]
    self.fields = list(dict.fromkeys(condition.field for condition in self.conditions))
    self._counts = collections.Counter() if counts is None else counts

  def keeps(self, record: Mapping[str, Any], where: str) -> bool:
    """Whether all conditions are true of a record. Raises DataError: see `Condition.holds`."""
    # each is asked, so that a mistake in one is found whatever the others say
    if all([condition.holds(record, where) for condition in self.conditions]):
      return True
    self._counts['filtered'] += 1
    return False


ALL = Filter()
