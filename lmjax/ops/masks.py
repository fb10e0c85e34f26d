"""Which position may look at which. Legend: B batch, T queries, S keys."""

import jax
import jax.numpy as jnp


def attention_mask(
  q_places: jax.Array,
  k_places: jax.Array,
  *,
  causal: bool,
  window: int | None = None,
  q_segments_BT: jax.Array | None = None,
  k_segments_BS: jax.Array | None = None,
  k_prefix_BS: jax.Array | None = None,
) -> jax.Array | None:
  """True where a query may attend to a key.

  Args:
    q_places, k_places: places in the row, int [T] and [S], or with B before; within a document they never restart.
    causal: keys after the query are hidden.
    window: how wide a sliding window is, in tokens. Causal: the query and the `window - 1` before it;
      bidirectional: `window // 2` on each side (ModernBERT, https://arxiv.org/abs/2412.13663, section 2.1).
    q_segments_BT, k_segments_BS: document numbers; only equal ones see each other. Padding is segment 0 and sees
      padding, so that no row of the softmax is empty.
    k_prefix_BS: bool, keys that a causal query sees even if they come after it: a prefix that is read from both
      sides (prefix LM: T5, https://arxiv.org/abs/1910.10683, section 3.2.1).

  Returns:
    bool [B or 1, 1, T, S], or None where everything is visible.
  """
  ahead_BTS = (k_places[..., None, :] - q_places[..., :, None]).reshape(-1, 1, q_places.shape[-1], k_places.shape[-1])
  visible = None
  if causal:
    visible = ahead_BTS <= 0
    if k_prefix_BS is not None:
      visible = visible | k_prefix_BS[:, None, None, :]
  if window is not None:
    # behind: none further than the window; ahead there is something to see in a prefix alone
    near = jnp.abs(ahead_BTS) < window if causal else jnp.abs(ahead_BTS) <= window // 2
    visible = near if visible is None else visible & near
  if q_segments_BT is not None:
    same = (q_segments_BT[:, :, None] == k_segments_BS[:, None, :])[:, None]
    visible = same if visible is None else visible & same
  return visible
