"""A run that was trained, opened again from its workdir alone."""

import dataclasses
import json
from typing import Any, Literal

import jax

from lmjax import sharding
from lmjax.checkpoint import checkpoints, locate
from lmjax.config import Config
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import CheckpointError, ConfigError
from lmjax.schema import validate
from lmjax.tasks import prepare
from lmjax.tasks.fine_tuning import FineTuningTask
from lmjax.training import state


@dataclasses.dataclass(frozen=True)
class TrainedRun:
  """What a workdir holds; the verified parameters of one `step` lie on `mesh`."""

  config: Config
  tokenizer: Tokenizer
  task: Any  # a `Task`
  mesh: jax.sharding.Mesh
  params: dict
  step: int


def load_run(
  workdir: str, step: int | Literal['latest', 'best'] | None = None, devices: int | None = None
) -> TrainedRun:
  """Reads config, tokenizer and verified parameters of a workdir.

  Without `step` it is the best of a fine-tuned run, the latest of a pre-training run. The parameters are laid over so
  many of the devices (None: all) by the rules of training.

  Raises:
    CheckpointError: there is no run, no such step, or its arrays differ from their digests.
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
  results_file = folder / 'results.json'
  if isinstance(task, FineTuningTask) and results_file.exists():
    try:
      task.load_calibration(json.loads(results_file.read_text())['settings'])
    except (ValueError, KeyError, TypeError) as error:
      what = f'not what a finished run writes ({type(error).__name__}: {error})'
      raise CheckpointError(f'{results_file}: {what}; remove it, and run the training command again') from error
  if step is None:
    step = 'best' if isinstance(task, FineTuningTask) else 'latest'
  chosen = locate.choose('--workdir', workdir, folder, step)
  mesh = sharding.make_mesh(*config.mesh_on(jax.devices()[:devices]))
  params = checkpoints.restore_params(folder, chosen, state.abstract_params(task, mesh))
  return TrainedRun(config, tokenizer, task, mesh, params, chosen)
