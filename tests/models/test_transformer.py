"""The backbone: what it may see, and that every way of computing it is the same function."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import paths, sharding
from lmjax.models import presets
from lmjax.models.config import ModelConfig
from lmjax.models.heads import LanguageModel
from lmjax.models.layers import Embeddings
from lmjax.models.transformer import Transformer

VOCAB = 50


def config_of(preset: str, **changes) -> ModelConfig:
  """A preset's kind of model, made tiny."""
  small = dict(layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, vocab_multiple=8, dtype='float32', init_std=0.2)
  small |= dict(embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0, scan=False, remat='none')
  model = presets.PRESETS[preset]['model']
  if model['window'] is not None:
    small['window'] = 6
  if model['max_length'] is not None:
    small['max_length'] = 24
  return ModelConfig(**model | small | changes)


DECODERS = {'gpt2_small': {}, 'llama_1b': {}, 'tiny': {}, 'windows': dict(window=5, global_every=2)}
ENCODERS = {'bert_base': {}, 'modernbert_base': {}, 'tiny_encoder': {}}
KINDS = {**DECODERS, **ENCODERS}


def slow(*values):
  return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def make(kind, **changes):
  c = config_of('tiny' if kind == 'windows' else kind, **KINDS[kind] | changes)
  return LanguageModel(Transformer(c, VOCAB))


@functools.cache
def made(kind):
  """A model and its parameters, shared by the tests that change nothing."""
  model = make(kind)
  return model, jax.jit(model.init)(jax.random.key(0))


@pytest.fixture(scope='module')
def tokens():
  return jax.random.randint(jax.random.key(9), (2, 12), 0, VOCAB)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model, params, tokens, **arguments):
  return model.logits(params, model.backbone.apply(params, tokens, **arguments))


@pytest.mark.parametrize('kind', KINDS)
def test_problems_and_parameters(kind):
  model, params = made(kind)
  assert not list(model.backbone.config.problems())
  names = paths.flatten(model.axes(), is_leaf=lambda x: isinstance(x, tuple))
  found = paths.flatten(params)
  assert found.keys() == names.keys()
  assert 'layers/1/attention/query/kernel' in found
  for path, leaf in found.items():
    assert leaf.dtype == jnp.float32 and len(names[path]) == leaf.ndim
    sharding.spec(names[path])  # every name is known to the rules


@pytest.mark.parametrize('kind', ['gpt2_small', 'windows', *slow('llama_1b', 'tiny')])
def test_causality_by_gradient(kind, tokens):
  """The logits at t do not depend on the embeddings of later tokens, and do depend on those up to t."""
  model, params = made(kind)

  @jax.jit
  def at_place_six(table):
    moved = {**params, 'embeddings': {**params['embeddings'], 'token': {'embedding': table}}}
    kernel_free = model.backbone.apply(moved, jnp.arange(12)[None])
    return kernel_free[0, 6].sum() + (kernel_free[0, 6] ** 2).sum()

  # each token of the row occurs once, so a row of the table is a place of the text
  gradient = jax.grad(at_place_six)(params['embeddings']['token']['embedding'])
  reached = np.abs(np.asarray(gradient)).sum(axis=1) > 0
  assert reached[:7].all() and not reached[7:].any()


@pytest.mark.parametrize('kind', ['modernbert_base', *slow('bert_base', 'tiny_encoder')])
def test_an_encoder_sees_both_sides(kind):
  model = make(kind, window=None, global_every=None, rope_theta_local=None)
  params = jax.jit(model.init)(jax.random.key(0))

  @jax.jit
  def at_place_six(table):
    moved = {**params, 'embeddings': {**params['embeddings'], 'token': {'embedding': table}}}
    return (model.backbone.apply(moved, jnp.arange(12)[None])[0, 6] ** 3).sum()

  gradient = jax.grad(at_place_six)(params['embeddings']['token']['embedding'])
  assert (np.abs(np.asarray(gradient))[:12].sum(axis=1) > 0).all()


def test_a_window_limits_what_one_layer_sees():
  model = make('tiny', layers=1, window=3)
  params = jax.jit(model.init)(jax.random.key(0))
  tokens = jnp.arange(12)[None]
  changed = tokens.at[0, 4].set(40)
  differs = np.abs(np.asarray(logits_of(model, params, tokens) - logits_of(model, params, changed)))[0].sum(-1) > 1e-6
  assert differs.tolist() == [False] * 4 + [True] * 3 + [False] * 5


def changed(model, **changes):
  config = dataclasses.replace(model.backbone.config, **changes)
  return LanguageModel(dataclasses.replace(model.backbone, config=config))


@functools.partial(jax.jit, static_argnums=0)
def loss_and_gradient(model, params, tokens):
  return jax.value_and_grad(lambda p: (logits_of(model, p, tokens) ** 2).mean())(params)


# Windows that differ by layer; with layers that are alike `tests/training/test_invariance.py` does the same.
@pytest.mark.parametrize('kind', ['windows', *slow('gpt2_small', 'bert_base', 'modernbert_base')])
@pytest.mark.parametrize(
  'change',
  [dict(scan=True, remat='full'), *slow(*(dict(remat=kind) for kind in ('dots', 'attention_and_up', 'attention')))],
  ids=['scan-full', 'dots', 'attention_and_up', 'attention'],
)
def test_scan_and_remat_compute_the_same(kind, change, tokens):
  """Outputs and gradients, from the same parameters: there is one parameter tree for both."""
  model, params = made(kind)
  loss, grads = loss_and_gradient(model, params, tokens)
  other_loss, other_grads = loss_and_gradient(changed(model, **change), params, tokens)
  np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), grads, other_grads)


def test_scan_does_not_change_the_initial_parameters():
  model, params = made('windows')
  jax.tree.map(np.testing.assert_array_equal, params, jax.jit(changed(model, scan=True).init)(jax.random.key(0)))


def test_remat_computes_again_and_scan_writes_a_layer_once(tokens):
  """Not only the same numbers: the programs differ as they should."""
  model, params = made('gpt2_small')

  def count(operation, **changes):
    text = str(jax.make_jaxpr(functools.partial(loss_and_gradient, changed(model, **changes)))(params, tokens))
    return text.count(f' {operation}[') + text.count(f' {operation} ')

  assert count('dot_general', remat='full') > count('dot_general', remat='none')
  assert count('dot_general', remat='dots') < count('dot_general', remat='full')
  kinds = [count('dot_general', remat=kind) for kind in ('attention_and_up', 'attention', 'full')]
  assert kinds == sorted(set(kinds)), 'each computes more products again than the one before'
  assert count('tanh', remat='dots') > count('tanh', remat='none')
  assert count('tanh', scan=True) < count('tanh', scan=False)


@pytest.mark.parametrize('kind', ['windows', *slow('gpt2_small', 'llama_1b')])
def test_cache_equals_the_full_pass(kind, tokens):
  """Token by token, in pieces, and at once."""
  model, params = made(kind)
  full = logits_of(model, params, tokens)
  step = jax.jit(lambda p, t, places, cache: model.backbone.apply(p, t, positions_BT=places, cache=cache))
  for pieces in ([1] * 12, [5, 4, 3]):
    cache, at, found = model.backbone.init_cache(2, 12), 0, []
    for size in pieces:
      places = jnp.broadcast_to(jnp.arange(at, at + size), (2, size))
      x, cache = step(params, tokens[:, at : at + size], places, cache)
      found.append(model.logits(params, x))
      at += size
    np.testing.assert_allclose(jnp.concatenate(found, axis=1), full, atol=2e-4)


@pytest.mark.parametrize('kind', ['windows', 'bert_base', *slow('gpt2_small', 'modernbert_base')])
def test_packed_equals_padded(kind):
  """Two documents in one row, kept apart, come out as each in a row of its own with padding."""
  model, params = made(kind)
  a, b = jnp.array([3, 4, 5, 6, 7]), jnp.array([9, 8, 7])
  packed = logits_of(
    model,
    params,
    jnp.concatenate([a, b])[None],
    segments_BT=jnp.array([[1] * 5 + [2] * 3]),
    positions_BT=jnp.array([[0, 1, 2, 3, 4, 0, 1, 2]]),
  )
  padded = logits_of(
    model,
    params,
    jnp.stack([jnp.pad(a, (0, 3)), jnp.pad(b, (0, 5))]),
    segments_BT=jnp.array([[1] * 5 + [0] * 3, [1] * 3 + [0] * 5]),
  )
  np.testing.assert_allclose(packed[0, :5], padded[0, :5], atol=1e-4)
  np.testing.assert_allclose(packed[0, 5:], padded[1, :3], atol=1e-4)
  # and without segments they would not
  together = logits_of(model, params, jnp.concatenate([a, b])[None])
  assert np.abs(together[0, 5:] - padded[1, :3]).max() > 1e-2


def test_dropout_needs_its_key_and_uses_each_once(tokens):
  model = make('gpt2_small', embedding_dropout=0.2, attention_dropout=0.2, residual_dropout=0.2)
  params = jax.jit(model.init)(jax.random.key(0))
  quiet = logits_of(model, params, tokens)
  first, again, other = (logits_of(model, params, tokens, key=jax.random.key(k)) for k in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert not np.allclose(first, other) and not np.allclose(first, quiet)


def test_vocabulary_padding_gets_no_probability():
  model = make('tiny', vocab_multiple=64)
  params = jax.jit(model.init)(jax.random.key(0))
  assert params['embeddings']['token']['embedding'].shape[0] == 64
  assert logits_of(model, params, jnp.zeros((1, 2), jnp.int32)).shape[-1] == VOCAB


# Parameter counts as published, or counted from the cited config.json.
PUBLISHED = {
  'gpt2_small': (50257, 124_439_808),
  'gpt2_medium': (50257, 354_823_168),
  'bert_base': (30522, 109_514_298),
  'llama_1b': (128256, 1_235_814_400),
  'llama_160m': (32000, 162_417_408),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_presets_have_the_published_size(name):
  vocab_size, expected = PUBLISHED[name]
  model = LanguageModel(Transformer(ModelConfig(**presets.PRESETS[name]['model'] | dict(vocab_multiple=1)), vocab_size))
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == expected


def test_unknown_axis_and_double_use_are_errors():
  with pytest.raises(KeyError, match='embd'):
    sharding.spec(('embd', 'mlp'))
  with pytest.raises(ValueError, match='twice'):
    sharding.spec(('heads', 'mlp'))


def test_a_row_of_a_table_has_the_whole_sum_as_its_gradient():
  """257 places, which bfloat16 counts as 256."""
  ids = jnp.zeros((1, 257), int)
  embeddings = Embeddings(config_of('bert_base', embedding_norm=False, dtype='bfloat16'), rows=8)
  params = embeddings.init(jax.random.key(0), ids, ids, ids, None)
  total = lambda params: embeddings.apply(params, ids, ids, ids, None).astype(jnp.float32).sum()
  gradients = jax.tree.leaves(jax.grad(total)(params))
  assert len(gradients) == 3 and all((table[0] == 257).all() for table in gradients)
