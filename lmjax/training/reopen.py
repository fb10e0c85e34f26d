"""A run that was trained, opened again from its workdir alone."""

import dataclasses
import json
import sys
from typing import Any, Literal

import jax
from etils import epath

from lmjax import sharding
from lmjax.checkpoint import checkpoints, locate
from lmjax.checkpoint.manifest import read_manifest
from lmjax.config import Config
from lmjax.console import print_line
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import CheckpointError, ConfigError
from lmjax.models.transformer import Transformer
from lmjax.schema import validate
from lmjax.tasks import prepare
from lmjax.tasks.fine_tuning import FineTuningTask
from lmjax.training import state
from lmjax.workdir.files import read_metrics


@dataclasses.dataclass(frozen=True)
class OpenedRun:
  """What a workdir holds, and one `step` of it; no array has been read."""

  folder: epath.Path
  config: Config
  tokenizer: Tokenizer
  task: Any  # a `Task`
  step: int
  manifest: dict

  def params(self, devices: int | None = None) -> tuple[dict, jax.sharding.Mesh]:
    """(verified parameters, the mesh that they lie on): so many of the devices (None: all), by the rules of training.

    Raises CheckpointError: the arrays cannot be read, or differ from their digests.
    """
    mesh = sharding.make_mesh(*self.config.mesh_on(jax.devices()[:devices]))
    return checkpoints.restore_params(self.folder, self.step, state.abstract_params(self.task, mesh)), mesh


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """What a workdir holds; the verified parameters of one `step` lie on `mesh`."""

  config: Config
  tokenizer: Tokenizer
  task: Any  # a `Task`
  mesh: jax.sharding.Mesh
  params: dict
  step: int
  data_fingerprint: str | None  # of its training data: see `Pipeline.fingerprint`
  workdir: str


def load_run(
  workdir: str, step: int | Literal['latest', 'best'] | None = None, devices: int | None = None
) -> TrainedRun:
  """Config, tokenizer and verified parameters of a workdir, over so many devices.

  Raises CheckpointError, ConfigError: see `open_run` and `OpenedRun.params`.
  """
  run = open_run(workdir, step)
  params, mesh = run.params(devices)
  fingerprint = run.manifest.get('data_fingerprint')
  return TrainedRun(run.config, run.tokenizer, run.task, mesh, params, run.step, fingerprint, workdir)


def open_run(workdir: str, step: int | Literal['latest', 'best'] | None = None) -> OpenedRun:
  """Reads config and tokenizer of a workdir, and the manifest of a step.

  Without `step` it is the best of a fine-tuned run, the latest of a pre-training run.

  Raises:
    CheckpointError: there is no run, or no such step.
    ConfigError: its config.json is not of this version.
  """
  folder = locate.reach('--workdir', workdir)
  config_file = folder / 'config.json'
  try:
    values = json.loads(config_file.read_text())
  except OSError as error:
    seeds = locate.seeds_of(folder)
    what = f'one of its runs, {seeds[0]}' if seeds else 'a folder that lmjax.main made'
    rule = 'no such file' if isinstance(error, FileNotFoundError) else error.strerror or 'cannot be read'
    raise CheckpointError(f'{config_file}: {rule}; give --workdir {what}') from error
  except ValueError as error:
    raise CheckpointError(
      f'{config_file}: not JSON ({error}); the folder is damaged; restore it from a copy'
    ) from error
  if not isinstance(values, dict):
    raise CheckpointError(f'{config_file}: holds no object; the folder is damaged, restore it from a copy')
  try:
    config = validate.build(Config, values)
  except ConfigError as error:
    raise ConfigError([f'{config_file}: {problem}' for problem in error.problems]) from error
  tokenizer = Tokenizer.load(str(folder / 'tokenizer.json'))
  task = prepare.build(config, tokenizer)
  if step is None:
    step = 'best' if isinstance(task, FineTuningTask) else 'latest'
  chosen = locate.choose('--workdir', workdir, folder, step)
  if isinstance(task, FineTuningTask) and task.calibration:
    _calibrate(task, folder, chosen)
  return OpenedRun(folder, config, tokenizer, task, chosen, read_manifest(locate.directory_of(folder), chosen))


def in_dtype(backbone: Transformer, dtype: str) -> Transformer:
  """The same backbone computing in another dtype, with the attention that is fastest for it."""
  config: Any = backbone.config
  config = dataclasses.replace(config, dtype=dtype, attention_implementation='auto')
  return dataclasses.replace(backbone, config=config)


def with_bad_text(trained: TrainedRun, bad_text: str | None) -> TrainedRun:
  """The run with another policy about text that is not UTF-8; None: its own."""
  if bad_text is None:
    return trained
  config: Any = trained.config
  data = dataclasses.replace(config.data, bad_text=bad_text)
  return dataclasses.replace(trained, config=dataclasses.replace(config, data=data))


def _calibrate(task: FineTuningTask, folder, step: int) -> None:
  """Gives a task what was chosen on the validation predictions of a step, or of the last one before it, or says so."""
  names = task.calibration.keys()
  lines = [line for line in read_metrics(folder) if line['split'] == 'valid' and names <= line.keys()]
  before = [line for line in lines if line['step'] <= step]
  if before:
    task.load_calibration({name: before[-1][name] for name in names})
  if not before or before[-1]['step'] != step:
    values = ', '.join(f'{name} = {value:.4g}' for name, value in task.calibration.items())
    where = f'that of step {before[-1]["step"]}' if before else 'not fitted'
    print_line(
      f'lmjax: metrics.jsonl has no evaluation of step {step} with {", ".join(names)}: {values} is {where}', sys.stderr
    )
