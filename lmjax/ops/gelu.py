"""GELU (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415), exact."""

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
  """x P(z <= x) of a normal z, computed in float32. The backward pass computes P again from x, which is there anyway:
  to write it down and read it takes longer on a CPU."""
  x32 = x.astype(jnp.float32)
  return (x32 * _probability(x32)).astype(x.dtype)


def _probability(x):
  # by erf: erfc takes four times as long there, and is more exact where this is below 1e-6
  return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _forward(x):
  return gelu(x), x


def _backward(x, dy):
  x32 = x.astype(jnp.float32)
  density = jnp.exp(-0.5 * x32 * x32) * (1.0 / math.sqrt(2.0 * math.pi))
  return ((dy * (_probability(x32) + x32 * density)).astype(x.dtype),)


gelu.defvjp(_forward, _backward)
