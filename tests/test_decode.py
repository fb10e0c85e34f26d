"""Generation over a step function that is a table, so that every answer is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import decode

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
