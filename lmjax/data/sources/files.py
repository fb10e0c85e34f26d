"""Documents of the files that a path names, and records of those that hold labelled examples, as a stream."""

import collections
import hashlib
import os
from collections.abc import Iterator

from lmjax.data.sources import archives, columns, fields, json_items, lines, remote, tables
from lmjax.data.sources.fields import Text, listed
from lmjax.data.sources.formats import check, endings
from lmjax.data.sources.listing import File, files_of, named
from lmjax.data.sources.notes import note
from lmjax.data.sources.opening import opened
from lmjax.data.sources.pieces import Piece
from lmjax.errors import DataError

__all__ = ['JSONL_ENDINGS', 'documents', 'documents_of', 'expand', 'identity', 'listed', 'records']

JSONL_ENDINGS = endings('lines')
_TABLE_ENDINGS = endings('table')
_JSON_ENDINGS = endings('json')
_PIECE = 1 << 20


def documents(path: str, field: str | None) -> Iterator[tuple[str, Text]]:
  """Yields (where, text) of every document of the files that `path` names, in their order; '' where it is null.

  Args:
    path: what `listing.files_of` takes.
    field: the field that holds the text; not read for plain text.

  Raises DataError: no such file, an unknown ending, a corrupt archive, broken JSON, a field that is not there.
  """
  for file in files_of(path):
    for where, text in _texts(Piece(file, None), field):
      yield where, '' if text is None else text


def documents_of(piece: Piece, field: str | None, counts: collections.Counter) -> Iterator[tuple[str, Text]]:
  """Yields (where, text) of the documents of a piece; null ones, and those of white space alone, count as 'empty'.

  Text as bytes is UTF-8, or should be: `documents.clean` judges it.

  Raises DataError: as `documents`.
  """
  for where, text in _texts(piece, field):
    if text and not text.isspace():
      yield where, text
    else:
      counts['empty'] += 1


def _texts(piece: Piece, field: str | None) -> Iterator[tuple[str, Text | None]]:
  """(where, text or None) of each document of a piece."""
  (name, size, _), part = piece
  kind = check(name).kind
  if size == 0 and _is_empty(name):
    note(f'{name}: has no bytes; it counts as an empty document')
    yield name, None
  elif kind == 'text':
    with opened(name) as file:
      yield from lines.text_documents(name, file, part)
  elif not field:
    raise DataError(f'{name}: no field is named; one must be, which holds the text; set it, as field=text')
  elif kind == 'parquet':
    yield from columns.parquet_texts(name, field, part)
  elif kind == 'arrow':
    yield from columns.arrow_texts(name, field, part)
  else:
    with opened(name) as file:
      if kind == 'tar':
        yield from archives.texts(name, file, field)
      elif kind == 'table':
        for where, row in tables.rows(name, file):
          yield where, fields.text_in(row, field, where)
      else:
        is_list = kind == 'json'
        found = json_items.items(name, file, field, part) if is_list else lines.values(name, file, part)
        for where, value in found:
          yield where, _text(value, field, where)


def _is_empty(name: str) -> bool:
  """Whether a file that was listed as such has no bytes: what the system or another program makes up may have some."""
  with opened(name, unpack=False) as file:
    return not file.read(1)


def _text(value, field: str, where: str) -> Text | None:
  """The text of a JSON value, which may be one itself."""
  if isinstance(value, str):
    return value
  return fields.text_in(lines.as_object(value, where, f'{{"{field}": ...}}'), field, where)


def records(path: str) -> Iterator[tuple[str, dict]]:
  """Yields (where, record) of every .jsonl line, .csv or .tsv row (its first line names the fields), or .json file.

  A .json file is one object, as SQuAD's are, a list of objects, or has one in each line.

  Raises DataError: as `documents`; a row with more or fewer fields than its first line, a quote out of place.
  """
  known = JSONL_ENDINGS + _TABLE_ENDINGS + _JSON_ENDINGS
  names = expand(path)
  for name in names:
    if not name.lower().endswith(known):
      shown = ', '.join(known)
      raise DataError(f'{name}: unknown ending; a source must end in one of {shown}; rename or convert the file')
  for name in names:
    with opened(name) as file:
      if check(name).kind == 'json':
        yield from json_items.records(name, file)
      elif check(name).kind == 'table':
        yield from tables.rows(name, file)
      else:
        for where, value in lines.values(name, file):
          yield where, lines.as_object(value, where, '{"text": ...}')


def expand(path: str) -> list[str]:
  """The names of the files that a path names, in their order. Raises DataError: there is none."""
  return [file.name for file in named(path)]


def identity(path: str) -> dict:
  """Names (relative to their common folder), sizes and content digests of the files, wherever they lie.

  Files of a commit of the Hugging Face Hub are not read: their digests are in its listing.
  """
  files = [file if remote.is_url(file.name) else file._replace(name=os.path.abspath(file.name)) for file in named(path)]
  folder, rows = os.path.commonpath([os.path.dirname(file.name) for file in files]), []
  for file in files:
    rows.append([os.path.relpath(file.name, folder), *_size_and_digest(file)])
  return {'kind': 'files', 'files': rows}


def _size_and_digest(file: File) -> tuple[int, str]:
  if file.name.startswith('hf://') and file.stamp:
    return file.size, file.stamp
  digest, size = hashlib.blake2b(digest_size=16), 0
  with opened(file.name, unpack=False) as opened_file:
    while piece := opened_file.read(_PIECE):
      digest.update(piece)
      size += len(piece)
  return size, digest.hexdigest()
