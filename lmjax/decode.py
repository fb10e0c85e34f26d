"""Generation over a step function: it knows no model.

Legend: B batch, P prompt length, N new tokens, T tokens given to one step, V vocabulary.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

# step(cache, tokens_BT, positions_BT, segments_BT) -> (float32 logits_BV after the last token, cache)
Step = Callable


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
  """Prompts of different lengths -> tokens_BP and segments_BP (0 for padding), all ending together.

  >>> pad_left([[5, 6], [7]], pad=0)
  (array([[5, 6],
         [0, 7]], dtype=int32), array([[1, 1],
         [0, 1]], dtype=int32))

  Raises:
    ValueError: an empty prompt: there is nothing to continue.
  """
  if not all(len(prompt) for prompt in prompts):
    raise ValueError('an empty prompt: give at least one token, such as the end-of-document token')
  longest = max(map(len, prompts))
  tokens_BP = np.full((len(prompts), longest), pad, np.int32)
  segments_BP = np.zeros_like(tokens_BP)
  for row, prompt in enumerate(prompts):
    tokens_BP[row, longest - len(prompt) :] = prompt
    segments_BP[row, longest - len(prompt) :] = 1
  return tokens_BP, segments_BP


def restrict(logits_BV: jax.Array, top_k: int | None, top_p: float | None) -> jax.Array:
  """Sets to -inf what is outside the `top_k` likeliest tokens, or outside the smallest set of probability `top_p`
  (nucleus sampling, https://arxiv.org/abs/1904.09751). The likeliest token always stays."""
  if top_k is not None:
    kth_B1 = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))[0][:, -1:]
    logits_BV = jnp.where(logits_BV < kth_B1, -jnp.inf, logits_BV)
  if top_p is not None:
    sorted_BV = jnp.flip(jnp.sort(logits_BV, axis=-1), axis=-1)
    probability_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probability_BV, axis=-1) - probability_BV
    inside_BV = (before_BV < top_p).at[:, 0].set(True)
    least_B1 = jnp.min(jnp.where(inside_BV, sorted_BV, jnp.inf), axis=-1, keepdims=True)
    logits_BV = jnp.where(logits_BV < least_B1, -jnp.inf, logits_BV)
  return logits_BV


def sample(logits_BV, key, temperature: float, top_k: int | None, top_p: float | None) -> jax.Array:
  """One token a row [B]; temperature 0 is greedy."""
  if temperature == 0.0:
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
  return jax.random.categorical(key, restrict(logits_BV / temperature, top_k, top_p)).astype(jnp.int32)


def generate(
  step: Step,
  cache,
  tokens_BP: jax.Array,
  segments_BP: jax.Array,
  key: jax.Array,
  *,
  new_tokens: int,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  stop: int | None = None,
) -> jax.Array:
  """Continues left-padded prompts by `new_tokens` tokens; jit it with the keyword arguments static.

  Args:
    step: the model, see `Step`.
    cache: an empty cache with room for P + new_tokens tokens.
    tokens_BP: prompts from `pad_left`.
    segments_BP: their segments.
    key: one for the whole call; token n uses fold_in(key, n).
    new_tokens: N.
    temperature: divides the logits; 0 is greedy.
    top_k: see `restrict`.
    top_p: see `restrict`.
    stop: once a row gave this token, it gives nothing else.

  Returns:
    int32 [B, N].
  """
  positions_BP = jnp.maximum(jnp.cumsum(segments_BP, axis=1) - 1, 0)
  logits_BV, cache = step(cache, tokens_BP, positions_BP, segments_BP)
  ones_B1 = jnp.ones((tokens_BP.shape[0], 1), jnp.int32)

  def choose(logits_BV, n, previous_B):
    token_B = sample(logits_BV, jax.random.fold_in(key, n), temperature, top_k, top_p)
    return token_B if stop is None else jnp.where(previous_B == stop, stop, token_B)

  def body(carry, n):
    cache, token_B, position_B1 = carry
    logits_BV, cache = step(cache, token_B[:, None], position_B1, ones_B1)
    new_B = choose(logits_BV, n, token_B)
    return (cache, new_B, position_B1 + 1), new_B

  first_B = choose(logits_BV, 0, jnp.full(tokens_BP.shape[0], -1))
  carry = (cache, first_B, positions_BP[:, -1:] + 1)
  _, rest_NB = jax.lax.scan(body, carry, jnp.arange(1, new_tokens))
  return jnp.concatenate([first_B[None], rest_NB]).T
