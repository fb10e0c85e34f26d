"""What stands for a document: digests of its text."""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np

# Characters that are normalised at once.
_PART = 1_000_000
# Text with fewer bytes a character than this is folded at its few other characters alone, the rest by a table of bytes.
_MOSTLY_ASCII = 1.05
_LOWER = bytes(0x20 if chr(code).isspace() else code for code in range(0x80)).lower() + bytes(range(0x80, 0x100))
# White space that is still there after NFKC, and is none of bytes.
_SPACES = dict.fromkeys((0x85, 0x1680, 0x2028, 0x2029), ' ')
# A text of fewer bytes is normalised with others: between them stands what is in no UTF-8, and white space.
_SHORT, _END, _BETWEEN = 16_384, b'\xff', b'\n\xff\n'
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


def digests64(texts: Sequence[str]) -> Iterator[tuple[int, int, int]]:
  """(bytes of its UTF-8, their `digest64`, its `normalised_digest64`) of each text; short ones are normalised together.

  Raises UnicodeEncodeError: a lone surrogate.
  """
  encoded = [text.encode('utf-8') for text in texts]
  is_short = [len(data) <= min(_SHORT, _MOSTLY_ASCII * len(text)) for text, data in zip(texts, encoded)]
  whole = _BETWEEN.join(data for data, is_one in zip(encoded, is_short) if is_one)
  words = iter(_mostly_ascii_words(whole).split(_END))
  for text, data, is_one in zip(texts, encoded, is_short):
    normalised = digest64(next(words).strip(b' ')) if is_one else normalised_digest64(text)
    yield len(data), digest64(data), normalised


def _words(part: str) -> bytes:
  """What is compared of a text: its words with a space between them."""
  data = part.encode('utf-8', 'surrogatepass')
  if len(data) > _MOSTLY_ASCII * len(part):
    return ' '.join(_folded(part).split()).encode('utf-8', 'surrogatepass')
  return _mostly_ascii_words(data).strip(b' ')


def _mostly_ascii_words(data: bytes) -> bytes:
  """The same of UTF-8, most of it ASCII, but for a space at its ends."""
  data = data if data.isascii() else _others_folded(data)
  chars = np.frombuffer(data.translate(_LOWER), np.uint8)
  is_space = chars == 0x20
  again = is_space[1:] & is_space[:-1]
  return chars[np.concatenate([[True], ~again])].tobytes() if again.any() else chars.tobytes()


def _others_folded(data: bytes) -> bytes:
  """UTF-8 of which all but ASCII is folded: each run of it with the character before, which it may join."""
  chars = np.frombuffer(data, np.uint8)
  places = np.flatnonzero((chars >= 0x80) & (chars != _END[0]))
  if not len(places):
    return data
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
