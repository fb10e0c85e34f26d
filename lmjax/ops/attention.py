"""Scaled dot-product attention behind one interface, whatever kernel runs it.

Legend: B batch, T queries, S keys, H heads, G key-value heads (H a multiple of G), R = H / G, K head width.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lmjax.ops import platforms
from lmjax.ops.dropout import dropout, is_kept
from lmjax.ops.masks import attention_mask
from lmjax.ops.softcap import soft_cap, soft_cap_slope

# The splash kernel works on blocks of multiples of so many positions and takes no other lengths.
SPLASH_BLOCK = 128
# The name of splash's output and logsumexp, which rematerialization keeps: its backward kernel needs no more.
RESIDUALS = 'splash'


def choose(implementation: str, dtype: str, dropout: float, softcap: float | None) -> str:
  """The kernel that 'auto' means where the program is to run. Any other name is itself.

  Only the XLA path and the CPU's apply dropout to the attention weights; cuDNN's takes no float32, and has no soft-cap.
  """
  if implementation != 'auto':
    return implementation
  fast = {('gpu', 'bfloat16'): 'cudnn', ('tpu', 'bfloat16'): 'splash', ('cpu', 'float32'): 'blockwise'}
  chosen = fast.get((platforms.target(), dtype), 'xla')
  lacks_dropout = dropout and chosen != 'blockwise'
  return 'xla' if lacks_dropout or chosen == 'cudnn' and softcap is not None else chosen


def attend(
  q_BTHK: jax.Array,
  k_BTGK: jax.Array,
  v_BTGK: jax.Array,
  *,
  causal: bool,
  window: int | None = None,
  segments_BT: jax.Array | None = None,
  lengths_B: jax.Array | None = None,
  prefix_BT: jax.Array | None = None,
  scale: float | None = None,
  softcap: float | None = None,
  implementation: str = 'xla',
  dropout: float = 0.0,
  key: jax.Array | None = None,
) -> jax.Array:
  """Attention (https://arxiv.org/abs/1706.03762, section 3.2.1), softmax in float32.

  What goes into the kernel and comes out of it is named for rematerialization: 'query', 'key', 'value' and 'attention',
  or RESIDUALS where the kernel is splash.

  Args:
    q_BTHK: queries, unscaled.
    k_BTGK, v_BTGK: keys and values; each serves H // G query heads.
    causal, window, segments_BT, prefix_BT: see `attention_mask`. With a prefix splash and cudnn give way to xla; splash
      does, too, where its blocks do not divide T, or the devices B.
    lengths_B: in place of segments, how many positions of a row come before its padding.
    scale: what scores are multiplied by; None: K ** -0.5.
    softcap: see `soft_cap`, of scores before the mask; with it cudnn gives way to xla.
    implementation: 'xla' (the reference), 'cudnn' (GPU, bfloat16), 'splash' (TPU) or 'blockwise' (CPU).
    dropout: rate on the attention weights (xla and blockwise).
    key: for dropout; None: no dropout.

  Returns:
    [B, T, H, K] in the dtype of the queries.
  """
  T, is_plain = q_BTHK.shape[1], prefix_BT is None
  by_cudnn = implementation == 'cudnn' and is_plain and softcap is None
  if lengths_B is not None and not by_cudnn:
    segments_BT = (jnp.arange(T) < lengths_B[:, None]).astype(jnp.int32)
  if implementation == 'splash' and is_plain and T % SPLASH_BLOCK == 0 and _divides(q_BTHK.shape[0]):
    return _splash(q_BTHK, k_BTGK, v_BTGK, segments_BT, causal=causal, window=window, scale=scale, softcap=softcap)
  q_BTHK, k_BTGK, v_BTGK = _named(q_BTHK, k_BTGK, v_BTGK)
  if by_cudnn:
    y_BTHK = _cudnn(q_BTHK, k_BTGK, v_BTGK, segments_BT, lengths_B, causal=causal, window=window, scale=scale)
    return checkpoint_name(y_BTHK, 'attention')
  mask = _mask(T, segments_BT, causal=causal, window=window, k_prefix_BS=prefix_BT)
  rate = 0.0 if key is None else dropout
  if implementation == 'blockwise':
    y_BTHK = _blockwise(q_BTHK, k_BTGK, v_BTGK, mask, causal and is_plain, scale, softcap, rate, key)
  else:
    y_BTHK = _xla(q_BTHK, k_BTGK, v_BTGK, mask, scale, softcap, rate, key)
  return checkpoint_name(y_BTHK, 'attention')


def attend_cached(
  q_BTHK: jax.Array, k_BGKS: jax.Array, v_BGSK: jax.Array, visible_BTS: jax.Array, *, scale=None, softcap=None
) -> jax.Array:
  """Attention of a few queries, each of which sees a key, to a cache that is not copied; the rest as in `attend`."""
  B, T, H, K = q_BTHK.shape
  G = k_BGKS.shape[1]
  q_BTGRK = (q_BTHK * _scale(scale, K)).reshape(B, T, G, H // G, K)
  # the queries of a key head stand below each other: M = R * T rows of one matrix product
  q_BGMK = jnp.moveaxis(q_BTGRK, 1, 3).reshape(B, G, -1, K)
  visible_BGMS = jnp.tile(visible_BTS[:, None], (1, 1, H // G, 1))
  y_BGMK, _ = _block_forward(q_BGMK, jnp.swapaxes(k_BGKS, 2, 3), v_BGSK, visible_BGMS, None, softcap, 0.0)
  return jnp.moveaxis(y_BGMK.reshape(B, H, T, K), 1, 2)


def _mask(length, segments_BT, **settings):
  places_T = jnp.arange(length)
  return attention_mask(places_T, places_T, q_segments_BT=segments_BT, k_segments_BS=segments_BT, **settings)


def _named(q, k, v):
  """What rematerialization can keep, in the order of axes that it is kept in."""
  return checkpoint_name(q, 'query'), checkpoint_name(k, 'key'), checkpoint_name(v, 'value')


def _scale(scale, K):
  return K**-0.5 if scale is None else scale


def _cudnn(q_BTHK, k_BSGK, v_BSGK, segments_BT, lengths_B, *, causal, window, scale):
  """cuDNN's flash attention, with its own settings for what is hidden. For a mask it would compute every tile of
  the scores, hidden ones too, and read T x T numbers a head; only documents that share a row, and windows that look
  ahead, cannot be told otherwise."""
  T = q_BTHK.shape[1]
  two_sided = None if causal else window
  mask = _mask(T, segments_BT, causal=False, window=two_sided)
  lengths_B = None if lengths_B is None else jnp.maximum(lengths_B, 1)  # no softmax over nothing
  return jax.nn.dot_product_attention(
    q_BTHK,
    k_BSGK,
    v_BSGK,
    mask=mask,
    scale=scale,
    is_causal=causal,
    local_window_size=(window - 1, 0) if causal and window is not None else None,
    query_seq_lengths=lengths_B,
    key_value_seq_lengths=lengths_B,
    implementation='cudnn' if mask is None or T % 2 == 0 else 'xla',  # cuDNN takes no mask of an odd length
  )


def _xla(q_BTHK, k_BSGK, v_BSGK, mask, scale, softcap, rate, key):
  """JAX's own; written out with what that does not have, a soft-cap and dropout."""
  if softcap is None and not rate:
    return jax.nn.dot_product_attention(q_BTHK, k_BSGK, v_BSGK, mask=mask, scale=scale, implementation='xla')
  B, T, H, K = q_BTHK.shape
  G = k_BSGK.shape[2]
  q_BTGRK = q_BTHK.reshape(B, T, G, H // G, K)
  scores_BGRTS = jnp.einsum('BTGRK,BSGK->BGRTS', q_BTGRK, k_BSGK, preferred_element_type=jnp.float32)
  scores_BGRTS = soft_cap(scores_BGRTS * _scale(scale, K), softcap)
  if mask is not None:
    scores_BGRTS = jnp.where(mask[:, :, None], scores_BGRTS, jnp.finfo(jnp.float32).min)
  weights = dropout(jax.nn.softmax(scores_BGRTS, axis=-1), rate, key)
  return jnp.einsum('BGRTS,BSGK->BTGRK', weights.astype(v_BSGK.dtype), v_BSGK).reshape(B, T, H, K)


# More and smaller blocks skip more hidden scores, but XLA's matrix products slow down: on 2 cores of an AMD EPYC,
# float32, 16 rows of 256, forward and backward took 1.0 (xla), 0.83 (1 block), 0.71 (2) and 0.62 (4 blocks).
BLOCKS = 4


def _blockwise(q_BTHK, k_BSGK, v_BSGK, mask, causal, scale, softcap, rate, key):
  """Plain attention in the layout that XLA's CPU matrix products like; causal: a block of queries at a time, each
  against the keys up to its end alone, which skips most of the hidden half of the scores."""
  B, T, H, K = q_BTHK.shape
  G = k_BSGK.shape[2]
  q_BGRTK = jnp.moveaxis((q_BTHK * _scale(scale, K)).reshape(B, T, G, H // G, K), 1, 3)
  k_BGSK, v_BGSK = (jnp.swapaxes(a, 1, 2) for a in (k_BSGK, v_BSGK))
  kept_BGRTS = is_kept((B, G, H // G, T, T), rate, key) if rate else None
  size = T // BLOCKS if causal and T % BLOCKS == 0 else T
  parts = []
  for start in range(0, T, size):
    end = start + size
    seen = end if causal else None
    # the query heads of a key head stand below each other: M = R * size rows of one matrix product
    q_BGMK = q_BGRTK[..., start:end, :].reshape(B, G, -1, K)
    visible = None if mask is None else jnp.tile(mask[:, :, start:end, :seen], (1, 1, H // G, 1))
    kept = None if kept_BGRTS is None else kept_BGRTS[..., start:end, :seen].reshape(B, G, -1, end if causal else T)
    y_BGMK = _block(q_BGMK, k_BGSK[..., :seen, :], v_BGSK[..., :seen, :], visible, kept, softcap, rate)
    parts.append(y_BGMK.reshape(B, H, size, K))
  return jnp.swapaxes(jnp.concatenate(parts, axis=2), 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _block(q_BGMK, k_BGSK, v_BGSK, visible, kept, softcap, rate):
  """Attention with scaled queries. Its own backward pass, since XLA's takes the softmax apart into more passes over
  the scores, and multiplies transposed scores from the left, which is slow on CPU."""
  return _block_forward(q_BGMK, k_BGSK, v_BGSK, visible, kept, softcap, rate)[0]


def _block_forward(q_BGMK, k_BGSK, v_BGSK, visible, kept, softcap, rate):
  scores = jnp.einsum('BGMK,BGSK->BGMS', q_BGMK, k_BGSK, preferred_element_type=jnp.float32)
  scores = soft_cap(scores, softcap)
  slope = soft_cap_slope(scores, softcap)
  if visible is not None:
    scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
  # the division comes last, on [M, K] and not on [M, S]
  exponential = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
  inverse = 1.0 / jnp.sum(exponential, axis=-1, keepdims=True)
  shown = _dropped(exponential, kept).astype(v_BGSK.dtype)
  y = jnp.einsum('BGMS,BGSK->BGMK', shown, v_BGSK, preferred_element_type=jnp.float32)
  y_BGMK = (y * (inverse / (1.0 - rate))).astype(q_BGMK.dtype)
  return y_BGMK, (q_BGMK, k_BGSK, v_BGSK, exponential, inverse, y_BGMK, slope, kept)


def _dropped(weights, kept):
  """Weights with those that dropout takes away at 0; what is left is scaled with the softmax."""
  return weights if kept is None else jnp.where(kept, weights, 0.0)


def _block_backward(softcap, rate, residuals, dy_BGMK):
  q_BGMK, k_BGSK, v_BGSK, exponential, inverse, y_BGMK, slope, kept = residuals
  dtype = q_BGMK.dtype
  dy_BGMK = dy_BGMK * inverse
  # sum over keys of p * dp = sum over K of dy * y (FlashAttention, https://arxiv.org/abs/2205.14135, appendix B.4)
  inner = jnp.sum(dy_BGMK * y_BGMK, axis=-1, keepdims=True, dtype=jnp.float32)
  dy_BGMK = (dy_BGMK / (1.0 - rate)).astype(dtype)
  dweights = jnp.einsum('BGMK,BGSK->BGMS', dy_BGMK, v_BGSK, preferred_element_type=jnp.float32)
  dscores = (exponential * (_dropped(dweights, kept) - inner) * slope).astype(dtype)
  dq_BGMK = jnp.einsum('BGMS,BGSK->BGMK', dscores, k_BGSK)
  dk_BGKS = jnp.einsum('BGMK,BGMS->BGKS', q_BGMK, dscores)
  dv_BGKS = jnp.einsum('BGMK,BGMS->BGKS', dy_BGMK, _dropped(exponential, kept).astype(dtype))
  return dq_BGMK, jnp.swapaxes(dk_BGKS, 2, 3), jnp.swapaxes(dv_BGKS, 2, 3), None, None


_block.defvjp(_block_forward, _block_backward)


def _divides(rows: int) -> bool:
  mesh = jax.sharding.get_abstract_mesh()
  return mesh.empty or rows % (mesh.shape['data'] * mesh.shape['fsdp']) == 0


def _splash(q_BTHK, k_BSGK, v_BSGK, segments_BT, *, causal, window, scale=None, softcap=None, interpret=False):
  """Pallas splash attention, on each device's own rows and heads (a Pallas call is opaque to the partitioner)."""
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels

  if segments_BT is None:
    segments_BT = jnp.ones(q_BTHK.shape[:2], jnp.int32)

  def local(q_BTHK, k_BSGK, v_BSGK, segments_BT):
    kernel = _splash_kernel(q_BTHK.shape[2], q_BTHK.shape[1], causal, window, softcap, interpret)
    heads_first = (jnp.swapaxes(x, 1, 2) for x in (q_BTHK * _scale(scale, q_BTHK.shape[-1]), k_BSGK, v_BSGK))
    q, k, v = _named(*heads_first)
    ids = kernels.SegmentIds(q=segments_BT, kv=segments_BT)
    return jnp.swapaxes(jax.vmap(kernel)(q, k, v, segment_ids=ids), 1, 2).astype(q_BTHK.dtype)

  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return local(q_BTHK, k_BSGK, v_BSGK, segments_BT)
  P = jax.sharding.PartitionSpec
  heads, rows = P(('data', 'fsdp'), None, 'tensor', None), P(('data', 'fsdp'), None)
  return jax.shard_map(local, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)(
    q_BTHK, k_BSGK, v_BSGK, segments_BT
  )


def _splash_kernel(heads, length, causal, window, softcap, interpret):
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

  shape = (length, length)
  one: masks.Mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
  if window is not None:
    one = masks.LocalMask(shape, (window - 1, 0) if causal else (window // 2, window // 2), 0)
  many = masks.MultiHeadMask([one] * heads)
  block, compute = splash_blocks(length, window)
  sizes = kernels.BlockSizes(
    block_q=block,
    block_kv=block,
    block_kv_compute=compute,
    block_q_dkv=block,
    block_kv_dkv=block,
    block_kv_dkv_compute=compute,
    use_fused_bwd_kernel=True,  # scores are computed again once, not for dq and for dk, dv apart
  )
  return kernels.make_splash_mha(
    many,
    block_sizes=sizes,
    residual_checkpoint_name=RESIDUALS,
    attn_logits_soft_cap=softcap,
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )


def splash_blocks(length: int, window: int | None) -> tuple[int, int]:
  """(positions of a block of queries or keys, positions whose scores are computed at a time) for splash.

  A step of the kernel's grid costs nearly as much before it computes as 128 x 128 scores do, hidden blocks included: by
  the compiler's static bundles (libtpu 0.0.50.1, v5e, 16 layers of 32 heads of width 64, length 2,048) blocks of 128
  take 1.06 s a step of training, of 512 0.19 s, of 1,024 0.175 s. Below a window blocks of 1,024 compute more that is
  hidden than they save.

  >>> splash_blocks(2048, None), splash_blocks(2048, 128), splash_blocks(384, None)
  ((1024, 512), (512, 512), (384, 384))
  """
  largest = 1024 if window is None or window > 512 else 512
  block = max(size for size in range(SPLASH_BLOCK, largest + 1, SPLASH_BLOCK) if length % size == 0)
  return block, max(size for size in range(SPLASH_BLOCK, 513, SPLASH_BLOCK) if block % size == 0)
