"""What both pre-training tasks share. Legend: B batch, T length."""

from collections.abc import Callable

import jax
import numpy as np

from lmjax.data.batches import pipeline as pipeline_lib
from lmjax.data.batches.packing import RowSpec
from lmjax.data.batches.pipeline import Pipeline, valid_bytes_per_token
from lmjax.data.config import DataConfig
from lmjax.data.corpus import build, tokenizers
from lmjax.data.corpus import store as store_lib
from lmjax.data.corpus.manifest import Pin
from lmjax.data.counts import Counts, remarks
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.models.config import ModelConfig
from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import Transformer
from lmjax.tasks.base import Task

# The most frequent token is looked for in so many training tokens of each source.
MAJORITY_SAMPLE = 10_000_000


class LanguageModelTask(Task):
  """A backbone with an output embedding, and the columns that evaluation adds to a batch."""

  RANKING_METRIC, HIGHER_IS_BETTER = 'loss', False
  row_spec: Callable[[], RowSpec]
  batch_of: Callable[..., dict[str, np.ndarray]]

  def __init__(self, model: ModelConfig, objective, samples, data: DataConfig, tokenizer: Tokenizer):
    self.model = LanguageModel(Transformer(model, tokenizer.vocab_size_in(model.vocab_size)))
    self.objective, self.samples_config, self.data, self.tokenizer = objective, samples, data, tokenizer

  @classmethod
  def read(cls, data: DataConfig, tokenizer: Tokenizer | None, seed: int, progress: bool, pin: Pin | None = None):
    """(tokenizer, {source name: TokenStore}) of a data slice; see `Task.read`."""
    del seed  # which documents are held out is a property of their text
    if pin is not None:
      tokenizer = pin.tokenizer
    if tokenizer is None:
      tokenizer = tokenizers.prepare(data)
    share = build.Share(jax.process_index(), jax.process_count())
    return tokenizer, store_lib.open_or_build(data, tokenizer, progress, share, pin)

  def token_stores(self, stores) -> dict[str, str]:
    """{source: fingerprint}."""
    return {name: store.fingerprint for name, store in stores.items()}

  def describe(self, stores) -> str:
    """A line about the data, for people."""
    lines = []
    for name, counts in self.counts(stores).items():
      store, note = stores[name], remarks(counts)
      size = f'{name}: {store.train_documents:,} documents, {store.train_tokens:,} tokens'
      lines.append(size + f' ({note})' * bool(note))
    return '; '.join(lines)

  def counts(self, stores) -> Counts:
    """Of each source."""
    return {name: store.counts for name, store in stores.items()}

  def pipeline(self, stores, seed: int, total_steps: int, hosts: int = 1, host: int = 0) -> Pipeline:
    """The training batches."""
    return pipeline_lib.make(
      self.data, stores, self.row_spec(), self.batch_of, seed=seed, total_steps=total_steps, hosts=hosts, host=host
    )

  def example_rows(self) -> dict[str, np.ndarray]:
    """A row such as the pipeline gives to `batch_of`, of one document of padding."""
    ones = np.ones((1, self.row_spec().size), np.int32)
    return {'tokens': ones * self.pad, 'segments': ones, 'positions': np.cumsum(ones, axis=1) - ones}

  def majority_token(self, stores) -> int:
    """The most frequent token of the training documents (of the held-out ones where there are no others)."""
    counts = np.zeros(self.tokenizer.vocab_size, np.int64)
    for store in stores.values():
      counts += np.bincount(store.sample(MAJORITY_SAMPLE), minlength=len(counts))
    return int(np.argmax(counts))

  def eval_batch_of(self, stores, store):
    """The transform of held-out rows: a training batch and what each of its targets stands for."""
    majority, token_bytes = self.majority_token(stores), self.tokenizer.token_bytes()
    if token_bytes is None:  # not byte-level: every token stands for the mean number of bytes
      mean = valid_bytes_per_token(self.data, store)
      token_bytes = np.full(self.tokenizer.vocab_size, mean, np.float32)

    def with_columns(rows, keys_B):
      batch = self.batch_of(rows, keys_B, keep_segments=True)
      batch['majority'] = (batch['targets'] == majority).astype(np.float32)
      if self.tokenizer.gives_bytes_back:
        batch['bytes'] = token_bytes[batch['targets']].astype(np.float32)
      return batch

    return with_columns
