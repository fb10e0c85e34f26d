"""Schedules, decay masks, and that each optimizer moves the weights as it should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lmjax import optim, paths
from lmjax.errors import ConfigError
from lmjax.schema.slices import OptimConfig

BASE = dict(
  name='adamw',
  learning_rate=1.0,
  schedule='cosine',
  warmup_steps=4,
  decay_steps=None,
  final_rate=0.1,
  weight_decay=0.1,
  no_decay=('*/bias',),
  b1=0.9,
  b2=0.95,
  eps=1e-8,
  momentum=None,
  clip_norm=1.0,
  trainable=('*',),
  frozen=(),
  layer_decay=None,
  head_learning_rate=None,
)
OPTIMIZERS = {
  'adamw': {},
  'lion': dict(eps=None),
  'adafactor': dict(b1=None, b2=None, eps=None, momentum=None),
  'muon': dict(momentum=0.95),
}


def config(**changes):
  made = OptimConfig(**BASE | changes)
  assert not list(made.problems()), list(made.problems())
  return made


def rates(steps=20, **changes):
  schedule = optim.learning_rate(config(**changes), steps)
  return [float(schedule(step)) for step in range(steps)]


def test_schedules_rise_then_fall():
  for schedule in ('cosine', 'linear'):
    found = rates(schedule=schedule)
    np.testing.assert_allclose(found[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    assert all(a >= b for a, b in zip(found[4:], found[5:]))
    assert 0.1 <= found[-1] < 0.2
  np.testing.assert_allclose(rates(schedule='linear')[12], 1 - 0.9 * 8 / 16, rtol=1e-6)
  np.testing.assert_allclose(rates(schedule='cosine')[12], 0.55, rtol=1e-6)
  assert rates(schedule='constant', final_rate=None)[4:] == [1.0] * 16
  wsd = rates(schedule='wsd', decay_steps=5)
  assert wsd[4:15] == [1.0] * 11 and wsd[16] < 1.0 and 0.1 <= wsd[-1] < 0.3
  assert rates(warmup_steps=0)[0] == 1.0


@pytest.fixture
def params():
  keys = jax.random.split(jax.random.key(0), 2)
  layer = {'kernel': jax.random.normal(keys[0], (16, 8)), 'bias': jnp.ones((8,))}
  return {'layers': {'0': layer}, 'embeddings': {'token': {'embedding': jax.random.normal(keys[1], (5, 16))}}}


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_every_optimizer_reduces_a_loss(params, name):
  tx = optim.make(config(name=name, **OPTIMIZERS[name]), params)
  target = jax.tree.map(jnp.zeros_like, params)
  loss = lambda p: sum(jnp.sum((a - b) ** 2) for a, b in zip(jax.tree.leaves(p), jax.tree.leaves(target)))
  state, start = tx.init(params), loss(params)

  @jax.jit
  def step(params, state):
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, jax.tree.map(lambda u: 0.02 * u, updates)), state

  for _ in range(60):
    params, state = step(params, state)
  assert loss(params) < 0.6 * start


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_decay_acts_where_the_patterns_say(params, name):
  """With no gradient, decay alone moves a weight: by learning rate x decay x weight, and no bias."""
  tx = optim.make(config(name=name, no_decay=('*/bias', '*/embedding'), **OPTIMIZERS[name]), params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  layer = updates['layers']['0']
  np.testing.assert_allclose(layer['kernel'], -0.1 * params['layers']['0']['kernel'], rtol=1e-5)
  assert not layer['bias'].any() and not updates['embeddings']['token']['embedding'].any()


def test_adamw_is_torchs_rule_for_one_step(params):
  """lr * (g / (|g| + eps) + decay * w) at the first step."""
  tx = optim.make(config(), params)
  grads = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(grads, tx.init(params), params)
  expected = -(1.0 + 0.1 * params['layers']['0']['kernel'])
  np.testing.assert_allclose(updates['layers']['0']['kernel'], expected, rtol=1e-5)


def test_muon_orthogonalises_hidden_kernels_alone(params):
  tx = optim.make(config(name='muon', momentum=0.95, weight_decay=0.0, no_decay=()), params)
  grads = jax.tree.map(lambda p: p + 0.1, params)
  updates, _ = tx.update(grads, tx.init(params), params)
  values = jnp.linalg.svd(updates['layers']['0']['kernel'], compute_uv=False)
  assert values.max() / values.min() < 2.5, 'singular values are near each other'
  sizes = np.abs(updates['embeddings']['token']['embedding'])
  assert np.allclose(sizes, sizes[0, 0], rtol=1e-3), "Adam's first step: all weights move alike"


@pytest.mark.parametrize('leaf', ['no_decay', 'trainable', 'frozen'])
def test_a_pattern_that_matches_nothing_is_an_error(params, leaf):
  with pytest.raises(ConfigError, match=f'optim.{leaf} = .*biass'):
    optim.make(config(**{leaf: ('*/bias', '*/biass')}), params)


def test_what_does_not_move_has_no_state_and_no_update(params):
  settings = config(trainable=('layers/*',), frozen=('*/bias',), no_decay=())
  tx = optim.make(settings, params)
  moving, still = optim.split(settings, params)
  assert list(paths.flatten(moving)) == ['layers/0/kernel']
  assert paths.flatten(moving).keys() | paths.flatten(still).keys() == paths.flatten(params).keys()
  joined = optim.join(moving, still)
  assert jax.tree.structure(joined) == jax.tree.structure(params)
  assert all(a is b for a, b in zip(jax.tree.leaves(joined), jax.tree.leaves(params)))
  state = tx.init(params)
  assert {leaf.shape for leaf in jax.tree.leaves(state)} == {(), (16, 8)}
  updates, _ = tx.update(jax.tree.map(jnp.ones_like, moving), state, params)
  assert list(paths.flatten(updates)) == ['layers/0/kernel']


def test_rate_shares():
  """Of four layers, the embeddings, the last norm and what stands on the backbone."""
  names = [*(f'layers/{i}/mlp/up/kernel' for i in range(4)), 'embeddings/token/embedding', 'final_norm/scale']
  tree = paths.unflatten({path: jnp.zeros(()) for path in [*names, 'classifier/kernel', 'head/output/kernel']})
  found = paths.flatten(optim.learning_rate_multipliers(config(layer_decay=0.5, head_learning_rate=3.0), tree))
  assert [found[path] for path in names] == [0.125, 0.25, 0.5, 1.0, 0.0625, 1.0]
  assert found['classifier/kernel'] == found['head/output/kernel'] == 3.0
  assert set(paths.flatten(optim.learning_rate_multipliers(config(), tree)).values()) == {1.0}


def test_nothing_to_train_is_an_error(params):
  with pytest.raises(ConfigError, match='no parameter is left to train'):
    optim.make(config(trainable=('layers/*',), frozen=('layers/*',)), params)


@pytest.mark.parametrize('name', OPTIMIZERS)
def test_momentum_in_bfloat16(params, name):
  """One number a weight in bfloat16, all else as before, and updates that differ by its rounding at most."""
  settings = OPTIMIZERS[name] | (dict(momentum=0.9) if name == 'adafactor' else {})
  found = {}
  for dtype in ('float32', 'bfloat16'):
    tx = optim.make(config(name=name, momentum_dtype=dtype, **settings), params)
    state = tx.init(params)
    for scale in (1.0, 0.3, -0.2):
      grads = jax.tree.map(functools.partial(jnp.multiply, scale), params)
      updates, state = tx.update(grads, state, params)
    found[dtype] = updates, state
  sizes = {
    dtype: {kind: sum(a.size for a in jax.tree.leaves(state) if a.dtype == kind) for kind in ('float32', 'bfloat16')}
    for dtype, (_, state) in found.items()
  }
  weights = sum(p.size for p in jax.tree.leaves(params))
  assert sizes['bfloat16'] == {'float32': sizes['float32']['float32'] - weights, 'bfloat16': weights}
  tolerance = dict(rtol=0.05, atol=0.02)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found['bfloat16'][0], found['float32'][0])


def test_a_rate_for_a_head_that_is_not_there_is_an_error(params):
  with pytest.raises(ConfigError, match='optim.head_learning_rate = 0.5: .* set it to None'):
    optim.make(config(head_learning_rate=0.5), params)
  optim.make(config(head_learning_rate=0.5), params | {'classifier': {'bias': jnp.zeros(2)}})


def test_clip():
  grads = {'a': jnp.array([3.0, 4.0])}
  np.testing.assert_allclose(optim.clip(grads, jnp.float32(5.0), 1.0)['a'], [0.6, 0.8], rtol=1e-6)
  np.testing.assert_array_equal(optim.clip(grads, jnp.float32(5.0), 10.0)['a'], grads['a'])
  np.testing.assert_array_equal(optim.clip(grads, jnp.float32(5.0), None)['a'], grads['a'])


@pytest.mark.parametrize(
  'changes,leaf',
  [
    (dict(name='lion'), 'eps'),
    (dict(name='adafactor', b2=None, eps=None), 'b1'),
    (dict(name='muon'), 'momentum'),
    (dict(name='adafactor', b1=None, b2=None, eps=None, momentum_dtype='bfloat16'), 'momentum_dtype'),
    (dict(b2=None), 'b2'),
    (dict(schedule='wsd'), 'decay_steps'),
    (dict(decay_steps=3), 'decay_steps'),
    (dict(schedule='constant'), 'final_rate'),
    (dict(weight_decay=0.0), 'no_decay'),
  ],
)
def test_settings_without_effect_are_refused(changes, leaf):
  assert leaf in [problem[0] for problem in OptimConfig(**BASE | changes).problems()]
