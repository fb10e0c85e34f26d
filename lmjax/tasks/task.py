"""What every task has: a model with its parameters, and a tokenizer with its roles."""

from typing import Any

import jax

from lmjax.data.tokenizer import Tokenizer


class Task:
  """A model and a tokenizer; `lmjax.tasks` says what a task offers besides."""

  model: Any
  tokenizer: Tokenizer

  def init(self, key):
    """Random parameters, as the model's `init` gives them."""
    return self.model.init(key)

  def shapes(self):
    """Shapes and dtypes of the parameters."""
    return jax.eval_shape(lambda: self.init(jax.random.key(0)))

  def axes(self):
    """Logical axis names of every parameter."""
    return self.model.axes()

  @property
  def pad(self) -> int:
    """What fills a row: any valid id would do, since its weight is 0."""
    return 0 if self.tokenizer.pad is None else self.tokenizer.pad

  def document_end(self) -> tuple[int, ...]:
    """The token between documents: `[EOS]`, or `[SEP]` in a tokenizer of BERT's."""
    end = self.tokenizer.sep if self.tokenizer.eos is None else self.tokenizer.eos
    return (self.tokenizer.require('eos') if end is None else end,)
