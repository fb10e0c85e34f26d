"""One run as data: the Config, and how a file's ConfigDict becomes one."""

import dataclasses
import math
from typing import Annotated, Any, Literal

from lmjax import sharding
from lmjax.checkpoint import handoff
from lmjax.checkpoint.checkpoints import CheckpointConfig
from lmjax.checkpoint.handoff import InitFrom
from lmjax.checkpoint.transfer import open_source
from lmjax.data.batches.pipeline import DataConfig
from lmjax.data.records import ROLES, RecordsConfig
from lmjax.errors import ConfigError
from lmjax.hosts.config import HostsConfig
from lmjax.models.config import ModelConfig
from lmjax.objectives.causal import CausalConfig
from lmjax.objectives.classification import ClassificationConfig
from lmjax.objectives.conditional import ConditionalConfig
from lmjax.objectives.masked import MaskedConfig
from lmjax.objectives.spans import SpanConfig
from lmjax.optim import OptimConfig
from lmjax.profile import ProfileConfig
from lmjax.schema import tree
from lmjax.schema.fields import NonNegativeInt, PositiveFloat, PositiveInt, Rule
from lmjax.schema.tree import Choice
from lmjax.sharding import MeshConfig
from lmjax.tasks.causal_lm import CausalSamples
from lmjax.tasks.fine_tuning import ExampleSamples
from lmjax.tasks.masked_lm import MaskedSamples
from lmjax.workdir.run_files import WriterConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The loop.

  steps: batches to train on, in all; 0: the start is evaluated, and nothing trained; None: as epochs says
  epochs: times that the training examples are seen, where steps is None
  log_every: batches from one line to the next
  accumulate: parts that a batch is computed in, one after the other; the result is the same
  max_skipped: so many batches in a row without a finite loss and gradient end the run
  seeds: runs, one after the other, with the seeds seed, seed + 1, ... in WORKDIR/seed0, WORKDIR/seed1, ...; 1: one run
  """

  steps: Annotated[NonNegativeInt, Rule('must be at most 2,147,483,647', lambda value: value < 2**31)] | None
  epochs: Annotated[PositiveFloat, Rule('must be at most 1,000,000', lambda value: value <= 1e6)] | None
  log_every: PositiveInt
  accumulate: PositiveInt
  max_skipped: PositiveInt
  seeds: PositiveInt

  def problems(self):
    """Some length."""
    if self.steps is None and self.epochs is None:
      yield 'epochs', None, 'must be given with train.steps = None', 'give one of the two'


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  """Looking at the held-out documents.

  every: batches from one evaluation to the next; the last batch is always followed by one; None: an epoch of examples
  patience: evaluations without a new best after which training ends; None for off
  """

  every: PositiveInt | None
  patience: PositiveInt | None


PRE_TRAINING, FINE_TUNING = ('causal_lm', 'masked_lm'), ('classification', 'extractive_qa', 'summarization')
OBJECTIVES = {
  'causal_lm': CausalConfig,
  'masked_lm': MaskedConfig,
  'classification': ClassificationConfig,
  'extractive_qa': SpanConfig,
  'summarization': ConditionalConfig,
}
DATA = dict.fromkeys(PRE_TRAINING, DataConfig) | dict.fromkeys(FINE_TUNING, RecordsConfig)
SAMPLES = {'causal_lm': CausalSamples, 'masked_lm': MaskedSamples} | dict.fromkeys(FINE_TUNING, ExampleSamples)


@dataclasses.dataclass(frozen=True)
class Config:
  """A run.

  task: causal_lm (GPT) or masked_lm (BERT) to pre-train; classification, extractive_qa or summarization to fine-tune
  seed: of the weights, the order of the data, masks and dropout
  init_from: the checkpoint that the run starts from
  model: the network; with a checkpoint, its own but for the leaves given here
  objective: the loss
  data: text, tokenizer and rows
  optim: the optimizer and its schedule
  mesh: how devices are laid out
  train: the loop
  eval: when held-out documents are looked at
  samples: what is shown of the model as training goes on
  checkpoint: what is saved and kept
  writer: where metrics go besides metrics.jsonl
  profile: a trace of some steps
  hosts: how long they wait for each other, and when a run counts as hanging
  """

  task: Literal['causal_lm', 'masked_lm', 'classification', 'extractive_qa', 'summarization']
  seed: NonNegativeInt
  init_from: InitFrom
  model: ModelConfig
  objective: Annotated[
    CausalConfig | MaskedConfig | ClassificationConfig | SpanConfig | ConditionalConfig, Choice('task', OBJECTIVES)
  ]
  data: Annotated[DataConfig | RecordsConfig, Choice('task', DATA)]
  optim: OptimConfig
  mesh: MeshConfig
  train: TrainConfig
  eval: EvalConfig
  samples: Annotated[CausalSamples | MaskedSamples | ExampleSamples, Choice('task', SAMPLES)]
  checkpoint: CheckpointConfig
  writer: WriterConfig
  profile: ProfileConfig
  hosts: HostsConfig

  def due(self, step: int) -> set[str]:
    """What happens once `step` batches are done: of log, evaluate, save."""
    every = {'log': self.train.log_every, 'evaluate': self.eval.every, 'save': self.checkpoint.every}
    return {name for name, n in every.items() if step == self.train.steps or step % n == 0}

  def resolved(self, rows: int | None) -> 'Config':
    """The leaves that depend on the number of training rows, filled in (see TrainConfig, EvalConfig, OptimConfig).

    Args:
      rows: training rows; None where all leaves are given.

    Raises:
      ConfigError: they break a rule.
    """
    t, e, c, o = self.train, self.eval, self.checkpoint, self.optim
    if rows is not None:
      epoch = math.ceil(rows / self.data.batch_size)
      steps = max(math.ceil(t.epochs * rows / self.data.batch_size), 1) if t.steps is None else t.steps
      every = e.every or max(min(epoch, steps), 1)
      t, e = dataclasses.replace(t, steps=steps, epochs=None), dataclasses.replace(e, every=every)
      c = dataclasses.replace(c, every=c.every or every)
      o = dataclasses.replace(o, warmup_steps=steps // 10 if o.warmup_steps is None else o.warmup_steps)
    return build(dataclasses.replace(self, train=t, eval=e, checkpoint=c, optim=o))

  def problems(self):
    """Rules between the slices."""
    m, d, t = self.model, self.data, self.train
    if m.max_length is not None and d.length > m.max_length:
      rule = f'is longer than the position table, model.max_length = {m.max_length}'
      yield 'data.length', d.length, rule, 'shorten it, or lengthen the table'
    if m.attention_implementation == 'splash' and d.length % 128:
      rule, more = 'must be a multiple of 128 for splash attention', -(-d.length // 128) * 128
      yield 'data.length', d.length, rule, f'try {more}'
    if d.batch_size % t.accumulate:
      yield 'train.accumulate', t.accumulate, f'must divide data.batch_size = {d.batch_size}', 'change one of them'
    if t.steps is not None and self.optim.warmup_steps is not None:
      decay = self.optim.decay_steps or 0
      if self.optim.warmup_steps + decay > t.steps:
        rule = f'with optim.decay_steps must fit into train.steps = {t.steps}'
        yield 'optim.warmup_steps', self.optim.warmup_steps, rule, 'shorten the warm-up'
    if self.task in PRE_TRAINING:
      yield from self._pre_training_problems()
    else:
      yield from self._fine_tuning_problems()

  def _pre_training_problems(self):
    m = self.model
    needed = {'causal_lm': 'causal', 'masked_lm': 'bidirectional'}[self.task]
    if m.attention != needed:
      yield 'model.attention', m.attention, f'must be {needed} for {self.task}', 'take a preset of that kind'
    if self.train.epochs is not None:
      yield 'train.epochs', self.train.epochs, 'has no effect when pre-training', 'set it to None, and give train.steps'
    for leaf, value in (
      ('train.steps', self.train.steps),
      ('eval.every', self.eval.every),
      ('checkpoint.every', self.checkpoint.every),
      ('optim.warmup_steps', self.optim.warmup_steps),
    ):
      if not value and (value is None or leaf == 'train.steps'):
        yield leaf, value, 'must be given when pre-training, which has no epochs', 'give a number of batches'
        return
    if self.checkpoint.keep_best and self.checkpoint.every % self.eval.every:
      rule = f'must be a multiple of eval.every = {self.eval.every}, since keep_best goes by the evaluation'
      yield 'checkpoint.every', self.checkpoint.every, rule, 'change one of them, or set checkpoint.keep_best to 0'
    if self.task == 'causal_lm':
      yield from self._causal_problems()

  def _fine_tuning_problems(self):
    d: Any = self.data  # RecordsConfig, since `task` chose it
    if self.checkpoint.every not in (None, self.eval.every):
      rule = f'must be eval.every = {self.eval.every}: the best checkpoint is restored at the end'
      yield 'checkpoint.every', self.checkpoint.every, rule, 'set it to None'
    if not self.checkpoint.keep_best:
      yield 'checkpoint.keep_best', 0, 'must be 1 or more: the best checkpoint is restored at the end', 'set it to 1'
    if d.fields is not None and len(d.fields) not in map(len, ROLES[self.task]):
      wanted = ' or '.join(', '.join(names) for names in ROLES[self.task])
      yield 'data.fields', d.fields, f'must name {wanted}, in this order', 'or None for their usual names'
    if d.fields is not None and self.task == 'extractive_qa':
      yield 'data.fields', d.fields, "has no effect on extractive_qa, which reads SQuAD's format", 'set it to None'
    if self.task == 'extractive_qa':
      o: Any = self.objective
      room = d.length - o.max_question - 3
      if o.stride + o.max_answer > room + 1:
        rule = (
          f'must be {room + 1 - o.max_answer} or less, or an answer of {o.max_answer} tokens may lie in no window whole'
        )
        yield 'objective.stride', o.stride, rule, 'lower it, or objective.max_answer, or raise data.length'
    if self.task == 'summarization':
      yield from self._summarization_problems()
    if self.task == 'classification':
      o = self.objective
      if o.pooling == 'cls' and self.model.attention == 'causal':
        rule = 'sees nothing but the first token with causal attention'
        yield 'objective.pooling', 'cls', rule, 'choose last or mean'
      if d.length < 4:
        yield 'data.length', d.length, 'must be 4 or more, or no text fits in', 'raise it'
    if self.init_from.path is None and d.tokenizer is None:
      yield 'data.tokenizer', None, 'must be given with init_from.path = None', 'give one, or a checkpoint'

  def _summarization_problems(self):
    o: Any = self.objective
    if self.model.attention != 'causal':
      rule = 'must be causal for summarization, which writes from left to right'
      yield 'model.attention', self.model.attention, rule, 'start from a causal checkpoint, or see init_from.convert'
    room = self.data.length - o.max_summary - 2
    if room < 2 * o.max_summary:  # a piece must be longer than its summary, and the summaries of two pieces fit
      rule = f'must be at most a third of data.length = {self.data.length}, or little of a document is read'
      yield 'objective.max_summary', o.max_summary, rule, f'try {(self.data.length - 2) // 3}'

  def _causal_problems(self):
    # CausalSamples, DataConfig and CausalConfig, since `task` chose them
    s: Any = self.samples
    d: Any = self.data
    o: Any = self.objective
    m = self.model
    if d.cls_sep:
      yield 'data.cls_sep', True, 'has no effect on causal_lm, whose documents begin with [BOS]', 'set it to False'
    if o.chunk >= d.length:
      rule = f'must be below data.length = {d.length}, or the logits of whole rows would be held'
      yield 'objective.chunk', o.chunk, rule, f'try {max(d.length // 4, 1)}'
    if m.max_length is not None and 1 + s.prompt_tokens + s.new_tokens > m.max_length:
      rule = f'with samples.prompt_tokens and [BOS] must fit into model.max_length = {m.max_length}'
      yield 'samples.new_tokens', s.new_tokens, rule, 'shorten it'

  def device_problems(self, devices: int):
    """Rules between the run and the number of devices it is to run on, in the form of `problems`."""
    m, d = self.model, self.data
    sizes = sharding.mesh_shape(self.mesh, devices)
    if sizes is None:
      rule = f'must make {devices} devices with the other axes'
      nearest = ', '.join(
        f'{axis}={size}' for axis, size in zip(sharding.AXES, sharding.nearest_mesh(self.mesh, devices))
      )
      axis = next((name for name in sharding.AXES if getattr(self.mesh, name) not in (None, 1)), 'data')
      remedy = f'the nearest mesh is {nearest}; None takes what the others leave'
      yield f'mesh.{axis}', getattr(self.mesh, axis), rule, remedy
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


def completed(saved: dict) -> dict:
  """The values of a config.json, with the leaves that there were not yet when an older lmjax wrote it."""
  return {'hosts': {'start_seconds': 300, 'lost_seconds': 100, 'hang_seconds': 1800}} | saved


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
  problems, values = list(problems), tree.to_dict(config)
  if not isinstance(config, Config):
    try:
      problems += _take_model(values)
    except ConfigError as error:
      raise ConfigError([*problems, *error.problems]) from error
  try:
    built = tree.build(Config, values, further)
  except ConfigError as error:
    problems += error.problems
  if problems:
    raise ConfigError(problems)
  return built


def _take_model(values: dict) -> list[str]:
  """Fills in `values['model']` from the checkpoint of `values['init_from']`; returns the problems, one line each."""
  asked = values.get('model')
  try:
    init_from = tree.build(InitFrom, values.get('init_from') or {})
  except ConfigError:
    return []  # reported with its full path by the build of the whole
  if not isinstance(asked, dict):
    return []
  if init_from.path is None:
    if 'layers' in asked:
      return []
    rule = 'must be given in full with init_from.path = None'
    remedy = 'name a checkpoint, or give preset=NAME to the config file'
    raise ConfigError(tree.line('model', tree.show(asked), rule, remedy))
  saved = open_source(init_from).manifest['model']
  values['model'], problems = handoff.adapt_model(saved, asked, init_from.convert)
  return [tree.line(path, tree.show(value), rule, remedy) for path, value, rule, remedy in problems]


def load(config, problems=()) -> tuple[Config, Any]:
  """(the Config, the checkpoint that it starts from, None where it does not) of a file's ConfigDict.

  Raises:
    ConfigError, CheckpointError: with every problem.
  """
  built = build(config, problems=problems)
  return built, None if built.init_from.path is None else open_source(built.init_from)


def check_devices(config: Config, devices: int) -> None:
  """Refuses a mesh that does not make the devices, or divide the model and the batch.

  Raises:
    ConfigError: with every problem.
  """
  lines = [schema_line(path, value, rule, remedy) for path, value, rule, remedy in config.device_problems(devices)]
  if lines:
    raise ConfigError(lines)


def schema_line(path, value, rule, remedy) -> str:
  """One problem as one line."""
  return tree.line(path, tree.show(value), rule, remedy)
