"""Rows of .csv and .tsv files, whose first line names the fields."""

import collections
import csv
import io
from collections.abc import Iterator
from typing import IO

from lmjax.data.sources.fields import listed
from lmjax.data.sources.formats import plain_name
from lmjax.data.sources.lines import LONGEST_RECORD
from lmjax.errors import DataError

csv.field_size_limit(LONGEST_RECORD)  # the module's own 128 KiB is less than a long legal document


def rows(name: str, file: IO[bytes]) -> Iterator[tuple[str, dict]]:
  """(where, row by field) of each row. Quotes mean something in .csv alone: in .tsv they are text.

  A quote that opens a field must be closed before a comma or the line's end: one that is not would swallow rows.

  Raises DataError: a name that stands twice, a row with more or fewer fields than the first, a quote out of place.
  """
  text = io.TextIOWrapper(file, encoding='utf-8', errors='surrogateescape', newline='')
  tabs = '.tsv' in plain_name(name).rpartition('/')[2]
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
        raise _ragged(where, row, header)
      if row:
        yield where, dict(zip(header, row))
  except csv.Error as error:
    rule = 'a quote that opens a field must close it, and be doubled inside'
    where = f'{name}, line {before + 1}'
    raise DataError(f'{where}: its row is broken in line {rows.line_num} ({error}); {rule}; fix it') from None
  finally:
    text.detach()


def _ragged(where: str, row: list[str], header: list[str]) -> DataError:
  rule = f'each row must have as many as the first line ({listed(header)})'
  other = next((c for c in ';\t|' if c in header[0]), None) if len(header) == 1 else None
  remedy = (
    'fix the row' if other is None else f'the fields are parted by {other!r}: save it with commas, or tabs in .tsv'
  )
  return DataError(f'{where}: {len(row)} fields; {rule}; {remedy}')
