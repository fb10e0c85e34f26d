"""One run as data: the Config, and how a file's ConfigDict becomes one."""

import dataclasses
from typing import Annotated, Any, Literal

from lmjax import schema, sharding
from lmjax.checkpoint import CheckpointConfig
from lmjax.data.pipeline import DataConfig
from lmjax.errors import ConfigError
from lmjax.fields import NonNegativeInt, PositiveInt
from lmjax.models.model_config import ModelConfig
from lmjax.objectives.causal import CausalConfig
from lmjax.objectives.masked import MaskedConfig
from lmjax.optim import OptimConfig
from lmjax.schema import Choice
from lmjax.sharding import MeshConfig
from lmjax.tasks.causal_lm import CausalSamples
from lmjax.tasks.masked_lm import MaskedSamples
from lmjax.writer import WriterConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The loop.

  steps: batches to train on, in all
  log_every: batches from one line to the next
  accumulate: parts that a batch is computed in, one after the other; the result is the same
  max_skipped: so many batches in a row without a finite loss and gradient end the run
  """

  steps: PositiveInt
  log_every: PositiveInt
  accumulate: PositiveInt
  max_skipped: PositiveInt


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Looking at the held-out documents.

  every: batches from one evaluation to the next; the last batch is always followed by one
  """

  every: PositiveInt


@dataclasses.dataclass(frozen=True)
class Config:
  """A run.

  task: causal_lm (GPT) or masked_lm (BERT)
  seed: of the weights, the order of the data, masks and dropout
  model: the network
  objective: the loss
  data: text, tokenizer and rows
  optim: the optimizer and its schedule
  mesh: how devices are laid out
  train: the loop
  eval: when held-out documents are looked at
  samples: what is shown of the model as training goes on
  checkpoint: what is saved and kept
  writer: where metrics go besides metrics.jsonl
  """

  task: Literal['causal_lm', 'masked_lm']
  seed: NonNegativeInt
  model: ModelConfig
  objective: Annotated[
    CausalConfig | MaskedConfig, Choice('task', {'causal_lm': CausalConfig, 'masked_lm': MaskedConfig})
  ]
  data: DataConfig
  optim: OptimConfig
  mesh: MeshConfig
  train: TrainConfig
  eval: EvalConfig
  samples: Annotated[
    CausalSamples | MaskedSamples, Choice('task', {'causal_lm': CausalSamples, 'masked_lm': MaskedSamples})
  ]
  checkpoint: CheckpointConfig
  writer: WriterConfig

  def due(self, step: int) -> set[str]:
    """What happens once `step` batches are done: of log, evaluate, save."""
    every = {'log': self.train.log_every, 'evaluate': self.eval.every, 'save': self.checkpoint.every}
    return {name for name, n in every.items() if step == self.train.steps or step % n == 0}

  def problems(self):
    """Rules between the slices."""
    m, d, t = self.model, self.data, self.train
    needed = {'causal_lm': 'causal', 'masked_lm': 'bidirectional'}[self.task]
    if m.attention != needed:
      yield 'model.attention', m.attention, f'must be {needed} for {self.task}', 'take a preset of that kind'
    if m.max_length is not None and d.length > m.max_length:
      rule = f'is longer than the position table, model.max_length = {m.max_length}'
      yield 'data.length', d.length, rule, 'shorten it, or lengthen the table'
    if m.attention_implementation == 'splash' and d.length % 128:
      yield (
        'data.length',
        d.length,
        'must be a multiple of 128 for splash attention',
        f'try {-(-d.length // 128) * 128}',
      )
    if d.batch_size % t.accumulate:
      yield 'train.accumulate', t.accumulate, f'must divide data.batch_size = {d.batch_size}', 'change one of them'
    if self.checkpoint.keep_best and self.checkpoint.every % self.eval.every:
      rule = f'must be a multiple of eval.every = {self.eval.every}, since keep_best goes by the evaluation'
      yield 'checkpoint.every', self.checkpoint.every, rule, 'change one of them, or set checkpoint.keep_best to 0'
    decay = self.optim.decay_steps or 0
    if self.optim.warmup_steps + decay > t.steps:
      rule = f'with optim.decay_steps must fit into train.steps = {t.steps}'
      yield 'optim.warmup_steps', self.optim.warmup_steps, rule, 'shorten the warm-up'
    if self.task == 'causal_lm':
      yield from self._causal_problems()

  def _causal_problems(self):
    s: Any = self.samples  # CausalSamples, since `task` chose it
    d, m = self.data, self.model
    if d.cls_sep:
      yield 'data.cls_sep', True, 'has no effect on causal_lm, whose documents begin with [BOS]', 'set it to False'
    if self.objective.chunk >= d.length:
      rule = f'must be below data.length = {d.length}, or the logits of whole rows would be held'
      yield 'objective.chunk', self.objective.chunk, rule, f'try {max(d.length // 4, 1)}'
    if m.max_length is not None and 1 + s.prompt_tokens + s.new_tokens > m.max_length:
      rule = f'with samples.prompt_tokens and [BOS] must fit into model.max_length = {m.max_length}'
      yield 'samples.new_tokens', s.new_tokens, rule, 'shorten it'

  def device_problems(self, devices: int):
    """Rules between the run and the number of devices it is to run on, in the form of `problems`."""
    m, d = self.model, self.data
    sizes = sharding.mesh_shape(self.mesh, devices)
    if sizes is None:
      rule = f'must make {devices} devices with the other axes'
      yield 'mesh.data', self.mesh.data, rule, 'set one axis to None: it takes what the others leave'
      return
    data, fsdp, tensor = sizes
    rows = d.batch_size // self.train.accumulate
    shared = 'mesh.data x mesh.fsdp' if self.train.accumulate == 1 else 'mesh.data x mesh.fsdp, after train.accumulate'
    divisions = [
      ('data.batch_size', d.batch_size, rows, data * fsdp, shared),
      ('model.width', m.width, m.width, fsdp, 'mesh.fsdp'),
      ('model.heads', m.heads, m.heads, tensor, 'mesh.tensor'),
      ('model.kv_heads', m.kv_heads, m.kv_heads, tensor, 'mesh.tensor'),
      ('model.mlp_width', m.mlp_width, m.mlp_width, tensor, 'mesh.tensor'),
      ('model.vocab_multiple', m.vocab_multiple, m.vocab_multiple, tensor, 'mesh.tensor'),
    ]
    for path, value, divided, divisor, name in divisions:
      if divided % divisor:
        yield path, value, f'must be divisible by {name} = {divisor}', 'change it, or the mesh'


def build(config, *, devices: int | None = None, problems=()) -> Config:
  """A file's ConfigDict (or a dict) -> Config.

  Args:
    config: the ConfigDict; a Config is checked against the devices alone.
    devices: number of devices it is to run on, to check the mesh too; None: not checked.
    problems: lines that were found before (on the command line), to be told together with these.

  Raises:
    ConfigError: with every problem, one line each.
  """
  further = (lambda built: ()) if devices is None else (lambda built: built.device_problems(devices))
  problems, values = list(problems), schema.to_dict(config) if isinstance(config, Config) else config
  try:
    built = schema.build(Config, values, further)
  except ConfigError as error:
    problems += error.problems
  if problems:
    raise ConfigError(problems)
  return built
