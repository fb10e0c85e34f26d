"""The token store: a corpus tokenised once, on disk, named by a fingerprint of all that made it.

  CACHE_DIR/<name>-<fingerprint>/
    meta.json                 fingerprint, counts, checksums
    train/  valid/
      tokens.bin              all documents' ids, end to end: little-endian uint16 or uint32
      lengths.npy             int64 [documents], tokens of each
      n_bytes.npy             int64 [documents], UTF-8 bytes of each
      digests.npy             uint64 [documents], blake2b of each one's text
    valid/text.bin            the text itself, for comparing with gzip
    valid/pieces.npy          int64 [pieces, 3]: document, tokens, bytes; where a long document may be cut

A store is written under a temporary name and renamed when whole, under a lock: two runs at once make one.
"""

import collections
import contextlib
import dataclasses
import glob
import json
import os
import pathlib
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from lmjax.console import print_line
from lmjax.data.config import DataConfig, SourceConfig
from lmjax.data.counts import check_known, of_split
from lmjax.data.digests import digest64
from lmjax.data.sources import documents
from lmjax.data.tokens.store_writer import SplitWriter, unseen_documents
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import sample, train_tokenizer
from lmjax.errors import DataError
from lmjax.workdir import lock
from lmjax.workdir.files import canonical_json, json_digest

# Raise it when the layout on disk changes: older stores are then built again.
FORMAT = 1
_PIECE_CHARACTERS = 16_384
# A text of so many characters is long for a tokenizer that takes it whole.
_LONG_WHOLE_TEXT = 100_000
# What is counted of tokenizers that do not know every text.
UNKNOWN = ('unknown_tokens', 'unknown_bytes')


@dataclasses.dataclass(frozen=True)
class StoredDocuments:
  """The documents of one split; D of them, in the order of the source."""

  tokens: np.ndarray  # uint16 or uint32 [N], memory-mapped
  lengths: np.ndarray  # int64 [D], tokens of each document
  starts: np.ndarray  # int64 [D], where each begins in `tokens`
  n_bytes: np.ndarray  # int64 [D], UTF-8 bytes of each
  digests: np.ndarray  # uint64 [D], blake2b of each one's text
  text_starts: np.ndarray  # int64 [D], where each begins in text.bin
  folder: str  # where its files are

  def text(self, index: int) -> bytes:
    """The UTF-8 text of a held-out document (training text is not kept)."""
    with open(os.path.join(self.folder, 'text.bin'), 'rb') as file:
      file.seek(int(self.text_starts[index]))
      return file.read(int(self.n_bytes[index]))

  def pieces(self) -> np.ndarray:
    """int64 [pieces, 3] of a held-out split: document, tokens and bytes of each piece that was encoded."""
    return np.load(os.path.join(self.folder, 'pieces.npy'), mmap_mode='r')


@dataclasses.dataclass(frozen=True)
class TokenStore:
  """A tokenised source."""

  name: str  # in the config
  fingerprint: str  # hex; changes with the source's content, the tokenizer and the settings
  meta: dict  # the content of meta.json: counts, bytes, vocab_size, ...
  train: StoredDocuments
  valid: StoredDocuments


class _CorruptError(Exception):
  """A store whose files do not match its meta.json."""


def open_or_build(name: str, config: DataConfig, tokenizer: Tokenizer, progress: bool = False) -> TokenStore:
  """Opens the store of a source, or tokenises the source first if there is none or it is corrupt.

  A document is held out by its digest, see `_held_out_below`. Exact duplicates are dropped before that, and counted.

  Args:
    name: of the source.
    config: its `sources`, `valid_fraction`, `bad_text` and `cache_dir` are read.
    tokenizer: turns text into ids.
    progress: whether to print what is done; on a terminal with a bar.

  Raises DataError: the source cannot be read, a split would be empty, the tokenizer does not know too much of the text,
    or the folder cannot be written.
  """
  store = _open_or_build(name, config, tokenizer, progress)
  check_known(f'{name} ({config.sources[name].path})', counts_of(store), config.max_unknown)
  return store


def counts_of(store: TokenStore) -> dict:
  """Of a source: see `counts`."""
  n, meta = store.meta['counts'], store.meta
  left_out = {'empty': n['empty'], 'bad_text': n['skipped'], 'replaced': n['replaced']}
  found = of_split(n['documents'], left_out, held_out=n['valid'], duplicates=n['duplicates'])
  found |= {'tokens': sum(meta['tokens'].values()), 'bytes': sum(meta['bytes'].values())}
  return found | {key: n.get(key, 0) for key in UNKNOWN}


def _open_or_build(name: str, config: DataConfig, tokenizer: Tokenizer, progress: bool) -> TokenStore:
  source = config.sources[name]
  origin = {
    'format': FORMAT,
    'source': documents.identity(source.path),
    'field': source.field,
    'tokenizer': tokenizer.hash,
    'valid_fraction': config.valid_fraction,
    'bad_text': config.bad_text,
  }
  if not tokenizer.is_lossless:
    origin['counted'] = list(UNKNOWN)  # a store without these counts is built again
  fingerprint = json_digest(origin)
  folder = folder_of(config.cache_dir, name, fingerprint)
  with _writing(config.cache_dir):
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with _lock(folder) as locked:
      # Under the lock nobody else can be writing this store: what a killed run has left is rubbish.
      for left in glob.glob(glob.escape(folder) + '.*.tmp') if locked else ():
        shutil.rmtree(left, ignore_errors=True)
      if os.path.isdir(folder):
        try:
          return _open(folder, name, fingerprint)
        except _CorruptError as error:
          print_line(f'token store {folder} is corrupt ({error}); building it again', sys.stderr)
          shutil.rmtree(folder)
      _build(folder, name, config, tokenizer, origin | {'fingerprint': fingerprint}, progress)
    return verify(folder, name, fingerprint, 'it was written just now: check the disk, then run again')


def prepare_tokenizer(config: DataConfig) -> Tokenizer:
  """Loads the tokenizer that the config names, or trains one on a sample of the training documents.

  Each source gives a share of the sample by its weight; held-out documents give nothing. A trained tokenizer is kept
  in `cache_dir` for the next run.

  Raises DataError: a missing or broken tokenizer.json, or a source that cannot be read.
  """
  settings, corpora = config.tokenizer, config.sources.values()
  if settings.path is not None:
    return Tokenizer.load(settings.path)
  origin = {
    'format': FORMAT,
    'sources': [[documents.identity(source.path), source.field, source.weight] for source in corpora],
    'vocab_size': settings.vocab_size,
    'sample_bytes': settings.sample_bytes,
    'lowercase': settings.lowercase,
    'valid_fraction': config.valid_fraction,
    'bad_text': config.bad_text,
  }
  path = pathlib.Path(os.path.expanduser(config.cache_dir)) / f'tokenizer-{json_digest(origin)[:16]}.json'
  hash_file = path.with_suffix('.json.sha256')
  with contextlib.suppress(OSError, ValueError):
    cached = Tokenizer.load(str(path))
    if cached.hash == hash_file.read_text().strip():
      return cached
  total = sum(source.weight for source in corpora)
  texts = []
  for source in corpora:
    texts += sample(_training_texts(source, config), max(1, int(settings.sample_bytes * source.weight / total)))
  tokenizer = train_tokenizer(texts, settings.vocab_size, settings.sample_bytes, settings.lowercase)
  with _writing(config.cache_dir):
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    hash_file.write_text(tokenizer.hash)  # last: a tokenizer without it, or with another's, is trained again
  return tokenizer


def _held_out_below(source: SourceConfig, config: DataConfig) -> int:
  """The limit below which a document's 64-bit digest puts it into the held-out split: `valid_fraction` of 2^64.

  So whether a document is held out depends on its text alone, whatever is added or shuffled. A small corpus (20 novels,
  say) may have no digest below that: there the limit is just above the lowest digest, which holds out one document, and
  that one may change when documents are added. The stream is read up to the first held-out document: a large corpus
  costs nothing here.
  """
  limit, lowest = int(config.valid_fraction * 2.0**64), 1 << 64
  for text in documents.documents(source, config.bad_text, collections.Counter()):
    lowest = min(lowest, digest64(text.encode('utf-8')))
    if lowest < limit:
      return limit
  return lowest + 1


def _training_texts(source: SourceConfig, config: DataConfig) -> Iterator[str]:
  limit = _held_out_below(source, config)
  for text in documents.documents(source, config.bad_text, collections.Counter()):
    if digest64(text.encode('utf-8')) >= limit:
      yield text


@contextlib.contextmanager
def _writing(cache_dir: str):
  try:
    yield
  except OSError as error:
    rule = 'data.cache_dir must be a folder with room for the token stores'
    raise DataError(f'{cache_dir}: {error.strerror or error}; {rule}; free some, or name another') from None


@contextlib.contextmanager
def _lock(folder: str) -> Iterator[bool | None]:
  """Locks a store, so that a second run waits for the first and then finds its work done; yields whether it is locked.

  Without locks the rename decides who wins; and a folder of finished stores may be read-only.
  """
  try:
    file = open(folder + '.lock', 'a')
  except OSError:
    if not os.path.isdir(folder):
      raise
    yield False
    return
  with file:
    yield lock.acquire(file, wait=True)


def _build(folder: str, name: str, config: DataConfig, tokenizer: Tokenizer, origin: dict, progress: bool) -> None:
  """Tokenises a source into `folder`, which appears whole or not at all."""
  temporary = f'{folder}.{secrets.token_hex(4)}.tmp'
  try:
    meta = origin | _write(temporary, name, config, tokenizer, progress)
    meta['files'] = {
      file: {'size': os.path.getsize(path), 'crc32': _checksum(path)}
      for file in sorted(glob.glob('*/*', root_dir=temporary))
      for path in [os.path.join(temporary, file)]
    }
    meta['crc32'] = zlib.crc32(canonical_json(meta))
    with open(os.path.join(temporary, 'meta.json'), 'w', encoding='utf-8') as file:
      json.dump(meta, file, indent=2, sort_keys=True)
    try:
      os.rename(temporary, folder)
    except OSError:
      # Where locks do not work another run may have been first: its store is as good as this one.
      if not os.path.isfile(os.path.join(folder, 'meta.json')):
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: str, name: str, config: DataConfig, tokenizer: Tokenizer, progress: bool) -> dict:
  """Writes both splits and returns what meta.json says of them."""
  started = time.monotonic()
  source, counts = config.sources[name], collections.Counter()
  limit = _held_out_below(source, config)
  dtype = '<u2' if tokenizer.vocab_size <= 1 << 16 else '<u4'
  writers = [SplitWriter(os.path.join(folder, split), dtype, split == 'valid') for split in ('train', 'valid')]
  silent = not (progress and sys.stderr.isatty())
  bar = tqdm(desc=f'tokenising {name}', unit='B', unit_scale=True, disable=silent, leave=False)
  with bar, writers[0] as train, writers[1] as valid:
    for chunk in unseen_documents(documents.documents(source, config.bad_text, counts), counts):
      _estimate(tokenizer, [document.text for document in chunk])
      for document, encoded in zip(chunk, _encode(tokenizer, [document.text for document in chunk])):
        pieces = [(ids, n_bytes) for ids, n_bytes, _ in encoded]
        if not tokenizer.is_lossless:
          counts['unknown_tokens'] += sum(int((ids == tokenizer.unk).sum()) for ids, _ in pieces)
        counts['unknown_bytes'] += sum(unknown for _, _, unknown in encoded)
        if not any(len(ids) for ids, _ in pieces):
          counts['empty'] += 1  # a tokenizer may have no token for any of it
          continue
        (valid if document.digest < limit else train).add(document.digest, document.data, pieces)
        bar.update(len(document.data))
  seconds = time.monotonic() - started
  if progress and tokenizer.by_tokenizers is not None:
    print_line(f'{name}: encoded by tokenizers, not by tiktoken, several times as fast: {tokenizer.by_tokenizers}')
  _check_splits(name, source, config.valid_fraction, len(train), len(valid))
  if progress:
    megabytes = counts['bytes'] / 1e6
    rate = f'{seconds:.1f} s ({megabytes / max(seconds, 1e-9):.1f} MB/s)'
    kept = f'{len(train):,} train, {len(valid):,} held out'
    names = {'duplicates': 'duplicates dropped', 'empty': 'empty', 'replaced': 'repaired', 'skipped': 'skipped'}
    others = ', '.join(f'{counts[key]:,} {shown}' for key, shown in names.items())
    size = f'{megabytes:.1f} MB, {train.tokens + valid.tokens:,} tokens'
    print_line(f'tokenised {name}: {size} in {rate}; documents: {kept}, {others}')
  counted: tuple[str, ...] = ('documents', 'bytes', 'duplicates', 'empty', 'replaced', 'skipped')
  counted += () if tokenizer.is_lossless else UNKNOWN
  return {
    'name': name,
    'path': source.path,
    'vocab_size': tokenizer.vocab_size,
    'dtype': dtype,
    'counts': {key: counts[key] for key in counted} | {'train': len(train), 'valid': len(valid)},
    'tokens': {'train': train.tokens, 'valid': valid.tokens},
    'bytes': {'train': train.bytes, 'valid': valid.bytes},
    'seconds': seconds,
  }


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[tuple[np.ndarray, int, int]]]:
  """Encodes documents on all cores; each comes back as its pieces, (ids, UTF-8 bytes, bytes of them unknown)."""
  cut = [tokenizer.pieces(text, _PIECE_CHARACTERS) for text in texts]
  encoded = iter(tokenizer.encode_counted([piece for pieces in cut for piece, _ in pieces]))
  sized = lambda n_bytes, ids, unknown: (ids, n_bytes, unknown)
  return [[sized(n_bytes, *next(encoded)) for _, n_bytes in pieces] for pieces in cut]


def _estimate(tokenizer: Tokenizer, texts: list[str]) -> None:
  """Says how long the longest text will take a tokenizer that cannot be given it in pieces."""
  longest = max(texts, key=len, default='')
  if not tokenizer.takes_whole_texts or len(longest) < _LONG_WHOLE_TEXT:
    return
  began = time.monotonic()
  tokenizer.encode(longest[: _LONG_WHOLE_TEXT // 4])
  # measured: 17 to 26 times the time for 8 times the text
  seconds = (time.monotonic() - began) * (len(longest) / (_LONG_WHOLE_TEXT // 4)) ** 1.5
  megabytes = len(longest) / 1e6
  print_line(
    f'a document of {megabytes:.1f} MB takes about {seconds:.0f} s ({megabytes / seconds:.2f} MB/s): its tokenizer has '
    'no pre-tokenizer and cannot be given pieces; cut such documents, or take another tokenizer'
  )


def _check_splits(name: str, source: SourceConfig, valid_fraction: float, train: int, valid: int) -> None:
  if valid and (train or valid_fraction == 1):
    return
  given = f'{train + valid} different documents, data.valid_fraction = {valid_fraction}'
  empty = 'every document is held out' if valid else 'no document is left to hold out'
  rule = 'training and held-out split must each have one'
  remedy = 'add documents' if train + valid < 2 else 'lower data.valid_fraction or add documents'
  raise DataError(f'{name} ({source.path}): {given}: {empty}; {rule}; {remedy}')


def folder_of(cache_dir: str, name: str, fingerprint: str) -> str:
  """Where the store of a source is."""
  return os.path.join(os.path.expanduser(cache_dir), f'{name}-{fingerprint[:16]}')


def verify(
  folder: str, name: str, fingerprint: str, remedy: str = 'the next run that needs it builds it again'
) -> TokenStore:
  """Opens a store after reading every file against its checksum. Raises DataError: it is missing or damaged."""
  try:
    return _open(folder, name, fingerprint)
  except _CorruptError as error:
    raise DataError(f'{folder}: {error}; {remedy}') from None


def _checksum(path: str) -> int:
  crc = 0
  with open(path, 'rb') as file:
    while block := file.read(1 << 20):
      crc = zlib.crc32(block, crc)
  return crc


def _open(folder: str, name: str, fingerprint: str) -> TokenStore:
  """Reads every file once against its checksum (about 1 GB/s), then maps them."""
  try:
    with open(os.path.join(folder, 'meta.json'), encoding='utf-8') as file:
      meta = json.load(file)
    crc = meta.pop('crc32')
    if crc != zlib.crc32(canonical_json(meta)) or meta['fingerprint'] != fingerprint:
      raise _CorruptError('meta.json does not match its checksum')
    for file, written in meta['files'].items():
      if _checksum(os.path.join(folder, file)) != written['crc32']:
        raise _CorruptError(f'{file} does not match its checksum')
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise _CorruptError(f'{type(error).__name__}: {error}') from None
  splits = {split: _map(os.path.join(folder, split), meta['dtype']) for split in ('train', 'valid')}
  return TokenStore(name, fingerprint, meta, **splits)


def _map(folder: str, dtype: str) -> StoredDocuments:
  lengths, n_bytes, digests = (np.load(os.path.join(folder, f'{part}.npy')) for part in SplitWriter.TABLE)
  file = os.path.join(folder, 'tokens.bin')
  tokens = np.memmap(file, dtype, 'r') if os.path.getsize(file) else np.zeros(0, dtype)
  starts, text_starts = np.cumsum(lengths) - lengths, np.cumsum(n_bytes) - n_bytes
  return StoredDocuments(tokens, lengths, starts, n_bytes, digests, text_starts, folder)
