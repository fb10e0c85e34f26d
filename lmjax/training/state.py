"""The training state, sharded from birth: eval_shape -> shardings -> jit(init)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmjax import paths, sharding


class TrainState(NamedTuple):
  """All that a step changes.

  Attributes:
    step: batches seen, skipped ones included; int32 scalar.
    params: float32 parameters.
    opt_state: the optimizer's.
    skipped: batches in a row whose loss or gradient was not finite; int32 scalar.
  """

  step: Any
  params: Any
  opt_state: Any
  skipped: Any


def make_init(task, tx: optax.GradientTransformation):
  """`key -> TrainState` with random parameters, as a pure function."""

  def init(key):
    params = task.init(key)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), jnp.zeros((), jnp.int32))

  return init


def state_shardings(task, tx, mesh) -> TrainState:
  """Where every array of the state lies, from shapes alone.

  A leaf of the optimizer's state whose path ends in a parameter's path and that has its shape lies as that
  parameter does; anything else (counts, Adafactor's factors) is on every device.
  """
  abstract = jax.eval_shape(lambda: make_init(task, tx)(jax.random.key(0)))
  placed = sharding.shardings(task.axes(), mesh)
  by_path = paths.flatten(placed)
  shapes = {path: leaf.shape for path, leaf in paths.flatten(abstract.params).items()}
  if shapes.keys() != by_path.keys():
    raise AssertionError(f'parameters without axis names: {sorted(shapes.keys() ^ by_path.keys())}')
  everywhere = sharding.replicated(mesh)

  def place(path, leaf):
    parts = path.split('/')
    for start in range(len(parts)):
      suffix = '/'.join(parts[start:])
      if suffix in shapes:
        return by_path[suffix] if leaf.shape == shapes[suffix] else everywhere
    return everywhere

  return TrainState(everywhere, placed, paths.map_with_path(place, abstract.opt_state), everywhere)


def init_state(task, tx, mesh, seed: int) -> TrainState:
  """Random parameters and the optimizer's state, made on their devices."""
  init = jax.jit(make_init(task, tx), out_shardings=state_shardings(task, tx, mesh))
  return init(jax.random.fold_in(jax.random.key(seed), 0))


def abstract_state(task, tx, mesh) -> TrainState:
  """Shapes, dtypes and shardings of the state: what a checkpoint is restored into."""
  shapes = jax.eval_shape(lambda: make_init(task, tx)(jax.random.key(0)))
  places = state_shardings(task, tx, mesh)
  return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), shapes, places)
