"""The layers of the backbone, as Flax Linen modules.

Legend: B batch, T length, D width, H heads, G key-value heads, K head width, F hidden width.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from lmjax.models.axes import named
from lmjax.models.config import LayerKind, ModelConfig
from lmjax.models.kv_cache import LayerCache
from lmjax.ops import attention, norms, positions
from lmjax.ops.dropout import dropout
from lmjax.ops.gelu import gelu
from lmjax.ops.matmul import add_bias, matmul
from lmjax.sharding import constrain

_GELU_TANH = functools.partial(jax.nn.gelu, approximate=True)
# Of feed-forward layers; of those with a gate, which it is for.
GATED: dict[str, Callable] = {'geglu': gelu, 'geglu_tanh': _GELU_TANH, 'swiglu': jax.nn.silu}
PLAIN: dict[str, Callable] = {'gelu': gelu, 'gelu_tanh': _GELU_TANH, 'relu': jax.nn.relu}


class TokenInfo(NamedTuple):
  """Where the tokens of a batch stand, and with what they share a row."""

  positions: jax.Array  # int32 [B, T], in the document
  segments: jax.Array | None = None  # int32 [B, T], document number, 0 for padding; None: one document a row
  lengths: jax.Array | None = None  # int32 [B], in place of segments: tokens of the one document, before its padding
  prefix: jax.Array | None = None  # bool [B, T], tokens that a causal model reads from both sides; None: none


class Norm(nn.Module):
  """LayerNorm or RMSNorm over the last axis; `config` decides."""

  config: ModelConfig
  rms: bool = False  # whatever the config says: queries and keys

  @nn.compact
  def __call__(self, x):
    """[..., D] -> [..., D], in the dtype of x."""
    c, width = self.config, x.shape[-1]
    scale = self.param('scale', named(nn.initializers.constant(1.0 - c.norm_offset), ('norm',)), (width,))
    if self.rms or c.norm == 'rmsnorm':
      return norms.rms_norm(x, scale + c.norm_offset if c.norm_offset else scale, c.norm_eps)
    bias = self.param('bias', named(nn.initializers.zeros, ('norm',)), (width,)) if c.biases else None
    return norms.layer_norm(x, scale, bias, c.norm_eps)


class Linear(nn.Module):
  """x @ kernel + bias; and a low-rank adapter where the parameters hold one (LoRA, https://arxiv.org/abs/2106.09685)."""

  config: ModelConfig
  features: tuple[int, ...]  # what comes out for a token: (width,), or (heads, head width)
  axes: tuple  # logical names of the kernel's axes
  std: float  # standard deviation of the initial kernel
  over: int = 1  # how many of the last axes of x go in; parameters have two axes, whatever x has
  bias: bool = False  # whether there is a bias, whatever the config says

  @nn.compact
  def __call__(self, x, key=None):
    """[..., *inputs] -> [..., *features], in the compute dtype; `key` is for the adapter's dropout."""
    c, dtype, inputs = self.config, self.config.dtype, x.shape[-self.over :]
    kernel_init = named(nn.initializers.normal(self.std), self.axes)
    kernel = self.param('kernel', kernel_init, (math.prod(inputs), math.prod(self.features)))
    x = x.astype(dtype)
    y = matmul(x, kernel.astype(dtype).reshape(*inputs, *self.features), self.over)
    if c.biases or self.bias:
      bias = self.param('bias', named(nn.initializers.zeros, self.axes[1:]), (math.prod(self.features),))
      y = add_bias(y, bias.reshape(self.features))
    if self.has_variable('params', 'lora_a'):
      a, b = (self.get_variable('params', name).astype(dtype) for name in ('lora_a', 'lora_b'))
      low = matmul(dropout(x, c.lora.dropout, key), a.reshape(*inputs, -1), self.over)
      y = y + matmul(low, b.reshape(-1, *self.features)) * c.lora.scale
    return y


class Embeddings(nn.Module):
  """Token, position and segment tables."""

  config: ModelConfig
  rows: int

  @nn.compact
  def __call__(self, tokens_BT, positions_BT, segment_types_BT, key):
    """[B, T] ids -> x_BTD."""
    c = self.config
    # a device looks its share of the width up for every row of its group; then shares are exchanged for rows
    tokens_BT, positions_BT, segment_types_BT = (
      constrain(ids_BT, ('group_batch', 'length')) for ids_BT in (tokens_BT, positions_BT, segment_types_BT)
    )

    def looked_up(name, rows, axis, ids_BT):
      """Rounded after the look-up: so the gradient of a row, to which every place of its id adds, is a float32 sum."""
      init = named(nn.initializers.normal(c.init_std), (axis, 'embed'))
      return nn.Embed(rows, c.width, embedding_init=init, name=name)(ids_BT).astype(c.dtype)

    x_BTD = looked_up('token', self.rows, 'vocab', tokens_BT)
    if c.embedding_scale is not None:
      x_BTD = x_BTD * c.embedding_scale
    if c.positions == 'learned':
      offset = c.position_offset
      x_BTD = x_BTD + looked_up('position', offset + c.max_length, 'positions', positions_BT + offset)
    if c.segment_types is not None:
      x_BTD = x_BTD + looked_up('segment', c.segment_types, 'segment_types', segment_types_BT)
    x_BTD = constrain(x_BTD, ('group_batch', 'length', 'embed'))
    x_BTD = constrain(x_BTD, ('batch', 'length', 'features'))
    if c.embedding_norm:
      x_BTD = Norm(c, name='norm')(x_BTD)
    return dropout(x_BTD, c.embedding_dropout, key)


class Attention(nn.Module):
  """Self-attention with grouped key-value heads, QK-norm, rotary positions and a KV cache."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD, info: TokenInfo, kind: LayerKind, key, cache: LayerCache | None):
    """x_BTD -> (x_BTD, cache)."""
    c = self.config
    keys = (None,) * 5 if key is None else jax.random.split(key, 5)

    def project(name, heads, axis, key):
      return Linear(c, (heads, c.head_width), ('embed', axis), c.init_std, bias=c.qkv_bias, name=name)(x_BTD, key)

    q_BTHK = project('query', c.heads, 'heads', keys[0])
    k_BTGK = project('key', c.kv_heads, 'kv_heads', keys[1])
    v_BTGK = project('value', c.kv_heads, 'kv_heads', keys[2])
    if c.qk_norm:
      q_BTHK = self._normalised(q_BTHK, 'query_norm')
      k_BTGK = self._normalised(k_BTGK, 'key_norm')
    if kind.theta is not None:
      rotary = (info.positions, kind.theta, c.rotary_width, *rotary_scaling(c, kind))
      q_BTHK, k_BTGK = (positions.rotate(a, *rotary) for a in (q_BTHK, k_BTGK))
    scores = dict(scale=c.attention_scale, softcap=c.attention_softcap)
    if cache is not None:
      cache = cache.write(k_BTGK, v_BTGK)
    if cache is None or cache.visible is None:
      y_BTHK = attention.attend(
        q_BTHK,
        k_BTGK,
        v_BTGK,
        causal=c.attention == 'causal',
        window=kind.window,
        segments_BT=info.segments,
        lengths_B=info.lengths,
        prefix_BT=info.prefix,
        implementation=implementation_of(c),
        dropout=c.attention_dropout,
        key=keys[3],
        **scores,
      )
    else:
      y_BTHK = attention.attend_cached(q_BTHK, cache.key, cache.value, cache.visible, **scores)
    output = Linear(c, (c.width,), ('heads', 'embed'), _residual_std(c), over=2, name='output')
    return output(y_BTHK, keys[4]), cache

  def _normalised(self, x_BTHK, name):
    norm = Norm(self.config, rms=True, name=name)
    if self.config.qk_norm_over == 'head':
      return norm(x_BTHK)
    return norm(x_BTHK.reshape(*x_BTHK.shape[:2], -1)).reshape(x_BTHK.shape)


def rotary_scaling(c: ModelConfig, kind: LayerKind) -> tuple[np.ndarray | None, float]:
  """What a layer multiplies rotary frequencies by (None: nothing), and their sines and cosines."""
  if not kind.is_scaled:
    return None, 1.0
  width, ramp = c.rotary_width or c.head_width, (c.rope_original_length, c.rope_rotations)
  scales_P = positions.frequency_scales(c.rope_scaling_type, width, kind.theta, c.rope_scaling, *ramp)
  if c.rope_scaling_type != 'yarn':
    return scales_P, 1.0
  return scales_P, c.rope_attention_factor or positions.yarn_amplitude(c.rope_scaling)


def implementation_of(c: ModelConfig) -> str:
  """The attention that a model takes where the program is to run."""
  return attention.choose(c.attention_implementation, c.dtype, c.attention_dropout, c.attention_softcap)


class FeedForward(nn.Module):
  """Two linear layers with an activation between, or three with a gate."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD, key):
    """x_BTD -> x_BTD."""
    c = self.config
    keys = (None,) * 3 if key is None else jax.random.split(key, 3)
    h_BTF = checkpoint_name(Linear(c, (c.mlp_width,), ('embed', 'mlp'), c.init_std, name='up')(x_BTD, keys[0]), 'up')
    if c.activation in GATED:
      gate_BTF = Linear(c, (c.mlp_width,), ('embed', 'mlp'), c.init_std, name='gate')(x_BTD, keys[1])
      h_BTF = GATED[c.activation](gate_BTF) * h_BTF
    else:
      h_BTF = PLAIN[c.activation](h_BTF)
    return Linear(c, (c.width,), ('mlp', 'embed'), _residual_std(c), name='down')(h_BTF, keys[2])


class Block(nn.Module):
  """One layer: attention and feed-forward, each with its norms and a residual connection."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD, info: TokenInfo, kind: LayerKind, key, cache: LayerCache | None = None):
    """x_BTD -> (x_BTD, cache)."""
    c = self.config
    keys = (None,) * 4 if key is None else jax.random.split(key, 4)

    def read(name, x_BTD):
      """What a sublayer is given."""
      return Norm(c, name=f'{name}_norm')(x_BTD) if c.norm_placement in ('pre', 'sandwich') else x_BTD

    def added(name, x_BTD, y_BTD, key):
      """The residual sum of x and a sublayer's output y."""
      if c.norm_placement in ('sandwich', 'output'):
        end = '_output_norm' if c.norm_placement == 'sandwich' else '_norm'
        y_BTD = Norm(c, name=name + end)(y_BTD)
      x_BTD = x_BTD + dropout(y_BTD, c.residual_dropout, key)
      return Norm(c, name=f'{name}_norm')(x_BTD) if c.norm_placement == 'post' else x_BTD

    attention_in_BTD = read('attention', x_BTD) if kind.has_first_norm else x_BTD
    y_BTD, cache = Attention(c, name='attention')(attention_in_BTD, info, kind, keys[0], cache)
    attended_BTD = added('attention', x_BTD, y_BTD, keys[1])
    mlp_in_BTD = read('mlp', x_BTD if c.parallel_residual else attended_BTD)
    y_BTD = FeedForward(c, name='mlp')(mlp_in_BTD, keys[3])
    return added('mlp', attended_BTD, y_BTD, keys[2]), cache


def _residual_std(c):
  return c.init_std / (2 * c.layers) ** 0.5 if c.residual_init == 'scaled' else c.init_std
