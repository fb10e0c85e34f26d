"""From a part of a source to token shards: one pure function, which gives the same bytes whoever runs it.

A work is some pieces of a source (`sources.pieces`): files, or parts of large ones, that are read one after the other.
Its documents are cut into shards at about 32 MB of text, or at 250,000 of them. Whether a document stands, as training
or as held-out text, is decided later, from the digests in all shards: `standing`.
"""

import collections
import hashlib
import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lmjax.console import print_line
from lmjax.data.config import BadText
from lmjax.data.corpus import shard, tokenised
from lmjax.data.corpus.cache import Cache
from lmjax.data.corpus.tokenised import Tokens
from lmjax.data.digests import digests64
from lmjax.data.sources import documents
from lmjax.data.tokens import pieces
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.workdir.files import json_digest

# Raise it when what a shard holds changes: older ones are then made again.
FORMAT = 2
# Text of a shard, and how many documents; one is never parted.
_SHARD_BYTES, _SHARD_DOCUMENTS = 32_000_000, 250_000
# What is encoded at once.
_PIECE_CHARACTERS, _PIECES = 16_384, 512
# A text of so many characters is long for a tokenizer that takes it whole.
_LONG_WHOLE_TEXT = 100_000
# What is counted of tokenizers that do not know every text.
UNKNOWN = ('unknown_tokens', 'unknown_bytes')
# As text, or as the tokens that a file holds; those of a work are of one kind.
Document = str | Tokens


class Settings(NamedTuple):
  """What decides, besides the text, what a shard holds."""

  tokenizer: str  # its hash
  bad_text: BadText

  @property
  def key(self) -> str:
    """Hex."""
    return json_digest([FORMAT, *self])


class Job(NamedTuple):
  """What a process needs to make a work, besides the work."""

  cache_dir: str
  settings: Settings
  tokenizer_file: str

  def key(self, work: documents.Work) -> str:
    """Names the entry of a work in the cache."""
    return json_digest([self.settings.key, work.facts])


class Entry(NamedTuple):
  """What was found in a work."""

  shards: list[str]  # names, without folder and ending
  counts: dict[str, int]  # of documents: read, empty, repaired, skipped, filtered


def found_entry(cache: Cache, key: str) -> Entry | None:
  """What the cache has of a work, where all of its shards are there."""
  found = cache.read_json(f'read/{key}.json')
  if found is None:
    return None
  entry = Entry(**found)
  return entry if cache.has(*(f'shards/{name}{shard.ENDING}' for name in entry.shards)) else None


def make(job: Job, tokenizer: Tokenizer, work: documents.Work) -> Entry | None:
  """The entry of a work, made if it is not there; None: another process is making it."""
  cache, key = Cache(job.cache_dir), job.key(work)
  with cache.claimed(f'read/{key}.lock') as is_ours:
    if (entry := found_entry(cache, key)) is not None:
      return entry
    if not is_ours:
      return None
    entry = build(work, job.settings, tokenizer, cache)
    cache.write_json(f'read/{key}.json', entry._asdict())
    return entry


def build(work: documents.Work, settings: Settings, tokenizer: Tokenizer, cache: Cache) -> Entry:
  """Makes the shards of a work that are not there yet, and its entry.

  Raises DataError: the source cannot be read, or the cache cannot be written.
  """
  counts: collections.Counter[str] = collections.Counter()
  names = []
  found: Iterator[Document] = documents.texts_of(work, settings.bad_text, counts)
  if documents.holds_tokens(work):
    found = tokenised.documents_of(work, tokenizer, counts)
  for part in pieces.parts(found, _SHARD_DOCUMENTS, _SHARD_BYTES, _characters):
    name = _name(part, settings)
    if not cache.has(f'shards/{name}{shard.ENDING}'):
      cache.write(f'shards/{name}{shard.ENDING}', shard.as_bytes(name, *_encoded(part, tokenizer)))
    names.append(name)
  documents.check_unchanged(work)
  kept = ('documents', 'bytes', 'empty', 'replaced', 'skipped', 'filtered')
  return Entry(names, {name: counts[name] for name in kept})


def _characters(document: Document) -> int:
  return len(document if isinstance(document, str) else document.text)


def _name(part: list[Document], settings: Settings) -> str:
  kind = b'text' if isinstance(part[0], str) else b'ids'
  digest = hashlib.blake2b(settings.key.encode() + kind, digest_size=16)
  for document in part:
    data = document.encode('utf-8') if isinstance(document, str) else document.ids.astype('<i4').tobytes()
    digest.update(len(data).to_bytes(8, 'little'))
    digest.update(data)
  return digest.hexdigest()


def _encoded(part: list[Document], tokenizer: Tokenizer) -> tuple[dict[str, np.ndarray], dict[str, int]]:
  """(arrays, counts) of a shard; documents of which no character has a token are left out, and counted as empty."""
  dtype = np.dtype('<u2' if tokenizer.vocab_size <= 1 << 16 else '<u4')
  counts = dict.fromkeys(('empty', *UNKNOWN), 0)
  texts, tokens = [], [np.zeros(0, dtype)]
  for text, ids, unknown in _as_tokens(part, tokenizer, dtype):
    counts['unknown_bytes'] += unknown
    counts['unknown_tokens'] += 0 if tokenizer.is_lossless else int((ids == tokenizer.unk).sum())
    if not len(ids):
      counts['empty'] += 1
      continue
    texts.append(text)
    tokens.append(ids)
  rows = [row for some in pieces.parts(texts) for row in digests64(some)]
  arrays = {'tokens': np.concatenate(tokens), 'lengths': np.array([len(ids) for ids in tokens[1:]], '<u4')}
  for name, column, kind in zip(shard.COLUMNS[1:], zip(*rows) if rows else [()] * 3, ('<u4', '<u8', '<u8')):
    arrays[name] = np.array(column, kind)
  return arrays, counts


def _as_tokens(part: list[Document], tokenizer: Tokenizer, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray, int]]:
  """(text, ids, bytes that no known token stands for) of each document."""
  yield from ((document.text, document.ids.astype(dtype), 0) for document in part if isinstance(document, Tokens))
  texts = [document for document in part if isinstance(document, str)]
  if texts:
    _estimate(texts, tokenizer)
    for text, (ids, unknown) in zip(texts, _encode(texts, tokenizer, dtype)):
      yield text, ids, unknown


def _estimate(texts: list[str], tokenizer: Tokenizer) -> None:
  """Says how long the longest text will take a tokenizer that cannot be given it in pieces."""
  longest = max(texts, key=len)
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


def _encode(texts: list[str], tokenizer: Tokenizer, dtype: np.dtype) -> Iterator[tuple[np.ndarray, int]]:
  """Of each text (ids, bytes that no known token stands for); of a long one some pieces at a time."""
  cut = ((number, piece) for number, text in enumerate(texts) for piece in tokenizer.pieces(text, _PIECE_CHARACTERS))
  ids: list[np.ndarray] = []
  current, unknown, most = 0, 0, np.iinfo(dtype).max
  while some := list(itertools.islice(cut, _PIECES)):
    for (number, _), (found, missing) in zip(some, tokenizer.encode_counted([piece for _, piece in some])):
      if number != current:
        yield ids[0] if len(ids) == 1 else np.concatenate(ids), unknown
        ids, current, unknown = [], number, 0
      # a cast would wrap id 70000 to 4464 in silence
      assert found.max(initial=0) <= most, (found.max(), dtype)
      ids.append(found.astype(dtype))
      unknown += missing
  yield ids[0] if len(ids) == 1 else np.concatenate(ids), unknown
