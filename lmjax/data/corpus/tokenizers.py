"""The tokenizer of a corpus: loaded, or trained once and kept in the cache."""

import collections
import contextlib
from collections.abc import Iterator

from lmjax.data.config import DataConfig, SourceConfig
from lmjax.data.corpus import build
from lmjax.data.corpus.cache import Cache
from lmjax.data.corpus.unit import FORMAT
from lmjax.data.digests import normalised_digest64
from lmjax.data.sources import documents
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import sample, train_tokenizer
from lmjax.errors import DataError
from lmjax.workdir.files import json_digest


def prepare(config: DataConfig) -> Tokenizer:
  """Loads the tokenizer that the config names, or trains one on a sample of the training documents.

  Each source gives a share of the sample by its weight; held-out documents give nothing. A trained tokenizer is kept
  in the cache; of several processes the first trains it, and the others wait.

  Raises DataError: a missing or broken tokenizer.json, or a source that cannot be read.
  """
  settings, corpora = config.tokenizer, config.sources
  if settings.path is not None:
    return Tokenizer.load(settings.path)
  origin = [
    FORMAT,
    [[source.field, source.keep, documents.listed(source), source.weight] for source in corpora.values()],
    [settings.vocab_size, settings.sample_bytes, settings.lowercase, config.valid_fraction, config.bad_text],
  ]
  cache, name = Cache(config.cache_dir), f'tokenizer-{json_digest(origin)[:16]}.json'
  if (found := _kept(cache, name)) is not None:
    return found
  with cache.claimed(f'{name}.lock', 'waiting for the tokenizer that another process trains'):
    if (found := _kept(cache, name)) is not None:
      return found
    limits = _held_out(config)
    total = sum(source.weight for source in corpora.values())
    texts = []
    for source in corpora.values():
      share = max(1, int(settings.sample_bytes * source.weight / total))
      texts += sample(_training_texts(source, config, *limits), share)
    tokenizer = train_tokenizer(texts, settings.vocab_size, settings.sample_bytes, settings.lowercase)
    cache.write(name, tokenizer.text.encode('utf-8'))
    cache.write(f'{name}.sha256', tokenizer.hash.encode())  # last: without it, or with another's, it is trained again
    return tokenizer


def _kept(cache: Cache, name: str) -> Tokenizer | None:
  saved = cache.read(f'{name}.sha256')
  if saved is None:
    return None
  with contextlib.suppress(DataError):
    found = Tokenizer.load(cache.local(name))
    return found if found.hash == saved.decode() else None
  return None


def _held_out(config: DataConfig) -> tuple[int, set[int]]:
  """The limit up to which a normalised digest is held out, and the digests above it that are; as in `standing`.

  A source is read up to its first held-out document: a large one costs nothing here.
  """
  limit, extra = min(int(config.valid_fraction * 2.0**64), 2**64 - 1), set()
  for source in config.sources.values():
    lowest = 1 << 64
    for text in _texts(source, config):
      lowest = min(lowest, normalised_digest64(text))
      if lowest <= limit:
        break
    else:
      extra.add(lowest)
  return limit, extra


def _texts(source: SourceConfig, config: DataConfig) -> Iterator[str]:
  counts: collections.Counter[str] = collections.Counter()
  for work in documents.works_of(source, build.WORK_BYTES):
    yield from documents.texts_of(work, config.bad_text, counts)


def _training_texts(source: SourceConfig, config: DataConfig, limit: int, extra: set[int]) -> Iterator[str]:
  for text in _texts(source, config):
    digest = normalised_digest64(text)
    if digest > limit and digest not in extra:
      yield text
