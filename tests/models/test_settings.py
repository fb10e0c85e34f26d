"""Settings of the model that are off by default: what each computes, in plain lines, and in every way there is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import paths
from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import Transformer
from tests.models.test_transformer import config_of

VOCAB, LENGTH = 50, 12
YARN = dict(rope_scaling=4.0, rope_scaling_type='yarn', rope_original_length=2000, rope_rotations=(1.0, 32.0))
LLAMA3 = YARN | dict(rope_scaling_type='llama3', rope_rotations=(1.0, 4.0))
CAPPED = dict(attention_scale=0.7, attention_softcap=2.0, logit_softcap=3.0)
# Several settings at a time, with layers of as many kinds as they make. `wide`: heads of all widths together are wider
# than the model; `narrow` is an encoder whose heads are narrower.
GROUPS = {
  'wide': dict(head_dim=12, window=4, global_every=3, global_offset=2, layers=5, norm_placement='sandwich')
  | dict(norm_offset=1.0, embedding_scale=3.0, activation='geglu_tanh', rope_theta_local=100.0, **CAPPED)
  | dict(rope_scaling=8.0, rope_scaling_layers='global'),
  'output': dict(norm_placement='output', qk_norm_over='width', activation='relu', vocab_size=60) | YARN,
  'parallel': dict(
    parallel_residual=True, rotary_width=4, rotary_skip_every=2, layers=5, first_norm=False, qkv_bias=True
  )
  | dict(window=4, global_every=3)
  | LLAMA3,
  'narrow': dict(attention='bidirectional', head_dim=6, positions='learned', rope_theta=None, max_length=LENGTH)
  | dict(position_offset=2, qkv_bias=True, first_norm=False, mlm_transform=True, logit_softcap=3.0, window=4),
}


def make(**changes):
  return LanguageModel(Transformer(config_of('tiny', **changes), VOCAB))


@functools.cache
def made(group):
  """A model of a group and its parameters, none of which is 0 or 1 any more."""
  model = make(**GROUPS[group])
  assert not list(model.backbone.config.problems())
  return model, disturbed(jax.jit(model.init)(jax.random.key(0)))


def disturbed(params):
  flat = paths.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(flat))
  return paths.unflatten(
    {path: p + 0.2 * jax.random.normal(key, p.shape) for key, (path, p) in zip(keys, flat.items())}
  )


def changed(model, **changes):
  config = dataclasses.replace(model.backbone.config, **changes)
  return LanguageModel(dataclasses.replace(model.backbone, config=config))


@pytest.fixture(scope='module')
def tokens():
  return jax.random.randint(jax.random.key(9), (2, LENGTH), 0, VOCAB)


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(model, params, tokens):
  def loss(params):
    x_BTD, ones = model.backbone.apply(params, tokens), jnp.ones(tokens.shape)
    return model.cross_entropy(params, x_BTD, (tokens + 1) % VOCAB, ones, ones, chunk=5).loss

  return jax.value_and_grad(loss)(params)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model, params, tokens, **arguments):
  return model.logits(params, model.backbone.apply(params, tokens, **arguments))


def assert_same(got, expected):
  np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
  wanted = paths.flatten(expected[1])
  for path, gradient in paths.flatten(got[1]).items():
    scale = np.abs(wanted[path]).max() + 1e-3
    np.testing.assert_allclose(gradient, wanted[path], atol=2e-5 * scale, err_msg=path)


@pytest.mark.parametrize('group', GROUPS)
def test_scanned_and_blockwise_layers_are_those_written_out(group, tokens):
  """Loss and gradients; blockwise against the reference, scanned and recomputed ones against those written out."""
  model, params = made(group)
  expected = loss_and_gradient(changed(model, attention_implementation='xla'), params, tokens)
  ways = dict(attention_implementation='blockwise', scan=True, remat='full')
  assert_same(loss_and_gradient(changed(model, **ways), params, tokens), expected)


@pytest.mark.parametrize('group', ['wide', 'output', 'parallel'])
def test_the_cache_equals_the_full_pass(group, tokens):
  model, params = made(group)
  cache, found = model.backbone.init_cache(2, LENGTH), []
  step = jax.jit(lambda p, t, places, cache: model.backbone.apply(p, t, positions_BT=places, cache=cache))
  for start, end in ((0, 4), (4, 8), (8, 12)):
    places = jnp.broadcast_to(jnp.arange(start, end), (2, end - start))
    x, cache = step(params, tokens[:, start:end], places, cache)
    found.append(model.logits(params, x))
  np.testing.assert_allclose(jnp.concatenate(found, axis=1), logits_of(model, params, tokens), atol=2e-4)
