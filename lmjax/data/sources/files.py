"""Documents from .txt and .jsonl files, and records from .jsonl, .csv and .tsv, plain or compressed, as a stream."""

import collections
import contextlib
import csv
import glob
import gzip
import hashlib
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from etils import epath

from lmjax.data.config import PACKED, TEXT_ENDINGS
from lmjax.errors import GCS_REMEDY, DataError, reason

JSONL_ENDINGS = tuple('.jsonl' + packed for packed in PACKED)
TABLE_ENDINGS = tuple(kind + packed for kind in ('.csv', '.tsv') for packed in PACKED)
JSON_ENDINGS = tuple('.json' + packed for packed in PACKED)

# A .txt file is cut into documents, so that one file alone can give a held-out split by document.
_PARAGRAPH_AFTER = 4_096
_LINE_AFTER = 16_384
_LONGEST_LINE = 1 << 20
_LONGEST_RECORD = 1 << 28
csv.field_size_limit(_LONGEST_RECORD)  # the module's own 128 KiB is less than a long legal document
_UNPACKERS: dict[str, Callable] = {'.xz': lzma.open, '.gz': gzip.open}
_BOM = b'\xef\xbb\xbf'
_UTF_16 = (b'\xff\xfe', b'\xfe\xff')


def documents(path: str, field: str | None) -> Iterator[tuple[str, str | bytes]]:
  """Yields (where, text) of every document of the files that `path` names, files in sorted order.

  Args:
    path: a file, or a glob (`**` goes into folders); also on `gs://`.
    field: the field of a JSONL line that holds the text; not read for .txt.

  Raises DataError: no such file, an unknown ending, a corrupt archive, broken JSON, a field that is not there.
  """
  for name in _files(path, TEXT_ENDINGS + JSONL_ENDINGS):
    with _opened(name) as file:
      yield from _text_documents(name, file) if name.endswith(TEXT_ENDINGS) else _field_texts(name, file, field)


def records(path: str) -> Iterator[tuple[str, dict]]:
  """Yields (where, record) of every .jsonl line, .csv or .tsv row (its first line names the fields), or .json file.

  A .json file is one object, as SQuAD's are, a list of objects, or has one in each line.

  Raises DataError: as `documents`; a row with more or fewer fields than its first line, a quote out of place.
  """
  for name in _files(path, JSONL_ENDINGS + TABLE_ENDINGS + JSON_ENDINGS):
    with _opened(name) as file:
      if name.endswith(JSON_ENDINGS):
        yield from _json_file(name, file)
      else:
        yield from _table_rows(name, file) if name.endswith(TABLE_ENDINGS) else _objects(name, file)


def _files(path: str, endings: tuple[str, ...]) -> list[str]:
  names = expand(path)
  for name in names:
    if not name.endswith(endings):
      known = ', '.join(endings)
      raise DataError(f'{name}: unknown ending; a source must end in one of {known}; rename or convert the file')
  return names


@contextlib.contextmanager
def _opened(name: str, unpack: bool = True) -> Iterator[IO[bytes]]:
  """A file, unpacked and after its byte order mark unless its very bytes are wanted; its errors become DataError."""
  try:
    # a file of an object store has no `readline(limit)`
    with io.BufferedReader(epath.Path(name).open('rb')) if '://' in name else open(name, 'rb') as raw:
      if not unpack:
        yield raw
        return
      with _UNPACKERS.get(os.path.splitext(name)[1], contextlib.nullcontext)(raw) as file:
        begin = file.read(len(_BOM))
        if begin[:2] in _UTF_16:
          raise DataError(f'{name}: is UTF-16, by its first bytes; text must be UTF-8; save it as that')
        if begin != _BOM:
          file.seek(0)
        yield file
  except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
    raise DataError(f'{name}: {error}; a compressed file must be whole; download or compress it again') from None
  except OSError as error:
    raise DataError(f'{name}: {error.strerror or error}; a source must be readable; check the file') from None
  except DataError:
    raise
  except Exception as error:  # each library of object stores raises errors of its own
    if '://' not in name:
      raise
    raise DataError(f'{name}: cannot be read ({reason(error)}); {GCS_REMEDY}') from error


def expand(path: str) -> list[str]:
  """The files that a path or glob names, sorted. Raises DataError: there is none."""
  is_url = '://' in path
  names = _expand_url(path) if is_url else _expand_local(os.path.expanduser(path))
  if not names:
    rule = 'the glob matches no file' if glob.has_magic(path) else 'there is no such file'
    place = '' if is_url else f' (relative to {os.getcwd()})'
    raise DataError(f'{path}: {rule}; a source must exist; check the path{place}')
  return names


def _expand_local(path: str) -> list[str]:
  if os.path.isdir(path):
    raise DataError(f'{path}: is a folder; a source is a file or a glob; write {os.path.join(path, "*.txt")}')
  if os.path.isfile(path):
    return [path]
  return sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))


def _expand_url(path: str) -> list[str]:
  scheme, _, rest = path.partition('://')
  bucket, _, inside = rest.partition('/')
  if '**' in inside:
    raise DataError(f'{path}: ** cannot be searched for on {scheme}://; name the folder, with * for its files')
  try:
    if glob.has_magic(inside):
      return sorted(str(name) for name in epath.Path(f'{scheme}://{bucket}').glob(inside))
    return [path] if epath.Path(path).exists() else []
  except Exception as error:  # each library of object stores raises errors of its own
    raise DataError(f'{path}: cannot be reached ({reason(error)}); {GCS_REMEDY}') from error


def identity(path: str) -> dict:
  """Names (relative to their common folder), sizes and content digests of the files, wherever they lie."""
  names = [name if '://' in name else os.path.abspath(name) for name in expand(path)]
  folder, rows = os.path.commonpath([os.path.dirname(name) for name in names]), []
  for name in names:
    digest = hashlib.blake2b(digest_size=16)
    with _opened(name, unpack=False) as file:
      while piece := file.read(_LONGEST_LINE):
        digest.update(piece)
      rows.append([os.path.relpath(name, folder), file.tell(), digest.hexdigest()])
  return {'kind': 'files', 'files': rows}


def _text_documents(name: str, file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
  """Cuts plain text at the first blank line after 4,096 bytes, or else the first line end after 16,384; drops none."""
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


def _field_texts(name: str, file: IO[bytes], field: str) -> Iterator[tuple[str, str | bytes]]:
  """The text of each JSONL line."""
  for where, record in _objects(name, file, f'{{"{field}": ...}}'):
    if field not in record:
      raise DataError(f'{where}: no field {field!r}; it must hold the text; fields there: {listed(sorted(record))}')
    text = record[field]
    if not isinstance(text, str):
      kind = type(text).__name__
      raise DataError(f'{where}: field {field!r} is of type {kind}; it must be a string; name another field')
    yield where, text


def listed(names: list[str]) -> str:
  """Field names for one line of a message: those of a file that is no table may be anything."""
  shown = [name if name.isprintable() and len(name) <= 40 else ascii(name[:40]) for name in names[:10]]
  return ', '.join(shown + ['...'] * (len(names) > 10)) or 'none'


def _objects(name: str, file: IO[bytes], example: str = '{"text": ...}') -> Iterator[tuple[str, dict]]:
  """The object of each JSONL line, which ends at \\n alone: some texts hold U+2028, where str.splitlines would cut."""
  for number, line in enumerate(iter(lambda: file.readline(_LONGEST_RECORD), b''), 1):
    where = f'{name}, line {number}'
    if len(line) == _LONGEST_RECORD:
      raise DataError(f'{where}: more than {_LONGEST_RECORD:,} bytes; a record must be shorter; is this JSONL?')
    if line.strip():
      yield where, _object(line, where, example)


def _json_file(name: str, file: IO[bytes]) -> Iterator[tuple[str, dict]]:
  """The object of a file, those of its list, or those of its lines."""
  data, example = file.read(), '[{...}, {...}]'
  try:
    found = json.loads(data.decode('utf-8', 'surrogateescape'), object_pairs_hook=_without_doubles)
  except (ValueError, RecursionError):
    first, _, rest = data.strip().partition(b'\n')
    if rest and first.rstrip().endswith(b'}') and first.startswith(b'{'):
      yield from _objects(name, io.BytesIO(data), example)
    else:
      yield name, _object(data, name, example, unit='the file')
    return
  if not isinstance(found, list):
    yield name, _object(data, name, example, unit='the file')
    return
  for number, record in enumerate(found, 1):
    where = f'{name}, item {number}'
    if not isinstance(record, dict):
      raise DataError(f'{where}: a JSON {type(record).__name__}; each item must be one object; write {example}')
    yield where, record


def _object(data: bytes, where: str, example: str = '{"data": ...}', unit: str = 'each line') -> dict:
  """One JSON object; bytes that are not UTF-8 become lone surrogates, which `documents.clean` treats by policy."""
  try:
    record = json.loads(data.decode('utf-8', 'surrogateescape'), object_pairs_hook=_without_doubles)
  except (ValueError, RecursionError) as error:
    remedy = 'fix it' if unit == 'the file' else 'fix or drop the line'
    raise DataError(f'{where}: broken JSON ({error}); {unit} must be one object; {remedy}') from None
  if not isinstance(record, dict):
    kind = type(record).__name__
    raise DataError(f'{where}: a JSON {kind}; {unit} must be one object; write {example}')
  return record


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict:
  """An object of which each key stands once: of two that are alike JSON takes the last."""
  found = dict(pairs)
  if len(found) < len(pairs):
    [(twice, _)] = collections.Counter(key for key, _ in pairs).most_common(1)
    raise ValueError(f'key {twice!r} stands there twice')
  return found


def _table_rows(name: str, file: IO[bytes]) -> Iterator[tuple[str, dict]]:
  """The rows of a table. Quotes mean something in .csv alone: in .tsv they are text.

  A quote that opens a field must be closed before a comma or the line's end: one that is not would swallow rows.
  """
  text = io.TextIOWrapper(file, encoding='utf-8', errors='surrogateescape', newline='')
  tabs = '.tsv' in os.path.basename(name)
  options = dict(delimiter='\t', quoting=csv.QUOTE_NONE) if tabs else dict(strict=True)
  rows, before = csv.reader(text, **options), 0
  try:
    header = next(rows, None)
    twice = [field for field, count in collections.Counter(header or ()).items() if field and count > 1]
    if twice:
      raise DataError(f'{name}, line 1: field {twice[0]!r} stands there twice; names must differ; rename one')
    before = rows.line_num
    for row in rows:
      where, before = f'{name}, line {rows.line_num}', rows.line_num
      if row and len(row) != len(header):
        rule = f'each row must have as many as the first line ({listed(header)})'
        other = next((c for c in ';\t|' if c in header[0]), None) if len(header) == 1 else None
        remedy = (
          'fix the row'
          if other is None
          else f'the fields are parted by {other!r}: save it with commas, or tabs in .tsv'
        )
        raise DataError(f'{where}: {len(row)} fields; {rule}; {remedy}')
      if row:
        yield where, dict(zip(header, row))
  except csv.Error as error:
    rule = 'a quote that opens a field must close it, and be doubled inside'
    where = f'{name}, line {before + 1}'
    raise DataError(f'{where}: its row is broken in line {rows.line_num} ({error}); {rule}; fix it') from None
  finally:
    text.detach()
