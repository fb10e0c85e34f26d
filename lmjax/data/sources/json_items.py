"""Files of .json: a list of values, read one at a time; one value a line; or, for labelled examples, one object."""

import codecs
import io
import json
from collections.abc import Iterator
from typing import IO, Any

from lmjax.data.sources.lines import LONGEST_RECORD, Part, as_object, loads, values, without_doubles
from lmjax.errors import DataError

_PIECE = 1 << 16
# An error closer to the end of what was read than this may be of a word or an escape that is cut in two.
_MARGIN = 16
_EXAMPLE = '[{...}, {...}]'
_SPACE = ' \t\r\n'
_RULE = 'a .json file must hold a list of objects, or one in each line'


def items(name: str, file: IO[bytes], field: str, part: Part = None) -> Iterator[tuple[str, Any]]:
  """(where, JSON value) of each item of a list, or of each line; of a part, of the lines that begin in it.

  Raises DataError: broken JSON; one object that goes over lines, or that holds its records inside.
  """
  if part is not None and part[0] > 0:
    yield from values(name, file, part)
    return
  first = file.readline(1)
  while first.isspace():
    first = file.readline(1)
  if first == b'[':
    yield from list_items(name, file)
  elif first:
    first += file.readline(LONGEST_RECORD)
    _check_first(name, first, field)
    yield from values(name, file, part, first)


def _check_first(name: str, line: bytes, field: str) -> None:
  """Raises DataError: a file is one object over several lines, or whose records stand inside of it."""
  try:
    value = loads(line, f'{name}, line 1')
  except DataError as error:
    broken = str(error).partition('; ')[0]
    raise DataError(f'{broken}; {_RULE}; write its records as {_EXAMPLE}, or one a line') from None
  if isinstance(value, dict) and not {field, field.partition('.')[0]} & value.keys():
    inside = [key for key, inner in value.items() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]
    if inside:
      raise DataError(f'{name}: one object, with a list in {inside[0]!r}; {_RULE}; write the list alone, or one a line')


def list_items(name: str, file: IO[bytes]) -> Iterator[tuple[str, Any]]:
  """(where, value) of each item of a JSON list whose bracket was read, of which some megabytes are held at a time.

  Raises DataError: broken JSON; an item that is too long.
  """
  text = _Text(file)
  decoder, number = json.JSONDecoder(object_pairs_hook=without_doubles), 1
  while text.next_character() != ']' or number > 1:
    where = f'{name}, item {number}'
    yield where, _next_value(text, decoder, where)
    number += 1
    if (mark := text.next_character()) == ']':
      break
    if mark != ',':
      shown = f'{mark!r} where a comma' if mark else 'it ends where a bracket'
      raise DataError(f'{where}: broken JSON (after it, {shown} is due); the file must be one list; fix it')
    text.place += 1
  text.place += 1
  if more := text.next_character():
    raise DataError(f'{name}: has {more!r} after the end of its list; the file must be one list; fix it')


def inner_items(name: str, file: IO[bytes], key: str) -> Iterator[Any]:
  """Each item of the list at a key of a file that is one object, of which some megabytes are held at a time.

  Raises DataError, perhaps after some items: the file is another, or broken; `records` says how.
  """
  text, decoder, seen, mark = _Text(file), json.JSONDecoder(object_pairs_hook=without_doubles), set(), '{'
  while mark != '}':
    _expect(text, '{' if mark == '{' else ',', name)
    text.next_character()
    found = _next_value(text, decoder, name)
    _expect(text, ':', name)
    if not isinstance(found, str) or found in seen:
      raise DataError(f'{name}: not one object with each key once')
    seen.add(found)
    begin = text.next_character()
    if found != key:
      _next_value(text, decoder, name)
    elif begin == '[':
      mark = '['
      while mark != ']':
        _expect(text, mark, name)
        if text.next_character() != ']' or mark == ',':
          yield _next_value(text, decoder, name)
        mark = text.next_character()
      text.place += 1
    else:
      raise DataError(f'{name}: {key} is no list')
    mark = text.next_character()
  text.place += 1
  if text.next_character() or key not in seen:
    raise DataError(f'{name}: more than one object, or one without {key}')


def _expect(text: '_Text', mark: str, name: str) -> None:
  if text.next_character() != mark:
    raise DataError(f'{name}: no {mark!r} where one is due')
  text.place += 1


class _Text:
  """What was read of a file and not used yet: `text[place:]`."""

  def __init__(self, file: IO[bytes]):
    self._file, self._decode = file, codecs.getincrementaldecoder('utf-8')('surrogateescape').decode
    self.text, self.place, self.is_whole = '', 0, False

  def read(self) -> None:
    """Reads as much as there is again, so that a long item is parsed few times."""
    rest = self.text[self.place :]
    data = self._file.read(max(_PIECE, len(rest)))
    self.is_whole = not data
    self.text, self.place = rest + self._decode(data, self.is_whole), 0

  def next_character(self) -> str:
    """The next one that is no white space, which `place` then names; '' at the end."""
    while True:
      while self.place < len(self.text) and self.text[self.place] in _SPACE:
        self.place += 1
      if self.place < len(self.text) or self.is_whole:
        return self.text[self.place : self.place + 1]
      self.read()


def _next_value(text: _Text, decoder: json.JSONDecoder, where: str) -> Any:
  """The value at a place of a text, which moves after it."""
  while True:
    try:
      value, end = decoder.raw_decode(text.text, text.place)
      if end < len(text.text) or text.is_whole:  # else it may be a number that continues
        text.place = end
        return value
    except json.JSONDecodeError as error:
      is_cut = error.msg.startswith('Unterminated') or error.pos > len(text.text) - _MARGIN
      if text.is_whole or not is_cut:
        raise DataError(f'{where}: broken JSON ({error.msg}); the file must be one list; fix it') from None
    except (ValueError, RecursionError) as error:
      raise DataError(f'{where}: broken JSON ({error}); the file must be one list; fix it') from None
    if len(text.text) - text.place > LONGEST_RECORD:
      raise DataError(f'{where}: more than {LONGEST_RECORD:,} characters; a record must be shorter; is it one?')
    text.read()


def records(name: str, file: IO[bytes]) -> Iterator[tuple[str, dict]]:
  """(where, object) of a file that is one object, as SQuAD's are, a list of objects, or has one in each line.

  Raises DataError: broken JSON; an item that is no object.
  """
  data = file.read()
  try:
    found = json.loads(data.decode('utf-8', 'surrogateescape'), object_pairs_hook=without_doubles)
  except (ValueError, RecursionError):
    first, _, rest = data.strip().partition(b'\n')
    if not (rest and first.rstrip().endswith(b'}') and first.startswith(b'{')):
      found = loads(data, name, 'the file')  # raises
    for where, value in values(name, io.BytesIO(data)):
      yield where, as_object(value, where, _EXAMPLE)
    return
  if not isinstance(found, list):
    yield name, as_object(found, name, _EXAMPLE, 'the file')
    return
  for number, record in enumerate(found, 1):
    where = f'{name}, item {number}'
    yield where, as_object(record, where, _EXAMPLE, 'each item')
