"""Normalisation over the last axis, in float32 whatever the input. Legend: D width."""

import jax
import jax.numpy as jnp


def layer_norm(x: jax.Array, scale_D: jax.Array, bias_D: jax.Array | None, eps: float) -> jax.Array:
  """LayerNorm (https://arxiv.org/abs/1607.06450); two passes, since E[x^2] - E[x]^2 cancels in float32."""
  x32 = x.astype(jnp.float32)
  centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
  variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
  y = centred * jax.lax.rsqrt(variance + eps) * scale_D
  if bias_D is not None:
    y = y + bias_D
  return y.astype(x.dtype)


def rms_norm(x: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
  """RMSNorm (https://arxiv.org/abs/1910.07467)."""
  x32 = x.astype(jnp.float32)
  y = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps) * scale_D
  return y.astype(x.dtype)
