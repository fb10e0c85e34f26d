"""The settings of the modules that stand alone: optimizer, mesh, loop, evaluation, trace, metrics."""

import dataclasses
from typing import Annotated, Literal

from annotated_types import Le

from lmjax import paths
from lmjax.schema.types import Bool, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Rate, Share, section

# Which settings each optimizer reads; the others must be None, so that none is silently without effect.
SETTINGS = {
  'adamw': {'b1', 'b2', 'eps'},
  'lion': {'b1', 'b2'},
  'adafactor': {'momentum'},
  'muon': {'b1', 'b2', 'eps', 'momentum'},
}
OPTIONAL = {('adafactor', 'momentum')}


@section
class OptimConfig:
  """The optimizer and its schedule.

  name: adamw (arXiv:1711.05101), lion (arXiv:2302.06675), adafactor (arXiv:1804.04235) or muon (arXiv:2502.16982)
  learning_rate: the highest step size
  schedule: after the warm-up: constant, linear, cosine (arXiv:1608.03983) or wsd (constant, then linear)
  warmup_steps: batches over which the rate rises linearly from 0; None with train.epochs: a tenth of all
  decay_steps: batches over which wsd falls at the end; None with the other schedules
  final_rate: the rate at the end, as a share of the highest; None with constant
  weight_decay: decoupled, times the learning rate
  no_decay: path patterns of parameters that are not decayed
  b1: decay of Adam's and Lion's first moment
  b2: decay of Adam's second moment (Lion: of its momentum)
  eps: added to the root of Adam's second moment
  momentum: of Muon, and of Adafactor if any
  clip_norm: gradients are scaled down to this global norm; None for off
  trainable: path patterns of the parameters that move; * for all
  frozen: path patterns of those among them that do not
  layer_decay: a layer's rate is this times that of the layer above (arXiv:2003.10555, appendix B); None for one rate
  head_learning_rate: highest step size of what stands on the backbone; None: learning_rate
  momentum_dtype: of Adam's and Lion's first moment, and of Adafactor's and Muon's momentum; all else is float32
  """

  name: Literal['adamw', 'lion', 'adafactor', 'muon']
  learning_rate: PositiveFloat
  schedule: Literal['constant', 'linear', 'cosine', 'wsd']
  warmup_steps: NonNegativeInt | None
  decay_steps: PositiveInt | None
  final_rate: Share | None
  weight_decay: NonNegativeFloat
  no_decay: tuple[str, ...]
  b1: Rate | None
  b2: Rate | None
  eps: PositiveFloat | None
  momentum: Rate | None
  clip_norm: PositiveFloat | None
  trainable: tuple[str, ...]
  frozen: tuple[str, ...]
  layer_decay: Share | None
  head_learning_rate: PositiveFloat | None
  momentum_dtype: Literal['float32', 'bfloat16'] = 'float32'

  def is_trainable(self, path: str) -> bool:
    """Whether a parameter is trained."""
    return paths.matches(path, self.trainable) and not paths.matches(path, self.frozen)

  def problems(self):
    """Settings that the optimizer or the schedule does not read, or lacks."""
    read = SETTINGS[self.name]
    for setting, is_read, by, remedy in (
      *((name, name in read, self.name, 'give it a number') for name in ('b1', 'b2', 'eps', 'momentum')),
      ('decay_steps', self.schedule == 'wsd', self.schedule, 'give a number of batches'),
      ('final_rate', self.schedule != 'constant', self.schedule, 'give a share'),
    ):
      value = getattr(self, setting)
      if is_read and value is None and (by, setting) not in OPTIONAL:
        yield setting, f'is needed with {by}', remedy
      elif not is_read and value is not None:
        yield setting, f'has no effect with {by}', 'set it to None'
    if self.momentum_dtype != 'float32' and self.name == 'adafactor' and self.momentum is None:
      yield (
        'momentum_dtype',
        'has no effect with adafactor without momentum',
        'set it to float32, or give optim.momentum',
      )
    if not self.weight_decay and self.no_decay:
      yield 'no_decay', 'has no effect with weight_decay = 0', 'set it to ()'


@section
class MeshConfig:
  """How devices are laid out; None for one axis: all that the others leave.

  data: copies of the model, each with its own rows
  fsdp: devices that share rows and parameters
  tensor: devices that share each layer's heads and hidden units
  """

  data: PositiveInt | None
  fsdp: PositiveInt | None
  tensor: PositiveInt | None

  def problems(self):
    """At most one axis can be worked out from the others."""
    free = [axis for axis, size in dataclasses.asdict(self).items() if size is None]
    if len(free) > 1:
      yield free[0], 'only one axis may be None', 'give the others a number'


@section
class TrainConfig:
  """The loop.

  steps: batches to train on, in all; 0: the start is evaluated, and nothing trained; None: as epochs says
  epochs: times that the training examples are seen, where steps is None
  log_every: batches from one line to the next
  accumulate: parts that a batch is computed in, one after the other; the result is the same
  max_skipped: so many batches in a row without a finite loss and gradient end the run
  seeds: runs, one after the other, with the seeds seed, seed + 1, ... in WORKDIR/seed0, WORKDIR/seed1, ...; 1: one run
  """

  steps: Annotated[NonNegativeInt, Le(2**31 - 1)] | None
  epochs: Annotated[PositiveFloat, Le(1e6)] | None
  log_every: PositiveInt
  accumulate: PositiveInt
  max_skipped: PositiveInt
  seeds: PositiveInt

  def problems(self):
    """Some length."""
    if self.steps is None and self.epochs is None:
      yield 'epochs', 'must be given with train.steps = None', 'give one of the two'


@section
class EvalConfig:
  """Looking at the held-out documents.

  every: batches from one evaluation to the next; the last batch is always followed by one; None: an epoch of examples
  patience: evaluations without a new best after which training ends; None for off
  """

  every: PositiveInt | None
  patience: PositiveInt | None


@section
class ProfileConfig:
  """A trace of some training steps, in WORKDIR/profile, for xprof (https://openxla.org/xprof).

  start: the first step that is traced; None for no trace
  steps: how many
  """

  start: PositiveInt | None = None
  steps: PositiveInt = 3


@section
class WriterConfig:
  """Where metrics go besides metrics.jsonl.

  tensorboard: whether WORKDIR/tensorboard is written
  wandb_project: Weights & Biases project; None for off (needs the extra `wandb`)
  """

  tensorboard: Bool = True
  wandb_project: str | None = None
