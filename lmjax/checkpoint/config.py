"""The settings of checkpoints: what is saved, and what a run starts from."""

from collections.abc import Iterator
from typing import Literal

from lmjax.schema.types import NonNegativeInt, PositiveInt, section


@section
class InitFrom:
  """Where the weights, the tokenizer and the model's shape come from.

  path: a run's workdir, or one of its WORKDIR/checkpoints/STEP, local or gs://; hf:X, a public model, X being a folder
    or the id of a repository, ORG/NAME or ORG/NAME@REVISION; None: random weights
  step: latest, best (in the run's own validation metric) or a number; latest with hf:
  take: path patterns of the parameters that are taken; with () every weight is fresh (the control)
  fresh: path patterns of the parameters that begin at random
  drop: path patterns of the checkpoint's parameters that are left behind
  convert: encoder_to_decoder or decoder_to_encoder where the attention is to change; None: it stays
  """

  path: str | None
  step: Literal['latest', 'best'] | NonNegativeInt
  take: tuple[str, ...]
  fresh: tuple[str, ...]
  drop: tuple[str, ...]
  convert: Literal['encoder_to_decoder', 'decoder_to_encoder'] | None

  def problems(self) -> Iterator[tuple[str, str, str]]:
    """Without a checkpoint there is nothing to convert."""
    if self.path is None and self.convert is not None:
      yield 'convert', 'has no effect with init_from.path = None', 'set it to None'


@section
class CheckpointConfig:
  """What is saved, and what is kept.

  every: batches from one checkpoint to the next; the last batch is always followed by one; None: at each evaluation
  keep_last: newest checkpoints that are kept
  keep_best: checkpoints that are best in the task's validation metric, kept besides; 0 for none
  """

  every: PositiveInt | None
  keep_last: PositiveInt
  keep_best: NonNegativeInt
