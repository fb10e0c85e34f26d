"""What stands for a document: digests of its text."""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator

import numpy as np

# Characters that are normalised at once.
_PART = 1_000_000
# Text with fewer bytes a character than this is folded at its few other characters alone, the rest by a table of bytes.
_MOSTLY_ASCII = 1.05
_LOWER = bytes(range(0x1C)) + b'    ' + bytes(range(0x20, 0x80)).lower() + bytes(range(0x80, 0x100))
# White space that is still there after NFKC, and is none of bytes.
_SPACES = dict.fromkeys((0x85, 0x1680, 0x2028, 0x2029), ' ')
# Bytes of a run that is short.
_FEW = 8
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
    if words := _words(part):
      digest.update(separator + words)
      separator = b' '
  return int.from_bytes(digest.digest(), 'little')


def _words(part: str) -> bytes:
  """What is compared of a text: its words with a space between them."""
  data = part.encode('utf-8', 'surrogatepass')
  if len(data) > _MOSTLY_ASCII * len(part):
    return ' '.join(_folded(part).split()).encode('utf-8', 'surrogatepass')
  if not part.isascii():
    data = _others_folded(data)
  return b' '.join(data.translate(_LOWER).split())


def _others_folded(data: bytes) -> bytes:
  """UTF-8 of which all but ASCII is folded: each run of it with the character before, which it may join."""
  places = np.flatnonzero(np.frombuffer(data, np.uint8) >= 0x80)
  gaps = np.flatnonzero(np.diff(places) > 1)
  begins = np.maximum(places[np.concatenate([[0], gaps + 1])] - 1, 0)
  ends = places[np.concatenate([gaps, [-1]])] + 1
  parts, last = [], 0
  for begin, end in zip(begins.tolist(), ends.tolist()):
    run = data[begin:end]
    parts += [data[last:begin], _few_folded(run) if len(run) <= _FEW else _folded_bytes(run)]
    last = end
  return b''.join([*parts, data[last:]])


def _folded_bytes(run: bytes) -> bytes:
  text = _folded(run.decode('utf-8', 'surrogatepass')).translate(_SPACES)
  return text.encode('utf-8', 'surrogatepass')


_few_folded = functools.lru_cache(1 << 14)(_folded_bytes)  # most are a dash or a quote after a letter


def _folded(text: str) -> str:
  return unicodedata.normalize('NFKC', unicodedata.normalize('NFKC', text).casefold())


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
