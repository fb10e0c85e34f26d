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


def hand_off(
  load: Load, arrays: Mapping[str, dict], plan: handoff.Plan, target: dict, draw: Callable, offset: int = 0
) -> dict:
  """Carries a plan that was checked out: the parameters of the new run.

  What is taken is never drawn: there is no room for two of a large model.

  Args:
    load: reads arrays of the source.
    arrays: {path: {'shape'}} of the source.
    plan: from `handoff.plan`.
    target: shapes, dtypes and shardings of the parameters.
    draw: paths -> {path: random parameter}.
    offset: rows of the position table that stand before that of the first token, and stay there.

  Raises CheckpointError: the arrays cannot be read, or are damaged.
  """
  here, params = paths.flatten(target), draw(plan.fresh)
  tables = [path for path in plan.fresh if paths.matches(path, handoff.TABLES)]
  if handoff.TOKEN_TABLE not in plan.taken:
    tables = []
  deviation = jnp.std(draw([handoff.TOKEN_TABLE])[handoff.TOKEN_TABLE]) if tables else None
  wanted = {path: _abstract(arrays[path]['shape'], here[path], path in plan.taken) for path in plan.taken}
  wanted |= {path: _abstract(arrays[path]['shape'], here[path], False) for path in plan.resized}
  params |= load(wanted) if wanted else {}
  for path in tables:
    params[path] *= jnp.std(params[handoff.TOKEN_TABLE]) / (deviation + 1e-12)
  for path in plan.resized:
    rows = resized_rows(here[path].shape[0], params[path].shape[0], offset)
    params[path] = jax.device_put(params[path][rows], here[path].sharding)
  return paths.map_with_path(lambda path, _: params[path], target)


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
