"""What every task has: a model with its parameters, and a tokenizer with its roles."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lmjax.data.tokens.tokenizer import Tokenizer


class Task:
  """A model and a tokenizer; `lmjax.tasks` says what a task offers besides."""

  model: Any
  data: Any
  tokenizer: Tokenizer
  # each task's own
  specimen: Callable[[], dict]
  example: Callable[..., dict[str, np.ndarray]]

  def init(self, key):
    """Random parameters, as the model's `init` gives them."""
    return self.model.init(key)

  def shapes(self):
    """Shapes and dtypes of the parameters."""
    return jax.eval_shape(lambda: self.init(jax.random.key(0)))

  def axes(self):
    """Logical axis names of every parameter."""
    return self.model.axes()

  def batch_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a training batch, over all hosts, without its data."""
    example = self.example(self.specimen(), np.random.default_rng(0))
    rows = self.data.batch_size
    return {name: jax.ShapeDtypeStruct((rows, *np.shape(a)), a.dtype) for name, a in example.items()}

  @property
  def pad(self) -> int:
    """What fills a row: any valid id would do, since its weight is 0."""
    return 0 if self.tokenizer.pad is None else self.tokenizer.pad

  def document_end(self) -> tuple[int, ...]:
    """The token between documents: `[EOS]`, or `[SEP]` in a tokenizer of BERT's."""
    end = self.tokenizer.sep if self.tokenizer.eos is None else self.tokenizer.eos
    return (self.tokenizer.require('eos') if end is None else end,)
