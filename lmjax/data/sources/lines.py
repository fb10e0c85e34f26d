"""Plain text, cut into documents, and files with one JSON value a line; whole, or the lines that begin in a range."""

import collections
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import IO, Any

from lmjax.data.digests import normalised_digest64
from lmjax.data.sources import fields
from lmjax.data.sources.conditions import Filter
from lmjax.errors import DataError

# A text file is cut into documents, so that one file alone can give a held-out split by document. Sizes are those of
# words, in bytes, with a space after each; one paragraph in so many ends a document, or one line of a text without any.
_PARAGRAPH_AFTER, _PARAGRAPHS = 2_048, 4
_LINE_AFTER, _LINES = 8_192, 16
_MOST = 32_768
_LONGEST_LINE = 1 << 20
LONGEST_RECORD = 1 << 28

Part = tuple[int, int] | None


def text_documents(name: str, file: IO[bytes], part: Part = None) -> Iterator[tuple[str, bytes]]:
  """Cuts plain text at blank lines, or else at line ends, into documents of some kilobytes; drops none.

  Where it is cut depends on the words before a place alone: copies of a text with another header, spacing or line ends
  are cut into the same documents, but for the first ones.

  Of a part, (first byte, byte after the last), it takes the lines that begin in it. Yields (where, document).
  """
  parts, size, number, last = [], 0, 1, b''
  place = f'{name}, document' if part is None else f'{name}, from byte {part[0]:,}, document'
  for line in _lines(file) if part is None else _lines_of_part(file, part):
    parts.append(line)
    words = line.split()
    size += sum(map(len, words)) + len(words)
    last = line if words else last
    if _ends(size, last, is_blank=not words):
      yield f'{place} {number}', b''.join(parts)
      parts, size, number = [], 0, number + 1
  if parts or (number == 1 and part is None):
    yield f'{place} {number}', b''.join(parts)


def _ends(size: int, last: bytes, is_blank: bool) -> bool:
  """Whether a document of so many bytes ends after its last line that is not blank, and perhaps blank ones."""
  if size <= _PARAGRAPH_AFTER or (size <= _LINE_AFTER and not is_blank):
    return False
  if size > _MOST:
    return True
  return normalised_digest64(last.decode('utf-8', 'replace')) % (_PARAGRAPHS if is_blank else _LINES) == 0


def _lines_of_part(file: IO[bytes], part: tuple[int, int]) -> Iterator[bytes]:
  """Lines as `_lines` has them, of which the first piece begins in a part."""
  place, may_end = _seek_line(file, part[0]), part[0] > 0
  for line in _lines(file):
    if may_end and place >= part[1]:
      return
    place += len(line)
    may_end = line.endswith(b'\n')  # else it is a piece of a line
    yield line


def _seek_line(file: IO[bytes], start: int) -> int:
  """Goes to the first line that begins at `start` or after it; returns its place."""
  if start == 0:
    return file.tell()  # after the byte order mark
  file.seek(start - 1)
  while (rest := file.readline(_LONGEST_LINE)) and not rest.endswith(b'\n'):
    pass
  return file.tell()


def _lines(file: IO[bytes]) -> Iterator[bytes]:
  """Lines with their ends; one longer than 1 MB comes in pieces, cut after white space if there is any."""
  rest = b''
  while line := file.readline(_LONGEST_LINE - len(rest)):
    line, rest = rest + line, b''
    if len(line) == _LONGEST_LINE and not line.endswith(b'\n'):
      cut = _soft_cut(line)
      line, rest = line[:cut], line[cut:]
    yield line
  if rest:
    yield rest


def _soft_cut(line: bytes) -> int:
  """Where to cut a piece of an endless line: before its last space, else before its last UTF-8 character."""
  half = len(line) // 2
  if (cut := max(line.rfind(b' ', half), line.rfind(b'\t', half))) > 0:
    return cut
  cut = len(line) - 1
  while cut > half and line[cut] & 0xC0 == 0x80:  # a continuation byte: go back to the character's first byte
    cut -= 1
  return cut


def values(name: str, file: IO[bytes], part: Part = None, begin: bytes = b'') -> Iterator[tuple[str, Any]]:
  """(where, JSON value) of each line that is not blank, of those that begin in a part if one is given.

  A line ends at \\n alone: some texts hold U+2028, where str.splitlines would cut. A line has a number where the file
  is read from its start, else the byte at which it begins. `begin` is the first line, where it was read already.

  Raises DataError: broken JSON; a line that is too long.
  """
  from_start = part is None or part[0] == 0
  place = _seek_line(file, part[0]) - len(begin) if part else 0
  for number in itertools.count(1):
    where = f'{name}, line {number}' if from_start else f'{name}, line at byte {place:,}'
    is_first = from_start and number == 1  # it begins at byte 0, but the byte order mark was read
    if (part and place >= part[1] and not is_first) or not (line := begin or file.readline(LONGEST_RECORD)):
      return
    begin, place = b'', place + len(line)
    if len(line) == LONGEST_RECORD:
      raise DataError(f'{where}: more than {LONGEST_RECORD:,} bytes; a record must be shorter; is this JSONL?')
    if not line.isspace():
      value, line = loads(line, where), b''  # which may be large
      yield where, value


def texts(found: Iterable[tuple[str, Any]], field: str, keep: Filter) -> Iterator[tuple[str, fields.Text | None]]:
  """(where, text or None) of each JSON value that is kept; a value may be a text itself, unless fields decide.

  Raises DataError: a value of another kind, no such field, or one of another type.
  """
  for where, value in found:
    if isinstance(value, str) and not keep.conditions:
      yield where, value
    else:
      record = as_object(value, where, f'{{"{field}": ...}}')
      if keep.keeps(record, where):
        yield where, fields.text_in(record, field, where)


def loads(data: bytes, where: str, unit: str = 'each line') -> Any:
  """A JSON value; bytes that are not UTF-8 become lone surrogates, which `documents.clean` treats by policy.

  Raises DataError: it is broken.
  """
  try:
    return json.loads(data.decode('utf-8', 'surrogateescape'), object_pairs_hook=without_doubles)
  except (ValueError, RecursionError) as error:
    remedy = 'fix it' if unit == 'the file' else 'fix or drop the line'
    raise DataError(f'{where}: broken JSON ({error}); {unit} must be one object; {remedy}') from None


def as_object(value: Any, where: str, example: str, unit: str = 'each line') -> dict:
  """The value. Raises DataError: it is no JSON object."""
  if not isinstance(value, dict):
    kind = type(value).__name__
    raise DataError(f'{where}: a JSON {kind}; {unit} must be one object; write {example}')
  return value


def without_doubles(pairs: list[tuple[str, Any]]) -> dict:
  """An object of which each key stands once: of two that are alike JSON takes the last. Raises ValueError."""
  found = dict(pairs)
  if len(found) < len(pairs):
    [(twice, _)] = collections.Counter(key for key, _ in pairs).most_common(1)
    raise ValueError(f'key {twice!r} stands there twice')
  return found
