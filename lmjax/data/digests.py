"""What stands for a document: digests of its text."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator

# Characters that are normalised at once.
_PART = 1_000_000
_BETWEEN_WORDS = re.compile(r'(?<=\S) (?=[^\W_])')


def digest64(data: bytes) -> int:
  """The first 64 bits of blake2b: what stands for a text."""
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), 'little')


def normalised_digest64(text: str) -> int:
  """The digest of a text whatever its case, its white space and its compatibility characters (NFKC) are.

  >>> normalised_digest64('The  Law\\n') == normalised_digest64(' the\\u2003la\\uff57')
  True
  """
  digest, separator = hashlib.blake2b(digest_size=8), b''
  for part in _parts(text):
    part = part.lower() if part.isascii() else _nfkc(_nfkc(part).casefold())
    if words := part.split():
      digest.update(separator + ' '.join(words).encode('utf-8', 'surrogatepass'))
      separator = b' '
  return int.from_bytes(digest.digest(), 'little')


def _nfkc(text: str) -> str:
  return unicodedata.normalize('NFKC', text)


def _parts(text: str) -> Iterator[str]:
  """Parts of a long text, cut where a space stands between two words: they are normalised as they are together."""
  start = 0
  while len(text) - start > _PART:
    match = _BETWEEN_WORDS.search(text, start + _PART)
    if match is None:
      break
    yield text[start : match.start()]
    start = match.start()
  yield text[start:] if start else text
