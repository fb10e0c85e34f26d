"""Which checkpoint: of a folder, by its step, the latest or the best. Reads manifests, and imports no jax."""

import dataclasses
import math
import os
from typing import ClassVar, Literal

from etils import epath

from lmjax import paths
from lmjax.checkpoint.config import InitFrom
from lmjax.checkpoint.manifest import SchemaError, read_manifest
from lmjax.errors import GCS_REMEDY, CheckpointError, reason
from lmjax.models.config import ADAPTERS
from lmjax.workdir import files


def absolute(folder) -> epath.Path:
  """A folder as an absolute path (Orbax takes no other), or a URL."""
  return epath.Path(folder if '://' in str(folder) else os.path.abspath(folder))


def reach(name: str, given: str) -> epath.Path:
  """The folder that a flag or a setting names; an object store must answer.

  Raises CheckpointError: it does not; asked once, since each library of object stores raises errors of its own.
  """
  try:
    path = absolute(os.path.expanduser(given))
    if '://' in given:
      path.exists()
  except Exception as error:
    raise CheckpointError(f'{name} = {given}: cannot be reached ({reason(error)}); {GCS_REMEDY}') from error
  return path


def directory_of(workdir) -> epath.Path:
  """WORKDIR/checkpoints."""
  return absolute(workdir) / 'checkpoints'


def saved_steps(directory: epath.Path) -> list[int]:
  """Steps that have a folder, oldest first, whatever is in it; one on an object store, once it is whole there."""
  if not directory.is_dir():
    return []
  folders = [p for p in directory.iterdir() if p.name.isdecimal()]
  if '://' in str(directory):
    # no folder is renamed there: Orbax writes under the final name, and this file last
    folders = [p for p in folders if (p / 'commit_success.txt').exists()]
  return sorted(int(p.name) for p in folders)


def evaluated(directory: epath.Path) -> dict[int, float]:
  """{step: how good it is} of the checkpoints that were evaluated; higher is better.

  By the manifest; where the run was stopped while it evaluated, by the line that it wrote when it continued. A
  checkpoint whose manifest is damaged is skipped here, and reported when it is opened.
  """
  ranks, lines = {}, None
  for step in saved_steps(directory):
    try:
      best = read_manifest(directory, step)['best']
    except SchemaError:
      raise
    except CheckpointError:
      continue
    value = best['value']
    if value is None:
      if lines is None:
        lines = {x['step']: x for x in files.read_metrics(directory.parent) if x['split'] == 'valid'}
      value = lines.get(step, {}).get(best['metric'])
    if value is not None and not math.isnan(value):
      ranks[step] = value if best['highest'] else -value
  return ranks


def seeds_of(workdir: epath.Path) -> list[epath.Path]:
  """The runs of several seeds, WORKDIR/seed0, ..., if it holds them."""
  return sorted(workdir.glob('seed*')) if workdir.exists() else []


def choose(setting: str, given: str, workdir: epath.Path, step: int | Literal['latest', 'best']) -> int:
  """The step of a run's checkpoint that is meant; the best is the earliest of equals.

  `setting`, --workdir or init_from.path, and its value `given` name the run in messages.

  Raises CheckpointError: no run there, no checkpoint, no such step, or none that was evaluated.
  """
  steps = saved_steps(workdir / 'checkpoints')
  if not steps:
    rule = 'no checkpoint there' if workdir.exists() else 'no such folder'
    runs = seeds_of(workdir)
    first = 'let that run reach its first one' if setting == '--workdir' else 'run the pre-training first'
    remedy = f'choose one of its runs, such as {runs[0]}' if runs else first
    is_public = any((workdir / f'model.safetensors{index}').exists() for index in ('', '.index.json'))
    if is_public and setting != '--workdir':
      remedy = f'for the public model there give hf:{given}'
    raise CheckpointError(f'{setting} = {given}: {rule}; {remedy}, or name the workdir of a run')
  if step == 'best':
    ranks = evaluated(workdir / 'checkpoints')
    if not ranks:
      raise CheckpointError(f'{workdir / "checkpoints"}: no checkpoint was evaluated when it was saved; choose a step')
    return max(ranks, key=lambda step: (ranks[step], -step))
  step = steps[-1] if step == 'latest' else step
  if step not in steps:
    name = setting.replace('workdir', 'step').replace('path', 'step')
    raise CheckpointError(f'{name} = {step}: not among the checkpoints of {workdir}; choose one of {steps}')
  return step


@dataclasses.dataclass(frozen=True)
class InitCheckpoint:
  """A checkpoint that another run starts from; only metadata has been read."""

  workdir: str  # of its run
  step: int
  manifest: dict
  optional: ClassVar[frozenset[str]] = frozenset()  # see `handoff.plan`

  @property
  def name(self) -> str:
    """What messages call it."""
    return self.workdir

  @property
  def model(self) -> dict:
    """The settings of its model."""
    return self.manifest['model']

  @property
  def tokenizer_file(self) -> str:
    """Its tokenizer.json."""
    return f'{self.workdir}/tokenizer.json'

  @property
  def tokenizer_hash(self) -> str:
    """Of the tokenizer that it was trained with."""
    return self.manifest['tokenizer_hash']

  @property
  def arrays(self) -> dict[str, dict]:
    """{path: {'shape', 'dtype'}} of its parameters; adapters count as merged into their kernels."""
    return {
      path.removeprefix('params/'): array
      for path, array in self.manifest['arrays'].items()
      if path.startswith('params/') and not paths.matches(path, ADAPTERS)
    }


def open_source(config: InitFrom) -> InitCheckpoint:
  """Finds the checkpoint that `init_from` names.

  Raises CheckpointError: no run there, no checkpoint, no such step, or a save that was cut short.
  """
  path, step = reach('init_from.path', config.path), config.step
  if path.name.isdigit() and path.parent.name == 'checkpoints':
    if step not in ('latest', int(path.name)):
      raise CheckpointError(f'init_from.step = {step}: init_from.path names step {path.name}; leave it at latest')
    path, step = path.parent.parent, int(path.name)
  step = choose('init_from.path', config.path, path, step)
  manifest = read_manifest(path / 'checkpoints', step)
  model = manifest.get('model')
  if not isinstance(model, dict) or 'attention' not in model or 'tokenizer_hash' not in manifest:
    rule = f'its manifest of step {step} names no model'
    raise CheckpointError(f'init_from.path = {path}: {rule}; choose another checkpoint')
  return InitCheckpoint(str(path), step, manifest)
