"""Rotary position embeddings (RoFormer, https://arxiv.org/abs/2104.09864).

Legend: B batch, T length, H heads, K head width, P pairs of numbers that are rotated.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.ops import platforms


def rotate(
  x_BTHK: jax.Array,
  positions_BT: jax.Array,
  theta: float,
  width: int | None = None,
  scales_P: np.ndarray | None = None,
  amplitude: float = 1.0,
) -> jax.Array:
  """Rotates each pair (x[i], x[i + width/2]) by positions * theta ** (-2i / width), in float32.

  The halves are paired as Llama's Hugging Face checkpoints pair them.

  Args:
    x_BTHK: queries or keys.
    positions_BT: of each token in its document; they need not be whole.
    theta: base of the frequencies.
    width: so many of a head's first numbers are rotated, P = width / 2; None: all K.
    scales_P: what the frequencies are multiplied by, from `frequency_scales`; None: 1.
    amplitude: what sines and cosines are multiplied by.
  """
  if width is not None and width < x_BTHK.shape[-1]:
    rotated = rotate(x_BTHK[..., :width], positions_BT, theta, None, scales_P, amplitude)
    return jnp.concatenate([rotated, x_BTHK[..., width:]], axis=-1)
  half = x_BTHK.shape[-1] // 2
  frequency_P = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if scales_P is not None:
    frequency_P = frequency_P * jnp.asarray(scales_P, jnp.float32)
  angle_BT1P = positions_BT[:, :, None, None].astype(jnp.float32) * frequency_P
  sine, cosine = jnp.sin(angle_BT1P), jnp.cos(angle_BT1P)
  if amplitude != 1.0:
    sine, cosine = sine * amplitude, cosine * amplitude
  if platforms.target() == 'tpu':
    return _rotate_by_product(x_BTHK, sine, cosine)
  first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
  return rotated.astype(x_BTHK.dtype)


def frequency_scales(
  kind: str,
  width: int,
  theta: float,
  factor: float,
  original_length: int | None = None,
  rotations: tuple[float, float] | None = None,
) -> np.ndarray:
  """What the P frequencies of `rotate` are multiplied by, for texts longer than those trained on; float64.

  Args:
    kind: 'linear': 1 / factor, as if positions were divided (https://arxiv.org/abs/2306.15595). Of the others, with
      rotations = (slow, fast): what turns less than `slow` times over `original_length` is divided by the factor, what
      turns more than `fast` times stays, and between them is a ramp: in the number of turns ('llama3': Llama 3,
      https://arxiv.org/abs/2407.21783), or in the index of the pair ('yarn', https://arxiv.org/abs/2309.00071, section
      3.2, with its bounds rounded outwards to whole indices).
    width: numbers of a head that are rotated, 2 * P.
    theta: base of the frequencies.
  """
  pair_P = np.arange(width // 2)
  if kind == 'linear':
    return np.full(len(pair_P), 1 / factor)
  slow, fast = rotations
  if kind == 'llama3':
    turns_P = original_length * theta ** (-2 * pair_P / width) / (2 * math.pi)
    divided_P = (fast - turns_P) / (fast - slow)
  else:

    def index(turns):  # of the pair that turns so often
      return width * math.log(original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = max(math.floor(index(fast)), 0), min(math.ceil(index(slow)), width - 1)
    divided_P = (pair_P - first) / max(last - first, 1e-3)
  divided_P = np.clip(divided_P, 0, 1)
  return divided_P / factor + (1 - divided_P)


def yarn_amplitude(factor: float) -> float:
  """What YaRN multiplies sines and cosines by, which makes the attention sharper by its square (section 3.4)."""
  return 0.1 * math.log(max(factor, 1.0)) + 1.0


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
