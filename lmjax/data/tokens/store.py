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
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from lmjax.console import tell
from lmjax.data.config import BadText, SourceConfig, TokenizerConfig
from lmjax.data.sources import documents
from lmjax.data.tokens.split import held_out_below
from lmjax.data.tokens.store_writer import SplitWriter, unseen_documents
from lmjax.data.tokens.tokenizer import Tokenizer, digest64, sample, train_tokenizer
from lmjax.errors import DataError

try:
  import fcntl
except ImportError:  # not on Windows, where the rename alone keeps stores whole
  fcntl = None

# Raise it when the layout on disk changes: older stores are then built again.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class StoredDocuments:
  """The documents of one split; D of them, in the order of the source.

  Attributes:
    tokens: uint16 or uint32 [N], memory-mapped.
    lengths: int64 [D], tokens of each document.
    starts: int64 [D], where each begins in `tokens`.
    n_bytes: int64 [D], UTF-8 bytes of each.
    digests: uint64 [D], blake2b of each one's text.
    folder: where its files are.
  """

  tokens: np.ndarray
  lengths: np.ndarray
  starts: np.ndarray
  n_bytes: np.ndarray
  digests: np.ndarray
  text_starts: np.ndarray
  folder: str

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
  """A tokenised source.

  Attributes:
    name: the source's name in the config.
    fingerprint: hex; changes with the source's content, the tokenizer and the settings.
    meta: what meta.json says: counts, bytes, vocab_size, ...
    train, valid: the two splits.
  """

  name: str
  fingerprint: str
  meta: dict
  train: StoredDocuments
  valid: StoredDocuments


class _CorruptError(Exception):
  """A store whose files are not what its meta.json says."""


def open_or_build(
  name: str,
  source: SourceConfig,
  tokenizer: Tokenizer,
  *,
  valid_fraction: float,
  bad_text: BadText,
  cache_dir: str,
  progress: bool = False,
) -> TokenStore:
  """Opens the store of a source, or tokenises the source first if there is none or it is corrupt.

  A document is held out if its digest, as a share of 2^64, is below `valid_fraction` (see `split`). Exact
  duplicates are dropped before that, and counted.

  Args:
    name: the source's name, for the folder and for messages.
    source: the corpus.
    tokenizer: what turns it into ids.
    valid_fraction: share of documents held out, in (0, 1); or 1, all of them, to evaluate on.
    bad_text: policy on text that is not UTF-8, see `sources.documents`.
    cache_dir: where stores are kept.
    progress: print what is done; on a terminal with a bar.

  Raises:
    DataError: the source cannot be read, a split would be empty, or the folder cannot be written.
  """
  facts = {
    'format': FORMAT,
    'source': documents.identity(source),
    'field': source.field,
    'tokenizer': tokenizer.hash,
    'valid_fraction': valid_fraction,
    'bad_text': bad_text,
  }
  fingerprint = _fingerprint(facts)
  folder = folder_of(cache_dir, name, fingerprint)
  with _writing(cache_dir):
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with _lock(folder) as locked:
      if locked:
        # Nobody else can be writing this store: what a killed run has left is rubbish.
        for left in glob.glob(glob.escape(folder) + '.*.tmp'):
          shutil.rmtree(left, ignore_errors=True)
      if os.path.isdir(folder):
        try:
          return _open(name, folder, fingerprint)
        except _CorruptError as error:
          tell(f'token store {folder} is corrupt ({error}); building it again', sys.stderr)
          shutil.rmtree(folder)
      _build(name, folder, source, tokenizer, fingerprint, facts, progress)
    return _open_whole(name, folder, fingerprint)


def prepare_tokenizer(
  config: TokenizerConfig,
  corpora: dict[str, SourceConfig],
  *,
  valid_fraction: float,
  bad_text: BadText,
  cache_dir: str,
) -> Tokenizer:
  """Loads the tokenizer that the config names, or trains one on a sample of the training documents.

  Each source gives a share of the sample by its weight; held-out documents give nothing. A trained tokenizer
  is kept in `cache_dir`, so the next run has the same at once.

  Raises:
    DataError: a missing or broken tokenizer.json, or a source that cannot be read.
  """
  if config.path is not None:
    return Tokenizer.load(config.path)
  facts = {
    'format': FORMAT,
    'sources': [[documents.identity(source), source.field, source.weight] for source in corpora.values()],
    'vocab_size': config.vocab_size,
    'sample_bytes': config.sample_bytes,
    'lowercase': config.lowercase,
    'valid_fraction': valid_fraction,
    'bad_text': bad_text,
  }
  path = os.path.join(os.path.expanduser(cache_dir), f'tokenizer-{_fingerprint(facts)[:16]}.json')
  cached = _cached_tokenizer(path)
  if cached is not None:
    return cached
  total = sum(source.weight for source in corpora.values())
  texts = []
  for source in corpora.values():
    share = max(1, int(config.sample_bytes * source.weight / total))
    texts += sample(_training_texts(source, valid_fraction, bad_text), share)
  tokenizer = train_tokenizer(texts, config.vocab_size, config.sample_bytes, config.lowercase)
  with _writing(cache_dir):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # The hash is written last: a tokenizer without it, or with another's, is trained again.
    tokenizer.save(path)
    with open(path + '.sha256', 'w') as file:
      file.write(tokenizer.hash)
  return tokenizer


def _training_texts(source: SourceConfig, valid_fraction: float, bad_text: BadText) -> Iterator[str]:
  limit = held_out_below(source, valid_fraction, bad_text)
  for text in documents.documents(source, bad_text, collections.Counter()):
    if digest64(text.encode('utf-8')) >= limit:
      yield text


def _cached_tokenizer(path: str) -> Tokenizer | None:
  try:
    with open(path + '.sha256') as file:
      wanted = file.read().strip()
    tokenizer = Tokenizer.load(path)
  except (OSError, UnicodeDecodeError, DataError):
    return None
  return tokenizer if tokenizer.hash == wanted else None


def _fingerprint(facts: dict) -> str:
  return hashlib.sha256(json.dumps(facts, sort_keys=True).encode('utf-8')).hexdigest()


@contextlib.contextmanager
def _writing(cache_dir: str):
  try:
    yield
  except OSError as error:
    raise DataError(
      f'{cache_dir}: {error.strerror or error}; data.cache_dir must be a folder with room for the token '
      'stores; free '
      'some, or name another'
    ) from None


@contextlib.contextmanager
def _lock(folder: str):
  """Holds an exclusive lock on a store, so that a second run waits for the first and then finds its work done.

  Yields whether it is held: some network filesystems refuse locks, and then the rename decides who wins; and a
  folder of finished stores may be read-only.
  """
  with contextlib.ExitStack() as stack:
    locked = False
    try:
      file = stack.enter_context(open(folder + '.lock', 'a'))
    except OSError:
      if not os.path.isdir(folder):
        raise
    else:
      if fcntl is not None:
        with contextlib.suppress(OSError):
          fcntl.flock(file, fcntl.LOCK_EX)
          locked = True
    yield locked


def _build(name, folder, source, tokenizer, fingerprint, facts, progress):
  """Tokenises a source into `folder`, which appears whole or not at all."""
  temporary = f'{folder}.{secrets.token_hex(4)}.tmp'
  try:
    meta = _write(name, temporary, source, tokenizer, facts, progress)
    meta['fingerprint'] = fingerprint
    _write_meta(temporary, meta)
    try:
      os.rename(temporary, folder)
    except OSError:
      # Where locks do not work another run may have been first: its store is as good as this one.
      if not os.path.isfile(os.path.join(folder, 'meta.json')):
        raise
  finally:
    shutil.rmtree(temporary, ignore_errors=True)


def _write(name, folder, source, tokenizer, facts, progress) -> dict:
  """Writes both splits and returns what meta.json will say."""
  started = time.monotonic()
  counts = collections.Counter()
  limit = held_out_below(source, facts['valid_fraction'], facts['bad_text'])
  dtype = '<u2' if tokenizer.vocab_size <= 1 << 16 else '<u4'
  writers = [SplitWriter(os.path.join(folder, split), dtype, split == 'valid') for split in ('train', 'valid')]
  bar = tqdm(
    desc=f'tokenising {name}',
    unit='B',
    unit_scale=True,
    disable=not (progress and sys.stderr.isatty()),
    leave=False,
  )
  with bar, writers[0] as train, writers[1] as valid:
    for chunk in unseen_documents(documents.documents(source, facts['bad_text'], counts), counts):
      for document, pieces in zip(chunk, _encode(tokenizer, [document.text for document in chunk])):
        if not any(len(ids) for ids, _ in pieces):
          counts['empty'] += 1  # a tokenizer may have no token for any of it
          continue
        writer = valid if document.digest < limit else train
        writer.add(document.digest, document.data, pieces)
        bar.update(len(document.data))
  seconds = time.monotonic() - started
  _check_splits(name, source, facts['valid_fraction'], len(train), len(valid))
  if progress:
    rate = counts['bytes'] / 1e6 / max(seconds, 1e-9)
    tell(
      f'tokenised {name}: {counts["bytes"] / 1e6:.1f} MB, {train.tokens + valid.tokens:,} tokens in '
      f'{seconds:.1f} s '
      f'({rate:.1f} MB/s); documents: {len(train):,} train, {len(valid):,} held out, '
      f'{counts["duplicates"]:,} duplicates dropped, {counts["empty"]:,} empty, {counts["replaced"]:,} '
      'repaired, '
      f'{counts["skipped"]:,} skipped'
    )
  names = ('documents', 'bytes', 'duplicates', 'empty', 'replaced', 'skipped')
  return {
    **facts,
    'name': name,
    'path': source.path,
    'vocab_size': tokenizer.vocab_size,
    'dtype': dtype,
    'counts': {key: counts[key] for key in names} | {'train': len(train), 'valid': len(valid)},
    'tokens': {'train': train.tokens, 'valid': valid.tokens},
    'bytes': {'train': train.bytes, 'valid': valid.bytes},
    'seconds': seconds,
  }


def _encode(tokenizer: Tokenizer, texts: list[str]) -> list[list[tuple[list[int], int]]]:
  """Encodes documents on all cores; each comes back as its pieces, (ids, UTF-8 bytes)."""
  cut = [tokenizer.pieces(text, 16_384) for text in texts]
  encoded = iter(tokenizer.encode_batch([piece for pieces in cut for piece in pieces]))
  return [[(next(encoded), len(piece.encode('utf-8'))) for piece in pieces] for pieces in cut]


def _check_splits(name, source, valid_fraction, train, valid):
  if valid and (train or valid_fraction == 1):
    return
  empty = 'every document is held out' if valid else 'no document is left to hold out'
  remedy = 'add documents' if train + valid < 2 else 'lower data.valid_fraction or add documents'
  raise DataError(
    f'{name} ({source.path}): {train + valid} different documents, data.valid_fraction = {valid_fraction}: '
    f'{empty}; '
    f'training and held-out split must each have one; {remedy}'
  )


def folder_of(cache_dir: str, name: str, fingerprint: str) -> str:
  """Where the store of a source is."""
  return os.path.join(os.path.expanduser(cache_dir), f'{name}-{fingerprint[:16]}')


def verify(folder: str, name: str, fingerprint: str) -> TokenStore:
  """Opens a store after reading every file against its checksum.

  Raises:
    DataError: it is missing or damaged; the next run that needs it builds it again.
  """
  try:
    return _open(name, folder, fingerprint)
  except _CorruptError as error:
    raise DataError(f'{folder}: {error}; the next run that needs it builds it again') from None


def _checksum(path: str) -> int:
  crc = 0
  with open(path, 'rb') as file:
    while block := file.read(1 << 20):
      crc = zlib.crc32(block, crc)
  return crc


def _write_meta(folder: str, meta: dict):
  names = [
    os.path.join(split, name) for split in ('train', 'valid') for name in os.listdir(os.path.join(folder, split))
  ]
  meta['files'] = {
    name: {'size': os.path.getsize(path), 'crc32': _checksum(path)}
    for name in sorted(names)
    for path in [os.path.join(folder, name)]
  }
  meta['crc32'] = zlib.crc32(json.dumps(meta, sort_keys=True).encode('utf-8'))
  with open(os.path.join(folder, 'meta.json'), 'w', encoding='utf-8') as file:
    json.dump(meta, file, indent=2, sort_keys=True)


def _open_whole(name: str, folder: str, fingerprint: str) -> TokenStore:
  try:
    return _open(name, folder, fingerprint)
  except _CorruptError as error:
    raise DataError(f'{folder}: corrupt just after it was written ({error}); check the disk, then run again') from None


def _open(name: str, folder: str, fingerprint: str) -> TokenStore:
  """Reads every file once against its checksum (about 1 GB/s), then maps them."""
  try:
    with open(os.path.join(folder, 'meta.json'), encoding='utf-8') as file:
      meta = json.load(file)
    crc = meta.pop('crc32')
    if crc != zlib.crc32(json.dumps(meta, sort_keys=True).encode('utf-8')) or meta['fingerprint'] != fingerprint:
      raise _CorruptError('meta.json does not match its checksum')
    for file, facts in meta['files'].items():
      if os.path.getsize(os.path.join(folder, file)) != facts['size']:
        raise _CorruptError(f'{file} is not as long as it was written')
      if _checksum(os.path.join(folder, file)) != facts['crc32']:
        raise _CorruptError(f'{file} does not match its checksum')
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise _CorruptError(f'{type(error).__name__}: {error}') from None
  splits = {split: _map(os.path.join(folder, split), meta['dtype']) for split in ('train', 'valid')}
  return TokenStore(name, fingerprint, meta, **splits)


def _map(folder: str, dtype: str) -> StoredDocuments:
  lengths, n_bytes, digests = (np.load(os.path.join(folder, f'{part}.npy')) for part in SplitWriter.TABLE)
  file = os.path.join(folder, 'tokens.bin')
  tokens = np.memmap(file, dtype, 'r') if os.path.getsize(file) else np.zeros(0, dtype)
  return StoredDocuments(
    tokens, lengths, np.cumsum(lengths) - lengths, n_bytes, digests, np.cumsum(n_bytes) - n_bytes, folder
  )
