"""One run as data: the Config, and how a file's ConfigDict becomes one. Imports no jax before a config is right."""

import dataclasses
import math
from typing import Any, Literal

from lmjax.checkpoint import handoff, locate
from lmjax.checkpoint.config import CheckpointConfig, InitFrom
from lmjax.errors import ConfigError
from lmjax.hosts.config import HostsConfig
from lmjax.models.config import ModelConfig
from lmjax.schema import describe, validate
from lmjax.schema.slices import EvalConfig, MeshConfig, OptimConfig, ProfileConfig, TrainConfig, WriterConfig
from lmjax.schema.types import NonNegativeInt, section
from lmjax.tasks.table import FINE_TUNING, PRE_TRAINING, TASKS

__all__ = ['FINE_TUNING', 'PRE_TRAINING', 'Config', 'build', 'check_devices']


@section
class Config:
  """A run.

  task: causal_lm (GPT) or masked_lm (BERT) to pre-train; classification, extractive_qa or summarization to fine-tune
  seed: of the weights, the order of the data, masks and dropout
  init_from: the checkpoint that the run starts from
  model: the network; with a checkpoint, its own but for the settings given here
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
  objective: Any  # this one, data and samples: of a class that the task chooses, see ROOTS
  data: Any
  optim: OptimConfig
  mesh: MeshConfig
  train: TrainConfig
  eval: EvalConfig
  samples: Any
  checkpoint: CheckpointConfig
  writer: WriterConfig = WriterConfig()
  profile: ProfileConfig = ProfileConfig()
  hosts: HostsConfig = HostsConfig()

  @staticmethod
  def choose(values: dict) -> type['Config']:
    """The class for a config: its task's; while the task is wrong, the one that fits the keys given best."""
    task = values.get('task')
    if isinstance(task, str) and task in ROOTS:
      return ROOTS[task]

    def fitting(name: str) -> int:
      sections = {'objective': TASKS[name].objective, 'data': TASKS[name].data, 'samples': TASKS[name].samples}
      given = {part: values[part] for part in sections if isinstance(values.get(part), dict)}
      return sum(key in describe.documentation(sections[part]) for part, inner in given.items() for key in inner)

    return ROOTS[max(ROOTS, key=fitting)]

  @staticmethod
  def owners(path: str) -> list[str]:
    """The tasks that have a setting of this path."""
    return [task for task, root in ROOTS.items() if any(node.path == path for node in describe.walk(root, {}))]

  def due(self, step: int) -> set[str]:
    """What happens once `step` batches are done: of log, evaluate, save."""
    every = {'log': self.train.log_every, 'evaluate': self.eval.every, 'save': self.checkpoint.every}
    return {name for name, n in every.items() if step == self.train.steps or step % n == 0}

  def resolved(self, rows: int | None) -> 'Config':
    """The settings that depend on the number of training rows, filled in (see TrainConfig, EvalConfig, OptimConfig).

    Args:
      rows: training rows; None where all settings are given.

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
    """Rules between the slices: those of every run, then those of its task."""
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
    yield from TASKS[self.task].rules(self)

  def device_problems(self, devices: int):
    """Rules between the run and the number of devices it is to run on, in the form of `problems`."""
    from lmjax import sharding  # imports jax

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


def _root(task: str) -> type[Config]:
  """The class of the configs of one task."""
  chosen = {name: getattr(TASKS[task], name) for name in ('objective', 'data', 'samples')}
  body = {'__annotations__': chosen, '__doc__': Config.__doc__, '__module__': __name__}
  return section(type('Config', (Config,), body))


ROOTS = {task: _root(task) for task in TASKS}


def build(config, *, devices: int | None = None, problems=()) -> Config:
  """A file's ConfigDict (or a dict) -> Config.

  Args:
    config: the ConfigDict; or a Config, whose rules are checked again.
    devices: number of devices it is to run on, to check the mesh once all else is right; None: not checked.
    problems: lines from the command line, to be reported together with these.

  Raises:
    ConfigError: with every problem, one line each.
  """
  problems, values = list(problems), describe.to_dict(config)
  if not isinstance(config, Config):
    try:
      problems += _take_model(values)
    except ConfigError as error:
      raise ConfigError([*problems, *error.problems]) from error
  built, found = validate.check(Config, values)
  if problems or found:
    raise ConfigError([*problems, *found])
  if devices is not None:
    check_devices(built, devices)
  return built


def load(config, problems=()) -> tuple[Config, locate.InitCheckpoint | None]:
  """(the Config, the checkpoint that it starts from, None where it does not) of a file's ConfigDict.

  Raises:
    ConfigError, CheckpointError: with every problem.
  """
  built = build(config, problems=problems)
  return built, None if built.init_from.path is None else locate.open_source(built.init_from)


def check_devices(config: Config, devices: int) -> None:
  """Refuses a mesh that does not make the devices, or divide the model and the batch.

  Raises:
    ConfigError: with every problem.
  """
  problems = [
    validate.line(path, validate.show(value), rule, remedy)
    for path, value, rule, remedy in config.device_problems(devices)
  ]
  if problems:
    raise ConfigError(problems)


def _take_model(values: dict) -> list[str]:
  """Fills in `values['model']` from the checkpoint of `values['init_from']`; returns the problems, one line each."""
  asked = values.get('model')
  try:
    init_from = validate.build(InitFrom, values.get('init_from') or {})
  except ConfigError:
    return []  # reported with its full path by the build of the whole
  if not isinstance(asked, dict):
    return []
  if init_from.path is None:
    if 'layers' in asked:
      return []
    rule = 'must be given in full with init_from.path = None'
    remedy = 'name a checkpoint, or give preset=NAME to the config file'
    raise ConfigError(validate.line('model', validate.show(asked), rule, remedy))
  saved = locate.open_source(init_from).manifest['model']
  values['model'], problems = handoff.adapt_model(saved, asked, init_from.convert)
  return [validate.line(path, validate.show(value), rule, remedy) for path, value, rule, remedy in problems]
