"""The training state, sharded from birth: eval_shape -> shardings -> jit(init)."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmjax import paths, sharding


class TrainState(NamedTuple):
  """All that a step changes."""

  step: Any  # batches seen, skipped ones included; int32 scalar
  params: Any  # float32
  opt_state: Any  # the optimizer's
  skipped: Any  # batches in a row whose loss or gradient was not finite; int32 scalar


@functools.cache
def _draw(model, mesh, names: tuple[str, ...]):
  """The compiled `key -> parameters`: once for the runs of several seeds, and for `moved` after each."""

  def draw(key):
    drawn = paths.flatten(model.init(key))
    return {name: drawn[name] for name in names}

  places = paths.flatten(sharding.shardings(model.axes(), mesh))
  return jax.jit(draw, out_shardings={name: places[name] for name in names})


def draw(task, mesh, seed: int, names: Iterable[str]) -> dict[str, jax.Array]:
  """{path: random parameter}, made on their devices: of these names, and no others are ever in memory."""
  key, names = jax.random.fold_in(jax.random.key(seed), 0), tuple(names)
  return _draw(task.model, mesh, names)(key) if names else {}


def init_params(task, mesh, seed: int):
  """Random parameters, made on their devices."""
  return paths.unflatten(draw(task, mesh, seed, paths.flatten(task.shapes())))


def init_state(task, tx: optax.GradientTransformation, mesh, params) -> TrainState:
  """The state that training begins with at these parameters, made on its devices."""
  places = jax.tree.map(lambda a: a.sharding, abstract_state(task, tx, mesh))
  zero = jax.device_put(jnp.zeros((), jnp.int32), places.step)
  return TrainState(zero, params, jax.jit(tx.init, out_shardings=places.opt_state)(params), jnp.copy(zero))


def abstract_params(task, mesh):
  """Shapes, dtypes and shardings of the parameters: what those of a checkpoint are restored into."""
  places, shapes = sharding.shardings(task.model.axes(), mesh), task.shapes()
  return jax.tree.map(lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), shapes, places)


def abstract_state(task, tx: optax.GradientTransformation, mesh) -> TrainState:
  """Shapes, dtypes and shardings of the state: what a checkpoint is restored into.

  An array of the optimizer's state whose path ends in a parameter's path and that has its shape lies as that
  parameter does; anything else (counts, Adafactor's factors) is on every device.
  """
  params, everywhere = abstract_params(task, mesh), sharding.replicated(mesh)
  by_path = paths.flatten(params)

  def placed(path, array):
    parts = path.split('/')
    suffixes = ('/'.join(parts[start:]) for start in range(len(parts)))
    like = next((by_path[suffix] for suffix in suffixes if suffix in by_path), None)
    place = like.sharding if like is not None and like.shape == array.shape else everywhere
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place)

  counter = jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere)
  return TrainState(counter, params, paths.map_with_path(placed, jax.eval_shape(tx.init, params)), counter)
