"""What is counted: sums into means, floating-point operations, norms by group of parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lmjax import paths


def group_of(path: str) -> str:
  """The group that a parameter is reported under.

  >>> group_of('layers/3/attention/query/kernel')
  'attention'
  """
  parts = path.split('/')
  if parts[0] == 'layers':
    return 'norms' if 'norm' in parts[2] or 'norm' in parts[3] else parts[2]
  return 'norms' if parts[0] == 'final_norm' else parts[0]


def group_norms(tree) -> dict[str, jax.Array]:
  """The L2 norm of each group of a tree like the parameters."""
  squares = {}
  for path, array in paths.flatten(tree).items():
    square = jnp.sum(jnp.square(array.astype(jnp.float32)))
    squares[group_of(path)] = squares.get(group_of(path), 0.0) + square
  return {group: jnp.sqrt(square) for group, square in sorted(squares.items())}


def means(pairs: dict[str, tuple]) -> dict[str, float]:
  """(sum, weight) pairs -> means; a weight of 0 gives NaN, which is reported and not hidden."""
  floats = {name: (float(np.asarray(total)), float(np.asarray(weight))) for name, (total, weight) in pairs.items()}
  return {name: total / weight if weight else math.nan for name, (total, weight) in floats.items()}


def add_pairs(first: dict | None, second: dict) -> dict:
  """Adds (sum, weight) pairs in float64 on the host."""
  second = {name: tuple(float(np.asarray(x)) for x in pair) for name, pair in second.items()}
  if first is None:
    return second
  return {name: (first[name][0] + pair[0], first[name][1] + pair[1]) for name, pair in second.items()}


def derive(values: dict[str, float]) -> dict[str, float]:
  """Adds perplexity, and turns nats into bits a byte."""
  out = dict(values)
  if 'loss' in out:
    out['perplexity'] = math.exp(min(out['loss'], 700.0))
  if 'nats_per_byte' in out:
    out['bits_per_byte'] = out.pop('nats_per_byte') / math.log(2.0)
  return out


def count(params) -> int:
  """Number of parameters."""
  return sum(math.prod(array.shape) for array in jax.tree.leaves(params))
