"""Where text comes from: Python's own documentation, files, or a TFDS data set; one document at a time.

A source is read as a stream, so the corpus need not fit in memory. What cannot be read is an error (`DataError`); what
may be skipped (empty documents, bad UTF-8 by policy) is counted, never silent.
"""

import collections
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from lmjax.data.config import BadText, SourceConfig
from lmjax.data.digests import digest64
from lmjax.data.sources import files, formats, listing, pydoc, remote, tfds
from lmjax.data.sources.conditions import Filter
from lmjax.data.sources.pieces import Piece, pieces_of
from lmjax.errors import DataError
from lmjax.workdir.files import json_digest

_SURROGATE = re.compile('[\ud800-\udfff]')


class Work(NamedTuple):
  """Some pieces of a source, which are read one after the other."""

  path: str  # of the source
  field: str | None
  keep: tuple[str, ...]
  pieces: tuple[Piece, ...]  # none for a source without files, which is read whole
  size: int = 0  # about how many bytes are read

  @property
  def facts(self) -> list:
    """JSON-able: what a listing says of it, which changes when its content may have changed."""
    if not self.pieces:
      return [self.field, self.keep, identity(self.path)]
    return [self.field, self.keep, *([*_whole(piece.file), piece.part] for piece in self.pieces)]


def _whole(file: listing.File) -> listing.File:
  """A file by its whole path: another one may have its name, size and time."""
  return file if '://' in file.name or _is_tfds(file.name) else file._replace(name=os.path.abspath(file.name))


def _is_tfds(path: str) -> bool:
  return path.startswith('tfds:')


def works_of(source: SourceConfig, target_bytes: int) -> Iterator[Work]:
  """The works of a source, of about `target_bytes` each, in their order; together they hold each document once.

  Small files that follow one another share a work. Where it ends depends on their names and sizes: a file that is added
  changes the works around it alone.

  Raises DataError: nothing to read, or a file that cannot be.
  """
  if source.path == 'pydoc':
    yield Work(source.path, source.field, source.keep, ())
    return
  if _is_tfds(source.path):
    stamp = json_digest(identity(source.path))
    for size, part in tfds.parts(source.path, target_bytes):
      piece = Piece(listing.File(source.path, size, stamp), part)
      yield Work(source.path, source.field, source.keep, (piece,), size)
    return
  together: list[Piece] = []
  size = read = 0
  for file in listing.files_of(source.path):
    pieces = pieces_of(file, target_bytes)
    for piece in pieces:
      together.append(piece)
      size, read = size + file.size, read + file.size // len(pieces)
      # one in so many names ends a work, so that it has half of the target on average
      ends = digest64(os.fsencode(file.name.rpartition('/')[2])) < 2**65 * max(file.size, 1) / target_bytes
      if ends or size >= target_bytes:
        yield Work(source.path, source.field, source.keep, tuple(together), read)
        together, size, read = [], 0, 0
  if together:
    yield Work(source.path, source.field, source.keep, tuple(together), read)


def holds_tokens(work: Work) -> bool:
  """Whether its documents come as tokens: `corpus.tokenised` reads them."""
  return any(formats.holds_tokens(piece.file.name) for piece in work.pieces)


def check_unchanged(work: Work) -> None:
  """Raises DataError: a file of this machine is not the one that was listed: what was read may be of another."""
  for file in dict.fromkeys(piece.file for piece in work.pieces):
    if not (remote.is_url(file.name) or _is_tfds(file.name)) and listing.is_changed(file):
      raise DataError(f'{file.name}: has changed while it was read; a source must stay as it is; run the command again')


def listed(source: SourceConfig) -> list:
  """JSON-able: what a listing says of a source, which changes when its content may have changed."""
  if source.path == 'pydoc' or _is_tfds(source.path):
    return [identity(source.path)]
  return list(map(_whole, listing.files_of(source.path)))


def texts_of(work: Work, bad_text: BadText, counts: collections.Counter) -> Iterator[str]:
  """Streams the documents of a work, in a fixed order, without those that hold only white space.

  Args:
    work: what to read.
    bad_text: about bytes that are not UTF-8 and lone surrogates: 'raise' an error, 'replace' them by U+FFFD, or 'skip'
      the document.
    counts: filled as the stream is read: 'documents' and 'bytes' (UTF-8) given out, 'empty' ones skipped,
      'replaced' ones repaired, 'skipped' ones left out for bad text, 'filtered' ones that are not kept.

  Raises DataError: something that cannot be read.
  """
  for where, text in _raw(work, counts):
    text, verdict = clean(text, where, bad_text)
    if verdict:
      counts[verdict] += 1
    if text is None:
      continue
    if not text or text.isspace():
      counts['empty'] += 1
      continue
    counts['documents'] += 1
    counts['bytes'] += len(text) if text.isascii() else len(text.encode('utf-8'))
    yield text


def _raw(work: Work, counts: collections.Counter) -> Iterator[tuple[str, str | bytes]]:
  """(where, text); `where` names the place in an error, and bytes are decoded by `clean`."""
  if work.path == 'pydoc':
    yield from pydoc.documents()
  for piece in work.pieces:
    if _is_tfds(work.path):
      yield from tfds.documents(work.path, work.field, Filter(work.keep, counts), piece.part)
      continue
    yield from files.documents_of(piece, work.field, counts, work.keep)


def identity(path: str) -> dict:
  """JSON-able; changes when the content of a source does. Files are read once for it; a corpus may be moved.

  Raises DataError: the source is missing.
  """
  if path == 'pydoc':
    return pydoc.identity()
  return tfds.identity(path) if _is_tfds(path) else files.identity(path)


def clean(text: str | bytes, where: str, bad_text: BadText) -> tuple[str | None, str | None]:
  """Returns (text or None, what to count or None), with bad text treated by policy.

  >>> clean(b'caf\\xe9', 'a.txt', 'replace')
  ('caf\\ufffd', 'replaced')
  >>> clean('\\ud800', 'a.jsonl, line 1', 'skip')
  (None, 'skipped')
  """
  if isinstance(text, bytes):
    try:
      return text.decode('utf-8'), None
    except UnicodeDecodeError as error:
      problem = f'byte 0x{text[error.start]:02x} at offset {error.start} is not UTF-8'
      repaired = text.decode('utf-8', 'replace')
  else:
    # tokenizers would raise TypeError on lone surrogates: JSON may carry half a pair, UTF-8 cannot
    try:
      text.encode('utf-8')
      return text, None
    except UnicodeEncodeError as error:
      place, code = error.start, ord(text[error.start])
    problem = f'character {place} is the lone surrogate U+{code:04X}'
    if 0xDC80 <= code <= 0xDCFF:  # as which Python reads a byte that it cannot decode
      problem = f'character {place} is the byte 0x{code - 0xDC00:02x}, which is not UTF-8'
    repaired = _SURROGATE.sub('\ufffd', text)
  if bad_text == 'raise':
    raise DataError(f"{where}: {problem}; text must be UTF-8; fix it, or set data.bad_text to 'replace' or 'skip'")
  return (repaired, 'replaced') if bad_text == 'replace' else (None, 'skipped')
