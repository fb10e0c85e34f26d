"""Scores and logits that cannot grow beyond a bound (Gemma 2, https://arxiv.org/abs/2408.00118, section 2)."""

import jax
import jax.numpy as jnp


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
  """cap * tanh(x / cap); None: x as it is."""
  return x if cap is None else cap * jnp.tanh(x / cap)


def soft_cap_slope(capped: jax.Array, cap: float | None) -> jax.Array | float:
  """The derivative of `soft_cap`, from what it gave."""
  return 1.0 if cap is None else 1.0 - jnp.square(capped / cap)
