"""The layers of the backbone, as Flax Linen modules.

Legend: B batch, T length, D width, H heads, G key-value heads, K head width, F hidden width.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from lmjax.models.axes import named
from lmjax.models.model_config import ModelConfig
from lmjax.ops import attention, norms, positions
from lmjax.ops.matmul import matmul

GATED: dict[str, Callable] = {'geglu': functools.partial(jax.nn.gelu, approximate=False), 'swiglu': jax.nn.silu}
PLAIN: dict[str, Callable] = {
  'gelu': functools.partial(jax.nn.gelu, approximate=False),
  'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
}


class Norm(nn.Module):
  """LayerNorm or RMSNorm over the last axis; `config` decides."""

  config: ModelConfig
  rms: bool = False  # whatever the config says: queries and keys

  @nn.compact
  def __call__(self, x):
    """[..., D] -> [..., D], in the dtype of x."""
    width = x.shape[-1]
    scale = self.param('scale', named(nn.initializers.ones, ('norm',)), (width,))
    if self.rms or self.config.norm == 'rmsnorm':
      return norms.rms_norm(x, scale, self.config.norm_eps)
    bias = None
    if self.config.biases:
      bias = self.param('bias', named(nn.initializers.zeros, ('norm',)), (width,))
    return norms.layer_norm(x, scale, bias, self.config.norm_eps)


class Embeddings(nn.Module):
  """Token, position and segment tables."""

  config: ModelConfig
  rows: int

  @nn.compact
  def __call__(self, tokens_BT, positions_BT, segment_types_BT, key):
    """[B, T] ids -> x_BTD."""
    c = self.config

    def table(name, rows, axis):
      init = named(nn.initializers.normal(c.init_std), (axis, 'embed'))
      return nn.Embed(rows, c.width, embedding_init=init, dtype=c.dtype, name=name)

    x_BTD = table('token', self.rows, 'vocab')(tokens_BT)
    if c.positions == 'learned':
      x_BTD = x_BTD + table('position', c.max_length, 'positions')(positions_BT)
    if c.segment_types is not None:
      x_BTD = x_BTD + table('segment', c.segment_types, 'segment_types')(segment_types_BT)
    if c.embedding_norm:
      x_BTD = Norm(c, name='norm')(x_BTD)
    return dropout(x_BTD, c.embedding_dropout, key)


class Attention(nn.Module):
  """Self-attention with grouped key-value heads, QK-norm, rotary positions and a KV cache."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD, positions_BT, segments_BT, window, theta, key, cache):
    """x_BTD -> (x_BTD, cache)."""
    c = self.config
    B, T, _ = x_BTD.shape

    def project(name, heads, axis):
      y_BTE = linear(c, heads * c.head_width, ('embed', axis), c.init_std, name)(x_BTD)
      return y_BTE.reshape(B, T, heads, c.head_width)

    q_BTHK = project('query', c.heads, 'heads')
    k_BTGK = project('key', c.kv_heads, 'kv_heads')
    v_BTGK = project('value', c.kv_heads, 'kv_heads')
    if c.qk_norm:
      q_BTHK = Norm(c, rms=True, name='query_norm')(q_BTHK)
      k_BTGK = Norm(c, rms=True, name='key_norm')(k_BTGK)
    if c.positions == 'rotary':
      q_BTHK, k_BTGK = (positions.rotate(a, positions_BT, theta) for a in (q_BTHK, k_BTGK))
    q_index_T, k_segments_BS = None, segments_BT
    if cache is not None:
      q_index_T = cache['index'] + jnp.arange(T)
      k_BTGK, v_BTGK, k_segments_BS = (
        jax.lax.dynamic_update_slice_in_dim(cache[name], new.astype(cache[name].dtype), cache['index'], axis=1)
        for name, new in (('key', k_BTGK), ('value', v_BTGK), ('segments', segments_BT))
      )
      cache = {'key': k_BTGK, 'value': v_BTGK, 'segments': k_segments_BS, 'index': cache['index'] + T}
    y_BTHK = attention.attend(
      q_BTHK,
      k_BTGK,
      v_BTGK,
      causal=c.attention == 'causal',
      window=window,
      q_index_T=q_index_T,
      q_segments_BT=segments_BT,
      k_segments_BS=k_segments_BS,
      implementation=attention.choose(c.attention_implementation, c.dtype, c.attention_dropout),
      dropout=c.attention_dropout,
      key=key,
    )
    output = linear(c, c.width, ('heads', 'embed'), _residual_std(c), 'output')
    return output(y_BTHK.reshape(B, T, c.width)), cache


class FeedForward(nn.Module):
  """Two linear layers with an activation between, or three with a gate."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD):
    """x_BTD -> x_BTD."""
    c = self.config
    h_BTF = linear(c, c.mlp_width, ('embed', 'mlp'), c.init_std, 'up')(x_BTD)
    if c.activation in GATED:
      gate_BTF = linear(c, c.mlp_width, ('embed', 'mlp'), c.init_std, 'gate')(x_BTD)
      h_BTF = GATED[c.activation](gate_BTF) * h_BTF
    else:
      h_BTF = PLAIN[c.activation](h_BTF)
    return linear(c, c.width, ('mlp', 'embed'), _residual_std(c), 'down')(h_BTF)


class Block(nn.Module):
  """One layer: attention and feed-forward, each with a norm and a residual connection."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD, positions_BT, segments_BT, window, theta, key, cache=None):
    """x_BTD -> (x_BTD, cache)."""
    c = self.config
    keys = (None,) * 3 if key is None else jax.random.split(key, 3)
    attend = Attention(c, name='attention')
    attention_norm, mlp_norm = Norm(c, name='attention_norm'), Norm(c, name='mlp_norm')
    feed_forward = FeedForward(c, name='mlp')
    if c.norm_placement == 'pre':
      y_BTD, cache = attend(attention_norm(x_BTD), positions_BT, segments_BT, window, theta, keys[0], cache)
      x_BTD = x_BTD + dropout(y_BTD, c.residual_dropout, keys[1])
      return x_BTD + dropout(feed_forward(mlp_norm(x_BTD)), c.residual_dropout, keys[2]), cache
    y_BTD, cache = attend(x_BTD, positions_BT, segments_BT, window, theta, keys[0], cache)
    x_BTD = attention_norm(x_BTD + dropout(y_BTD, c.residual_dropout, keys[1]))
    return mlp_norm(x_BTD + dropout(feed_forward(x_BTD), c.residual_dropout, keys[2])), cache


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Sets a share `rate` to 0 and scales the rest (https://jmlr.org/papers/v15/srivastava14a.html)."""
  if rate == 0.0 or key is None:
    return x
  return jnp.where(jax.random.bernoulli(key, 1.0 - rate, x.shape), x / (1.0 - rate), 0.0).astype(x.dtype)


def linear(c: ModelConfig, features: int, axes: tuple, std: float, name: str) -> nn.Dense:
  """A Dense layer as the config wants it: biases, dtype, initial weights of standard deviation `std`."""
  return nn.Dense(
    features,
    use_bias=c.biases,
    dtype=c.dtype,
    kernel_init=named(nn.initializers.normal(std), axes),
    bias_init=named(nn.initializers.zeros, axes[1:]),
    dot_general=lambda x, kernel, *_, **__: matmul(x, kernel),
    name=name,
  )


def _residual_std(c):
  return c.init_std / (2 * c.layers) ** 0.5 if c.residual_init == 'scaled' else c.init_std
