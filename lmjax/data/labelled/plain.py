"""Rows of .csv and .tsv files many at a time, where they are plainly those that `tables.rows` gives.

A part of a file is plain where no character has a meaning of its own but the one between fields and the ends of lines
(no quotes in a .csv, no carriage return without a line feed), it is UTF-8, and each line has as many fields as the
first. From the first part on that is not, `tables.rows` reads.
"""

import io
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from lmjax.data.sources import files, tables
from lmjax.data.sources.formats import endings, plain_name
from lmjax.data.sources.opening import opened

# Bytes of a part; a line that is longer than so many parts is not plain.
_PART, _MOST_PARTS = 1 << 20, 16


class Block(NamedTuple):
  """Rows of one part of a file."""

  name: str
  header: list[str]
  rows: list[list[str]]
  lines: Sequence[int]  # the number of the line of each row

  def records(self) -> Iterator[tuple[str, dict]]:
    """(where, row by field), as `tables.rows` has them."""
    for line, row in zip(self.lines, self.rows):
      yield f'{self.name}, line {line}', dict(zip(self.header, row))


def records(path: str) -> Iterator[Block | tuple[str, dict]]:
  """What `files.records` yields, rows of tables as blocks where they are plain.

  Raises DataError: as `files.records`.
  """
  names = files.expand(path)
  if not all(name.lower().endswith(endings('table')) for name in names):
    yield from files.records(path)
    return
  for name in names:
    with opened(name) as file:
      yield from rows(name, file)


def rows(name: str, file: IO[bytes]) -> Iterator[Block | tuple[str, dict]]:
  """What `tables.rows` yields, as blocks where it is plain."""
  is_tsv = '.tsv' in plain_name(name).rpartition('/')[2]
  delimiter = '\t' if is_tsv else ','
  first = file.readline(_PART)
  [header] = _split(first, delimiter, is_tsv) or [['']]
  named = [field for field in header if field]
  if not named or len(set(named)) < len(named) or not first.endswith(b'\n'):
    yield from tables.rows(name, _joined(first, file))
    return
  line, rest = 2, b''
  while True:
    data, rest, is_whole = _whole_lines(rest, file)
    if not data:
      return
    found = _split(data, delimiter, is_tsv) if is_whole else None
    if found is None or any(len(row) != len(header) and row != [''] for row in found):
      # blank lines, which are skipped, stand for those that were read, so that the numbers of lines stay
      yield from tables.rows(name, _joined(first + b'\n' * (line - 2) + data + rest, file))
      return
    lines: Sequence[int] = range(line, line + len(found))
    line += len(found)
    if [''] in found:
      lines = [number for number, row in zip(lines, found) if row != ['']]
      found = [row for row in found if row != ['']]
    if found:
      yield Block(name, header, found, lines)


def _split(data: bytes, delimiter: str, is_tsv: bool) -> list[list[str]] | None:
  """The fields of each line, [''] for an empty one; None where that is not plain."""
  if (not is_tsv and b'"' in data) or data.count(b'\r') != data.count(b'\r\n'):
    return None
  try:
    text = data.decode('utf-8')
  except UnicodeDecodeError:
    return None
  if '\r' in text:
    text = text.replace('\r\n', '\n')
  return [line.split(delimiter) for line in text.removesuffix('\n').split('\n')] if text else None


def _whole_lines(rest: bytes, file: IO[bytes]) -> tuple[bytes, bytes, bool]:
  """(lines, the beginning of the next one, whether the lines are whole); no lines at the end of the file."""
  parts = [rest]
  for _ in range(_MOST_PARTS):
    part = file.read(_PART)
    end = part.rfind(b'\n') + 1
    if end or not part:  # the last line may have no end
      return b''.join([*parts, part[:end]]), part[end:], True
    parts.append(part)
  return b''.join(parts), b'', False


def _joined(head: bytes, file: IO[bytes]) -> IO[bytes]:
  return io.BufferedReader(_Joined(head, file))  # type: ignore[return-value]


class _Joined(io.RawIOBase):
  """Bytes that were read already, and what comes after them."""

  def __init__(self, head: bytes, file: IO[bytes]):
    self._head, self._file = memoryview(head), file

  def readable(self) -> bool:
    """True."""
    return True

  def readinto(self, buffer) -> int:
    """How many bytes were put into the buffer; 0 at the end."""
    data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
    if not data:
      data = memoryview(self._file.read(len(buffer)))
    buffer[: len(data)] = data
    return len(data)
