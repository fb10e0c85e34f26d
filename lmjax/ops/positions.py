"""Rotary position embeddings (RoFormer, https://arxiv.org/abs/2104.09864).

Legend: B batch, T length, H heads, K head width.
"""

import jax
import jax.numpy as jnp

from lmjax.ops import platforms


def rotate(x_BTHK: jax.Array, positions_BT: jax.Array, theta: float) -> jax.Array:
  """Rotates each pair (x[i], x[i + K/2]) by positions * theta ** (-2i / K), in float32.

  The halves are paired as Llama's Hugging Face checkpoints pair them.
  """
  half = x_BTHK.shape[-1] // 2
  frequency_K = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_BT1K = positions_BT[:, :, None, None].astype(jnp.float32) * frequency_K
  sine, cosine = jnp.sin(angle_BT1K), jnp.cos(angle_BT1K)
  if platforms.target() == 'tpu':
    return _rotate_by_product(x_BTHK, sine, cosine)
  first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
  return rotated.astype(x_BTHK.dtype)


@jax.custom_vjp
def _rotate_by_product(x_BTHK, sine, cosine):
  """The same numbers: the halves change places in an exact product with zeros and ones, which becomes one operation
  with the projection before it. Slices and a concatenation are five passes over memory, each half in rows of a
  register's 128 places: 8 ms a layer of llama_1b on eight v5e chips, by the compiler (libtpu 0.0.42.1)."""
  width = x_BTHK.shape[-1]
  swap_KK = jnp.roll(jnp.eye(width, dtype=x_BTHK.dtype), width // 2, axis=1)
  exact = dict(precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
  swapped = jnp.einsum('BTHK,KL->BTHL', x_BTHK, swap_KK, **exact)
  sine, cosine = jnp.concatenate([-sine, sine], axis=-1), jnp.concatenate([cosine, cosine], axis=-1)
  return (x_BTHK.astype(jnp.float32) * cosine + swapped * sine).astype(x_BTHK.dtype)


def _rotate_by_product_forward(x_BTHK, sine, cosine):
  return _rotate_by_product(x_BTHK, sine, cosine), (sine, cosine)


def _rotate_by_product_backward(angles, dy_BTHK):
  sine, cosine = angles
  return _rotate_by_product(dy_BTHK, -sine, cosine), None, None  # a rotation's transpose turns back


_rotate_by_product.defvjp(_rotate_by_product_forward, _rotate_by_product_backward)
