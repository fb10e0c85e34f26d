"""Where text comes from: Python's own documentation, files, or a TFDS data set; one document at a time.

A source is read as a stream, so the corpus need not fit in memory. What cannot be read is an error (`DataError`); what
may be skipped (empty documents, bad UTF-8 by policy) is counted, never silent.
"""

import collections
import re
from collections.abc import Iterator

from lmjax.data.config import BadText, SourceConfig
from lmjax.data.sources import files, pydoc, tfds
from lmjax.errors import DataError

_SURROGATE = re.compile('[\ud800-\udfff]')


def documents(source: SourceConfig, bad_text: BadText, counts: collections.Counter) -> Iterator[str]:
  """Streams the documents of a source, in a fixed order, without those that hold only white space.

  Args:
    source: the corpus.
    bad_text: about bytes that are not UTF-8 and lone surrogates: 'raise' an error, 'replace' them by U+FFFD, or 'skip'
      the document.
    counts: filled as the stream is read: 'documents' and 'bytes' (UTF-8) given out, 'empty' ones skipped,
      'replaced' ones repaired, 'skipped' ones left out for bad text.

  Raises DataError: nothing to read (missing path, empty files, no documents) or something that cannot be read.
  """
  before, kind = counts['documents'], tfds if source.path.startswith('tfds:') else files
  # `where` names the place in an error; bytes are decoded by `clean`
  raw = pydoc.documents() if source.path == 'pydoc' else kind.documents(source.path, source.field)
  for where, text in raw:
    text, verdict = clean(text, where, bad_text)
    if verdict:
      counts[verdict] += 1
    if text is None:
      continue
    if not text.strip():
      counts['empty'] += 1
      continue
    counts['documents'] += 1
    counts['bytes'] += len(text.encode('utf-8'))
    yield text
  if counts['documents'] == before:
    rule = f'holds no document with text ({counts["empty"]} empty, {counts["skipped"]} skipped for bad text)'
    remedy = 'check the path, the field and data.bad_text'
    raise DataError(f'{source.path}: {rule}; a source must hold some; {remedy}')


def identity(path: str) -> dict:
  """JSON-able; changes when the content of a source does. Files are read once for it; a corpus may be moved.

  Raises DataError: the source is missing.
  """
  if path == 'pydoc':
    return pydoc.identity()
  return tfds.identity(path) if path.startswith('tfds:') else files.identity(path)


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
    match = _SURROGATE.search(text)
    if match is None:
      return text, None
    # tokenizers would raise TypeError on these: JSON may carry half a surrogate pair, UTF-8 cannot.
    code = ord(match.group())
    problem = f'character {match.start()} is the lone surrogate U+{code:04X}'
    if 0xDC80 <= code <= 0xDCFF:  # as which Python reads a byte that it cannot decode
      problem = f'character {match.start()} is the byte 0x{code - 0xDC00:02x}, which is not UTF-8'
    repaired = _SURROGATE.sub('\ufffd', text)
  if bad_text == 'raise':
    raise DataError(f"{where}: {problem}; text must be UTF-8; fix it, or set data.bad_text to 'replace' or 'skip'")
  return (repaired, 'replaced') if bad_text == 'replace' else (None, 'skipped')
