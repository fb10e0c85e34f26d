"""The one backbone: an encoder or a decoder, by configuration.

Layers are Flax Linen modules; everything a caller sees is pure: `Transformer.init(key) -> params` and
`Transformer.apply(params, tokens, ...) -> x`. Parameters are one nested dict with a path a layer
(`layers/3/attention/query/kernel`), whether the layers are scanned or not: scanning stacks them inside the
jitted step, which costs one copy of the weights in the compute dtype and spares every other part of the
program two layouts.

Legend: B batch, T length, D width.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lmjax.errors import ConfigError
from lmjax.models import kv_cache, lora
from lmjax.models.axes import Parameters
from lmjax.models.config import KEPT, ModelConfig
from lmjax.models.kv_cache import KVCache, LayerCache
from lmjax.models.layers import Block, Embeddings, Norm, TokenInfo
from lmjax.ops import attention
from lmjax.sharding import constrain


def documents_of(batch: dict) -> dict:
  """The arguments of `Transformer.apply` that say which tokens of a batch belong together.

  A batch without segments has one document a row; one with segments and positions several (packed rows); one with
  segments alone a document and its padding in each row, of which kernels can skip the padding.
  """
  if 'segments' not in batch:
    return {}
  if 'positions' in batch:
    return {'segments_BT': batch['segments'], 'positions_BT': batch['positions']}
  return {'lengths_B': batch['segments'].sum(axis=1)}


@dataclasses.dataclass(frozen=True)
class Transformer(Parameters):
  """The backbone as pure functions of its parameters."""

  config: ModelConfig
  vocab_size: int

  def __post_init__(self):
    """Raises ConfigError: the token table has fewer rows than the tokenizer has entries."""
    if self.vocab_rows < self.vocab_size:
      rule = f"must be at least the tokenizer's {self.vocab_size}"
      raise ConfigError(f'model.vocab_size = {self.vocab_rows}: {rule}; raise it, or set it to None')

  @property
  def vocab_rows(self) -> int:
    """Rows of the token table that have a probability: the vocabulary, and more where config.vocab_size says so."""
    return self.config.vocab_size or self.vocab_size

  @property
  def padded_vocab_size(self) -> int:
    """Rows of the token table: a multiple of config.vocab_multiple."""
    return -(-self.vocab_rows // self.config.vocab_multiple) * self.config.vocab_multiple

  def boxed(self, key: jax.Array) -> dict:
    """See `Parameters`: {'embeddings', 'layers': {'0': ...}, 'final_norm' (not with post-norm)}."""
    c = self.config
    embed_key, layers_key, final_key, lora_key = jax.random.split(key, 4)
    tokens_11, x_11D = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1, c.width), c.dtype)
    embeddings = Embeddings(c, self.padded_vocab_size).init(embed_key, tokens_11, tokens_11, tokens_11, None)

    def block(layer_key):
      kind = c.layer(0)._replace(has_first_norm=True)
      return Block(c).init(layer_key, x_11D, TokenInfo(tokens_11, tokens_11), kind, None)

    # one compiled initialiser for all layers; each layer's numbers depend on its own key alone
    stacked = jax.vmap(block)(jax.random.split(layers_key, c.layers))
    layers = {str(i): jax.tree.map(lambda p, i=i: p[i], stacked['params']) for i in range(c.layers)}
    if not c.first_norm:
      del layers['0']['attention_norm']
    params = {'embeddings': embeddings['params'], 'layers': layers}
    if c.norm_placement != 'post':
      params['final_norm'] = Norm(c).init(final_key, x_11D)['params']
    return params if c.lora is None else lora.add(params, c, lora_key)

  def apply(
    self,
    params: dict,
    tokens_BT: jax.Array,
    *,
    segments_BT: jax.Array | None = None,
    lengths_B: jax.Array | None = None,
    positions_BT: jax.Array | None = None,
    segment_types_BT: jax.Array | None = None,
    prefix_BT: jax.Array | None = None,
    key: jax.Array | None = None,
    cache: KVCache | None = None,
    visible_BTS: jax.Array | None = None,
  ):
    """Token ids -> the last layer's output.

    Args:
      tokens_BT: ids below vocab_size.
      segments_BT: document numbers, 0 for padding; attention stays within a number. None: all one document.
      lengths_B: in place of segments_BT, the tokens of each row's one document, which padding follows.
      positions_BT: position of each token in its document. None: 0 .. T-1.
      segment_types_BT: token types, where the config has a table for them. None: 0.
      prefix_BT: bool, tokens that a causal model reads from both sides. None: none.
      key: for dropout. None: no dropout.
      cache: from `init_cache`; then `segments_BT` and `positions_BT` are those of the new tokens.
      visible_BTS: bool, which slots of the cache each new token sees, in place of all before it. None: those.

    Returns:
      x_BTD in the compute dtype; with a cache, (x_BTD, new cache).
    """
    c = self.config
    if positions_BT is None:
      positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    if segment_types_BT is None:
      segment_types_BT = jnp.zeros_like(tokens_BT)
    keys = (None,) * (c.layers + 1) if key is None else jax.random.split(key, c.layers + 1)
    x_BTD: Any = Embeddings(c, self.padded_vocab_size).apply(
      {'params': params['embeddings']}, tokens_BT, positions_BT, segment_types_BT, keys[0]
    )
    info = TokenInfo(positions_BT, segments_BT, lengths_B, prefix_BT)
    if cache is not None:
      x_BTD, cache = self._cached_layers(params, x_BTD, info, cache, visible_BTS)
    elif c.scan:
      x_BTD = self._scanned_layers(params, x_BTD, info, keys[1:])
    else:
      for i in range(c.layers):
        run = self._layer(c.layer(i))
        x_BTD = run(params['layers'][str(i)], x_BTD, info, keys[i + 1])
    if c.norm_placement != 'post':
      x_BTD = Norm(c).apply({'params': params['final_norm']}, x_BTD)
    return x_BTD if cache is None else (x_BTD, cache)

  def init_cache(self, batch: int, length: int) -> KVCache:
    """An empty KV cache with `length` slots a row."""
    return kv_cache.empty(self.config, batch, length)

  def _layer(self, kind):
    """One layer as a function of arrays, computed again in the backward pass as config.remat says."""
    c = self.config

    def run(params, x_BTD, info, key):
      y_BTD, _ = Block(c).apply({'params': params}, x_BTD, info, kind, key)
      return constrain(y_BTD, ('batch', 'length', 'features'))

    if c.remat in ('none', 'auto'):  # not settled where nothing is trained
      return run
    policies = jax.checkpoint_policies
    policy = policies.save_only_these_names(attention.RESIDUALS, *KEPT.get(c.remat, ()))
    if c.remat == 'dots':
      policy = policies.save_from_both_policies(policy, policies.dots_with_no_batch_dims_saveable)
    return jax.checkpoint(run, policy=policy, prevent_cse=not c.scan)

  def _scanned_layers(self, params, x_BTD, info, keys):
    """A loop over what repeats: a layer, or as many as there are kinds of them, so that windows are static."""
    c = self.config
    low = jax.tree.map(lambda p: p.astype(c.dtype) if p.ndim == 2 else p, params['layers'])
    layers = [(low[str(i)], keys[i]) for i in range(c.layers)]
    if not c.first_norm:  # its parameters do not stack with those of the others
      layer_params, key = layers[0]
      x_BTD = self._layer(c.layer(0))(layer_params, x_BTD, info, key)
    first = 0 if c.first_norm else 1
    runs = [self._layer(c.layer(first + i)) for i in range(c.period)]
    looped = c.layers - (c.layers - first) % c.period

    def body(x_BTD, group):
      for run, (layer_params, key) in zip(runs, group):
        x_BTD = run(layer_params, x_BTD, info, key)
      return x_BTD, None

    groups = [layers[i : i + c.period] for i in range(first, looped, c.period)]
    if groups:
      x_BTD, _ = jax.lax.scan(body, x_BTD, jax.tree.map(lambda *same: jnp.stack(same), *groups))
    return body(x_BTD, layers[looped:])[0]

  def _cached_layers(self, params, x_BTD, info, cache, visible_BTS):
    c, written = self.config, []
    if info.segments is None:
      info = info._replace(segments=jnp.ones(x_BTD.shape[:2], jnp.int32))
    is_first = cache.is_empty and visible_BTS is None
    cache = cache.filled(info.segments, info.positions)
    for i, (key, value) in enumerate(zip(cache.keys, cache.values)):
      layer, kind = {'params': params['layers'][str(i)]}, c.layer(i)
      seen = None if is_first else kv_cache.visible(cache, info, kind, c.attention == 'causal', visible_BTS)
      x_BTD, new = Block(c).apply(layer, x_BTD, info, kind, None, LayerCache(key, value, cache.index, seen))
      written.append(new)
    keys, values = (tuple(getattr(layer, name) for layer in written) for name in ('key', 'value'))
    return x_BTD, cache._replace(keys=keys, values=values, index=cache.index + x_BTD.shape[1])
