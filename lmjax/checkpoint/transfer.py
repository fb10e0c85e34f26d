"""The checkpoint that another run starts from, carried over as `handoff.plan` decided."""

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lmjax import paths
from lmjax.checkpoint import checkpoints, handoff
from lmjax.checkpoint.locate import InitCheckpoint
from lmjax.models import lora


def hand_off(source: InitCheckpoint, plan: handoff.Plan, fresh: dict) -> dict:
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
      adapter = f'{path.rpartition("/")[0]}/{name}'
      if path.endswith('/kernel') and f'params/{adapter}' in source.manifest['arrays']:
        wanted[adapter] = _abstract(source.manifest['arrays'][f'params/{adapter}']['shape'], here[path], False)
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
