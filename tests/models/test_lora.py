"""Low-rank adapters: the same function merged or not, and nothing else moves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import config as config_lib
from lmjax import optim, paths, sharding
from lmjax.errors import ConfigError
from lmjax.models import lora, presets
from lmjax.models.config import ADAPTERS, LoraConfig, ModelConfig
from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import Transformer
from lmjax.tasks import prepare
from lmjax.training import state as state_lib
from lmjax.training import step as step_lib
from tests import runs

VOCAB = 50
EVERYWHERE = LoraConfig(rank=3, alpha=6.0, dropout=0.0, targets=('*/attention/*', '*/down/kernel'))


def make(adapters: LoraConfig | None, **changes) -> LanguageModel:
  """A tiny decoder with grouped key-value heads, so that kernels are not square."""
  small = dict(layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, vocab_multiple=8, dtype='float32', init_std=0.2)
  model = presets.PRESETS['tiny']['model'] | small | dict(lora=adapters) | changes
  return LanguageModel(Transformer(ModelConfig(**model), VOCAB))


@functools.cache
def trained(dropout=0.0):
  """A model, and parameters whose adapters do something."""
  model = make(dataclasses.replace(EVERYWHERE, dropout=dropout))
  params = jax.jit(model.init)(jax.random.key(0))
  moved = lambda path, p: jax.random.normal(jax.random.key(len(path)), p.shape) if path.endswith('lora_b') else p
  return model, paths.map_with_path(moved, params)


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, tokens, **arguments):
  return model.backbone.apply(params, tokens, **arguments)


@pytest.fixture(scope='module')
def tokens():
  return jax.random.randint(jax.random.key(9), (2, 10), 0, VOCAB)


def test_adapters_stand_next_to_the_kernels_that_are_named_and_begin_as_nothing(tokens):
  model, plain = make(EVERYWHERE), make(None)
  params, without = (jax.jit(m.init)(jax.random.key(0)) for m in (model, plain))
  added = paths.flatten(params).keys() - paths.flatten(without).keys()
  targets = ('attention/query', 'attention/key', 'attention/value', 'attention/output', 'mlp/down')
  assert added == {f'layers/{i}/{t}/{name}' for i in range(2) for t in targets for name in ('lora_a', 'lora_b')}
  for path, leaf in paths.flatten(without).items():  # the others are drawn as without adapters
    np.testing.assert_array_equal(leaf, paths.flatten(params)[path])
  query = params['layers']['0']['attention']['key']
  assert query['kernel'].shape == (32, 16)
  assert query['lora_a'].shape == (32, 3) and query['lora_b'].shape == (3, 16)
  firsts = [np.asarray(leaf) for path, leaf in paths.flatten(params).items() if path.endswith('lora_a')]
  assert all(leaf.std() > 0 for leaf in firsts)
  assert not np.array_equal(firsts[0], firsts[5]), 'two layers begin with the same adapter'
  np.testing.assert_array_equal(apply(model, params, tokens), apply(plain, without, tokens))


def test_axes_cover_the_adapters():
  model = make(EVERYWHERE)
  names = paths.flatten(model.axes(), is_leaf=lambda x: isinstance(x, tuple))
  shapes = paths.flatten(jax.eval_shape(model.init, jax.random.key(0)))
  assert names.keys() == shapes.keys()
  for path, axes in names.items():
    assert len(axes) == shapes[path].ndim
    sharding.spec(axes)
  assert names['layers/1/mlp/down/lora_a'] == ('mlp', None)
  assert names['layers/1/mlp/down/lora_b'] == (None, 'embed')


@pytest.mark.parametrize('scan', [False, True])
def test_merged_equals_unmerged(scan, tokens):
  _, params = trained()
  model = make(EVERYWHERE, scan=scan)
  merged = lora.merge(params, EVERYWHERE)
  assert not any(paths.matches(path, ADAPTERS) for path in paths.flatten(merged))
  got, expected = apply(model, params, tokens), apply(make(None, scan=scan), merged, tokens)
  np.testing.assert_allclose(got, expected, atol=1e-5 * float(jnp.abs(expected).max()))
  # the adapters do something, and what they do is scaled by alpha / rank
  silent = paths.map_with_path(lambda path, p: 0 * p if path.endswith('lora_b') else p, params)
  assert np.abs(apply(model, silent, tokens) - expected).max() > 0.1
  other = lora.merge(params, dataclasses.replace(EVERYWHERE, alpha=12.0))
  assert np.abs(apply(make(None, scan=scan), other, tokens) - expected).max() > 0.1


def test_merge_adds_the_scaled_product_and_touches_nothing_else():
  _, params = trained()
  merged = paths.flatten(lora.merge(params, EVERYWHERE))
  for path, leaf in paths.flatten(params).items():
    beside = path.rpartition('/')[0]
    if f'{beside}/lora_a' in paths.flatten(params):
      if path.endswith('/kernel'):
        a, b = (np.asarray(paths.flatten(params)[f'{beside}/{name}'], np.float64) for name in ('lora_a', 'lora_b'))
        np.testing.assert_allclose(merged[path], np.asarray(leaf, np.float64) + 2.0 * a @ b, atol=1e-5)
    else:
      assert merged[path] is leaf


def test_merged_equals_unmerged_with_a_cache(tokens):
  model, params = trained()
  merged, plain = lora.merge(params, EVERYWHERE), make(None)
  full = apply(plain, merged, tokens)
  cache, found = model.backbone.init_cache(2, 10), []
  for start, end in [(0, 8), (8, 9), (9, 10)]:
    places = jnp.broadcast_to(jnp.arange(start, end), (2, end - start))
    x, cache = apply(model, params, tokens[:, start:end], positions_BT=places, cache=cache)
    found.append(x)
  np.testing.assert_allclose(jnp.concatenate(found, axis=1), full, atol=1e-4)


def test_dropout_of_the_adapters_needs_a_key_and_leaves_the_kernels_alone(tokens):
  model, params = trained(dropout=0.5)
  quiet = apply(model, params, tokens)
  np.testing.assert_array_equal(quiet, apply(trained()[0], params, tokens))
  first, again, other = (apply(model, params, tokens, key=jax.random.key(k)) for k in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert not np.allclose(first, other) and not np.allclose(first, quiet)
  assert model.backbone.config.has_dropout and not trained()[0].backbone.config.has_dropout
  # without what the adapters add, nothing is dropped
  silent = paths.map_with_path(lambda path, p: 0 * p if path.endswith('lora_b') else p, params)
  noisy = apply(model, silent, tokens, key=jax.random.key(1))
  np.testing.assert_allclose(noisy, apply(model, silent, tokens), atol=1e-5)


@pytest.mark.parametrize('pattern', ['*/querry/kernel', 'embeddings/*', '*/scale'])
def test_a_pattern_that_matches_no_kernel_is_refused(pattern):
  model = make(dataclasses.replace(EVERYWHERE, targets=('*/query/kernel', pattern)))
  with pytest.raises(ConfigError, match='matches no kernel of a layer; try') as caught:
    jax.eval_shape(model.init, jax.random.key(0))
  assert pattern in str(caught.value)


def test_scanned_layers_need_the_same_adapters():
  some = dataclasses.replace(EVERYWHERE, targets=('layers/0/*/query/kernel',))
  with pytest.raises(ConfigError, match='must take the same kernels in each layer with model.scan'):
    jax.eval_shape(make(some, scan=True).init, jax.random.key(0))
  params = jax.eval_shape(make(some, scan=False).init, jax.random.key(0))
  found = [path for path in paths.flatten(params) if path.endswith('lora_a')]
  assert found == ['layers/0/attention/query/lora_a']


def test_adapters_without_a_target_are_a_problem():
  assert [leaf for leaf, *_ in dataclasses.replace(EVERYWHERE, targets=()).problems()] == ['targets']


@pytest.fixture(scope='module')
def source(raw_config, tmp_path_factory):
  return runs.pre_trained('masked_lm', raw_config, tmp_path_factory)


@pytest.mark.slow
def test_training_moves_the_adapters_and_the_head_alone(source, tmp_path):
  """All else is, bit for bit, the checkpoint; and the optimizer holds nothing for it."""
  raw = runs.classification_config(source, tmp_path, lora=4, **{'train.steps': 3, 'eval.every': 3})
  results = runs.train(raw, tmp_path / 'run')
  before, after = runs.params_of(source), runs.params_of(tmp_path / 'run')
  kept = 0
  for path, leaf in after.items():
    if paths.matches(path, (*ADAPTERS, 'classifier/*')):
      assert path not in before and np.abs(leaf).max() > 0, path
    else:
      np.testing.assert_array_equal(leaf, before[path], err_msg=path)
      kept += 1
  assert kept == len(results['hand_off']['taken'])
  assert {path for path in after if path.endswith('lora_b')} == {
    f'layers/{i}/attention/{name}/lora_b' for i in range(2) for name in ('query', 'value')
  }
  arrays = runs.manifest_of(tmp_path / 'run')['arrays']
  moments = {path.split('/mu/')[1] for path in arrays if '/mu/' in path}
  assert moments == {path for path in after if paths.matches(path, (*ADAPTERS, 'classifier/*'))}
  held = sum(np.prod(facts['shape']) for path, facts in arrays.items() if path.startswith('opt_state/'))
  moving = sum(leaf.size for path, leaf in after.items() if path in moments)
  assert held <= 2 * moving + 8  # two moments, and counts
  # groups that moved, for the report
  assert results['moved'].keys() >= {'classifier'}


def test_gradient_and_state_are_of_what_moves(source, tmp_path):
  config = config_lib.build(runs.classification_config(source, tmp_path, lora=4))
  config, task, data = prepare.prepare(config, runs.source_of(config)[1])
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with jax.set_mesh(mesh):
    tx = optim.make(config.optim, task.shapes())
    state = state_lib.init_state(task, tx, mesh, state_lib.init_params(task, mesh, 0))
    batch = task.pipeline(data, config.seed, config.train.steps).batch(0)
    grads, _, _ = jax.jit(step_lib.make_gradient(task.loss, 1, config.optim))(state.params, batch, jax.random.key(0))
  moving = {path for path in paths.flatten(state.params) if config.optim.is_trainable(path)}
  assert paths.flatten(grads).keys() == moving
  assert moving == {p for p in paths.flatten(state.params) if paths.matches(p, (*ADAPTERS, 'classifier/*'))}
