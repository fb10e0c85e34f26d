"""Rotary position embeddings (RoFormer, https://arxiv.org/abs/2104.09864).

Legend: B batch, T length, H heads, K head width.
"""

import jax
import jax.numpy as jnp


def rotate(x_BTHK: jax.Array, positions_BT: jax.Array, theta: float) -> jax.Array:
  """Rotates each pair (x[i], x[i + K/2]) by positions * theta ** (-2i / K), in float32.

  The halves are paired as Llama's Hugging Face checkpoints pair them.
  """
  half = x_BTHK.shape[-1] // 2
  frequency_K = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_BT1K = positions_BT[:, :, None, None].astype(jnp.float32) * frequency_K
  sine, cosine = jnp.sin(angle_BT1K), jnp.cos(angle_BT1K)
  first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
  return rotated.astype(x_BTHK.dtype)
