"""Logical axis names on parameters.

Linen's own boxes constrain sharding when they are opened, and turn a name they do not know into replication; this
one only carries the names, which `lmjax.sharding` translates strictly.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from flax import struct


@struct.dataclass
class Named(nn.meta.AxisMetadata):
  """An array with the logical name of each of its axes."""

  value: Any
  names: tuple = struct.field(pytree_node=False)

  def unbox(self):
    """The array."""
    return self.value

  def replace_boxed(self, val):
    """The same names on another array."""
    return dataclasses.replace(self, value=val)

  def add_axis(self, index, params):
    """Not used: no Linen transform adds an axis here."""
    raise NotImplementedError

  remove_axis = add_axis


def named(init: Callable, names: tuple[str | None, ...]) -> Callable:
  """An initialiser whose arrays carry axis names."""
  return lambda *arguments: Named(init(*arguments), names)


def names_of(boxed) -> dict:
  """A tree of `Named` -> the tree of their names."""
  return jax.tree.map(lambda box: box.names, boxed, is_leaf=lambda x: isinstance(x, Named))
