"""The checkpoint that another run starts from, carried over as `handoff.plan` decided."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lmjax import paths
from lmjax.checkpoint import checkpoints, handoff
from lmjax.checkpoint.locate import InitCheckpoint, directory_of
from lmjax.models import lora

# {path: what is wanted} -> {path: array} of a source
Load = Callable[[Mapping[str, jax.ShapeDtypeStruct]], dict[str, jax.Array]]


def hand_off(load: Load, arrays: Mapping[str, dict], plan: handoff.Plan, fresh: dict, offset: int = 0) -> dict:
  """Carries a plan that was checked out: the parameters of the new run, each where its `fresh` random one lies.

  Random parameters that are replaced are deleted first: there is no room for two of a large model.

  Args:
    load: reads arrays of the source.
    arrays: {path: {'shape'}} of the source.
    plan: from `handoff.plan`.
    fresh: random parameters.
    offset: rows of the position table that stand before that of the first token, and stay there.

  Raises CheckpointError: the arrays cannot be read, or are damaged.
  """
  if not plan.taken and not plan.resized:
    return fresh
  here, deviation = paths.flatten(fresh), None
  tables = [path for path in plan.fresh if paths.matches(path, handoff.TABLES)]
  if tables and handoff.TOKEN_TABLE in plan.taken:
    deviation = float(jnp.std(here[handoff.TOKEN_TABLE]))
  wanted = {path: _abstract(arrays[path]['shape'], here[path], path in plan.taken) for path in plan.taken}
  wanted |= {path: _abstract(arrays[path]['shape'], here[path], False) for path in plan.resized}
  for path in plan.taken:
    here[path].delete()
  taken = load(wanted)
  if deviation is not None:
    scale = jnp.std(taken[handoff.TOKEN_TABLE]) / (deviation + 1e-12)
    taken |= {path: here[path] * scale for path in tables}

  def choose(path, array):
    if path in plan.resized:
      rows = resized_rows(array.shape[0], taken[path].shape[0], offset)
      return jax.device_put(taken[path][rows], array.sharding)
    return taken.get(path, array)

  return paths.map_with_path(choose, fresh)


def load(source: InitCheckpoint, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """Arrays of a run's checkpoint, verified, with its adapters merged into their kernels.

  Raises CheckpointError: they cannot be read, or differ from their digests.
  """
  wanted, stored = dict(wanted), source.manifest['arrays']
  for path, array in list(wanted.items()):
    for name in ('lora_a', 'lora_b'):
      adapter = f'{path.rpartition("/")[0]}/{name}'
      if path.endswith('/kernel') and f'params/{adapter}' in stored:
        wanted[adapter] = _abstract(stored[f'params/{adapter}']['shape'], array, False)
  abstract = {'params': paths.unflatten(wanted)}
  loaded = checkpoints.load_verified(directory_of(source.workdir), source.step, abstract)['params']
  if (adapters := source.model.get('lora')) is not None:
    loaded = lora.merge(loaded, lora.LoraConfig(**adapters))
  return paths.flatten(loaded)


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
