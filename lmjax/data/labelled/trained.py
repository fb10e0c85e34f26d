"""The tokenizer that a run trains on its labelled texts, kept with what is made by it."""

from collections.abc import Iterator, Sequence

import numpy as np
import tokenizers

from lmjax.data.config import TokenizerConfig
from lmjax.data.labelled import kept
from lmjax.data.labelled.table import Table
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import train_tokenizer


def tokenizer_of(items: Sequence[dict], settings: TokenizerConfig, fingerprint: str | None) -> Tokenizer:
  """A tokenizer trained on the texts of records, or the one that was trained on the same ones before.

  Args:
    items: the training examples.
    settings: those of `train_tokenizer`.
    fingerprint: of the records; None: nothing is kept.
  """
  options = settings.vocab_size, settings.sample_bytes, settings.lowercase
  if fingerprint is None or not isinstance(items, Table):
    return train_tokenizer(_texts(items), *options)
  name = kept.fingerprint('tokenizer', fingerprint, *options)
  if (found := kept.load(name)) is not None:
    return Tokenizer(tokenizers.Tokenizer.from_buffer(found[0]['json'].tobytes()))
  made = train_tokenizer(_texts(items), *options)
  n_bytes = sum(array.nbytes for column in items.columns.values() for array in column.arrays().values())
  kept.save(name, {'json': np.frombuffer(made.text.encode('utf-8'), np.uint8)}, {}, n_bytes)
  return made


def _texts(items: Sequence[dict]) -> Iterator[str]:
  """The texts of all records, but for labels."""
  for record in items:
    for name, value in record.items():
      if name not in ('id', 'label') and isinstance(value, str):
        yield value
