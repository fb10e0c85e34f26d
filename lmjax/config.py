"""One run as data: the Config, and how a file's ConfigDict becomes one. Imports no jax before a config is right."""

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from lmjax.checkpoint import handoff
from lmjax.checkpoint.config import CheckpointConfig, InitFrom
from lmjax.errors import ConfigError
from lmjax.hf.source import PublicModel, Source, open_source
from lmjax.hosts.config import HostsConfig
from lmjax.models.config import DEFAULTS, DROPOUTS, ModelConfig
from lmjax.schema import describe, validate
from lmjax.schema.slices import EvalConfig, MeshConfig, OptimConfig, ProfileConfig, TrainConfig, WriterConfig
from lmjax.schema.types import NonNegativeInt, section
from lmjax.tasks.table import TASKS

# The settings that a model given in full has.
WHOLE_MODEL = {field.name for field in dataclasses.fields(ModelConfig)} - DEFAULTS.keys()

if TYPE_CHECKING:
  TaskName = str
else:
  TaskName = Literal[tuple(TASKS)]


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
  samples: what is shown of the model during training
  checkpoint: what is saved and kept
  writer: where metrics go besides metrics.jsonl
  profile: a trace of some steps
  hosts: how long they wait for each other, and when a run counts as hanging
  """

  task: TaskName
  seed: NonNegativeInt
  init_from: InitFrom
  model: ModelConfig
  objective: Any  # this one, data and samples: of a class that the task chooses
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
  def chosen(values: dict) -> dict[str, type]:
    """The classes of objective, data and samples: its task's; while the task is wrong, those that fit the keys best."""
    classes: dict[str, dict[str, Any]] = {
      task: {'objective': t.objective, 'data': t.data, 'samples': t.samples} for task, t in TASKS.items()
    }
    if isinstance(task := values.get('task'), str) and task in classes:
      return classes[task]
    inside = {name: values[name] for name in ('objective', 'data', 'samples') if isinstance(values.get(name), dict)}
    given = [(name, key) for name, section in inside.items() for key in section]
    fitting = lambda chosen: sum(key in chosen[name].__dataclass_fields__ for name, key in given)
    return max(classes.values(), key=fitting)

  @staticmethod
  def owners(path: str) -> list[str]:
    """The tasks that have a setting of this path."""
    return [task for task in TASKS if path in describe.nodes(Config, {'task': task})]

  def resolved(self, rows: int | None) -> 'Config':
    """The settings that depend on the number of training rows filled in; ConfigError where they break a rule.

    With rows = None all of them are given already (see TrainConfig, EvalConfig, OptimConfig).
    """
    values = describe.to_dict(self)
    t, e, c, o = (values[name] for name in ('train', 'eval', 'checkpoint', 'optim'))
    if rows is not None:
      epoch = math.ceil(rows / self.data.batch_size)
      if t['steps'] is None:
        t['steps'] = max(math.ceil(t['epochs'] * rows / self.data.batch_size), 1)
      t['epochs'] = None
      e['every'] = e['every'] or max(min(epoch, t['steps']), 1)
      c['every'] = c['every'] or e['every']
      if o['warmup_steps'] is None:
        o['warmup_steps'] = t['steps'] // 10
    # all of it again: a section that the data has filled in has rules too, and `replace` would raise pydantic's error
    return validate.build(Config, values)

  def problems(self):
    """Rules between the slices: those of every run, then those of its task."""
    m, d, t = self.model, self.data, self.train
    if self.init_from.path is None and d.tokenizer is None:
      yield 'data.tokenizer', 'must be given with init_from.path = None', 'give one, or a checkpoint'
    if m.max_length is not None and d.length > m.max_length:
      rule = f'is longer than the position table, model.max_length = {m.max_length}'
      yield 'data.length', rule, 'shorten it, or lengthen the table'
    if m.attention_implementation == 'splash' and d.length % 128:
      rule, more = 'must be a multiple of 128 for splash attention', -(-d.length // 128) * 128
      yield 'data.length', rule, f'try {more}'
    if d.batch_size % t.accumulate:
      yield 'train.accumulate', f'must divide data.batch_size = {d.batch_size}', 'change one of them'
    if t.steps and self.optim.warmup_steps is not None:  # without steps the start is evaluated, and no more
      decay = self.optim.decay_steps or 0
      if self.optim.warmup_steps + decay > t.steps:
        rule = f'with optim.decay_steps must fit into train.steps = {t.steps}'
        yield 'optim.warmup_steps', rule, 'shorten the warm-up'
    yield from TASKS[self.task].rules(self)

  def mesh_on(self, devices: list) -> tuple[MeshConfig, list]:
    """The run's mesh on so many of the devices as its model and its batch can be split over, and those devices.

    Where the axes do not make that number, the nearest ones that do.
    """
    from lmjax import sharding  # imports jax

    for count in range(len(devices), 1, -1):
      mesh = self.mesh
      if sharding.mesh_shape(mesh, count) is None:
        mesh = MeshConfig(*sharding.nearest_mesh(mesh, count))
      if not any(dataclasses.replace(self, mesh=mesh).device_problems(count)):
        return mesh, devices[:count]
    return MeshConfig(1, 1, 1), devices[:1]

  def device_problems(self, devices: int):
    """Rules between the run and the number of devices it is to run on, in the form of `problems`."""
    from lmjax import sharding  # imports jax

    m, d = self.model, self.data
    sizes = sharding.mesh_shape(self.mesh, devices)
    if sizes is None:
      nearest = zip(sharding.AXES, sharding.nearest_mesh(self.mesh, devices))
      shown = ', '.join(f'{axis}={size}' for axis, size in nearest)
      axis = next((name for name in sharding.AXES if getattr(self.mesh, name) not in (None, 1)), 'data')
      rule = f'must make {devices} devices with the other axes'
      yield f'mesh.{axis}', rule, f'the nearest mesh is {shown}; None takes what the others leave'
      return
    data, fsdp, tensor = sizes
    rows = d.batch_size // self.train.accumulate
    shared = 'mesh.data x mesh.fsdp' if self.train.accumulate == 1 else 'mesh.data x mesh.fsdp, after train.accumulate'
    divisions = [('data.batch_size', rows, data * fsdp, shared), ('model.width', m.width, fsdp, 'mesh.fsdp')]
    for name in ('heads', 'kv_heads', 'mlp_width', 'vocab_multiple'):
      divisions.append((f'model.{name}', getattr(m, name), tensor, 'mesh.tensor'))
    for path, divided, divisor, name in divisions:
      if divided % divisor:
        yield path, f'must be divisible by {name} = {divisor}', 'change it, or the mesh'


def load(
  config, problems=(), model: dict | None = None, given: Iterable[str] | None = ()
) -> tuple[Config, Source | None]:
  """(the Config, what it starts from or None) of a file's ConfigDict.

  Model and tokenizer are those of `init_from`. Single settings of a model, as fine-tuning configs give, are compared
  with its own; a whole model, such as a preset, gives way, and before a public model dropout and tokenizer, too.

  Args:
    config: the ConfigDict, or a dict.
    problems: lines from the command line, to be reported together with these.
    model: the settings of the model that the run starts from, where that checkpoint is not there yet: a study knows
      them before its stages have run. None: they are read from the checkpoint, which is opened here and only here.
    given: paths of the command line's settings, which count in a whole model too; None: all do, in a saved config.

  Raises:
    ConfigError: with every problem, one line each.
    CheckpointError: `init_from` names no checkpoint.
  """
  problems, values, source = list(problems), describe.to_dict(config), None
  asked = values.get('model')
  init_from, wrong = validate.check(InitFrom, values.get('init_from') or {})
  if not wrong and isinstance(asked, dict):  # what is wrong there is reported with its full path by the last line
    if init_from.path is None and 'layers' not in asked:
      rule = 'must be given in full with init_from.path = None'
      remedy = 'name a checkpoint, or give preset=NAME to the config file'
      raise ConfigError([*problems, *validate.lines([('model', asked, rule, remedy)])])
    if init_from.path is not None:
      if model is None:
        source = open_source(init_from)
        model = source.model
      if given is not None:
        names = {path.split('.')[1] for path in given if path.startswith('model.')} | {'attention'}
        is_public = isinstance(source, PublicModel)
        gives_way = set(asked) if WHOLE_MODEL <= asked.keys() else set(DROPOUTS) if is_public else set()
        asked = {name: value for name, value in asked.items() if name in names or name not in gives_way}
        if is_public and 'tokenizer' in (data := values.get('data') or {}):
          own = [path for path in given if path.startswith('data.tokenizer')]
          rule, remedy = 'has no effect: the tokenizer is that of the public model', 'leave it out'
          problems += [validate.line(path, None, rule, remedy) for path in own]
          values['data'] = data | {'tokenizer': None}
      values['model'], refused = handoff.adapt_model(model, asked, init_from.convert)
      problems += validate.lines(refused)
  return validate.build(Config, values, problems), source


def build(config) -> Config:
  """The Config of a file's ConfigDict alone; see `load`."""
  return load(config)[0]


def check_devices(config: Config, devices: int) -> None:
  """Raises ConfigError where the mesh does not make the devices, or divide the model and the batch."""
  values = describe.settings(config)
  if problems := validate.lines((path, values[path], *rest) for path, *rest in config.device_problems(devices)):
    raise ConfigError(problems)
