"""Checkpoints that are verified: the only module that imports Orbax.

`WORKDIR/checkpoints/<step>/` holds the state after that many batches, and `manifest/manifest.json`, written
before the step takes its final name. The manifest has a digest of every array, the same on any mesh, because one
flipped byte inside array data is restored by Orbax without a word.
"""

import functools
import logging
import math
import shutil
import sys
import time

import jax
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from lmjax import paths, sharding
from lmjax.checkpoint.config import CheckpointConfig
from lmjax.checkpoint.digests import describe_arrays, non_finite
from lmjax.checkpoint.locate import directory_of, evaluated, saved_steps
from lmjax.checkpoint.manifest import SchemaError, make_manifest, read_manifest
from lmjax.errors import CheckpointError, NonFiniteError, reason
from lmjax.hosts.collectives import on_every_host

# Where a file is broken, what Orbax leaves behind complains of its own: "Event loop is closed", "exception was never
# retrieved". The error itself has been raised, and is reported.
_complain = sys.unraisablehook
sys.unraisablehook = lambda error: None if 'Event loop is closed' in str(error.exc_value) else _complain(error)
logging.getLogger('asyncio').addFilter(lambda record: 'never retrieved' not in record.getMessage())


class _Manifest(ocp.handlers.JsonHandler):
  """Stores a dict of JSON values as a readable file (Orbax would store it as arrays)."""

  def __init__(self):
    super().__init__(filename='manifest.json')


def _context() -> ocp.Context:
  registry = ocp.handlers.local_registry()
  registry.add(_Manifest, checkpointable_name='manifest')
  context = ocp.Context()
  context.checkpointables.registry = registry
  # floats hardly shrink (by 7% here), and unpacking them took a quarter of the time of a restore
  context.array_options.saving.use_compression = False
  return context


def _load(path: epath.Path, as_saved: dict) -> dict:
  """Arrays of a checkpoint; each host loads its own, and waits for no other: it would, forever, for one that fails."""
  me = jax.process_index()
  context = ocp.Context()
  context.multiprocessing.primary_host, context.multiprocessing.active_processes = me, {me}
  context.pytree.loading.partial_load = True
  with context:
    return ocp.load_checkpointables(path, {'state': as_saved})['state']


def check_room(directory: epath.Path, n_bytes: int) -> None:
  """CheckpointError where a save would fill a local disk: what is kept is removed only after the new one is whole."""
  if '://' in str(directory) or jax.process_index():
    return
  free = shutil.disk_usage(directory).free
  needed = int(1.05 * n_bytes) + 1_000_000  # metadata, and the files next to the checkpoints
  if free < needed:
    raise CheckpointError(
      f'{directory}: a checkpoint takes {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free; older checkpoints are '
      'intact: make room, and the same command continues from the newest'
    )


def restore_params(workdir, step: int, abstract: dict) -> dict:
  """The parameters of one checkpoint, without the optimizer's state, verified against their digests.

  Raises CheckpointError: the checkpoint is broken, or not of this model.
  """
  directory = directory_of(workdir)
  arrays = read_manifest(directory, step)['arrays']
  for path, array in paths.flatten({'params': abstract}).items():
    shape = arrays.get(path, {'shape': 'nothing'})['shape']
    if shape != list(array.shape):
      rule = f'the model needs {list(array.shape)}, step {step} of {directory} has {shape}'
      raise CheckpointError(f'{path}: {rule}; put config.json and tokenizer.json of that run back')
  return load_verified(directory, step, {'params': abstract})['params']


def load_verified(directory: epath.Path, step: int, abstract: dict) -> dict:
  """Some arrays of a checkpoint's state, each verified against its digest, then converted to the dtype asked for.

  `abstract` is a tree of shapes, dtypes and shardings; every path must be in the manifest, with that shape.

  Raises CheckpointError: the arrays cannot be read, or differ from their digests.
  """
  arrays, folder = read_manifest(directory, step)['arrays'], directory / str(step)
  # read in the dtype that was written: Orbax would convert without a word, and the digest would be another
  as_saved = paths.map_with_path(
    lambda path, a: jax.ShapeDtypeStruct(a.shape, arrays[path]['dtype'], sharding=a.sharding), abstract
  )

  def read():
    try:
      return _load(folder, as_saved)
    except (MemoryError, jax.errors.JaxRuntimeError):
      raise  # says nothing of the checkpoint
    except Exception as error:  # Orbax and tensorstore raise many types for broken files
      raise CheckpointError(f'{folder}: cannot be read: {reason(error)[:200]}; choose another step') from error

  loaded = on_every_host(read, CheckpointError)
  wrong = [path for path, array in describe_arrays(loaded).items() if array != arrays[path]]
  if wrong:
    rule = f'{len(wrong)} arrays differ from their digests, such as {wrong[0]}'
    raise CheckpointError(f'{folder}: {rule}; choose another step')
  return jax.tree.map(lambda a, wanted: a.astype(wanted.dtype), loaded, abstract)


def verify(directory: epath.Path, step: int) -> dict[str, dict]:
  """Reads every array of a checkpoint against its digest, on one device; returns the manifest's `arrays`.

  Raises CheckpointError: the manifest or an array is missing or damaged.
  """
  arrays = read_manifest(directory, step)['arrays']
  where = sharding.replicated(sharding.one_device_mesh())
  try:
    with _context():
      there = ocp.checkpointables_metadata(directory / str(step)).metadata['state']
  except Exception as error:  # Orbax and tensorstore raise many types for broken files
    raise CheckpointError(f'{directory / str(step)}: cannot be read: {reason(error)[:200]}') from error
  if paths.flatten(there).keys() != arrays.keys():
    raise CheckpointError(f'{directory / str(step)}: holds other arrays than its manifest says')

  def described(path, _):
    return jax.ShapeDtypeStruct(tuple(arrays[path]['shape']), arrays[path]['dtype'], sharding=where)

  for part, tree in paths.map_with_path(described, there).items():
    load_verified(directory, step, {part: tree})
  return arrays


class _BestN:
  """Orbax's policy for the best: by a table of ours, since an evaluation may come after the save."""

  def __init__(self, n: int, table: dict[int, float]):
    self._n, self._table = n, table

  def should_preserve(self, checkpoints, *, context):
    del context
    steps = [c.step for c in checkpoints if c.step in self._table]
    best = sorted(steps, key=lambda step: (self._table[step], -step))[-self._n :]
    return [c.step in best for c in checkpoints]


def retention(config: CheckpointConfig, table: dict[int, float]):
  """Orbax's policy for what is kept: the last, and the best by `table` (see `evaluated`)."""
  policies = ocp.training.preservation_policies
  best = [_BestN(config.keep_best, table)] if config.keep_best else []
  return policies.AnyPreservationPolicy([policies.LatestN(config.keep_last), *best])


class Checkpoints:
  """The checkpoints of one run; `keep_best` goes by the validation metric `best`, higher is better where `highest`."""

  def __init__(self, workdir, config: CheckpointConfig, best: str, highest: bool = False):
    self._best, self._highest = best, highest
    self.directory = directory_of(workdir)
    self._table, self._saving = evaluated(self.directory), False
    policy = retention(config, self._table)
    self._orbax = ocp.training.Checkpointer(
      self.directory, context=_context(), preservation_policy=policy, cleanup_tmp_directories=True
    )

  def rank(self, step: int, metrics: dict[str, float]) -> None:
    """Notes the metrics of the evaluation at a step, which decide whether its checkpoint is kept."""
    value = metrics[self._best]
    if not math.isnan(value):
      self._table[step] = value if self._highest else -value

  def save(self, step: int, state, metadata: dict, metrics: dict[str, float] | None = None) -> None:
    """Starts saving `state` under `step`; the arrays are copied before this returns, and written afterwards.

    `metadata` is what the manifest has besides versions and digests; `metrics` are of the evaluation at this step, if
    there was one.

    Raises:
      CheckpointError: this save was refused, for want of room say, or an earlier one failed.
      NonFiniteError: the state holds NaN or infinity; it would push good checkpoints out.
    """
    self.wait()
    newest = max(saved_steps(self.directory), default=-1)
    if step <= newest:
      # Orbax would skip it and say nothing, or save it below the step that the next run resumes from
      raise CheckpointError(f'step {step}: {self.directory} has step {newest} already; use another workdir')
    tree = state._asdict()
    if bad := non_finite(tree):
      raise NonFiniteError(
        f'step {step}: {len(bad)} arrays hold NaN or infinity, such as {bad[0]}; not saved, older checkpoints are '
        'intact; lower optim.learning_rate and continue from them'
      )
    check_room(self.directory, sum(array.nbytes for array in jax.tree.leaves(tree)))
    if metrics is not None:
      self.rank(step, metrics)
    value = None if metrics is None else metrics[self._best]
    best = {'metric': self._best, 'value': value, 'highest': self._highest}
    checkpointables = {'state': tree, 'manifest': make_manifest(step, best, metadata, describe_arrays(tree))}
    self._orbax.save_checkpointables_async(step, checkpointables, force=True)
    self._saving = True

  def poll(self) -> None:
    """Raises the error of a save as soon as it has failed; does not wait for one that is under way."""
    if self._saving and not self._orbax.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Blocks until nothing is being written.

    Raises CheckpointError: the write failed (a full disk); older checkpoints are as they were.
    """
    self._saving = False
    try:
      self._orbax.wait()
    except Exception as error:
      raise CheckpointError(
        f'{self.directory}: saving failed ({reason(error)[:300]}); older checkpoints are intact: fix that (room on '
        'the disk?), and the same command continues from the newest'
      ) from error

  def restore_latest(self, abstract, check=lambda manifest: None, log=print):
    """(state, manifest) of the newest checkpoint that is intact, or None where there is none at all.

    Args:
      abstract: shapes, dtypes and shardings of the state.
      check: called with the manifest before arrays are read; raises CheckpointError for another run's.
      log: called with each checkpoint that was rejected, and why.

    Raises CheckpointError: there are checkpoints, and none is intact: nothing starts again from step 0 unasked.
    """
    rejected = []
    for step in reversed(saved_steps(self.directory)):
      try:
        manifest = on_every_host(functools.partial(read_manifest, self.directory, step), CheckpointError)
      except SchemaError:
        raise
      except CheckpointError as error:
        rejected.append((step, str(error)))
        continue
      check(manifest)
      try:
        state = self._restore(step, abstract, manifest)
      except CheckpointError as error:
        rejected.append((step, str(error)))
        continue
      self._set_aside(rejected, log)
      return state, manifest
    if not rejected:
      return None
    rule = f'none of {len(rejected)} checkpoints is intact ({"; ".join(f"{step}: {why}" for step, why in rejected)})'
    remedy = 'restore them from a copy, or choose a new --workdir to start again'
    raise CheckpointError(f'{self.directory}: {rule}; {remedy}')

  def _restore(self, step, abstract, manifest):
    target = abstract._asdict()
    wanted = {path: (list(a.shape), str(a.dtype)) for path, a in paths.flatten(target).items()}
    there = {path: (array['shape'], array['dtype']) for path, array in manifest['arrays'].items()}
    wrong = [path for path in sorted(wanted.keys() | there.keys()) if wanted.get(path) != there.get(path)]
    if wrong:
      path = wrong[0]
      raise CheckpointError(f'{path}: the run needs {wanted.get(path)}, the checkpoint has {there.get(path)}')
    return type(abstract)(**load_verified(self.directory, step, target))

  def _set_aside(self, rejected, log):
    """Moves rejected steps out of the way: Orbax would refuse to save a step that is not above them."""
    if not rejected:
      return
    for step, why in rejected if jax.process_index() == 0 else ():
      aside = self.directory.parent / 'rejected_checkpoints'
      aside.mkdir(parents=True, exist_ok=True)
      target = aside / f'{step}-{int(time.time())}'
      log(f'checkpoint {step} rejected: {why}; moved to {target}')
      (self.directory / str(step)).rename(target)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices('rejected checkpoints are set aside')
    self._orbax.reload()

  def close(self) -> None:
    """Waits, then lets go of the folder."""
    self.wait()
    self._orbax.close()
