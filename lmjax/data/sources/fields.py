"""The text of a record: by a key, or by the keys of objects inside one another; lists of strings joined."""

from collections.abc import Iterable, Mapping
from typing import Any

from lmjax.errors import DataError

Text = str | bytes


def text_in(record: Mapping[str, Any], field: str, where: str) -> Text | None:
  """The text of a record; None where it is null, or inside of something that is.

  `a.b` is the key 'a.b' where there is one, else b in the object a. Strings of a list are joined by a line end.

  Raises DataError: no such field, or one of another type.

  >>> text_in({'document': {'text': ['one', 'two']}}, 'document.text', 'a.jsonl, line 1')
  'one\\ntwo'
  """
  if (text := record.get(field)) is not None and type(text) is str:
    return text
  return joined(value_in(record, field, where), field, where)


def value_in(record: Mapping[str, Any], field: str, where: str, rule: str = 'must hold the text') -> Any:
  """What a field of a record holds; None where that is null, or inside of something that is.

  Raises DataError: no such field, which `rule` says what it is for.
  """
  value: Any = record
  names = [field] if field in record else field.split('.')
  for depth, name in enumerate(names):
    if value is None:
      return None
    if not isinstance(value, Mapping):
      raise wrong_type(where, '.'.join(names[:depth]), type(value).__name__, f'must be an object that holds {name!r}')
    if name not in value:
      raise missing(where, field, ('.'.join([*names[:depth], key]) for key in value), rule)
    value = value[name]
  return value


def joined(value: Any, field: str, where: str) -> Text | None:
  """A value as text. Raises DataError: it is neither text, nor a list of texts, nor null."""
  if value is None or isinstance(value, str | bytes):
    return value
  if isinstance(value, list | tuple):
    parts = [part for part in value if part is not None]
    other = next((part for part in parts if not isinstance(part, str | bytes)), None)
    if other is not None:
      raise wrong_type(where, field, f'list of {type(other).__name__}')
    return (b'\n' if parts and isinstance(parts[0], bytes) else '\n').join(parts)
  if isinstance(value, Mapping) and value:
    rule, example = 'must be a string, or a list of strings', f'{field}.{listed([next(iter(value))])}'
    raise DataError(f'{where}: field {field!r} is of type dict; it {rule}; name one of its own, such as {example}')
  raise wrong_type(where, field, type(value).__name__)


def wrong_type(where: str, field: str, kind: str, rule: str = 'must be a string, or a list of strings') -> DataError:
  """What to raise for a field that holds no text."""
  return DataError(f'{where}: field {field!r} is of type {kind}; it {rule}; name another field')


def missing(where: str, field: str, there: Iterable[str], rule: str = 'must hold the text') -> DataError:
  """What to raise for a field that is not there."""
  shown = listed(sorted(there))
  return DataError(f'{where}: no field {field!r}; it {rule}; fields there: {shown}')


def listed(names: list[str]) -> str:
  """Field names for one line of a message: those of a file that is no table may be anything."""
  shown = [name if name.isprintable() and len(name) <= 40 else ascii(name[:40]) for name in names[:10]]
  return ', '.join(shown + ['...'] * (len(names) > 10)) or 'none'
