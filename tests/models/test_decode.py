"""Generation over step functions whose every answer is known or can be searched for."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.models import decode, presets
from lmjax.models.config import ModelConfig
from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import Transformer

VOCAB = 11


def step(cache, tokens_BT, positions_BT, segments_BT):
  """The next token is the sum of all tokens so far and the position, modulo the vocabulary."""
  cache = cache + jnp.sum(tokens_BT * segments_BT, axis=1)
  best = (cache + positions_BT[:, -1]) % VOCAB
  return jax.nn.one_hot(best, VOCAB) * 5.0, cache


def expected(prompt, new_tokens, stop=None):
  tokens = list(prompt)
  for _ in range(new_tokens):
    token = (sum(tokens) + len(tokens) - 1) % VOCAB
    tokens.append(stop if stop is not None and tokens[-1] == stop and len(tokens) > len(prompt) else token)
  return tokens[len(prompt) :]


def run(prompts, **settings):
  tokens, segments = decode.pad_left(prompts, pad=0)
  f = jax.jit(functools.partial(decode.generate, step, **settings))
  return np.asarray(f(jnp.zeros(len(prompts), jnp.int32), tokens, segments, jax.random.key(0))).tolist()


def test_greedy_continues_each_prompt_whatever_its_padding():
  prompts = [[3, 4, 5], [7], [1, 2]]
  found = run(prompts, new_tokens=9, temperature=0.0)
  assert found == [expected(prompt, 9) for prompt in prompts]


def test_nothing_comes_after_the_stop_token():
  prompt = [3, 4, 5]
  stop = expected(prompt, 9)[2]
  [found] = run([prompt], new_tokens=9, temperature=0.0, stop=stop)
  first = found.index(stop)
  assert found[:first] == expected(prompt, first) and set(found[first:]) == {stop}


def test_one_new_token():
  assert run([[3]], new_tokens=1, temperature=0.0) == [expected([3], 1)]


def test_sampling_draws_from_the_softmax():
  logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
  keys = jax.random.split(jax.random.key(0), 20_000)
  draw = lambda **s: (
    np.bincount(np.asarray(jax.vmap(lambda k: decode.sample(logits[None], k, **s)[0])(keys)), minlength=3) / len(keys)
  )
  np.testing.assert_allclose(draw(temperature=1.0, top_k=None, top_p=None), [0.5, 0.3, 0.2], atol=0.015)
  np.testing.assert_allclose(draw(temperature=1.0, top_k=2, top_p=None), [0.625, 0.375, 0], atol=0.015)
  np.testing.assert_allclose(draw(temperature=1.0, top_k=None, top_p=0.6), [0.625, 0.375, 0], atol=0.015)
  np.testing.assert_allclose(draw(temperature=1.0, top_k=None, top_p=0.4), [1, 0, 0], atol=0)
  hot = np.sqrt([0.5, 0.3, 0.2])
  np.testing.assert_allclose(draw(temperature=2.0, top_k=None, top_p=None), hot / hot.sum(), atol=0.015)


def test_the_same_key_gives_the_same_text():
  settings = dict(new_tokens=12, temperature=3.0)
  assert run([[3, 4]], **settings) == run([[3, 4]], **settings)


def test_an_empty_prompt_is_an_error():
  with pytest.raises(ValueError, match='empty prompt'):
    decode.pad_left([[1], []], pad=0)


# Beam search

FEW = 4  # tokens of the vocabulary that beam search is tried on
LONG = 4  # new tokens
PROMPTS = [[3, 1, 2], [1], [2, 2], [0, 3, 3, 1]]
PAIRS = [[a, b] for a in range(FEW) for b in range(FEW)]


def hashed_step(cache, tokens_BT, positions_BT, segments_BT, visible_BTS=None, vocab=FEW):
  """Logits that depend on all tokens that a token sees, by a hash of them in their order, and on its position."""
  new = {'tokens': tokens_BT, 'positions': positions_BT, 'segments': segments_BT}
  cache = {
    name: cache[name] + tokens_BT.shape[1]
    if name == 'index'
    else jax.lax.dynamic_update_slice_in_dim(cache[name], new[name], cache['index'], axis=1)
    for name in cache
  }
  shown_BQS = jnp.ones((len(tokens_BT), 1, 1), bool) if visible_BTS is None else visible_BTS
  shown_BQS = shown_BQS & (cache['segments'] > 0)[:, None]

  def read(state_BQ, column):
    token_B, position_B, shown_BQ = column
    mixed_BQ = state_BQ * jnp.uint32(1103515245) + token_B[:, None].astype(jnp.uint32) * jnp.uint32(2654435761) + 12345
    return jnp.where(shown_BQ, mixed_BQ + position_B[:, None].astype(jnp.uint32) * 977, state_BQ), None

  columns = cache['tokens'].T, cache['positions'].T, jnp.moveaxis(shown_BQS, 2, 0)
  state_BQ, _ = jax.lax.scan(read, jnp.zeros(shown_BQS.shape[:2], jnp.uint32), columns)
  mixed_BQV = (state_BQ ^ (state_BQ >> 15))[..., None] * (jnp.uint32(2246822519) + 40503 * jnp.arange(vocab))
  logits_BQV = 4.0 * (mixed_BQV >> 8).astype(jnp.float32) / 2**24
  return logits_BQV[:, 0] if visible_BTS is None else logits_BQV, cache


def hashed_cache(batch, slots):
  nothing = jnp.zeros((batch, slots), jnp.int32)
  return {'tokens': nothing, 'positions': nothing, 'segments': nothing, 'index': jnp.zeros((), jnp.int32)}


def beam(prompts, vocab=FEW, **settings):
  settings = dict(new_tokens=LONG, beams=2, length_penalty=1.0, no_repeat_ngram=None, stop=0) | settings
  f = jax.jit(functools.partial(decode.beam_search, functools.partial(hashed_step, vocab=vocab), **settings))
  padded = decode.pad_left(prompts, pad=0)
  slots = padded[0].shape[1] + settings['new_tokens'] * settings['beams']
  tokens, scores = f(hashed_cache(len(prompts), slots), *padded)
  assert tokens.dtype == jnp.int32 and scores.dtype == jnp.float32
  return np.asarray(tokens).tolist(), np.asarray(scores)


@functools.cache
def tree(prompt, length=LONG, vocab=FEW):
  """Sequence of up to length - 1 new tokens -> log-probabilities of the next."""
  found = {}
  for n in range(length):
    sequences = list(itertools.product(range(vocab), repeat=n))
    tokens = jnp.array([[*prompt, *sequence] for sequence in sequences])
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    step = jax.jit(functools.partial(hashed_step, vocab=vocab))
    logits, _ = step(hashed_cache(*tokens.shape), tokens, places, jnp.ones_like(tokens))
    found |= dict(zip(sequences, np.asarray(jax.nn.log_softmax(logits), np.float64)))
  return found


def repeats(sequence, ngram):
  grams = [tuple(sequence[i : i + ngram]) for i in range(len(sequence) - ngram + 1)]
  return len(grams) > len(set(grams))


def padded(sequence, stop):
  return [*sequence, *[stop] * (LONG - len(sequence))]


def best_of_all(prompt, length_penalty, no_repeat_ngram, stop):
  table, found = tree(tuple(prompt)), []
  for n in range(1, LONG + 1):
    for sequence in itertools.product(range(FEW), repeat=n):
      if stop in sequence[:-1] or (n < LONG and sequence[-1] != stop):
        continue
      if no_repeat_ngram is not None and repeats(sequence, no_repeat_ngram):
        continue
      score = sum(table[sequence[:i]][sequence[i]] for i in range(n)) / n**length_penalty
      found.append((score, padded(sequence, stop)))
  return max(found)


def listed_beam_search(prompt, beams, length_penalty, stop):
  """The definition with lists; a row looks at all of its new tokens."""
  table, live, finished = tree(tuple(prompt)), [(0.0, ())], []
  for n in range(1, LONG + 1):
    candidates = [(total + table[s][token], (*s, token)) for total, s in live for token in range(FEW)]
    candidates = sorted(candidates, reverse=True)[: 2 * beams]
    finished += [(total / n**length_penalty, s) for total, s in candidates[:beams] if s[-1] == stop]
    live = [(total, s) for total, s in candidates if s[-1] != stop][:beams]
    if len(finished) >= beams and n < LONG:
      break
  else:
    finished += [(total / LONG**length_penalty, s) for total, s in live]
  score, sequence = max(finished)
  return score, padded(sequence, stop)


@pytest.mark.parametrize('length_penalty,no_repeat_ngram,stop', [(0.0, None, 0), (2.0, 2, 0), (2.0, 2, None)])
def test_one_beam_is_greedy(length_penalty, no_repeat_ngram, stop):
  settings = dict(new_tokens=LONG, no_repeat_ngram=no_repeat_ngram, stop=stop)
  f = jax.jit(functools.partial(decode.generate, hashed_step, temperature=0.0, **settings))
  prompts = [*PROMPTS, *([a, b, c] for a in range(FEW) for b in range(FEW) for c in range(FEW))]
  padded = decode.pad_left(prompts, pad=0)
  greedy = f(hashed_cache(len(prompts), padded[0].shape[1] + LONG), *padded, jax.random.key(0))
  assert beam(prompts, beams=1, length_penalty=length_penalty, **settings)[0] == np.asarray(greedy).tolist()


@pytest.mark.parametrize(
  'length_penalty,no_repeat_ngram,stop',
  [
    (-0.5, None, 0),
    (1.0, None, None),
    (2.0, 2, 0),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in ((0.0, None, 0), (1.0, None, 0), (2.0, None, 0), (1.0, 1, None))
    ),
  ],
)
def test_the_widest_beam_finds_the_best_of_all(length_penalty, no_repeat_ngram, stop):
  settings = dict(length_penalty=length_penalty, no_repeat_ngram=no_repeat_ngram, stop=stop)
  found, scores = beam(PROMPTS, beams=FEW**LONG, **settings)
  expected_scores, expected = zip(*(best_of_all(prompt, **settings) for prompt in PROMPTS))
  assert found == list(expected)
  np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


@pytest.mark.parametrize('beams', [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
  'length_penalty,stop',
  [(2.0, 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((-0.5, 0), (0.0, 0), (1.0, 0), (1.0, None)))],
)
def test_narrow_beams_follow_the_definition(beams, length_penalty, stop):
  prompts = [*PROMPTS, *PAIRS]
  settings = dict(beams=beams, length_penalty=length_penalty, stop=stop)
  found, scores = beam(prompts, **settings)
  expected_scores, expected = zip(*(listed_beam_search(prompt, **settings) for prompt in prompts))
  assert found == list(expected)
  np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)


@pytest.mark.slow
def test_wider_beams_find_other_sequences():
  """Otherwise the tests above would say little."""
  answers = {str(beam(PROMPTS, beams=beams)[0]) for beams in (1, 2, FEW**LONG)}
  assert len(answers) == 3
  lengths = {str(beam(PAIRS, beams=3, length_penalty=penalty)[0]) for penalty in (0.0, 2.0)}
  assert len(lengths) == 2


def test_each_row_is_as_it_is_alone():
  settings = dict(vocab=13, new_tokens=12, beams=3, no_repeat_ngram=2)
  together, scores = beam(PROMPTS, **settings)
  for prompt, tokens, score in zip(PROMPTS, together, scores):
    alone, [alone_score] = beam([prompt], **settings)
    assert alone == [tokens] and alone_score == score


@pytest.mark.parametrize('ngram', [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
@pytest.mark.parametrize('temperature', [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_no_ngram_comes_twice(ngram, temperature):
  prompts, vocab = [[i] for i in range(40)], 5
  settings = dict(new_tokens=16, stop=0)
  arguments = hashed_cache(40, 17), *decode.pad_left(prompts, pad=0), jax.random.key(0)
  f = functools.partial(decode.generate, functools.partial(hashed_step, vocab=vocab), temperature=temperature)
  free, made = (
    np.asarray(jax.jit(functools.partial(f, **settings, no_repeat_ngram=n))(*arguments)).tolist() for n in (None, ngram)
  )
  found, _ = beam(prompts, vocab=vocab, beams=3, no_repeat_ngram=ngram, **settings)
  cut = lambda row: row[: row.index(0) + 1] if 0 in row else row
  assert any(repeats(cut(row), ngram) for row in free)
  assert not any(repeats(cut(row), ngram) for row in made + found)
  # rows in which nothing would have come twice are as they were
  assert all(row == other for row, other in zip(free, made) if not repeats(cut(row), ngram))


def test_what_is_forbidden():
  logits = jnp.zeros((4, 5))
  made = jnp.array([[1, 2, 3, 1, 2, 9], [1, 2, 1, 2, 1, 9], [2, 2, 2, 2, 2, 9], [0, 1, 2, 3, 4, 9]])

  def forbidden(count, ngram, stop=None):
    found = jax.jit(decode.forbid_repeats, static_argnums=(3, 4))(logits, made, count, ngram, stop)
    return [np.flatnonzero(row == -jnp.inf).tolist() for row in found]

  assert forbidden(5, 1) == [[1, 2, 3], [1, 2], [2], []]  # the last row has nothing left and keeps everything
  assert forbidden(5, 2) == [[3], [2], [2], []]
  assert forbidden(5, 3) == [[3], [2], [2], []]
  assert forbidden(5, 4) == [[], [2], [2], []]
  assert forbidden(2, 2) == [[], [], [2], []]
  assert forbidden(0, 1) == forbidden(1, 2) == forbidden(5, 7) == [[], [], [], []]
  assert forbidden(5, 1, stop=2) == [[1, 3], [1], [], [0, 1, 3, 4]]


def test_a_row_with_nothing_new_left_continues():
  found, _ = beam([[1]], vocab=3, new_tokens=6, beams=2, no_repeat_ngram=1, stop=None)
  assert sorted(found[0][:3]) == [0, 1, 2] and len(found[0]) == 6
  found, _ = beam([[1]], vocab=3, new_tokens=6, beams=2, no_repeat_ngram=1, stop=0)
  assert 0 in found[0][:3]


@pytest.mark.slow
@pytest.mark.parametrize('window', [None, 4])
def test_beam_search_with_a_model(window):
  small = dict(layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, vocab_multiple=8, dtype='float32', init_std=0.5)
  config = ModelConfig(
    **presets.PRESETS['tiny']['model'] | small | dict(max_length=None, scan=False, remat='none', window=window)
  )
  model = LanguageModel(Transformer(config, VOCAB))
  params = jax.jit(model.init)(jax.random.key(0))
  settings = dict(new_tokens=6, beams=3, length_penalty=1.0, no_repeat_ngram=2, stop=None)

  @jax.jit
  def run(tokens_BP, segments_BP):
    slots = tokens_BP.shape[1] + settings['new_tokens'] * settings['beams']
    cache = model.backbone.init_cache(tokens_BP.shape[0], slots)
    return decode.beam_search(model.decode_step(params), cache, tokens_BP, segments_BP, **settings)

  tokens_BP, segments_BP = decode.pad_left([[3, 4, 5, 9], [7], [10, 2]], pad=0)
  made, scores = run(tokens_BP, segments_BP)
  assert not any(repeats(row, 2) for row in np.asarray(made).tolist())
  alone, alone_scores = run(tokens_BP[2:, 2:], segments_BP[2:, 2:])
  np.testing.assert_array_equal(alone, made[2:])
  np.testing.assert_allclose(alone_scores, scores[2:], atol=1e-4)

  # the scores are those of one pass over prompts and answers: the cache followed the beams
  @jax.jit
  def log_probabilities(tokens_BT, segments_BT):
    positions_BT = jnp.maximum(jnp.cumsum(segments_BT, axis=1) - 1, 0)
    x_BTD = model.backbone.apply(params, tokens_BT, positions_BT=positions_BT, segments_BT=segments_BT)
    return jax.nn.log_softmax(model.logits(params, x_BTD))

  whole = np.concatenate([tokens_BP, made], axis=1)
  log = log_probabilities(whole[:, :-1], np.concatenate([segments_BP, np.ones((3, 5), np.int32)], axis=1))
  mine = np.take_along_axis(np.asarray(log)[:, -6:], np.asarray(made)[:, :, None], axis=2)
  np.testing.assert_allclose(mine.sum(axis=(1, 2)) / 6, scores, atol=1e-4)
