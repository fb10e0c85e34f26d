"""The checkpoint that another run starts from, carried over as `handoff.plan` decided."""

import jax
import jax.numpy as jnp
import numpy as np

from lmjax import paths
from lmjax.checkpoint import checkpoints, handoff
from lmjax.checkpoint.locate import InitCheckpoint, directory_of
from lmjax.models import lora


def hand_off(source: InitCheckpoint, plan: handoff.Plan, fresh: dict, position_offset: int) -> dict:
  """Carries a plan that was checked out: the parameters of the new run, each where its `fresh` random one lies.

  `position_offset` is that of the model, which is the checkpoint's.

  Raises CheckpointError: the arrays cannot be read, or differ from their digests.
  """
  if not plan.taken and not plan.resized:
    return fresh
  here, wanted = paths.flatten(fresh), {}
  for path in [*plan.taken, *plan.resized]:
    wanted[path] = _abstract(source.arrays[path]['shape'], here[path], path in plan.taken)
    for name in ('lora_a', 'lora_b'):
      adapter = f'{path.rpartition("/")[0]}/{name}'
      if path.endswith('/kernel') and f'params/{adapter}' in source.manifest['arrays']:
        wanted[adapter] = _abstract(source.manifest['arrays'][f'params/{adapter}']['shape'], here[path], False)
  abstract = {'params': paths.unflatten(wanted)}
  loaded = checkpoints.load_verified(directory_of(source.workdir), source.step, abstract)['params']
  if (adapters := source.manifest['model'].get('lora')) is not None:
    loaded = lora.merge(loaded, lora.LoraConfig(**adapters))
  taken = paths.flatten(loaded)
  if handoff.TOKEN_TABLE in taken:
    scale = jnp.std(taken[handoff.TOKEN_TABLE]) / (jnp.std(here[handoff.TOKEN_TABLE]) + 1e-12)
    taken |= {path: here[path] * scale for path in plan.fresh if paths.matches(path, handoff.TABLES)}

  def choose(path, array):
    if path in plan.resized:
      rows = resized_rows(array.shape[0], taken[path].shape[0], position_offset)
      return jax.device_put(taken[path][rows], array.sharding)
    return taken.get(path, array)

  return paths.map_with_path(choose, fresh)


def resized_rows(rows: int, before: int, offset: int) -> np.ndarray:
  """Which of `before` rows of a position table each of `rows` becomes: the first ones again after the last, as in
  Longformer (https://arxiv.org/abs/2004.05150, section 5); a shorter table is the beginning.

  The first `offset` rows stand for no position: they stay where they are.

  >>> resized_rows(8, 5, offset=2)
  array([0, 1, 2, 3, 4, 2, 3, 4])
  """
  row = np.arange(rows)
  return np.where(row < offset, row, offset + (row - offset) % (before - offset))


def _abstract(shape, like, in_place):
  """A float array of this shape, in the place of `like`, or whole on every device."""
  sharding = like.sharding
  if not in_place:
    sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
  return jax.ShapeDtypeStruct(tuple(shape), like.dtype, sharding=sharding)
