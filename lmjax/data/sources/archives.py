"""Texts of the members of a .tar, read as a stream and never extracted."""

import collections
import os
import tarfile
from collections.abc import Iterator
from typing import IO, Any, cast

from lmjax.data.sources import lines
from lmjax.data.sources.conditions import Filter
from lmjax.data.sources.fields import Text
from lmjax.data.sources.formats import format_of
from lmjax.data.sources.notes import note
from lmjax.errors import DataError


def texts(name: str, file: IO[bytes], field: str, keep: Filter) -> Iterator[tuple[str, Text | None]]:
  """(where, text or None) of each sample: the members whose names are alike up to their first dot (webdataset).

  A sample's text is that of its .txt or .md, else the field of its .json, which also decides whether it is kept. Each
  line of a .jsonl is one of its own. Members of other kinds are left out; how many is printed.

  Raises DataError: a broken archive or member, a field that is not there, no .json where fields decide.
  """
  sample: str | None = None
  held: list[tuple[str, str, bytes]] = []
  left_out = collections.Counter()
  for member, size, data in _members(name, file):
    where, found = f'{name}, {member}', format_of(member)
    key, base = os.path.join(os.path.dirname(member), ''), os.path.basename(member)
    key += base.partition('.')[0]
    if key != sample:
      yield from _sample(held, field, keep)
      sample, held = key, []
    kind = found.kind if found and not found.packed and not base.startswith('.') else None
    if kind in ('text', 'json'):
      held.append((where, kind, _read(where, size, data)))
    elif kind == 'lines':
      yield from lines.texts(lines.values(where, data), field, keep)
    else:
      left_out[os.path.splitext(base)[1] or 'no ending'] += 1
  yield from _sample(held, field, keep)
  if left_out:
    shown = ', '.join(f'{ending} {count:,}' for ending, count in left_out.most_common(5))
    note(f'{name}: is read; {sum(left_out.values()):,} members that are no text are left out ({shown})')


def _members(name: str, file: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
  """(name, size, content) of each member that is a file, in the archive's order."""
  stream = _Stream(file)
  try:
    with tarfile.open(fileobj=cast(Any, stream), mode='r|') as archive:
      while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # it would hold all of them
        if member.isfile():
          yield member.name, member.size, archive.extractfile(member)
    if stream.is_read:
      raise tarfile.ReadError('it ends before its last block')
  except tarfile.TarError as error:
    raise DataError(f'{name}: cannot be read ({error}); a .tar must be whole; download or make it again') from None


class _Stream:
  """A file; `is_read` tells whether its end was come to, for which the library takes one within a header too."""

  def __init__(self, file: IO[bytes]):
    self._file, self.is_read = file, False

  def read(self, size: int) -> bytes:
    """At most so many bytes."""
    data = self._file.read(size)
    self.is_read = self.is_read or not data
    return data


def _read(where: str, size: int, data: IO[bytes]) -> bytes:
  if size > lines.LONGEST_RECORD:
    raise DataError(f'{where}: more than {lines.LONGEST_RECORD:,} bytes; a document must be shorter; cut it')
  return data.read()


def _sample(held: list[tuple[str, str, bytes]], field: str, keep: Filter) -> Iterator[tuple[str, Text | None]]:
  """The texts of a sample's members, or where none is text the fields of those that are JSON."""
  found = [(where, content) for where, kind, content in held if kind == 'text']
  values = ((where, lines.loads(content, where, 'the file')) for where, kind, content in held if kind == 'json')
  if not found:
    yield from lines.texts(values, field, keep)
  elif not keep.conditions:
    yield from found
  else:
    where, value = next(values, (found[0][0], None))
    if value is None:
      raise DataError(f'{where}: its sample has no .json; with keep each must have one; add it, or set keep to ()')
    if keep.keeps(lines.as_object(value, where, '{"language": ...}', 'the file'), where):
      yield from found
