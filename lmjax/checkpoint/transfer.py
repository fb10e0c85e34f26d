"""The checkpoint that another run starts from: found, read from metadata, carried over as `handoff.plan` decided."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lmjax import paths
from lmjax.checkpoint import checkpoints, handoff
from lmjax.checkpoint.manifest import best_step
from lmjax.errors import CheckpointError
from lmjax.models import lora


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint that another run starts from; only metadata has been read.

  Attributes:
    workdir: its run's folder.
    step: which of its checkpoints.
    manifest: of that checkpoint.
  """

  workdir: str
  step: int
  manifest: dict

  @property
  def arrays(self) -> dict[str, dict]:
    """{path: {'shape', 'dtype'}} of its parameters; adapters count as merged into their kernels."""
    found = {}
    for path, facts in self.manifest['arrays'].items():
      if path.startswith('params/') and not paths.matches(path, lora.ADAPTERS):
        found[path.removeprefix('params/')] = facts
    return found


def open_source(config: handoff.InitFrom) -> Source:
  """Finds the checkpoint that `init_from` names.

  Raises:
    CheckpointError: no run there, no checkpoint, no such step, or a save that was cut short.
  """
  path = checkpoints.reach('init_from.path', config.path)
  step = config.step
  if path.name.isdigit() and path.parent.name == 'checkpoints':
    if step not in ('latest', int(path.name)):
      raise CheckpointError(f'init_from.step = {step}: init_from.path names step {path.name}; leave it at latest')
    path, step = path.parent.parent, int(path.name)
  directory = path / 'checkpoints'
  steps = checkpoints.saved_steps(directory)
  if not steps:
    seeds = sorted(child.name for child in path.glob('seed*')) if path.exists() else []
    what = 'no checkpoint there' if path.exists() else 'no such folder'
    remedy = f'choose one of its runs, such as {path / seeds[0]}' if seeds else 'run the pre-training first'
    raise CheckpointError(f'init_from.path = {config.path}: {what}; {remedy}, or name the workdir of a run')
  if step == 'best':
    step = best_step(directory)
  step = steps[-1] if step == 'latest' else step
  if step not in steps:
    raise CheckpointError(f'init_from.step = {step}: not among the checkpoints of {path}; choose one of {steps}')
  manifest = checkpoints.read_manifest(directory, step)
  if not isinstance(manifest.get('model'), dict) or 'tokenizer_hash' not in manifest:
    rule = f'its manifest of step {step} names no model'
    raise CheckpointError(f'init_from.path = {path}: {rule}; choose another checkpoint')
  return Source(str(path), step, manifest)


def hand_off(source: Source, plan: handoff.Plan, fresh: dict) -> dict:
  """Carries a plan out: the parameters of the new run, each where its fresh one lies.

  Args:
    source: the checkpoint.
    plan: what is taken, already checked.
    fresh: the new run's random parameters.

  Raises:
    CheckpointError: the arrays cannot be read, or differ from their digests.
  """
  here = paths.flatten(fresh)
  if not plan.taken and not plan.resized:
    return fresh
  adapters = source.manifest['model'].get('lora')
  wanted = {}
  for path in [*plan.taken, *plan.resized]:
    wanted[path] = _abstract(source.arrays[path]['shape'], here[path], path in plan.taken)
    for name in ('lora_a', 'lora_b'):
      beside = f'{path.rpartition("/")[0]}/{name}'
      if path.endswith('/kernel') and f'params/{beside}' in source.manifest['arrays']:
        wanted[beside] = _abstract(source.manifest['arrays'][f'params/{beside}']['shape'], here[path], False)
  directory, abstract = epath.Path(source.workdir) / 'checkpoints', {'params': paths.unflatten(wanted)}
  loaded = checkpoints.load_verified(directory, source.step, abstract)['params']
  if adapters is not None:
    loaded = lora.merge(loaded, lora.LoraConfig(**adapters))
  found = paths.flatten(loaded)
  if handoff.TOKEN_TABLE in found:
    scale = jnp.std(found[handoff.TOKEN_TABLE]) / (jnp.std(here[handoff.TOKEN_TABLE]) + 1e-12)
    found |= {path: here[path] * scale for path in plan.fresh if handoff.is_table(path)}

  def choose(path, leaf):
    if path in plan.resized:
      rows = np.arange(leaf.shape[0]) % found[path].shape[0]
      return jax.device_put(found[path][rows], leaf.sharding)
    return found.get(path, leaf)

  return paths.map_with_path(choose, fresh)


def _abstract(shape, like, in_place):
  """A float array of this shape, in the place of `like`, or whole on every device."""
  sharding = like.sharding
  if not in_place:
    sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
  return jax.ShapeDtypeStruct(tuple(shape), like.dtype, sharding=sharding)
