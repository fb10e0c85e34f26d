"""Texts of one column of parquet and Arrow files, some rows at a time; of others those that decide what is kept."""

import contextlib
from collections.abc import Iterator
from typing import IO, Any

from lmjax.data.sources import remote
from lmjax.data.sources.conditions import ALL, RULE, Filter
from lmjax.data.sources.fields import Text, joined, missing, wrong_type
from lmjax.data.sources.lines import Part
from lmjax.data.sources.opening import opened
from lmjax.errors import DataError, reason

# How much of a column is held at a time, in bytes, about; and of how many rows at most.
_BATCH = 4 << 20
_MOST_ROWS = 1_024
_BUFFER = 1 << 20
_MAGIC = b'ARROW1'


def parquet_parts(name: str, target: int) -> list[Part]:
  """Parts, (first row group, row group after the last), of about `target` compressed bytes or of one row group."""
  with _parquet(name) as file:
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    sizes = [sum(g.column(i).total_compressed_size for i in range(g.num_columns)) for g in groups]
  return _together(sizes, target)


def _together(sizes: list[int], target: int) -> list[Part]:
  """Parts of neighbors, of as many as have `target` bytes together; None alone where that is all of them."""
  ends, size = [], 0
  for number, more in enumerate(sizes):
    if size and size + more > target:
      ends.append(number)
      size = 0
    size += more
  starts, ends = [0, *ends], [*ends, len(sizes)]
  return [None] if len(starts) == 1 else list(zip(starts, ends))


def parquet_texts(name: str, field: str, part: Part, keep: Filter = ALL) -> Iterator[tuple[str, Text | None]]:
  """(where, text or None) of each row that is kept, of the row groups of a part, or of all.

  Raises DataError: no such column, one of another type, a broken file.
  """
  with _parquet(name) as file:
    paths = _paths(file.schema_arrow, field, keep, name)
    columns = list(dict.fromkeys(map('.'.join, paths)))
    first, end = part or (0, file.num_row_groups)
    number = sum(file.metadata.row_group(group).num_rows for group in range(first)) + 1
    # a whole row group is held unless both `buffer_size`, which `_parquet` gives, and `pre_buffer=False` are
    rows = dict(row_groups=list(range(first, end)), batch_size=_rows_at_once(file, columns, first, end))
    for batch in file.iter_batches(columns=columns, use_threads=False, **rows):
      yield from _texts(batch, paths, field, keep, f'{name}, row', number)
      number += len(batch)


def _texts(batch, paths: list[list[str]], field: str, keep: Filter, place: str, first: int):
  """(where, text or None) of each row of a batch that is kept; the first has the number `first`."""
  for number, (text, *others) in enumerate(zip(*(_values(batch, path) for path in paths)), first):
    where = f'{place} {number:,}'
    if keep.keeps(dict(zip(keep.fields, others)), where):
      yield where, joined(text, field, where)


@contextlib.contextmanager
def _parquet(name: str) -> Iterator[Any]:
  import pyarrow.parquet

  with opened(name) as opened_file, _errors(name, '.parquet'):
    # pyarrow reads a file of a disk by itself, without the lock of Python
    source = opened_file if remote.is_url(name) else name
    with pyarrow.parquet.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False) as file:
      yield file


@contextlib.contextmanager
def _errors(name: str, kind: str) -> Iterator[None]:
  import pyarrow

  try:
    yield
  except (pyarrow.ArrowException, OSError) as error:
    raise DataError(f'{name}: cannot be read ({reason(error)}); a {kind} file must be whole; make it again') from None


def _rows_at_once(file, columns: list[str], first: int, end: int) -> int:
  """So many rows that a batch of these columns holds a few megabytes, on average."""
  starts, size, n_rows = tuple(f'{name}.' for name in columns), 0, 0
  for group in (file.metadata.row_group(number) for number in range(first, end)):
    n_rows += group.num_rows
    chunks = (group.column(number) for number in range(group.num_columns))
    size += sum(c.total_uncompressed_size for c in chunks if f'{c.path_in_schema}.'.startswith(starts))
  return max(1, min(_MOST_ROWS, _BATCH * n_rows // max(size, 1)))


def _paths(schema, field: str, keep: Filter, name: str) -> list[list[str]]:
  """Where the text stands, and then what decides whether it is kept: see `_path`.

  Raises DataError: a field is not there; that of the text is of another type.
  """
  import pyarrow.types as types

  path, inner = _path(schema, field, name)
  if types.is_struct(inner) and inner.num_fields:
    rule = 'must be a string, or a list of strings'
    example = f'{field}.{inner.field(0).name}'
    raise DataError(f'{name}: field {field!r} is a struct; it {rule}; name one of its own, such as {example}')
  if not _holds_text(inner):
    raise wrong_type(name, field, str(inner)[:80])
  return [path, *(_path(schema, other, name, RULE)[0] for other in keep.fields)]


def _path(schema, field: str, name: str, *rule: str) -> tuple[list[str], Any]:
  """(the names of the column, and of what is inside of it, that a field names, its type).

  Raises DataError: there is none.
  """
  import pyarrow.types as types

  inner: Any = schema
  names = [field] if field in schema.names else field.split('.')
  there = list(schema.names)
  for depth, one in enumerate(names):
    if one not in there:
      raise missing(name, field, ('.'.join([*names[:depth], other]) for other in there), *rule)
    inner = inner.field(one).type
    there = [inner.field(number).name for number in range(inner.num_fields)] if types.is_struct(inner) else []
  return names, inner


def _holds_text(kind) -> bool:
  import pyarrow.types as types

  if types.is_dictionary(kind) or _is_list(kind):
    return _holds_text(kind.value_type)
  texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_null)
  views = (types.is_string_view, types.is_binary_view)
  return any(is_one(kind) for is_one in (*texts, *views)) or types.is_fixed_size_binary(kind)


def _is_list(kind) -> bool:
  import pyarrow.types as types

  return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _values(batch, path: list[str]) -> Iterator[Any]:
  """The values of a column of a batch, text as bytes: it may not be UTF-8, whatever its type says."""
  import pyarrow
  import pyarrow.compute

  column = batch.column(batch.schema.get_field_index(path[0]))
  for name in path[1:]:
    column = pyarrow.compute.struct_field(column, [name])
  for start in range(0, len(column), _MOST_ROWS):
    part = column.slice(start, _MOST_ROWS)
    yield from (_as_bytes(part) if _holds_text(part.type) else part).to_pylist()


def _as_bytes(column):
  import pyarrow
  import pyarrow.types as types

  if types.is_dictionary(column.type):
    column = column.dictionary_decode()
  if not _is_list(column.type):
    return column.cast(_bytes_of(column.type))
  inner = column.type.value_type
  if types.is_dictionary(inner) or _is_list(inner):
    return column  # rare; as Python objects
  wide = types.is_large_list(column.type)
  return column.cast((pyarrow.large_list if wide else pyarrow.list_)(_bytes_of(inner)))


def _bytes_of(kind):
  """The type of bytes that a type of text is without a copy."""
  import pyarrow
  import pyarrow.types as types

  return pyarrow.large_binary() if types.is_large_string(kind) or types.is_large_binary(kind) else pyarrow.binary()


def arrow_parts(name: str, target: int) -> list[Part]:
  """Parts, (first record batch, record batch after the last), of about `target` bytes or of one record batch."""
  import pyarrow

  with opened(name), _errors(name, '.arrow'):
    data = pyarrow.memory_map(name).read_buffer()
    # a file is a stream after 8 bytes, with an index at its end
    messages = pyarrow.ipc.MessageReader.open_stream(data[8:] if data[:6].to_pybytes() == _MAGIC else data)
    sizes = [message.body.size for message in messages if message.type == 'record batch']
  return _together(sizes, target)


def arrow_texts(name: str, field: str, part: Part, keep: Filter = ALL) -> Iterator[tuple[str, Text | None]]:
  """(where, text or None) of each row that is kept, of the record batches of a part, or of all, of a file or stream.

  Raises DataError: as `parquet_texts`.
  """
  import pyarrow

  first, end = part or (0, None)
  with opened(name) as file, _errors(name, '.arrow'):
    source = file if remote.is_url(name) else pyarrow.memory_map(name)
    paths: list[list[str]] = []
    for number, batch in _batches(source, first, end):
      paths = paths or _paths(batch.schema, field, keep, name)
      yield from _texts(batch, paths, field, keep, f'{name}, record batch {number + 1}, row', 1)


def _batches(source: IO[bytes] | Any, first: int, end: int | None) -> Iterator[tuple[int, Any]]:
  """(number, record batch); those before the first are passed, which of a mapped file reads nothing."""
  import pyarrow

  begin = source.read(len(_MAGIC))
  source.seek(0)
  if begin == _MAGIC:
    reader = pyarrow.ipc.open_file(source)
    for number in range(first, reader.num_record_batches if end is None else end):
      yield number, reader.get_batch(number)
  else:
    for number, batch in enumerate(pyarrow.ipc.open_stream(source)):
      if end is not None and number >= end:
        return
      if number >= first:
        yield number, batch
