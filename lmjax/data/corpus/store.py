"""What training and evaluation read of a corpus: its sources' documents, a window of shards at a time.

Nothing is held that grows with the documents of a corpus: tokens and lengths are mapped from the shards that are being
read, and what a document is (trained on, held out, left out) is a byte of a file that is mapped, too.
"""

import contextlib
import functools
import os
import threading
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from lmjax.data.config import DataConfig
from lmjax.data.corpus import build, manifest, shard, unit
from lmjax.data.corpus.cache import Cache
from lmjax.data.corpus.manifest import Manifest
from lmjax.data.corpus.standing import TRAIN, Shards
from lmjax.data.corpus.unit import UNKNOWN
from lmjax.data.counts import check_known, of_split
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import DataError
from lmjax.workdir.files import json_digest


class Documents(NamedTuple):
  """Documents of some shards; D of them."""

  tokens: list[np.ndarray]  # of each shard, mapped
  shards: np.ndarray  # int32 [D], in which of them each lies
  starts: np.ndarray  # uint32 [D], where it begins there
  lengths: np.ndarray  # uint32 [D], tokens of it

  def ids(self, index: int) -> np.ndarray:
    """The tokens of a document."""
    start = int(self.starts[index])
    return self.tokens[self.shards[index]][start : start + int(self.lengths[index])]

  def take(self, document_P: np.ndarray, source_N: np.ndarray, size_P: np.ndarray) -> np.ndarray:
    """int32 [N]: tokens at places of shards, for parts of documents end to end; places beyond a shard's end are cut."""
    if len(self.tokens) == 1:
      return np.take(self.tokens[0], source_N, mode='clip').astype(np.int32)
    found = np.empty(len(source_N), np.int32)
    shard_N = np.repeat(self.shards[document_P], size_P)
    for number in np.unique(self.shards[document_P]):
      here = np.flatnonzero(shard_N == number)
      found[here] = np.take(self.tokens[number], source_N[here], mode='clip')
    return found


class HeldOut(NamedTuple):
  """Held-out documents of a source, those with the lowest digests first."""

  documents: Documents
  n_bytes: np.ndarray  # int64 [D], bytes of each


class TokenStore:
  """A source of a corpus.

  Attributes:
    name: of the source, in the config.
    fingerprint: of the corpus: changes with the documents of any source, the tokenizer and what is held out.
    tokenizer: the tokenizer.
    row: the source's row in the manifest.
  """

  def __init__(self, name: str, corpus: Manifest, cache: Cache, tokenizer: Any):
    self.name, self.row, self.tokenizer = name, corpus.sources[name], tokenizer
    self.fingerprint = corpus.id
    self._cache, self._corpus = cache, corpus.id
    self._first = self._total = 0
    for source, row in corpus.sources.items():
      self._first = self._total if source == name else self._first
      self._total += sum(one.documents for one in row.shards)

  @property
  def train_tokens(self) -> int:
    """Tokens of the training documents."""
    return sum(row.train[1] for row in self.row.shards)

  @property
  def train_documents(self) -> int:
    """How many there are."""
    return sum(row.train[0] for row in self.row.shards)

  @property
  def counts(self) -> dict:
    """What the source holds, and what was left out of it: see `counts`."""
    n = self.row.counts
    left_out = {'empty': n['empty'], 'bad_text': n['skipped'], 'replaced': n['replaced']}
    found = of_split(n['documents'], left_out, held_out=n['valid'], duplicates=n['duplicates'])
    tokens = self.train_tokens + sum(row.held_out[1] for row in self.row.shards)
    found |= {'filtered': n['filtered']}
    return found | {'tokens': tokens, 'bytes': n['standing_bytes']} | {key: n[key] for key in UNKNOWN}

  @functools.cached_property
  def _roles(self) -> np.ndarray:
    path = self._cache.local(f'corpora/{self._corpus}.roles')
    if (size := os.path.getsize(path)) != self._total:
      raise DataError(f'{path}: has {size:,} bytes, not {self._total:,}; remove it, and it is made again')
    return np.memmap(path, np.uint8, 'r')

  @functools.cached_property
  def _firsts(self) -> list[int]:
    """Where each shard's roles begin."""
    sizes = [row.documents for row in self.row.shards]
    return (self._first + np.cumsum(sizes) - sizes).tolist()

  def open(self, number: int, check: bool = True) -> shard.Shard:
    """A shard by its number in the source. Raises DataError: it is missing or damaged."""
    name = self.row.shards[number].name
    return shard.opened(self._cache.local(f'shards/{name}{shard.ENDING}'), name, check)

  def touch(self) -> None:
    """Notes that the corpus is in use."""
    self._cache.touch(f'corpora/{self._corpus}.json')

  def fetch(self, numbers: list[int]) -> None:
    """Copies shards that will be read next, where they are not on this machine, while others are."""
    if self._cache.is_address:
      names = [f'shards/{self.row.shards[number].name}{shard.ENDING}' for number in numbers]
      threading.Thread(target=self._cache.fetch, args=(names,), daemon=True).start()

  def roles(self, number: int) -> np.ndarray:
    """uint8, what each document of a shard is: see `standing`. Raises DataError: they are damaged."""
    first, row = self._firsts[number], self.row.shards[number]
    found = self._roles[first : first + row.documents]
    if zlib.crc32(np.ascontiguousarray(found).data) != row.roles_crc32:
      path = self._cache.path(f'corpora/{self._corpus}.roles')
      raise DataError(f'{path}: does not match its checksum; remove it, and it is made again')
    return found

  def train(self, numbers: list[int], check: bool = True) -> Documents:
    """The training documents of some shards, in their order; with `check` each shard is read against its checksums."""
    tokens, total = [], sum(self.row.shards[number].train[0] for number in numbers)
    shards, starts, lengths = (np.empty(total, kind) for kind in (np.int32, np.uint32, np.uint32))
    end = 0
    for place, number in enumerate(numbers):
      one, places = self.open(number, check), np.flatnonzero(self.roles(number) == TRAIN)
      begin, end = end, end + len(places)
      tokens.append(one.tokens)
      shards[begin:end], starts[begin:end], lengths[begin:end] = place, one.starts[places], one.lengths[places]
    return Documents(tokens, shards, starts, lengths)

  @functools.cached_property
  def held_out(self) -> HeldOut:
    """Those that are kept for evaluations: all, or the first 64 MB of text and as much as `data.valid_bytes`."""
    name = f'{self._corpus}.{self.name}'
    one = shard.opened(self._cache.local(f'corpora/{name}{shard.ENDING}'), name)
    documents = Documents([one.tokens], np.zeros(len(one.lengths), np.int32), one.starts, np.array(one.lengths))
    return HeldOut(documents, one.n_bytes.astype(np.int64))

  def sample(self, size: int) -> np.ndarray:
    """About so many tokens of the training documents, from the first shards that have any; else held-out ones."""
    found, total = [], 0
    for number, row in enumerate(self.row.shards):
      if total >= size:
        break
      if row.train[0]:
        one = self.open(number)
        stands = np.repeat(self.roles(number) == TRAIN, one.lengths)
        found.append(one.tokens[stands][: size - total])
        total += len(found[-1])
    return np.concatenate(found) if found else self.held_out.documents.tokens[0][:size]

  def rows(self, key: str, rows_of: Callable[[np.ndarray], int]) -> list[int]:
    """How many rows the training documents of each shard make, by `rows_of` their int64 lengths.

    The lengths of a corpus are read once for each `key`, which stands for `rows_of`: what was found is kept.
    """
    name = f'corpora/{self._corpus}.{self.name}.rows-{json_digest([unit.FORMAT, key])[:16]}'
    if (found := self._cache.read_json(name)) is not None:
      return found
    shards = Shards(self._cache, [row.name for row in self.row.shards])
    stands = (self.roles(number) == TRAIN for number in range(len(self.row.shards)))
    found = [rows_of(columns.lengths[here].astype(np.int64)) for here, columns in zip(stands, shards.columns())]
    with contextlib.suppress(DataError):  # one that is only read
      self._cache.write_json(name, found)
    return found


def open_or_build(
  config: DataConfig,
  tokenizer: Tokenizer,
  progress: bool = False,
  share: build.Share | None = None,
  pin: manifest.Pin | None = None,
) -> dict[str, TokenStore]:
  """The stores of all sources of a config, tokenised first where they are not; with `pin` those that a run began with.

  Raises DataError: a source cannot be read, a split would be empty, the tokenizer does not know too much of the text,
    the cache cannot be written, or what is pinned is gone.
  """
  share = share or build.Share()
  if pin is not None:
    corpus = manifest.find_pinned(config, pin, share, progress)
  else:
    corpus = manifest.find(config, tokenizer, share, progress)
    assert corpus is not None, 'a share that takes over ends with all works'
  stores = {name: TokenStore(name, corpus, Cache(config.cache_dir), tokenizer) for name in corpus.sources}
  for name, store in stores.items():
    check_known(f'{name} ({config.sources[name].path})', store.counts, config.max_unknown)
  return stores


def verify(cache_dir: str, name: str, corpus: str) -> str | None:
  """What a source's shards hold, after reading every byte against its checksum; None where they are not here.

  Raises DataError: one is missing or damaged.
  """
  cache = Cache(cache_dir)
  found = manifest.read(cache, corpus)
  if found is None and cache.has(f'corpora/{corpus}.json'):
    path = cache.path(f'corpora/{corpus}.json')
    raise DataError(f'{path}: is damaged, or what belongs to it is gone; remove it, and `lmjax.prepare` makes it again')
  if found is None:
    return None
  store = TokenStore(name, found, cache, None)
  rows = store.row.shards
  for number in range(len(rows)):
    store.train([number])
  assert len(store.held_out.documents.lengths)  # which reads them
  tokens = sum(row.train[1] + row.held_out[1] for row in rows)
  return f'{tokens:,} tokens in {len(rows):,} shards in {cache.folder}'
