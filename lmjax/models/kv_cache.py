"""Keys and values of the tokens so far, which generation does not compute again.

Legend: B batch, T new tokens, S slots, G key-value heads, K head width.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lmjax.models.config import LayerKind, ModelConfig
from lmjax.ops.masks import attention_mask


class LayerCache(NamedTuple):
  """What one layer writes and reads in a pass."""

  key: jax.Array  # [B, G, K, S]; with slots last, XLA's CPU products of a few queries take half as long
  value: jax.Array  # [B, G, S, K]
  index: Any  # the slot of the first new token
  visible: jax.Array | None  # bool [B, T, S]; None: nothing was written before, the new tokens see each other alone

  def write(self, k_BTGK: jax.Array, v_BTGK: jax.Array) -> 'LayerCache':
    """With the keys and values of the new tokens."""

    new_BGKT, new_BGTK = jnp.moveaxis(k_BTGK, 1, 3), jnp.moveaxis(v_BTGK, 1, 2)
    update = jax.lax.dynamic_update_slice_in_dim
    key = update(self.key, new_BGKT.astype(self.key.dtype), self.index, axis=3)
    return self._replace(key=key, value=update(self.value, new_BGTK.astype(self.value.dtype), self.index, axis=2))


class KVCache(NamedTuple):
  """Slots that the tokens of each pass fill in the order in which they are given."""

  keys: tuple[jax.Array, ...]  # [B, G, K, S] of each layer
  values: tuple[jax.Array, ...]  # [B, G, S, K]
  segments: jax.Array  # int32 [B, S]: document numbers; 0, which hides a slot, until it is filled
  positions: jax.Array  # int32 [B, S]: of the tokens in their documents
  index: Any  # how many slots are filled; the int 0 while it is certain that none is

  def filled(self, segments_BT: jax.Array, positions_BT: jax.Array) -> 'KVCache':
    """With the new tokens' places; `index` stays."""
    segments_BS, positions_BS = (
      jax.lax.dynamic_update_slice_in_dim(old_BS, new_BT.astype(jnp.int32), self.index, axis=1)
      for old_BS, new_BT in ((self.segments, segments_BT), (self.positions, positions_BT))
    )
    return self._replace(segments=segments_BS, positions=positions_BS)

  @property
  def is_empty(self) -> bool:
    """Whether it is certain that no slot is filled."""
    return isinstance(self.index, int) and self.index == 0


def empty(c: ModelConfig, batch: int, slots: int) -> KVCache:
  """A cache of `batch` rows."""
  key = jnp.zeros((batch, c.kv_heads, c.head_width, slots), c.dtype)
  value = jnp.zeros((batch, c.kv_heads, slots, c.head_width), c.dtype)
  places = jnp.zeros((batch, slots), jnp.int32)
  return KVCache((key,) * c.layers, (value,) * c.layers, places, places, 0)


def visible(cache: KVCache, info, kind: LayerKind, causal: bool, chosen_BTS: jax.Array | None) -> jax.Array:
  """bool [B, T, S]: the slots that each new token sees, of a cache in which it stands already.

  By `attention_mask`, of which `chosen_BTS` may leave some.
  """
  prefix_BS = None
  if info.prefix is not None:
    nowhere_BS = jnp.zeros(cache.segments.shape, bool)
    prefix_BS = jax.lax.dynamic_update_slice_in_dim(nowhere_BS, info.prefix, cache.index, axis=1)
  sides = dict(q_segments_BT=info.segments, k_segments_BS=cache.segments, k_prefix_BS=prefix_BS)
  mask = attention_mask(info.positions, cache.positions, causal=causal, window=kind.window, **sides)
  return mask[:, 0] if chosen_BTS is None else mask[:, 0] & chosen_BTS
