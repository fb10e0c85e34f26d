"""Which position may look at which. Legend: B batch, T queries, S keys: the same positions."""

import jax
import jax.numpy as jnp


def attention_mask(
  length: int,
  *,
  causal: bool,
  window: int | None = None,
  segments_BT: jax.Array | None = None,
  prefix_BT: jax.Array | None = None,
) -> jax.Array | None:
  """True where a query may attend to a key.

  Args:
    length: places of a row. Places, not positions: these never restart.
    causal: keys after the query are hidden.
    window: how wide a sliding window is, in tokens. Causal: the query and the `window - 1` before it;
      bidirectional: `window // 2` on each side (ModernBERT, https://arxiv.org/abs/2412.13663, section 2.1).
    segments_BT: document numbers; only equal ones see each other. Padding is segment 0 and sees padding, so that no row
      of the softmax is empty.
    prefix_BT: bool, keys that a causal query sees even if they come after it: a prefix that is read from both
      sides (prefix LM: T5, https://arxiv.org/abs/1910.10683, section 3.2.1).

  Returns:
    bool [B or 1, 1, T, S], or None where everything is visible.
  """
  ahead_TS = jnp.arange(length) - jnp.arange(length)[:, None]
  visible = None
  if causal:
    visible = (ahead_TS <= 0)[None, None]
    if prefix_BT is not None:
      visible = visible | prefix_BT[:, None, None, :]
  if window is not None:
    # behind: none further than the window; ahead there is something to see in a prefix alone
    near = (jnp.abs(ahead_TS) < window if causal else jnp.abs(ahead_TS) <= window // 2)[None, None]
    visible = near if visible is None else visible & near
  if segments_BT is not None:
    same = (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
    visible = same if visible is None else visible & same
  return visible
