"""What `store` builds with: dropping duplicates in bounded memory, and writing one split to disk."""

import array
import collections
import dataclasses
import os
from collections.abc import Iterable, Iterator

import numpy as np

from lmjax.data.digests import digest64

# Enough text at once to keep all cores busy, little enough to hold its ids as Python lists.
_CHUNK_BYTES = 4_000_000
_CHUNK_DOCUMENTS = 16_384


@dataclasses.dataclass(frozen=True)
class Document:
  """One text, its UTF-8 bytes and their 64-bit digest."""

  text: str
  data: bytes
  digest: int


class DigestSet:
  """Which 64-bit digests were seen, at 8 bytes each (16 while two levels merge).

  Sorted arrays, each at least twice as long as the next: a look-up takes O(log^2 n). Two different documents have the
  same digest with a probability of n^2 / 2^65: 0.03% that it happens once in 10^8 documents.
  """

  def __init__(self):
    self._levels: list[np.ndarray] = []

  def add(self, digests: np.ndarray) -> np.ndarray:
    """Adds uint64 [N]; returns bool [N], True for each digest at its first occurrence.

    >>> seen = DigestSet()
    >>> seen.add(np.array([5, 7, 5], np.uint64)).tolist(), seen.add(np.array([7, 8], np.uint64)).tolist()
    ([True, True, False], [False, True])
    """
    fresh = np.zeros(len(digests), bool)
    fresh[np.unique(digests, return_index=True)[1]] = True
    for level in self._levels:
      place = np.minimum(np.searchsorted(level, digests), len(level) - 1)
      fresh &= level[place] != digests
    if fresh.any():
      self._levels.append(np.sort(digests[fresh]))
    while len(self._levels) > 1 and len(self._levels[-2]) < 2 * len(self._levels[-1]):
      self._levels.append(np.sort(np.concatenate([self._levels.pop(), self._levels.pop()])))
    return fresh


def unseen_documents(texts: Iterable[str], counts: collections.Counter) -> Iterator[list[Document]]:
  """Yields documents in chunks of some megabytes, exact duplicates dropped and counted as 'duplicates'."""
  seen = DigestSet()
  for chunk in _chunks(texts):
    fresh = seen.add(np.array([document.digest for document in chunk], np.uint64))
    counts['duplicates'] += int((~fresh).sum())
    yield [document for document, is_fresh in zip(chunk, fresh) if is_fresh]


def _chunks(texts: Iterable[str]) -> Iterator[list[Document]]:
  chunk, size = [], 0
  for text in texts:
    data = text.encode('utf-8')
    chunk.append(Document(text, data, digest64(data)))
    size += len(data)
    if size >= _CHUNK_BYTES or len(chunk) >= _CHUNK_DOCUMENTS:
      yield chunk
      chunk, size = [], 0
  if chunk:
    yield chunk


class SplitWriter:
  """Writes one split. Text goes to disk as it comes; the table of documents, 24 bytes each, at the end."""

  TABLE = {'lengths': 'q', 'n_bytes': 'q', 'digests': 'Q'}  # of each column, the type as of `array`

  def __init__(self, folder: str, dtype: str, keep_text: bool):
    os.makedirs(folder)
    self._folder, self._dtype = folder, np.dtype(dtype)
    self._tokens_file = open(os.path.join(folder, 'tokens.bin'), 'wb')
    self._text_file = open(os.path.join(folder, 'text.bin'), 'wb') if keep_text else None
    self._table = {name: array.array(code) for name, code in self.TABLE.items()}
    self._pieces = array.array('q')  # document, tokens, bytes of each piece, end to end
    self.tokens = self.bytes = 0

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    self._tokens_file.close()
    if self._text_file:
      self._text_file.close()
    if kind is None:
      columns = {name: np.array(column) for name, column in self._table.items()}
      if self._text_file:
        columns['pieces'] = np.array(self._pieces, np.int64).reshape(-1, 3)
      for name, column in columns.items():
        np.save(os.path.join(self._folder, f'{name}.npy'), column)

  def __len__(self):
    return len(self._table['lengths'])

  def add(self, digest: int, data: bytes, pieces: list[tuple[np.ndarray, int]]):
    """Adds one document: its digest, its UTF-8 text and its pieces as (ids, bytes)."""
    ids = np.concatenate([ids for ids, _ in pieces])
    # A cast would wrap id 70000 to 4464 in silence.
    assert ids.min() >= 0 and ids.max() <= np.iinfo(self._dtype).max, (ids.min(), ids.max(), self._dtype)
    self._tokens_file.write(ids.astype(self._dtype).tobytes())
    if self._text_file:
      self._text_file.write(data)
      for piece, n_bytes in pieces:
        self._pieces.extend((len(self), len(piece), n_bytes))
    for name, value in (('lengths', len(ids)), ('n_bytes', len(data)), ('digests', digest)):
      self._table[name].append(value)
    self.tokens += len(ids)
    self.bytes += len(data)
