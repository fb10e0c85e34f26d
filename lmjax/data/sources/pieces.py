"""What of a file can be read by itself, so that several processes share a corpus."""

from typing import NamedTuple

from lmjax.data.sources import columns, remote, token_files
from lmjax.data.sources.formats import TOKENS, check
from lmjax.data.sources.lines import Part
from lmjax.data.sources.listing import File
from lmjax.data.sources.opening import opened


class Piece(NamedTuple):
  """A file, or a part of it."""

  file: File
  part: Part  # bytes, row groups, record batches, documents or tokens, (first, after the last); None: the whole file


def pieces_of(file: File, target_bytes: int) -> list[Piece]:
  """The pieces of a file, of about `target_bytes` each where its kind allows it.

  Together, in their order, they hold each document once. Only lines, row groups, record batches and documents of tokens
  can be parted: a compressed file, a table, a list or an archive is one piece. Plain text is cut into other documents
  than as a whole, which depend on `target_bytes` alone.

  Raises DataError: the file cannot be read.
  """
  return [Piece(file, part) for part in _parts(file, target_bytes)]


def _parts(file: File, target: int) -> list[Part]:
  kind, packed = check(file.name)
  if not 0 < target < file.size or packed:
    return [None]
  if kind in TOKENS:
    return token_files.parts(file.name, kind, target)
  if kind == 'parquet':
    return columns.parquet_parts(file.name, target)
  if kind == 'arrow' and not remote.is_url(file.name):
    return columns.arrow_parts(file.name, target)
  if kind in ('text', 'lines') or (kind == 'json' and _has_lines(file.name)):
    return [(start, min(start + target, file.size)) for start in range(0, file.size, target)]
  return [None]


def _has_lines(name: str) -> bool:
  """Whether a .json file holds one value a line, by its first bytes."""
  with opened(name) as file:
    return file.read(512).lstrip()[:1] in (b'{', b'"')
