"""Documents from .txt and .jsonl files, plain or compressed, read as a stream."""

import glob
import gzip
import hashlib
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO

from lmjax.errors import DataError

_PACKED = ('', '.gz', '.xz')
TEXT_ENDINGS = tuple(kind + packed for kind in ('.txt', '.tokens') for packed in _PACKED)
JSONL_ENDINGS = tuple('.jsonl' + packed for packed in _PACKED)

# A .txt file is cut into documents, so that one file alone can give a held-out split by document.
_PARAGRAPH_AFTER = 4_096
_LINE_AFTER = 16_384
_LONGEST_LINE = 1 << 20
_LONGEST_RECORD = 1 << 28
_BOM = b'\xef\xbb\xbf'


def documents(path: str, field: str | None) -> Iterator[tuple[str, str | bytes]]:
  """Yields (where, text) of every document of the files that `path` names, files in sorted order.

  Args:
    path: a file, or a glob (`**` goes into folders).
    field: the field of a JSONL line that holds the text.

  Raises:
    DataError: no such file, an unknown ending, a corrupt archive, broken JSON, a field that is not there.
  """
  names = expand(path)
  for name in names:
    _check_ending(name)
  for name in names:
    try:
      with _open(name) as file:
        if file.read(len(_BOM)) != _BOM:
          file.seek(0)
        yield from _text_documents(name, file) if name.endswith(TEXT_ENDINGS) else _records(name, file, field)
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
      raise DataError(f'{name}: {error}; a compressed file must be whole; download or compress it again') from None
    except OSError as error:
      raise DataError(f'{name}: {error.strerror or error}; a source must be readable; check the file') from None


def expand(path: str) -> list[str]:
  """The files that a path or glob names, sorted.

  Raises:
    DataError: there is none.
  """
  path = os.path.expanduser(path)
  if os.path.isfile(path):
    return [path]
  if os.path.isdir(path):
    raise DataError(f'{path}: is a folder; a source is a file or a glob; write {os.path.join(path, "*.txt")}')
  names = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
  if not names:
    rule = 'the glob matches no file' if glob.has_magic(path) else 'there is no such file'
    raise DataError(f'{path}: {rule}; a source must exist; check the path (relative to {os.getcwd()})')
  return names


def identity(path: str) -> dict:
  """Names (relative to their common folder), sizes and content digests of the files."""
  names = expand(path)
  folder = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names])
  facts = [[os.path.relpath(os.path.abspath(name), folder), os.path.getsize(name), _digest(name)] for name in names]
  return {'kind': 'files', 'files': facts}


def _digest(name: str) -> str:
  try:
    with open(name, 'rb') as file:
      return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
  except OSError as error:
    raise DataError(f'{name}: {error.strerror}; a source must be readable; check its permissions') from None


def _check_ending(name: str):
  if not name.endswith(TEXT_ENDINGS + JSONL_ENDINGS):
    endings = ', '.join(TEXT_ENDINGS + JSONL_ENDINGS)
    raise DataError(f'{name}: unknown ending; a source must end in one of {endings}; rename or convert the file')


def _open(name: str) -> IO[bytes]:
  opener: Callable = lzma.open if name.endswith('.xz') else gzip.open if name.endswith('.gz') else open
  return opener(name, 'rb')


def _text_documents(name: str, file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
  """Cuts plain text at the first blank line after 4,096 bytes, or else the first line end after 16,384.

  Nothing is dropped: the documents of a file, joined, are the file (but for a byte order mark).
  """
  parts, size, number = [], 0, 1
  for line in _lines(file):
    parts.append(line)
    size += len(line)
    if (size > _PARAGRAPH_AFTER and not line.strip()) or size > _LINE_AFTER:
      yield f'{name}, document {number}', b''.join(parts)
      parts, size, number = [], 0, number + 1
  if parts or number == 1:
    yield f'{name}, document {number}', b''.join(parts)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
  """Lines with their ends; one longer than 1 MB comes in pieces, cut after white space if there is any."""
  rest = b''
  while line := file.readline(_LONGEST_LINE - len(rest)):
    line = rest + line
    rest = b''
    if len(line) == _LONGEST_LINE and not line.endswith(b'\n'):
      cut = _soft_cut(line)
      line, rest = line[:cut], line[cut:]
    yield line
  if rest:
    yield rest


def _soft_cut(line: bytes) -> int:
  """Where to cut a piece of an endless line: before its last space, else before its last UTF-8 character."""
  half = len(line) // 2
  cut = max(line.rfind(b' ', half), line.rfind(b'\t', half))
  if cut > 0:
    return cut
  cut = len(line) - 1
  while cut > half and line[cut] & 0xC0 == 0x80:  # a continuation byte: go back to the character's first byte
    cut -= 1
  return cut


def _records(name: str, file: IO[bytes], field: str | None) -> Iterator[tuple[str, str | bytes]]:
  """The text of each JSONL line. Lines end at \\n alone: some texts hold U+2028, which str.splitlines would
  cut at."""
  if field is None:
    raise DataError(f'{name}: data field None; JSONL text stands in a named field; set field, such as "text"')
  number = 0
  while line := file.readline(_LONGEST_RECORD):
    number += 1
    where = f'{name}, line {number}'
    if len(line) == _LONGEST_RECORD:
      raise DataError(f'{where}: more than {_LONGEST_RECORD:,} bytes; a record must be shorter; is this JSONL?')
    if line.strip():
      yield where, _field_text(line, where, field)


def _field_text(line: bytes, where: str, field: str) -> str | bytes:
  """The text of one record.

  Bytes that are not UTF-8 are let through as lone surrogates when they stand inside the text, so that the one
  policy on bad text (`sources`) sees them with the rest.
  """
  try:
    record = json.loads(line.decode('utf-8', 'surrogateescape'))
  except (ValueError, RecursionError) as error:
    raise DataError(f'{where}: broken JSON ({error}); each line must be one object; mend or drop the line') from None
  if not isinstance(record, dict):
    kind = type(record).__name__
    raise DataError(f'{where}: a JSON {kind}; each line must be one object; write {{"{field}": ...}}')
  if field not in record:
    there = ', '.join(sorted(map(str, record))) or 'none'
    raise DataError(f'{where}: no field {field!r}; it must hold the text; fields there: {there}')
  text = record[field]
  if not isinstance(text, str):
    kind = type(text).__name__
    raise DataError(f'{where}: field {field!r} is of type {kind}; it must be a string; name another field')
  return text
