"""Logical axis names on parameters, which `lmjax.sharding` translates strictly.

The boxes are Linen's. Given rules, they would constrain sharding when they are opened, and turn a name they do not know
into replication; without rules, as here, they only carry the names.
"""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

Named = nn.LogicallyPartitioned
named: Callable = nn.with_logical_partitioning


class Parameters:
  """What a model makes of its `boxed(key)`: random float32 parameters, each `Named`."""

  boxed: Callable[[jax.Array], dict]

  def init(self, key: jax.Array) -> dict:
    """Random float32 parameters."""
    return nn.unbox(self.boxed(key))

  def shapes(self) -> dict:
    """Shapes and dtypes of every parameter."""
    return nn.unbox(_traced(self))

  def axes(self) -> dict:
    """Logical axis names of every parameter."""
    return jax.tree.map(lambda box: box.names, _traced(self), is_leaf=nn.meta.is_axis_metadata)


@functools.cache
def _traced(model: Parameters) -> dict:
  """Traced, never run: it may be asked for a device that is not here."""
  return jax.eval_shape(lambda: model.boxed(jax.random.key(0)))
