"""What a task is: a model, an objective, what becomes of a row, and how the result is shown.

There are two kinds. A pre-training task (`language_model`) reads text and keeps its last checkpoint; a fine-tuning task
(`fine_tuning`) reads labelled examples, predicts for each, and keeps the checkpoint that validates best. `table` names
all tasks.

Legend: B batch, T length.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from lmjax.data.batches.pipeline import Pipeline
from lmjax.data.corpus.manifest import Pin
from lmjax.data.counts import Counts
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.models.config import ModelConfig

Batch = dict[str, np.ndarray]
# (params, batch, key) -> (loss_sum, weight_sum, {name: (sum, weight)}); the key is for dropout, None for none
Loss = Callable[[Any, Any, jax.Array | None], tuple[jax.Array, jax.Array, dict[str, tuple]]]
# (function, params, batch of this host) -> the outputs of `function(params, batch)`, whole on every host
Run = Callable[[Callable, Any, Batch], Any]


class Task(Protocol):
  """A model, its data and its loss; `read` to `pipeline` are called in this order, once a run."""

  NAME: ClassVar[str]  # as in `table.TASKS`
  RANKING_METRIC: str  # the validation metric that checkpoints are ranked by
  HIGHER_IS_BETTER: bool  # of RANKING_METRIC
  MAIN_METRIC: str  # what is plotted and reported
  BASELINE: str | None  # what is known of it without a model
  model: Any  # has `init(key)`, `shapes()`, `axes()` and `backbone`
  loss: Loss
  objective: Any  # this slice of the config, as are `samples_config` and `data`
  samples_config: Any
  data: Any
  tokenizer: Tokenizer

  @classmethod
  def read(cls, data, tokenizer: Tokenizer | None, seed: int, progress: bool, pin: Pin | None) -> tuple[Tokenizer, Any]:
    """(tokenizer, what was read) of a data slice; a checkpoint's tokenizer comes before the config's.

    `pin` is what a run that resumes began with, where it has token stores.
    """

  @classmethod
  def resolve(cls, objective, read):
    """The objective with what only the data decides, such as the labels."""
    return objective

  def load(self, read) -> Any:
    """What was read, in the form that the other methods take as `data`."""
    return read

  def rows(self, data) -> int | None:
    """Training rows of an epoch; None where a run has no epochs."""

  def describe(self, data) -> str:
    """A line about the data, for people."""

  def counts(self, data) -> Counts:
    """What the data holds, and what was left out of it."""

  def token_stores(self, data) -> dict[str, str]:
    """{source: fingerprint} of the token stores that the run reads."""
    return {}

  def pipeline(self, data, seed: int, total_steps: int, hosts: int = 1, host: int = 0) -> Pipeline:
    """The training batches."""

  def example_rows(self) -> Any:
    """A row such as the pipeline gives to `batch_of`, without any data."""

  def batch_of(self, rows: Any, keys_B: np.ndarray) -> Batch:
    """Rows -> what the model is given and must predict; uint64 keys decide what is drawn for each."""

  @property
  def predicted(self) -> int:
    """Positions a row that the output embedding is applied to."""
    return 0

  @property
  def has_dropout(self) -> bool:
    """Whether training draws random numbers."""
    return self.model.backbone.config.has_dropout or bool(getattr(self.objective, 'dropout', 0.0))

  def with_model(self, model: ModelConfig) -> 'Task':
    """The same task with another model."""
    return type(self)(model, self.objective, self.samples_config, self.data, self.tokenizer)  # type: ignore[call-arg]

  def shapes(self):
    """Shapes and dtypes of the parameters."""
    return self.model.shapes()

  def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a training batch, over all hosts, without its data."""
    batch, rows = self.batch_of(self.example_rows(), np.zeros(1, np.uint64)), self.data.batch_size
    return {name: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype) for name, a in batch.items()}

  @property
  def pad(self) -> int:
    """What fills a row: any valid id would do, since its weight is 0."""
    return self.tokenizer.pad or 0

  def document_end(self) -> tuple[int, ...]:
    """The token between documents: `[EOS]`, or `[SEP]` in a tokenizer of BERT's."""
    end = self.tokenizer.sep if self.tokenizer.eos is None else self.tokenizer.eos
    return (self.tokenizer.require('eos') if end is None else end,)
