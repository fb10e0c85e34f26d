"""Generation over a step function: it knows no model.

Legend: B batch, P prompt length, N new tokens, T tokens given to one step, S slots of the cache, V vocabulary, K beams,
R rows that n-grams are looked for in, C candidates for the K beams, W windows of an n-gram.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# step(cache, tokens_BT, positions_BT, segments_BT) -> (float32 logits_BV after the last token, cache); with a further
# argument visible_BTS, which slots of the cache each token sees, -> (logits_BTV after each of them, cache).
# The tokens of a pass fill the next T slots.
Step = Callable


def pad_left(prompts: Sequence[Sequence[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
  """Prompts of different lengths -> tokens_BP and segments_BP (0 for padding), all ending together.

  >>> pad_left([[5, 6], [7]], pad=0)
  (array([[5, 6],
         [0, 7]], dtype=int32), array([[1, 1],
         [0, 1]], dtype=int32))

  Raises ValueError: an empty prompt: there is nothing to continue.
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


def forbid_repeats(logits_RV: jax.Array, made_RN: jax.Array, count, ngram: int, stop: int | None) -> jax.Array:
  """Sets to -inf each token that would complete an n-gram which its row has made before (Paulus et al. 2017,
  https://arxiv.org/abs/1705.04304); logits_RV may be log-probabilities.

  made_RN holds the tokens made so far in its first `count` columns, which may be traced. `stop` is never forbidden, and
  where nothing else is left a row keeps all its tokens. With n = 1 no token comes twice.
  """
  rows, length = made_RN.shape
  windows = length - ngram + 1
  if windows < 1:
    return logits_RV
  first = jnp.maximum(count - ngram + 1, 0)  # of the tokens that are the beginning of the n-gram now to be completed
  # made before: the token after the window is one of the `count`; so with fewer than n tokens nothing repeats
  repeats_RW = jnp.broadcast_to(jnp.arange(windows) + ngram - 1 < count, (rows, windows))
  for i in range(ngram - 1):
    repeats_RW &= made_RN[:, i : i + windows] == made_RN[:, first + i][:, None]
  forbidden_RV = jnp.zeros(logits_RV.shape, bool).at[jnp.arange(rows)[:, None], made_RN[:, ngram - 1 :]].max(repeats_RW)
  if stop is not None:
    forbidden_RV = forbidden_RV.at[:, stop].set(False)
  allowed_RV = jnp.where(forbidden_RV, -jnp.inf, logits_RV)
  return jnp.where(jnp.all(allowed_RV == -jnp.inf, axis=-1, keepdims=True), logits_RV, allowed_RV)


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
  no_repeat_ngram: int | None = None,
) -> jax.Array:
  """Continues left-padded prompts by `new_tokens` tokens; jit it with the keyword arguments static.

  Args:
    cache: an empty cache for P + N tokens.
    tokens_BP, segments_BP: prompts from `pad_left`.
    key: one for the whole call; token n uses fold_in(key, n).
    temperature: divides the logits; 0 is greedy.
    top_k, top_p: see `restrict`.
    stop: once a row gave this token, it gives nothing else.
    no_repeat_ngram: see `forbid_repeats`; the prompt does not count. None: anything may repeat.

  Returns:
    int32 [B, N].
  """
  positions_BP = jnp.maximum(jnp.cumsum(segments_BP, axis=1) - 1, 0)
  logits_BV, cache = step(cache, tokens_BP, positions_BP, segments_BP)
  ones_B1 = jnp.ones((tokens_BP.shape[0], 1), jnp.int32)

  def choose(logits_BV, n, made_BN):
    if no_repeat_ngram is not None:
      logits_BV = forbid_repeats(logits_BV, made_BN, n, no_repeat_ngram, stop)
    return sample(logits_BV, jax.random.fold_in(key, n), temperature, top_k, top_p)

  def body(carry, n):
    cache, made_BN, position_B1 = carry
    previous_B = made_BN[:, n - 1]
    logits_BV, cache = step(cache, previous_B[:, None], position_B1, ones_B1)
    token_B = choose(logits_BV, n, made_BN)
    if stop is not None:
      token_B = jnp.where(previous_B == stop, stop, token_B)
    return (cache, made_BN.at[:, n].set(token_B), position_B1 + 1), None

  made_BN = jnp.zeros((tokens_BP.shape[0], new_tokens), jnp.int32)
  made_BN = made_BN.at[:, 0].set(choose(logits_BV, 0, made_BN))
  carry = (cache, made_BN, positions_BP[:, -1:] + 1)
  (_, made_BN, _), _ = jax.lax.scan(body, carry, jnp.arange(1, new_tokens))
  return made_BN


class Hypotheses(NamedTuple):
  """What a beam search holds."""

  tokens_BKN: jax.Array  # the live ones, best first; filled up with `stop`
  places_BKN: jax.Array  # the place, of K, that each of these tokens had when it was new: what tells its slot
  sum_BK: jax.Array  # their sums of log-probabilities; -inf where there are fewer than K
  best_BN: jax.Array  # the best finished one. No other can be the answer, so no other is kept
  score_B: jax.Array  # its score; -inf as long as there is none
  finished_B: jax.Array  # how many have finished
  done_B: jax.Array  # whether best_BN is the answer


def beam_search(
  step: Step,
  cache,
  tokens_BP: jax.Array,
  segments_BP: jax.Array,
  *,
  new_tokens: int,
  beams: int,
  length_penalty: float,
  no_repeat_ngram: int | None,
  stop: int | None,
) -> tuple[jax.Array, jax.Array]:
  """The likeliest continuation of left-padded prompts by beam search; jit it with the keyword arguments static.

  Each row keeps the `beams` live hypotheses of the highest sum of log-probabilities. In each step their 2 * beams
  best continuations are looked at, of which no more than half can end in `stop`, so that the live ones stay as many;
  one that ends in `stop` finishes if it is among the `beams` best. A row is done once `beams` hypotheses have
  finished, or no live one can beat the best finished one; after the last step the live ones count as finished. The
  answer is the best finished one, as in transformers with early_stopping=True. One beam is greedy decoding (but for
  rounding, where tokens are all but equally likely); a beam as wide as there are continuations finds the best of all.

  Args:
    cache: an empty cache for B rows of P + N * K tokens. Hypotheses of a row share it: each sees the prompt and the
      tokens that it is made of, so that nothing is copied where one ends and another branches.
    tokens_BP, segments_BP: prompts from `pad_left`.
    length_penalty: a hypothesis of n new tokens, `stop` included, has the score
      sum of log-probabilities / n ** length_penalty; 0 compares the sums as they are, more favours longer ones.
    no_repeat_ngram: see `forbid_repeats`; the prompt does not count. None: anything may repeat.
    stop: the token that finishes a hypothesis; None for none.

  Returns:
    int32 [B, N], filled up with `stop`, and the scores, float32 [B].
  """
  (batch, prompt), shape = tokens_BP.shape, (tokens_BP.shape[0], beams)
  positions_BP = jnp.maximum(jnp.cumsum(segments_BP, axis=1) - 1, 0)
  logits_BV, cache = step(cache, tokens_BP, positions_BP, segments_BP)
  grow = functools.partial(_grow, length_penalty=length_penalty, no_repeat_ngram=no_repeat_ngram, stop=stop)

  def unfinished(carry):
    n, hypotheses, _ = carry
    return (n < new_tokens) & ~jnp.all(hypotheses.done_B)

  def body(carry):
    n, hypotheses, cache = carry
    positions_BK = jnp.broadcast_to(positions_BP[:, -1:] + n, shape)
    visible_BKS = _visible(hypotheses.places_BKN, n, prompt)
    tokens_BK = hypotheses.tokens_BKN[:, :, n - 1]
    logits_BKV, cache = step(cache, tokens_BK, positions_BK, jnp.ones(shape, jnp.int32), visible_BKS)
    return n + 1, grow(hypotheses, logits_BKV, n), cache

  first_BKV = jnp.broadcast_to(logits_BV[:, None], (*shape, logits_BV.shape[-1]))
  hypotheses = grow(_start(batch, beams, new_tokens, stop), first_BKV, 0)
  _, hypotheses, _ = jax.lax.while_loop(unfinished, body, (jnp.int32(1), hypotheses, cache))
  return _answer(hypotheses, length_penalty)


def _visible(places_BKN, count, prompt: int):
  """bool [B, K, S]: the slots of the prompt, and of the first `count` tokens of each hypothesis."""
  batch, beams, length = places_BKN.shape
  made_BKNK = (places_BKN[..., None] == jnp.arange(beams)) & (jnp.arange(length) < count)[:, None]
  whole_BKP = jnp.ones((batch, beams, prompt), bool)
  return jnp.concatenate([whole_BKP, made_BKNK.reshape(batch, beams, -1)], axis=2)


def _start(batch, beams, length, stop):
  """One empty hypothesis a row."""
  fill = 0 if stop is None else stop
  return Hypotheses(
    tokens_BKN=jnp.full((batch, beams, length), fill, jnp.int32),
    places_BKN=jnp.zeros((batch, beams, length), jnp.int32),
    sum_BK=jnp.full((batch, beams), -jnp.inf).at[:, 0].set(0.0),
    best_BN=jnp.full((batch, length), fill, jnp.int32),
    score_B=jnp.full(batch, -jnp.inf),
    finished_B=jnp.zeros(batch, jnp.int32),
    done_B=jnp.zeros(batch, bool),
  )


def _grow(hypotheses, logits_BKV, n, *, length_penalty, no_repeat_ngram, stop):
  """Hypotheses of n tokens -> those of n + 1."""
  batch, beams, length = hypotheses.tokens_BKN.shape
  vocab = logits_BKV.shape[-1]
  log_BKV = jax.nn.log_softmax(logits_BKV.astype(jnp.float32), axis=-1)
  if no_repeat_ngram is not None:
    made_RN, log_RV = hypotheses.tokens_BKN.reshape(-1, length), log_BKV.reshape(-1, vocab)
    log_BKV = forbid_repeats(log_RV, made_RN, n, no_repeat_ngram, stop).reshape(log_BKV.shape)
  sum_BKV = hypotheses.sum_BK[:, :, None] + log_BKV
  sum_BC, index_BC = jax.lax.top_k(sum_BKV.reshape(batch, -1), min(2, vocab) * beams)
  parent_BC, token_BC = index_BC // vocab, index_BC % vocab
  stops_BC = jnp.zeros(token_BC.shape, bool) if stop is None else token_BC == stop

  finishing_BC = stops_BC & (jnp.arange(sum_BC.shape[1]) < beams) & (sum_BC > -jnp.inf)
  first_B1 = jnp.argmax(finishing_BC, axis=1, keepdims=True)  # candidates are sorted: the first is the best
  score_B = jnp.where(finishing_BC, sum_BC, -jnp.inf).max(axis=1) / (n + 1.0) ** length_penalty
  better_B = ~hypotheses.done_B & (score_B > hypotheses.score_B)
  finished_BN = _of_beam(hypotheses.tokens_BKN, jnp.take_along_axis(parent_BC, first_B1, axis=1))[:, 0]
  best_BN = jnp.where(better_B[:, None], finished_BN, hypotheses.best_BN)
  score_B = jnp.where(better_B, score_B, hypotheses.score_B)
  finished_B = hypotheses.finished_B + finishing_BC.sum(axis=1, dtype=jnp.int32)

  sum_BK, choice_BK = jax.lax.top_k(jnp.where(stops_BC, -jnp.inf, sum_BC), beams)
  parent_BK, token_BK = (jnp.take_along_axis(x_BC, choice_BK, axis=1) for x_BC in (parent_BC, token_BC))
  tokens_BKN = _of_beam(hypotheses.tokens_BKN, parent_BK).at[:, :, n].set(token_BK)
  places_BKN = _of_beam(hypotheses.places_BKN, parent_BK).at[:, :, n].set(jnp.arange(beams))
  # sums never grow: of its possible lengths, n + 1 to N, this one would give a live hypothesis its highest score
  kindest = length if length_penalty > 0 else n + 1.0
  full_B = (finished_B >= beams) & (n + 1 < length)  # live ones of full length are as much an answer as finished ones
  done_B = hypotheses.done_B | full_B | (score_B >= sum_BK[:, 0] / kindest**length_penalty)
  return Hypotheses(tokens_BKN, places_BKN, sum_BK, best_BN, score_B, finished_B, done_B)


def _of_beam(x_BKN, beam_BJ):
  """The chosen beams of each row [B, J, N]."""
  return jnp.take_along_axis(x_BKN, beam_BJ[:, :, None], axis=1)


def _answer(hypotheses, length_penalty):
  """Tokens [B, N] and score [B] of the best hypothesis of each row."""
  length = hypotheses.best_BN.shape[1]
  live_B = hypotheses.sum_BK[:, 0] / length**length_penalty
  # a row that is not done has live ones of full length
  live_wins_B = ~hypotheses.done_B & (live_B > hypotheses.score_B)
  made_BN = jnp.where(live_wins_B[:, None], hypotheses.tokens_BKN[:, 0], hypotheses.best_BN)
  return made_BN, jnp.where(live_wins_B, live_B, hypotheses.score_B)
