"""The one backbone: an encoder or a decoder, by configuration.

Layers are Flax Linen modules; everything a caller sees is pure: `Transformer.init(key) -> params` and
`Transformer.apply(params, tokens, ...) -> x`. Parameters are one nested dict with a path a layer
(`layers/3/attention/query/kernel`), whether the layers are scanned or not: scanning stacks them inside the
jitted step, which costs one copy of the weights in the compute dtype and spares every other part of the
program two layouts.

Legend: B batch, T length, D width, H heads, G key-value heads, K head width, F hidden width, V vocabulary.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from lmjax.fields import NonNegativeFloat, PositiveFloat, PositiveInt, Rate
from lmjax.models.axes import named, names_of
from lmjax.ops import attention, norms, positions
from lmjax.sharding import constrain

GATED = {'geglu': functools.partial(jax.nn.gelu, approximate=False), 'swiglu': jax.nn.silu}
PLAIN = {
  'gelu': functools.partial(jax.nn.gelu, approximate=False),
  'gelu_tanh': functools.partial(jax.nn.gelu, approximate=True),
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """The backbone and its output head.

  attention: causal (a decoder: GPT) or bidirectional (an encoder: BERT)
  layers: number of blocks
  width: model width D
  heads: query heads; they divide the width
  kv_heads: key and value heads, each shared by heads / kv_heads query heads (GQA, arXiv:2305.13245)
  mlp_width: hidden width F of the feed-forward layers
  positions: learned (a table) or rotary (RoFormer, arXiv:2104.09864)
  max_length: rows of the position table; None with rotary positions
  rope_theta: base of the rotary frequencies; None with learned positions
  rope_theta_local: the same for layers with a window; None: rope_theta
  norm: layernorm or rmsnorm
  norm_eps: added to the variance
  norm_placement: pre (before each sublayer) or post (after each residual sum, as in BERT)
  activation: gelu, gelu_tanh (GPT-2's approximation), geglu or swiglu (arXiv:2002.05202)
  biases: whether linear layers and LayerNorms have biases
  qk_norm: RMSNorm on queries and keys, per head (arXiv:2302.05442)
  window: sliding window in tokens; None: every layer sees everything
  global_every: with a window, every n-th layer, from the first, sees everything; None: none does
  tied_embeddings: whether the output embedding is the input embedding (arXiv:1608.05859)
  segment_types: rows of the segment (token type) table of BERT; None: no table
  embedding_norm: whether embeddings are normalised before the first layer
  mlm_transform: whether BERT's dense, activation and norm, with a bias a token, precede the output embedding
  embedding_dropout: dropout on the embeddings
  attention_dropout: dropout on the attention weights
  residual_dropout: dropout on each sublayer's output
  init_std: standard deviation of the initial weights
  residual_init: plain, or scaled (sublayer outputs start smaller by sqrt(2 layers), as in GPT-2)
  vocab_multiple: embedding rows are padded to a multiple of this; padding rows get no probability
  scan: whether layers run as one compiled loop (compiles faster) or written out (runs faster)
  remat: what the backward pass computes again: none, dots (all but matrix products) or full (arXiv:1604.06174)
  dtype: compute dtype; parameters and their optimizer state stay float32
  attention_implementation: auto, xla, cudnn (GPU) or splash (TPU)
  """

  attention: Literal['causal', 'bidirectional']
  layers: PositiveInt
  width: PositiveInt
  heads: PositiveInt
  kv_heads: PositiveInt
  mlp_width: PositiveInt
  positions: Literal['learned', 'rotary']
  max_length: PositiveInt | None
  rope_theta: PositiveFloat | None
  rope_theta_local: PositiveFloat | None
  norm: Literal['layernorm', 'rmsnorm']
  norm_eps: PositiveFloat
  norm_placement: Literal['pre', 'post']
  activation: Literal['gelu', 'gelu_tanh', 'geglu', 'swiglu']
  biases: bool
  qk_norm: bool
  window: PositiveInt | None
  global_every: PositiveInt | None
  tied_embeddings: bool
  segment_types: PositiveInt | None
  embedding_norm: bool
  mlm_transform: bool
  embedding_dropout: Rate
  attention_dropout: Rate
  residual_dropout: Rate
  init_std: NonNegativeFloat
  residual_init: Literal['plain', 'scaled']
  vocab_multiple: PositiveInt
  scan: bool
  remat: Literal['none', 'dots', 'full']
  dtype: Literal['float32', 'bfloat16']
  attention_implementation: Literal['auto', 'xla', 'cudnn', 'splash']

  @property
  def head_width(self) -> int:
    """K, the width of one head."""
    return self.width // self.heads

  def problems(self):
    """Rules between leaves: what cannot be built, and what would be silently without effect."""
    if self.width % self.heads:
      yield 'heads', self.heads, f'must divide model.width = {self.width}', f'choose one of {_divisors(self.width)}'
    elif self.positions == 'rotary' and self.head_width % 2:
      yield 'heads', self.heads, f'gives heads of odd width {self.head_width}', 'rotary positions need an even one'
    if self.heads % self.kv_heads:
      yield (
        'kv_heads',
        self.kv_heads,
        f'must divide model.heads = {self.heads}',
        f'choose one of {_divisors(self.heads)}',
      )
    learned = self.positions == 'learned'
    if learned != (self.max_length is not None):
      rule = 'is needed with learned positions' if learned else 'has no effect with rotary positions'
      yield 'max_length', self.max_length, rule, 'give the table its rows' if learned else 'set it to None'
    if learned == (self.rope_theta is not None):
      rule = 'has no effect with learned positions' if learned else 'is needed with rotary positions'
      yield 'rope_theta', self.rope_theta, rule, 'set it to None' if learned else 'give a base such as 10000'
    if self.rope_theta_local is not None and (learned or self.window is None):
      yield 'rope_theta_local', self.rope_theta_local, 'needs rotary positions and a window', 'set it to None'
    if self.global_every is not None and self.window is None:
      yield 'global_every', self.global_every, 'has no effect without model.window', 'set it to None'
    elif self.global_every is not None and self.global_every == 1:
      yield 'global_every', 1, 'leaves no layer with a window', 'set model.window to None'
    if self.attention_dropout and self.attention_implementation in ('cudnn', 'splash'):
      yield 'attention_dropout', self.attention_dropout, 'only the xla attention has dropout', 'set it to 0'
    if self.attention_implementation == 'cudnn' and self.dtype == 'float32':
      yield 'attention_implementation', 'cudnn', 'takes no float32', 'set model.dtype to bfloat16'
    if self.attention_implementation == 'splash' and self.scan and self.global_every is not None:
      yield 'attention_implementation', 'splash', 'needs each window at compile time', 'set model.scan to False'

  def window_of(self, layer: int) -> int | None:
    """The sliding window of a layer, or None where it sees everything."""
    is_global = self.global_every is not None and layer % self.global_every == 0
    return None if is_global else self.window

  def theta_of(self, layer: int) -> float | None:
    """The rotary base of a layer."""
    is_local = self.window_of(layer) is not None and self.rope_theta_local is not None
    return self.rope_theta_local if is_local else self.rope_theta


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


@dataclasses.dataclass(frozen=True)
class Transformer:
  """The backbone as pure functions of its parameters.

  Attributes:
    config: its shape.
    vocab_size: number of token ids; the table has `rows`, padded to a multiple of config.vocab_multiple.
  """

  config: ModelConfig
  vocab_size: int

  @property
  def rows(self) -> int:
    """Rows of the token table."""
    return -(-self.vocab_size // self.config.vocab_multiple) * self.config.vocab_multiple

  def init(self, key: jax.Array) -> dict:
    """Random float32 parameters: {'embeddings', 'layers': {'0': ...}, 'final_norm' (pre-norm alone)}."""
    c = self.config
    embed_key, layers_key, final_key = jax.random.split(key, 3)
    tokens_11, x_11D = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, c.width), c.dtype)
    embeddings = Embeddings(c, self.rows).init(embed_key, tokens_11, tokens_11, tokens_11, None)

    def block(layer_key):
      return Block(c).init(layer_key, x_11D, tokens_11, tokens_11, None, c.rope_theta, None)

    # one compiled initialiser for all layers; each layer's numbers depend on its own key alone
    stacked = jax.vmap(lambda k: nn.unbox(block(k)))(jax.random.split(layers_key, c.layers))
    layers = {str(i): jax.tree.map(lambda p, i=i: p[i], stacked['params']) for i in range(c.layers)}
    params = {'embeddings': nn.unbox(embeddings)['params'], 'layers': layers}
    if c.norm_placement == 'pre':
      params['final_norm'] = nn.unbox(Norm(c).init(final_key, x_11D))['params']
    return params

  def axes(self) -> dict:
    """Logical axis names of every parameter, in a tree like `init`'s."""
    c = self.config
    tokens_11, x_11D = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, c.width), c.dtype)
    key = jax.random.key(0)
    embeddings = jax.eval_shape(lambda: Embeddings(c, self.rows).init(key, tokens_11, tokens_11, tokens_11, None))
    block = jax.eval_shape(lambda: Block(c).init(key, x_11D, tokens_11, tokens_11, None, c.rope_theta, None))
    layer = names_of(block['params'])
    tree = {'embeddings': names_of(embeddings['params']), 'layers': {str(i): layer for i in range(c.layers)}}
    if c.norm_placement == 'pre':
      tree['final_norm'] = names_of(jax.eval_shape(lambda: Norm(c).init(key, x_11D))['params'])
    return tree

  def apply(
    self,
    params: dict,
    tokens_BT: jax.Array,
    *,
    segments_BT: jax.Array | None = None,
    positions_BT: jax.Array | None = None,
    segment_types_BT: jax.Array | None = None,
    key: jax.Array | None = None,
    cache: dict | None = None,
  ):
    """Token ids -> the last layer's output.

    Args:
      params: as `init` gives them.
      tokens_BT: ids below vocab_size.
      segments_BT: document numbers, 0 for padding; attention stays within a number. None: all one document.
      positions_BT: position of each token in its document. None: 0 .. T-1.
      segment_types_BT: token types, where the config has a table for them. None: 0.
      key: for dropout. None: no dropout.
      cache: from `init_cache`; then `segments_BT` and `positions_BT` are those of the new tokens.

    Returns:
      x_BTD in the compute dtype; with a cache, (x_BTD, new cache).
    """
    c = self.config
    if positions_BT is None:
      positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    if segment_types_BT is None:
      segment_types_BT = jnp.zeros_like(tokens_BT)
    keys = (None,) * (c.layers + 1) if key is None else jax.random.split(key, c.layers + 1)
    x_BTD = Embeddings(c, self.rows).apply(
      {'params': params['embeddings']}, tokens_BT, positions_BT, segment_types_BT, keys[0]
    )
    x_BTD = constrain(x_BTD, ('batch', 'length', 'features'))
    if cache is not None:
      x_BTD, cache = self._cached_layers(params, x_BTD, positions_BT, segments_BT, cache)
    elif c.scan:
      x_BTD = self._scanned_layers(params, x_BTD, positions_BT, segments_BT, keys[1:])
    else:
      for i in range(c.layers):
        run = self._layer(c.window_of(i), c.theta_of(i))
        x_BTD = run(params['layers'][str(i)], x_BTD, positions_BT, segments_BT, keys[i + 1])
    if c.norm_placement == 'pre':
      x_BTD = Norm(c).apply({'params': params['final_norm']}, x_BTD)
    return x_BTD if cache is None else (x_BTD, cache)

  def init_cache(self, batch: int, length: int) -> dict:
    """An empty KV cache for `length` tokens a row; segments 0 hide what is not written yet."""
    c = self.config
    shape = (batch, length, c.kv_heads, c.head_width)
    layer = {
      'key': jnp.zeros(shape, c.dtype),
      'value': jnp.zeros(shape, c.dtype),
      'segments': jnp.zeros((batch, length), jnp.int32),
      'index': jnp.zeros((), jnp.int32),
    }
    return {str(i): layer for i in range(c.layers)}

  def _layer(self, window, theta):
    """One layer as a function of arrays, computed again in the backward pass as config.remat says."""
    c = self.config

    def run(params, x_BTD, positions_BT, segments_BT, key):
      y_BTD, _ = Block(c).apply({'params': params}, x_BTD, positions_BT, segments_BT, window, theta, key)
      return constrain(y_BTD, ('batch', 'length', 'features'))

    if c.remat == 'none':
      return run
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if c.remat == 'dots' else None
    return jax.checkpoint(run, policy=policy, prevent_cse=not c.scan)

  def _scanned_layers(self, params, x_BTD, positions_BT, segments_BT, keys):
    c = self.config
    low = jax.tree.map(lambda p: p.astype(c.dtype) if p.ndim == 2 else p, params['layers'])
    stacked = jax.tree.map(lambda *layers: jnp.stack(layers), *(low[str(i)] for i in range(c.layers)))
    mixed = c.global_every is not None  # then windows and rotary bases are arrays that the loop runs over
    # T tokens see each other through a window of 2 T, which therefore stands for none
    whole = 2 * x_BTD.shape[1]
    windows = jnp.array([c.window_of(i) or whole for i in range(c.layers)])
    thetas = jnp.array([c.theta_of(i) or 0.0 for i in range(c.layers)], jnp.float32)
    keys = None if keys[0] is None else jnp.stack(list(keys))

    def body(x_BTD, layer):
      layer_params, window, theta, key = layer
      window, theta = (window, theta) if mixed else (c.window_of(0), c.theta_of(0))
      run = self._layer(window, theta)
      return run(layer_params, x_BTD, positions_BT, segments_BT, key), None

    return jax.lax.scan(body, x_BTD, (stacked, windows, thetas, keys))[0]

  def _cached_layers(self, params, x_BTD, positions_BT, segments_BT, cache):
    c = self.config
    if segments_BT is None:
      segments_BT = jnp.ones(x_BTD.shape[:2], jnp.int32)
    new = {}
    for i in range(c.layers):
      x_BTD, new[str(i)] = Block(c).apply(
        {'params': params['layers'][str(i)]},
        x_BTD,
        positions_BT,
        segments_BT,
        c.window_of(i),
        c.theta_of(i),
        None,
        cache[str(i)],
      )
    return x_BTD, new


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
    name=name,
  )


def _residual_std(c):
  return c.init_std / (2 * c.layers) ** 0.5 if c.residual_init == 'scaled' else c.init_std


def _divisors(n):
  return [d for d in range(1, n + 1) if n % d == 0]
