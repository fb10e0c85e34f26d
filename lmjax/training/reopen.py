"""A run that was trained, opened again from its workdir alone."""

import dataclasses
import json
from typing import Any, Literal

import jax

from lmjax import optim, sharding, tasks
from lmjax.checkpoint import checkpoints, locate
from lmjax.checkpoint.locate import best_step
from lmjax.checkpoint.manifest import read_manifest
from lmjax.config import Config
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import CheckpointError, ConfigError
from lmjax.schema import validate
from lmjax.training import initialize


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """What a workdir holds.

  Attributes:
    config: its Config.
    tokenizer: its Tokenizer.
    task: its task.
    params: the parameters, verified, on one device.
    step: how many batches they saw.
  """

  config: Config
  tokenizer: Tokenizer
  task: Any
  params: dict
  step: int


def open_run(workdir: str, step: int | Literal['latest', 'best'] | None = None) -> TrainedRun:
  """Reads config, tokenizer and verified parameters of a workdir.

  Args:
    workdir: the run's folder.
    step: which checkpoint; None: the best of a fine-tuned run, the latest of a pre-training run.

  Raises:
    CheckpointError: there is no run, no such step, or its arrays differ from their digests.
    ConfigError: its config.json is not of this version.
  """
  folder = locate.reach('--workdir', workdir)
  config_file = folder / 'config.json'
  try:
    values = json.loads(config_file.read_text())
  except OSError as error:
    seeds = sorted(child.name for child in folder.glob('seed*'))
    what = f'one of its runs, {folder / seeds[0]}' if seeds else 'a folder that lmjax.main made'
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
  task = tasks.build(config, tokenizer)
  results_file = folder / 'results.json'
  if task.HAND_OFF and results_file.exists():
    try:
      task.use(json.loads(results_file.read_text())['settings'])
    except (ValueError, KeyError, TypeError) as error:
      what = f'not what a finished run writes ({type(error).__name__}: {error})'
      raise CheckpointError(f'{results_file}: {what}; remove it, and run the training command again') from error
  if step is None:
    step = 'best' if task.HAND_OFF else 'latest'
  directory = folder / 'checkpoints'
  steps = locate.saved_steps(directory)
  if not steps:
    raise CheckpointError(f'{directory}: no checkpoint; let the run reach its first one')
  if step == 'best':
    step = best_step(directory)
  if step != 'latest' and step not in steps:
    raise CheckpointError(f'step {step}: not among the checkpoints of {folder}; choose one of {steps}')
  chosen = steps[-1] if step == 'latest' else step
  mesh = sharding.one_device_mesh()
  where = sharding.replicated(mesh)
  abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), task.shapes())
  manifest = read_manifest(directory, chosen)
  if config.checkpoint.only_trained:
    abstract = optim.pruned(optim.split(config.optim, abstract)[0])
  params = checkpoints.restore_params(folder, chosen, abstract)
  return TrainedRun(config, tokenizer, task, initialize.whole_params(config, task, mesh, manifest, params), chosen)
