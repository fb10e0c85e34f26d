"""Which documents are held out: a property of each document's own text, so that no shuffling changes it."""

import collections

from lmjax.data.config import BadText, SourceConfig
from lmjax.data.sources import documents
from lmjax.data.tokens.tokenizer import digest64


def held_out_below(source: SourceConfig, valid_fraction: float, bad_text: BadText) -> int:
  """The limit below which a document's 64-bit digest puts it into the held-out split.

  It is `valid_fraction` of 2^64: whether a document is held out depends on its text alone, and stays so when
  others are added or the order changes. Where a small corpus (20 novels, say) has no digest below that, it is
  just above the lowest digest, which holds out one document; that one may change when documents are added.

  The stream is read up to the first held-out document, so a large corpus costs nothing here.
  """
  limit = int(valid_fraction * 2.0**64)
  lowest = 1 << 64
  for text in documents.documents(source, bad_text, collections.Counter()):
    lowest = min(lowest, digest64(text.encode('utf-8')))
    if lowest < limit:
      return limit
  return lowest + 1
