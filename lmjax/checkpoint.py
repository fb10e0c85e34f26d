"""Checkpoints that are verified: the only module that imports Orbax.

`WORKDIR/checkpoints/<step>/` holds the state after that many batches, and `manifest/manifest.json`, written
before the step takes its final name. The manifest has a digest of every array, the same on any mesh, because one
flipped byte inside array data is restored by Orbax without a word.
"""

import dataclasses
import functools
import importlib.metadata
import json
import os
import subprocess
import time

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp

import lmjax
from lmjax import paths
from lmjax.digests import describe_arrays
from lmjax.errors import GCS_REMEDY, CheckpointError, reason
from lmjax.fields import NonNegativeInt, PositiveInt

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  """What is saved, and what is kept.

  every: batches from one checkpoint to the next; the last batch is always followed by one; None: at each evaluation
  keep_last: newest checkpoints that are kept
  keep_every: checkpoints at multiples of this stay for good; None for off
  keep_best: checkpoints that are best in the task's validation metric, kept besides; 0 for none
  only_trained: whether parameters that do not move are left out; they are read from init_from again
  """

  every: PositiveInt | None
  keep_last: PositiveInt
  keep_every: PositiveInt | None
  keep_best: NonNegativeInt
  only_trained: bool

  def problems(self):
    """A multiple that no checkpoint falls on would keep nothing."""
    if self.keep_every is not None and self.every is not None and self.keep_every % self.every:
      yield 'keep_every', self.keep_every, f'must be a multiple of checkpoint.every = {self.every}', 'or None'


class _Manifest:
  """Stores a dict of JSON values as a readable file (Orbax would store it as arrays)."""

  def __init__(self):
    self._json = ocp.handlers.JsonHandler(filename='manifest.json')

  async def save(self, directory, checkpointable):
    return await self._json.save(directory, checkpointable)

  async def load(self, directory, abstract_checkpointable=None):
    return await self._json.load(directory, abstract_checkpointable)

  async def metadata(self, directory):
    return None

  def is_handleable(self, checkpointable):
    return isinstance(checkpointable, dict)

  def is_abstract_handleable(self, abstract_checkpointable):
    return None


@functools.cache
def _git_commit() -> str | None:
  """The commit of the code that runs, if it runs from a checkout."""
  here = os.path.dirname(os.path.abspath(lmjax.__file__))
  try:
    found = subprocess.run(
      ['git', '-C', here, 'rev-parse', 'HEAD'], capture_output=True, text=True, timeout=5, check=True
    )
    return found.stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


def versions() -> dict[str, str]:
  """Versions of what wrote a checkpoint."""
  names = ('jax', 'flax', 'orbax-checkpoint')
  return {'lmjax': lmjax.__version__, **{name: importlib.metadata.version(name) for name in names}}


def read_manifest(directory: epath.Path, step: int) -> dict:
  """The manifest of a step.

  Raises:
    CheckpointError: it is missing, broken, or of a newer schema.
  """
  file = directory / str(step) / 'manifest' / 'manifest.json'
  try:
    manifest = json.loads(file.read_text())
    schema, _ = manifest['schema'], manifest['arrays']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise CheckpointError(
      f'{file}: no readable manifest ({type(error).__name__}); the save was cut short; choose another step'
    ) from error
  if schema > SCHEMA:
    raise CheckpointError(f'{file}: schema {schema}, this lmjax reads up to {SCHEMA}; install the newer lmjax')
  return manifest


def saved_steps(directory: epath.Path) -> list[int]:
  """Steps that have a folder, oldest first, whatever is in it; one on an object store, once it is whole there."""
  if not directory.is_dir():
    return []
  folders = [p for p in directory.iterdir() if p.name.isdigit()]
  if '://' in str(directory):
    # no folder is renamed there: Orbax writes under the final name, and this file last
    folders = [p for p in folders if (p / 'commit_success.txt').exists()]
  return sorted(int(p.name) for p in folders)


def absolute(folder) -> epath.Path:
  """A folder as an absolute path (Orbax takes no other), or a URL."""
  return epath.Path(folder if '://' in str(folder) else os.path.abspath(folder))


def reach(name: str, given: str) -> epath.Path:
  """The folder that a flag or a leaf names; an object store must answer.

  Raises:
    CheckpointError: it does not; asked once, since each library of object stores raises errors of its own.
  """
  path = absolute(os.path.expanduser(given))
  try:
    if '://' in given:
      path.exists()
  except Exception as error:
    raise CheckpointError(f'{name} = {given}: cannot be reached ({reason(error)}); {GCS_REMEDY}') from error
  return path


def directory_of(workdir) -> epath.Path:
  """WORKDIR/checkpoints."""
  return absolute(workdir) / 'checkpoints'


def restore_params(workdir, step: int, abstract: dict) -> dict:
  """The parameters of one checkpoint, without the optimizer's state, verified against their digests.

  Raises:
    CheckpointError: the checkpoint is broken, or not of this model.
  """
  directory = directory_of(workdir)
  said = read_manifest(directory, step)['arrays']
  for path, leaf in paths.flatten({'params': abstract}).items():
    there = said.get(path, {'shape': 'nothing'})
    if there['shape'] != list(leaf.shape):
      raise CheckpointError(
        f'{path}: the model needs {list(leaf.shape)}, step {step} of {directory} has {there["shape"]}'
      )
  return load_verified(directory, step, {'params': abstract})['params']


def load_verified(directory: epath.Path, step: int, abstract: dict) -> dict:
  """Some arrays of a checkpoint's state, each verified against its digest, then converted to the dtype asked for.

  Args:
    directory: WORKDIR/checkpoints.
    step: which.
    abstract: a tree of shapes, dtypes and shardings; every path must be in the manifest, with that shape.

  Raises:
    CheckpointError: the arrays cannot be read, or differ from their digests.
  """
  said = read_manifest(directory, step)['arrays']
  # read in the dtype that was written: Orbax would convert without a word, and the digest would be another
  as_saved = paths.map_with_path(
    lambda path, a: jax.ShapeDtypeStruct(a.shape, said[path]['dtype'], sharding=a.sharding), abstract
  )
  context = ocp.Context()
  context.pytree.loading.partial_load = True
  try:
    with context:
      loaded = ocp.load_checkpointables(directory / str(step), {'state': as_saved})['state']
  except Exception as error:  # Orbax and tensorstore raise many types for broken files
    raise CheckpointError(
      f'{directory / str(step)}: cannot be read: {str(error).splitlines()[0][:200]}; choose another step'
    ) from error
  wrong = [path for path, facts in describe_arrays(loaded).items() if facts != said[path]]
  if wrong:
    raise CheckpointError(
      f'{directory / str(step)}: {len(wrong)} arrays differ from their digests, such as {wrong[0]}; choose another step'
    )
  return jax.tree.map(lambda a, wanted: a.astype(wanted.dtype), loaded, abstract)


def best_step(directory: epath.Path) -> int:
  """The step with the best validation metric, as its own run ranks them; the earliest of equals.

  Raises:
    CheckpointError: no checkpoint was evaluated.
  """
  ranked = []
  for step in saved_steps(directory):
    best = read_manifest(directory, step).get('best')
    if best is not None:
      ranked.append((best['value'] if best['highest'] else -best['value'], -step))
  if not ranked:
    raise CheckpointError(f'{directory}: no checkpoint was evaluated when it was saved; choose a step')
  return -max(ranked)[1]


def retention(config: CheckpointConfig, best: str, highest: bool = False):
  """Orbax's policy for what is kept: the last, every n-th, and the best in the metric `best`."""
  policies = ocp.training.preservation_policies
  keep = [policies.LatestN(config.keep_last)]
  if config.keep_every is not None:
    keep.append(policies.EveryNSteps(config.keep_every))
  if config.keep_best:
    keep.append(
      # Orbax keeps the end of the sorted list: sorted from worst to best
      policies.BestN(
        get_metric_fn=lambda metrics: metrics[best],
        reverse=not highest,
        n=config.keep_best,
        keep_checkpoints_without_metrics=False,
      )
    )
  return policies.AnyPreservationPolicy(keep)


class Checkpoints:
  """The checkpoints of one run.

  Args:
    workdir: the run's folder, local or `gs://`.
    config: what is kept.
    best: name of the validation metric that `keep_best` goes by.
    highest: whether higher is better in it.
  """

  def __init__(self, workdir, config: CheckpointConfig, best: str, highest: bool = False):
    self._best, self._highest = best, highest
    self.directory = directory_of(workdir)
    registry = ocp.handlers.local_registry()
    registry.add(_Manifest, checkpointable_name='manifest')
    context = ocp.Context()
    context.checkpointables.registry = registry
    self._orbax = ocp.training.Checkpointer(
      self.directory,
      context=context,
      preservation_policy=retention(config, best, highest),
      cleanup_tmp_directories=True,
    )

  def save(self, step: int, state, facts: dict, metrics: dict[str, float] | None = None) -> None:
    """Starts saving `state` under `step`; the arrays are copied before this returns, and written afterwards.

    Args:
      step: batches seen.
      state: a NamedTuple of trees of arrays.
      facts: what the manifest says besides versions and digests.
      metrics: of the evaluation at this step, if there was one.

    Raises:
      CheckpointError: this save was refused, or an earlier one failed.
    """
    self.wait()
    newest = max(saved_steps(self.directory), default=-1)
    if step <= newest:
      # Orbax would skip it and say nothing, or save it below the step that the next run resumes from
      raise CheckpointError(f'step {step}: {self.directory} has step {newest} already; use another workdir')
    tree = state._asdict()
    best = None if metrics is None else {'metric': self._best, 'value': metrics[self._best], 'highest': self._highest}
    manifest = {
      'schema': SCHEMA,
      'step': step,
      'versions': versions(),
      'git_commit': _git_commit(),
      'devices': jax.device_count(),
      'best': best,
      **facts,
      'arrays': describe_arrays(tree),
    }
    checkpointables = {'state': tree, 'manifest': manifest}
    self._orbax.save_checkpointables_async(step, checkpointables, force=True, metrics=metrics)

  def wait(self) -> None:
    """Blocks until nothing is being written.

    Raises:
      CheckpointError: the write failed (a full disk); older checkpoints are as they were.
    """
    try:
      self._orbax.wait()
    except Exception as error:
      raise CheckpointError(f'{self.directory}: saving failed: {error}; older checkpoints are intact') from error

  def restore_latest(self, abstract, check=lambda manifest: None, say=print):
    """The newest checkpoint that is intact, or None where there is none at all.

    Args:
      abstract: shapes, dtypes and shardings of the state.
      check: called with the manifest before arrays are read; raises CheckpointError for another run's.
      say: told which checkpoints were rejected, and why.

    Returns:
      (state, manifest), or None.

    Raises:
      CheckpointError: there are checkpoints, and none is intact: nothing starts again from step 0 unasked.
    """
    rejected = []
    for step in reversed(saved_steps(self.directory)):
      try:
        manifest = read_manifest(self.directory, step)
      except CheckpointError as error:
        rejected.append((step, str(error)))
        continue
      check(manifest)
      try:
        state = self._restore(step, abstract, manifest)
      except Exception as error:  # Orbax and tensorstore raise many types for broken files
        rejected.append((step, reason(error)[:200]))
        continue
      self._set_aside(rejected, say)
      return state, manifest
    if rejected:
      reasons = '; '.join(f'{step}: {why}' for step, why in rejected)
      raise CheckpointError(
        f'{self.directory}: none of {len(rejected)} checkpoints is intact ({reasons}); '
        'restore them from a copy, or choose a new --workdir to start again'
      )
    return None

  def _restore(self, step, abstract, manifest):
    target = abstract._asdict()
    loaded = self._orbax.load_checkpointables(step, {'state': target})['state']
    found, said = describe_arrays(loaded), manifest['arrays']
    wrong = [path for path in sorted(found.keys() | said.keys()) if found.get(path) != said.get(path)]
    if wrong:
      raise CheckpointError(f'{len(wrong)} arrays differ from their digests, such as {wrong[0]}')
    return type(abstract)(**loaded)

  def _set_aside(self, rejected, say):
    """Moves rejected steps out of the way: Orbax would refuse to save a step that is not above them."""
    for step, why in rejected:
      aside = self.directory.parent / 'rejected_checkpoints'
      aside.mkdir(parents=True, exist_ok=True)
      target = aside / f'{step}-{int(time.time())}'
      say(f'checkpoint {step} rejected: {why}; moved to {target}')
      (self.directory / str(step)).rename(target)
    if rejected:
      self._orbax.reload()

  def close(self) -> None:
    """Waits, then lets go of the folder."""
    self.wait()
    self._orbax.close()
