"""Digests of arrays that are the same on any mesh and any number of hosts."""

import jax
import jax.numpy as jnp
import numpy as np

from lmjax import paths


@jax.jit
def _digests(arrays):
  return [_digest(array) for array in arrays]


def _digest(x):
  """Two uint32 sums over the elements: each one's bits times a hash of its place in the whole array.

  Integer sums do not depend on their order, so every mesh and any number of hosts gives the same digest, and
  nothing is gathered.
  """
  x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
  width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, width).astype(jnp.uint32)
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  terms = tuple((bits + 1) * _mix(place + salt) for salt in (jnp.uint32(1), jnp.uint32(0x9E3779B9)))
  # one reduction: of two, XLA for CPUs keeps what they share as arrays, of twice the bytes of x
  add = lambda sums, more: tuple(a + b for a, b in zip(sums, more))
  return jnp.stack(jax.lax.reduce(terms, (jnp.uint32(0),) * 2, add, tuple(range(x.ndim))))


def _mix(h):
  """The finaliser of MurmurHash3, made odd: a multiplier without common factors with 2 ** 32."""
  h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
  return (h ^ (h >> 16)) | 1


@jax.jit
def _finite(arrays):
  return [jnp.isfinite(array).all() for array in arrays]


def non_finite(tree) -> list[str]:
  """Paths of the arrays of a tree that hold NaN or infinity."""
  arrays = paths.flatten(tree)
  return [path for path, good in zip(arrays, jax.device_get(_finite(list(arrays.values())))) if not good]


def describe_arrays(tree) -> dict[str, dict]:
  """{path: {'shape', 'dtype', 'digest'}} of every array of a tree."""
  arrays = paths.flatten(tree)
  digests = [''.join(f'{int(word):08x}' for word in np.asarray(digest)) for digest in _digests(list(arrays.values()))]
  return {
    path: {'shape': list(array.shape), 'dtype': str(array.dtype), 'digest': digest}
    for (path, array), digest in zip(arrays.items(), digests)
  }
