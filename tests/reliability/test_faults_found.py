"""Properties that no test held on to until `tests.reliability.faults` broke them."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import metrics, optim, paths
from lmjax.data.batches import order
from lmjax.data.batches.pipeline import Pipeline
from lmjax.models import decode
from lmjax.ops import attention, positions
from lmjax.ops.dropout import dropout
from lmjax.tasks import prepare
from lmjax.training import state as state_lib
from lmjax.training import step as step_lib
from tests import runs


def test_attention_with_dropout_is_attention_on_average_with_shared_heads():
  """Of the attention's kernels the one with dropout has its own arithmetic: four query heads, two key heads."""
  keys = jax.random.split(jax.random.key(2), 3)
  q, k, v = (jax.random.normal(key, (1, 6, heads, 4)) for key, heads in zip(keys, (4, 2, 2)))
  exact = attention.attend(q, k, v, causal=True)
  f = jax.jit(jax.vmap(lambda key: attention.attend(q, k, v, causal=True, dropout=0.2, key=key)))
  np.testing.assert_allclose(f(jax.random.split(jax.random.key(3), 4000)).mean(0), exact, atol=0.06)


def test_rotation_is_a_product_of_complex_numbers():
  """Pair (i, i + K/2) as a complex number, times e ** (1j * position * theta ** (-2 i / K))."""
  x = np.random.default_rng(0).normal(size=(2, 5, 3, 8)).astype(np.float32)
  places = np.array([[0, 1, 2, 3, 4], [7, 30, 2, 100, 5]])
  turn = np.exp(1j * places[:, :, None, None] * 50.0 ** (-2 * np.arange(4) / 8))
  expected = (x[..., :4] + 1j * x[..., 4:]) * turn
  found = positions.rotate(jnp.asarray(x), jnp.asarray(places), 50.0)
  np.testing.assert_allclose(found, np.concatenate([expected.real, expected.imag], axis=-1), atol=1e-4)


def test_dropout_keeps_the_mean():
  x = jnp.linspace(1.0, 2.0, 8)
  many = jax.vmap(lambda key: dropout(x, 0.4, key))(jax.random.split(jax.random.key(0), 20_000))
  np.testing.assert_allclose(many.mean(0), x, rtol=0.05)
  np.testing.assert_allclose((many == 0).mean(0), 0.4, atol=0.02)


@pytest.mark.parametrize('placement', ['pre', 'post', 'sandwich'])
def test_a_key_of_dropout_is_used_once(make_config, tokenizer, monkeypatch, placement):
  """All places that drop something draw with keys of their own."""
  rates = {f'model.{name}_dropout': 0.1 for name in ('embedding', 'attention', 'residual')}
  plain = {'model.layers': 2, 'model.norm_placement': placement, 'model.scan': False, 'model.remat': 'none'}
  plain |= {'model.first_norm': True}
  backbone = prepare.build(make_config('masked_lm', **rates | plain), tokenizer).model.backbone
  used = []

  @jax.jit
  def keys_of(params, key):
    backbone.apply(params, jnp.ones((1, 4), jnp.int32), key=key)
    return jnp.stack([jax.random.key_data(one) for one in used])

  monkeypatch.setattr(jax.random, 'bits', lambda key, shape, dtype: used.append(key) or jnp.zeros(shape, dtype))
  shapes = jax.eval_shape(backbone.init, jax.random.key(0))
  drawn = np.asarray(keys_of(jax.tree.map(lambda a: jnp.zeros(a.shape), shapes), jax.random.key(1)))
  # the embeddings, and in each layer the weights of the attention and both residual connections
  assert len(drawn) == len(np.unique(drawn, axis=0)) == 1 + 2 * 3


def small_loss(params, batch, key):
  """Half the sum of squares of (w - x), of which dropout would leave out some; in the form of a task's loss."""
  kept = 1.0 if key is None else jax.random.bernoulli(key, 0.5, params['embeddings']['w'].shape)
  away = (params['embeddings']['w'] * kept + params['head']['b'] - batch['x']) * batch['weights'][:, None]
  loss, weight = 0.5 * jnp.sum(jnp.square(away)), batch['weights'].sum()
  return loss, weight, {'loss': (loss, weight)}


PARAMS = {'embeddings': {'w': jnp.arange(1.0, 65.0)}, 'head': {'b': jnp.linspace(-4.0, 4.0, 64)}}
TASK = types.SimpleNamespace(loss=small_loss)


def small_batch(rows):
  return {'x': jnp.zeros((rows, 64)), 'weights': jnp.ones(rows)}


@pytest.mark.parametrize('parts', [1, 2])
def test_the_gradient_is_that_of_the_mean_loss(parts):
  batch = {'x': jax.random.normal(jax.random.key(0), (4, 64)), 'weights': jnp.array([1.0, 0.0, 3.0, 2.0])}
  found, weight, _ = step_lib.make_gradient(TASK.loss, parts)(PARAMS, batch, None)
  expected = jax.grad(lambda p: small_loss(p, batch, None)[0] / 6.0)(PARAMS)
  assert float(weight) == 6.0
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)


def stepped(make_config, **leaves):
  """The train step of the small loss, with updates that are minus the gradient, and its first state."""
  config = make_config('causal_lm', **{'optim.clip_norm': None, 'optim.no_decay': "('*',)"} | leaves)
  tx = optim.optax.scale(-1.0)
  state = state_lib.TrainState(jnp.int32(0), PARAMS, tx.init(PARAMS), jnp.int32(0))
  task = types.SimpleNamespace(loss=small_loss, has_dropout=config.model.has_dropout)
  return jax.jit(runs.train_step(task, tx, config)), state


def test_the_norm_that_is_clipped_is_of_the_whole_gradient(make_config):
  """Two groups of parameters: the norm over both, and an update that clipping made exactly as long as the limit."""
  step, state = stepped(make_config, **{'optim.clip_norm': 0.5})
  batch = small_batch(4)
  gradient = paths.flatten(step_lib.make_gradient(TASK.loss, 1)(PARAMS, batch, None)[0])
  norm = np.sqrt(sum(np.square(np.float64(g)).sum() for g in gradient.values()))
  after, report = step(state, batch)
  np.testing.assert_allclose(report['grad_norm'], norm, rtol=1e-5)
  moved = metrics.group_norms(jax.tree.map(jnp.subtract, after.params, PARAMS))
  assert len(moved) == 2
  length = np.sqrt(sum(np.square(float(n)) for n in moved.values())) / float(report['learning_rate'])
  np.testing.assert_allclose(length, 0.5, rtol=1e-2)


def test_every_part_of_a_batch_draws_its_own_dropout():
  """The gradient of w is 0 where every part drops it: of 64 places half in one part, 4 in four that differ."""
  dropped = []
  for parts in (1, 4):
    grads, _, _ = step_lib.make_gradient(TASK.loss, parts)(PARAMS, small_batch(4), jax.random.key(0))
    dropped.append(int((grads['embeddings']['w'] == 0).sum()))
  assert dropped[0] > 20 and dropped[1] < 12, dropped


def test_every_step_draws_its_own_dropout(make_config):
  step, state = stepped(make_config, **{'model.residual_dropout': 0.5})
  before, dropped = np.asarray(PARAMS['embeddings']['w']), set()
  for number in range(3):
    after, _ = step(state._replace(step=jnp.int32(number)), small_batch(2), jax.random.key(0))
    still = np.asarray(after.params['embeddings']['w']) == before
    assert still.any() and not still.all()
    dropped.add(tuple(still.tolist()))
  assert len(dropped) == 3


@pytest.mark.parametrize('seed, epoch', [(1, 0), (0, 1)])
def test_a_row_has_other_masks_with_another_seed_and_in_another_epoch(seed, epoch):
  """At one rate and for the same rows: the numbers that a row is masked by are those of the seed and the epoch."""

  class Rows:
    def __len__(self):
      return 8

    def take(self, indices):
      return np.repeat(indices[:, None], 4, axis=1)

  def draws(seed, epoch):
    drawn = lambda rows, keys: {'inputs': rows, 'drawn': order.draws(keys, 0, 1)[:, 0]}
    made = Pipeline({'a': Rows()}, [1.0], drawn, {}, batch_size=8, vocab_size=9, seed=seed, total_steps=2)
    batch = made.batch(epoch)
    return dict(zip(batch['inputs'][:, 0].tolist(), batch['drawn'].tolist()))

  one, other = draws(0, 0), draws(seed, epoch)
  assert one == draws(0, 0) and one.keys() == other.keys() == set(range(8))
  assert all(one[row] != other[row] for row in one)


def test_every_token_is_drawn_again():
  """With equal chances for all, 40 draws with one key would be 40 times one token."""
  step = lambda cache, tokens_BT, positions_BT, segments_BT: (jnp.zeros((tokens_BT.shape[0], 11)), cache)
  tokens, segments = decode.pad_left([[3], [4]], pad=0)
  cache = jnp.zeros(2, jnp.int32)
  made = decode.generate(step, cache, tokens, segments, jax.random.key(0), new_tokens=40, temperature=1.0)
  for row in np.asarray(made):
    assert len(set(row.tolist())) > 5
    assert np.mean(row[1:] == row[:-1]) < 0.5
