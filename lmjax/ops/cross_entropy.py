"""Cross-entropy over a large vocabulary, without its logits in memory.

Legend: B batch, T positions, D width, V vocabulary rows (padding rows included), C chunks, N devices' shares of B.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmjax.ops.softcap import soft_cap, soft_cap_slope


class CrossEntropySums(NamedTuple):
  """Sums over all positions, each times its weight; float32 scalars.

  Attributes:
    loss: what is trained on: cross-entropy against smoothed labels, plus the z-loss. Differentiable.
    nll: negative log-likelihood of the target, in nats. For reporting: its gradient is zero.
    correct: 1 where no logit is higher than the target's, times its own weight `counted`. For reporting.
  """

  loss: jax.Array
  nll: jax.Array
  correct: jax.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7, 8, 9, 10))
def cross_entropy(
  x_BTD,
  kernel_DV,
  bias_V,
  targets_BT,
  weights_BT,
  counted_BT,
  vocab_size,
  chunk,
  z_loss=0.0,
  label_smoothing=0.0,
  softcap=None,
) -> CrossEntropySums:
  """Weighted sums of the cross-entropy of `x @ kernel + bias`, computed up to `chunk` positions of each row at a time.

  Float32 logits exist for [B, chunk, V] alone. When differentiated, the forward pass computes the gradients
  with the chunk's logits at hand, so that nothing is computed twice; the backward pass scales them.

  Args:
    x_BTD: outputs of the backbone.
    kernel_DV: output embedding; multiplied in the dtype of x, accumulated in float32.
    bias_V: added to the logits, or None.
    targets_BT: token ids, each below `vocab_size` (an ignored position has any valid id and weight 0).
    weights_BT: float32, 0 where the position does not count.
    counted_BT: the weights of `correct`, which may leave out more.
    vocab_size: columns from here on pad the vocabulary and get no probability.
    chunk: positions a row whose logits exist at one time, at most.
    z_loss: coefficient of log(Z) ** 2 (PaLM, https://arxiv.org/abs/2204.02311, section 5).
    label_smoothing: share of the label spread evenly over the vocabulary (https://arxiv.org/abs/1512.00567,
      section 7).
    softcap: logits become softcap * tanh(logit / softcap); None: they stay.
  """
  arrays = (x_BTD, kernel_DV, bias_V, targets_BT, weights_BT, counted_BT)
  return _over_chunks(arrays, vocab_size, chunk, (z_loss, label_smoothing, softcap), gradients=False)[0]


def _forward(*arguments):
  arrays, (vocab_size, chunk, *loss) = arguments[:6], arguments[6:]
  return _over_chunks(arrays, vocab_size, chunk, loss, gradients=True)


def _backward(vocab_size, chunk, z_loss, label_smoothing, softcap, gradients, cotangents):
  scaled = jax.tree.map(lambda g: (g * cotangents.loss).astype(g.dtype), gradients)  # of x, kernel and bias
  return *scaled, None, None, None


cross_entropy.defvjp(_forward, _backward)


def _over_chunks(arrays, vocab_size, chunk, loss, *, gradients):
  x_BTD, kernel_DV, bias_V, targets_BT, weights_BT, counted_BT = arrays
  B, T, D = x_BTD.shape
  # chunks are cut along T, of every row, not along B: each device then works on its own rows in each of them
  N = _shards(B)
  C = -(-T // chunk)
  chunk = -(-T // C)  # parts of one size: 154 positions in two of 77, not of 128 with 102 that are padding
  short = C * chunk - T

  def split(a):  # [B, T, ...] -> [C, N, B/N, chunk, ...]
    a = jnp.pad(a, [(0, 0), (0, short)] + [(0, 0)] * (a.ndim - 2))
    return jnp.moveaxis(a.reshape(N, B // N, C, chunk, *a.shape[2:]), 2, 0)

  low_DV = _gathered(kernel_DV.astype(x_BTD.dtype))
  one = functools.partial(_one_chunk, low_DV, bias_V, vocab_size, loss, gradients)

  def body(total, piece):
    sums, dx, dkernel, dbias = one(*piece)
    return jax.tree.map(jnp.add, total, (sums, dkernel, dbias)), dx

  pieces = (split(x_BTD), split(targets_BT), split(weights_BT), split(counted_BT))
  first = jax.tree.map(lambda a: a[0], pieces)
  if C == 1:
    sums, dx, dkernel, dbias = one(*first)
    dx = dx if dx is None else dx[None]
  else:
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(one, *first))
    (sums, dkernel, dbias), dx = jax.lax.scan(body, (zeros[0], _keep_apart(zeros[2]), zeros[3]), pieces)
  if not gradients:
    return sums, None
  dx_BTD = jnp.moveaxis(dx, 0, 2).reshape(B, C * chunk, D)[:, :T]
  # between devices it is summed as other kernels' gradients are, in the compute dtype
  dkernel_DV = dkernel.astype(low_DV.dtype).sum(axis=0).astype(kernel_DV.dtype)
  return sums, (dx_BTD, dkernel_DV, None if bias_V is None else dbias.astype(bias_V.dtype))


def _one_chunk(kernel_DV, bias_V, vocab_size, loss, gradients, x_NBTD, targets_NBT, weights_NBT, counted_NBT):
  """Sums and gradients of one chunk; the kernel's gradient is left as one share for each of N groups of devices."""
  V, (z_loss, label_smoothing, softcap) = kernel_DV.shape[1], loss
  logits = jnp.einsum('NBTD,DV->NBTV', x_NBTD, kernel_DV, preferred_element_type=jnp.float32)
  if bias_V is not None:
    logits = logits + bias_V.astype(jnp.float32)
  logits = soft_cap(logits, softcap)
  cap_slope = soft_cap_slope(logits, softcap)
  if V > vocab_size:
    logits = jnp.where(jnp.arange(V) < vocab_size, logits, -1e30)
  best = jnp.max(logits, axis=-1, keepdims=True)
  exponential = jnp.exp(logits - best)
  partition = jnp.sum(exponential, axis=-1, keepdims=True)
  log_z_NBT = (best + jnp.log(partition))[..., 0]
  target_logit_NBT = jnp.take_along_axis(logits, targets_NBT[..., None], axis=-1)[..., 0]
  nll_NBT = log_z_NBT - target_logit_NBT
  loss_NBT = nll_NBT
  if label_smoothing:
    mean_logit = jnp.sum(jnp.where(jnp.arange(V) < vocab_size, logits, 0.0), axis=-1) / vocab_size
    loss_NBT = log_z_NBT - (1 - label_smoothing) * target_logit_NBT - label_smoothing * mean_logit
  if z_loss:
    loss_NBT = loss_NBT + z_loss * jnp.square(log_z_NBT)
  correct_NBT = (target_logit_NBT >= best[..., 0]).astype(jnp.float32)
  sums = CrossEntropySums(
    jnp.sum(loss_NBT * weights_NBT), jnp.sum(nll_NBT * weights_NBT), jnp.sum(correct_NBT * counted_NBT)
  )
  if not gradients:
    return sums, None, None, None
  # d loss / d logits = p * (1 + 2 z log Z) - smoothed label
  slope = 1.0 + 2.0 * z_loss * log_z_NBT[..., None] if z_loss else 1.0
  spread = label_smoothing / vocab_size
  label = jnp.where(jnp.arange(V) == targets_NBT[..., None], 1.0 - label_smoothing + spread, spread)
  dlogits = (exponential / partition * slope - label) * weights_NBT[..., None]
  if label_smoothing and V > vocab_size:
    dlogits = jnp.where(jnp.arange(V) < vocab_size, dlogits, 0.0)
  dlogits = dlogits * cap_slope
  # both products in the compute dtype, as a matrix product that JAX differentiates has them; only the sum of the
  # kernel's gradient over chunks stays in float32, since hundreds of small numbers are added to it
  dlogits_low = dlogits.astype(x_NBTD.dtype)
  dx = jnp.einsum('NBTV,DV->NBTD', dlogits_low, kernel_DV)
  dkernel = jnp.einsum('NBTD,NBTV->NDV', x_NBTD, dlogits_low, preferred_element_type=jnp.float32)
  dbias = None if bias_V is None else jnp.sum(dlogits, axis=(0, 1, 2))
  return sums, dx, dkernel, dbias


def _shards(B: int) -> int:
  """How many groups of devices share the batch. Each sums its own chunks, so that the kernel's gradient crosses
  the network once, after the last chunk, and not once a chunk."""
  mesh = jax.sharding.get_abstract_mesh()
  n = 1 if mesh.empty else mesh.shape['data'] * mesh.shape['fsdp']
  return n if B % n == 0 else 1


def _gathered(kernel_DV):
  """The kernel whole on every device but for tensor parallelism, before the loop: in its body a partitioner that
  gathers does so once a chunk (8.4 GB a step and device for 128k entries in 16 chunks, TPU v5e)."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return kernel_DV
  kernel_DV = jax.lax.with_sharding_constraint(kernel_DV, jax.sharding.PartitionSpec(None, 'tensor'))
  return jax.lax.optimization_barrier(kernel_DV)  # or it is moved back into the loop


def _keep_apart(dkernel_NDV):
  if dkernel_NDV is None or dkernel_NDV.shape[0] == 1:
    return dkernel_NDV
  return jax.lax.with_sharding_constraint(dkernel_NDV, jax.sharding.PartitionSpec(('data', 'fsdp'), None, 'tensor'))
