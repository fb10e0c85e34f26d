"""The array functions against plain definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.ops import attention, norms, platforms, positions
from lmjax.ops.cross_entropy import cross_entropy
from lmjax.ops.dropout import random_bits
from lmjax.ops.gelu import gelu
from lmjax.ops.masks import attention_mask

V, VOCAB, D = 24, 21, 8


def plain_cross_entropy(x, kernel, bias, targets, weights, z_loss, smoothing, softcap=None):
  """The definition, with all logits at once."""
  logits = jnp.einsum('BTD,DV->BTV', x, kernel)[..., :VOCAB] + (0 if bias is None else bias[:VOCAB])
  logits = logits if softcap is None else softcap * jnp.tanh(logits / softcap)
  log_p = jax.nn.log_softmax(logits)
  labels = jax.nn.one_hot(targets, VOCAB) * (1 - smoothing) + smoothing / VOCAB
  log_z = jax.nn.logsumexp(logits, axis=-1)
  loss = -(labels * log_p).sum(-1) + z_loss * log_z**2
  nll = -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
  return (loss * weights).sum(), (nll * weights).sum(), logits.argmax(-1) == targets


@pytest.fixture(scope='module')
def arrays():
  keys = jax.random.split(jax.random.key(0), 5)
  return dict(
    x=jax.random.normal(keys[0], (3, 10, D)),
    kernel=jax.random.normal(keys[1], (D, V)),
    bias=jax.random.normal(keys[2], (V,)),
    targets=jax.random.randint(keys[3], (3, 10), 0, VOCAB),
    weights=jax.random.uniform(keys[4], (3, 10)) * (jnp.arange(10) != 4),
  )


@pytest.mark.parametrize(
  'chunk,with_bias,z_loss,smoothing,softcap',
  [
    (10, True, 0.0, 0.0, None),
    (1, False, 0.0, 0.0, None),
    (3, True, 1e-2, 0.1, None),
    (5, False, 1e-2, 0.0, 2.0),
    (7, True, 0.0, 0.2, 3.0),
  ],
)
def test_chunked_equals_plain_cross_entropy(arrays, chunk, with_bias, z_loss, smoothing, softcap):
  a = arrays
  bias = a['bias'] if with_bias else None
  counted = a['weights'] > 0.5

  @jax.jit
  def ours(x, kernel, bias):
    places = (a['targets'], a['weights'], counted)
    return cross_entropy(x, kernel, bias, *places, VOCAB, chunk, z_loss, smoothing, softcap)

  @jax.jit
  def plain(x, kernel, bias):
    return plain_cross_entropy(x, kernel, bias, a['targets'], a['weights'], z_loss, smoothing, softcap)

  sums, (loss, nll, right) = ours(a['x'], a['kernel'], bias), plain(a['x'], a['kernel'], bias)
  np.testing.assert_allclose(sums.loss, loss, rtol=1e-5)
  np.testing.assert_allclose(sums.nll, nll, rtol=1e-5)
  assert float(sums.correct) == float((right * counted).sum())
  which = (0, 1, 2) if with_bias else (0, 1)
  # scaled by 3: the backward pass must use the incoming gradient
  got = jax.jit(jax.grad(lambda *p: 3 * ours(*p).loss, which))(a['x'], a['kernel'], bias)
  expected = jax.jit(jax.grad(lambda *p: 3 * plain(*p)[0], which))(a['x'], a['kernel'], bias)
  for g, e in zip(got, expected):
    np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5)


def test_cross_entropy_never_holds_all_logits(arrays):
  """No float32 array of [batch, length, vocabulary], forwards or backwards."""
  x = jnp.zeros((2, 64, D))
  ids, weights = jnp.zeros((2, 64), jnp.int32), jnp.ones((2, 64))

  def loss(x, kernel):
    return cross_entropy(x, kernel, None, ids, weights, weights, VOCAB, 16).loss

  program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, arrays['kernel']))
  assert f'f32[1,2,16,{V}]' in program
  assert f'64,{V}]' not in program and f'{2 * 64},{V}]' not in program


def test_ignored_positions_do_not_count(arrays):
  """A position of weight 0 has no say, whatever its target: the last and the first class are not trained."""
  a = arrays
  other = jnp.where(a['weights'] == 0, VOCAB - 1, a['targets'])

  def gradient(targets):
    f = lambda kernel: cross_entropy(a['x'], kernel, None, targets, a['weights'], a['weights'], VOCAB, 4).loss
    return jax.grad(f)(a['kernel'])

  np.testing.assert_array_equal(gradient(a['targets']), gradient(other))


def test_token_zero_is_learnable(arrays):
  """A target of id 0 is a target like any other."""
  zeros, ones = jnp.zeros((3, 10), jnp.int32), jnp.ones((3, 10))
  f = lambda bias: cross_entropy(arrays['x'], arrays['kernel'], bias, zeros, ones, ones, VOCAB, 4).loss
  gradient = jax.grad(f)(arrays['bias'])
  assert gradient[0] < -1 and (gradient[1:VOCAB] > 0).all() and (gradient[VOCAB:] == 0).all()


def test_bfloat16_inputs_give_float32_sums(arrays):
  a = arrays
  x = a['x'].astype(jnp.bfloat16)
  sums = cross_entropy(x, a['kernel'], None, a['targets'], a['weights'], a['weights'], VOCAB, 4)
  exact = plain_cross_entropy(a['x'], a['kernel'], None, a['targets'], a['weights'], 0.0, 0.0)[0]
  assert sums.loss.dtype == jnp.float32
  np.testing.assert_allclose(sums.loss, exact, rtol=2e-2)


@pytest.mark.parametrize('causal,window,segmented', itertools.product([True, False], [None, 1, 3, 4], [True, False]))
def test_mask_equals_its_definition(causal, window, segmented):
  T = 7
  segments = np.array([[1, 1, 2, 2, 2, 3, 0], [1, 1, 1, 1, 0, 0, 0]]) if segmented else None
  mask = attention_mask(
    jnp.arange(T), jnp.arange(T), causal=causal, window=window, q_segments_BT=segments, k_segments_BS=segments
  )
  if mask is None:
    assert not causal and window is None and not segmented
    return
  for b, t, s in itertools.product(range(2), range(T), range(T)):
    visible = not causal or s <= t
    if window is not None:
      visible = visible and (t - s < window if causal else abs(t - s) <= window // 2)
    if segmented:
      visible = visible and segments[b, t] == segments[b, s]
    assert bool(mask[b % mask.shape[0], 0, t, s]) == visible, (b, t, s)


def plain_attention(q, k, v, mask, scale=None, softcap=None):
  """One head and one query at a time."""
  B, T, H, K = q.shape
  out = np.zeros((B, T, H, K))
  for b, h, t in itertools.product(range(B), range(H), range(T)):
    g = h // (H // k.shape[2])
    scores = k[b, :, g] @ q[b, t, h] * (K**-0.5 if scale is None else scale)
    scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
    scores = np.where(mask[b % mask.shape[0], 0, t], scores, -np.inf)
    p = np.exp(scores - scores.max())
    out[b, t, h] = (p / p.sum()) @ v[b, :, g]
  return out


@pytest.mark.parametrize(
  'causal,window,scores',
  [
    (True, None, {}),
    (True, 3, dict(scale=0.9, softcap=1.5)),
    (False, None, dict(scale=0.9)),
    (False, 4, dict(softcap=0.7)),
  ],
)
@pytest.mark.parametrize('implementation', ['auto', 'xla'])
def test_attention_equals_its_definition(causal, window, scores, implementation):
  B, T, H, G, K = 2, 9, 4, 2, 6
  q, k, v = (
    jax.random.normal(key, (B, T, heads, K)) for key, heads in zip(jax.random.split(jax.random.key(1), 3), (H, G, G))
  )
  segments = jnp.array([[1] * 4 + [2] * 5, [1] * 7 + [0] * 2])
  settings = dict(causal=causal, window=window, segments_BT=segments)
  places, sides = jnp.arange(T), dict(q_segments_BT=segments, k_segments_BS=segments)
  mask = attention_mask(places, places, causal=causal, window=window, **sides)
  chosen = attention.choose(implementation, 'float32', 0.0, None)
  got = attention.attend(q, k, v, **settings, **scores, implementation=chosen)
  np.testing.assert_allclose(got, plain_attention(*(np.asarray(a) for a in (q, k, v, mask)), **scores), atol=1e-5)


def test_attention_dropout_keeps_the_mean_and_the_mask():
  q, k, v = (jax.random.normal(key, (1, 8, 2, 4)) for key in jax.random.split(jax.random.key(2), 3))
  f = lambda v, key: attention.attend(q, k, v, causal=True, dropout=0.3, key=key)
  exact = jax.jit(lambda: attention.attend(q, k, v, causal=True))()
  many = jax.jit(jax.vmap(f, (None, 0)))(v, jax.random.split(jax.random.key(3), 4000))
  np.testing.assert_allclose(many.mean(0), exact, atol=0.06)
  assert not np.allclose(many[0], many[1])
  seen = jax.jit(jax.jacobian(f))(v, jax.random.key(4))
  assert (jnp.abs(seen[0, 2, :, :, 0, 3:]) == 0).all(), 'a query saw later values'


def test_random_bits_look_random():
  """Each bit is set half of the time, next to any other that is, along every axis and from key to key."""
  keys = [*jax.random.split(jax.random.key(5), 3), jax.random.key(0), jax.random.key(1)]
  bits_NRCB = np.stack([np.unpackbits(np.asarray(random_bits(key, (24, 40, 96))).view(np.uint8)) for key in keys])
  bits_NRCB = bits_NRCB.reshape(len(keys), 24, 40, 96, 32).astype(np.int8)
  signs = 2 * bits_NRCB - 1

  def deviations(products, axes):
    """How many standard deviations the mean of fair coins is from 0."""
    count = np.prod([products.shape[axis] for axis in axes])
    return np.abs(products.sum(axes)) / np.sqrt(count)

  assert deviations(signs, (0, 1, 2, 3)).max() < 5, 'a bit'
  assert deviations(signs, (0, 4)).max() < 6, 'a place'
  for axis in range(4):
    for step in (1, 2, 8) if axis else (1, 2):
      products = signs * np.roll(signs, step, axis=axis)
      assert deviations(products, (0, 1, 2, 3)).max() < 5, f'next to each other along axis {axis}, {step} apart'
  others = [np.abs((signs * np.roll(signs, step, axis=4)).sum((0, 1, 2, 3))).max() for step in range(1, 32)]
  assert max(others) / np.sqrt(signs[..., 0].size) < 5.5, 'two bits of a number'
  assert np.unique(np.packbits(bits_NRCB.reshape(-1, 32), axis=-1).view(np.uint32)).size > 0.999 * signs[..., 0].size


def test_random_bits_do_not_depend_on_the_mesh():
  mesh = jax.make_mesh((2, 4), ('a', 'b'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('a', None, 'b'))
  whole = jax.jit(random_bits, static_argnums=1)(jax.random.key(3), (4, 3, 8))
  shared = jax.jit(random_bits, static_argnums=1, out_shardings=split)(jax.random.key(3), (4, 3, 8))
  assert shared.addressable_shards[0].data.shape == (2, 3, 2)
  np.testing.assert_array_equal(whole, shared)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_gelu_equals_its_definition(dtype):
  """Values and slopes, also far from 0; computed in float32 whatever comes in."""
  x = jnp.linspace(-9.0, 9.0, 2001).astype(dtype)
  found, slope = jax.vjp(gelu, x)
  exact, exact_slope = jax.vjp(lambda x: 0.5 * x * jax.scipy.special.erfc(-x / 2**0.5), x.astype(jnp.float32))
  dy = jnp.cos(x.astype(jnp.float32))
  tolerance = dict(atol=1e-6, rtol=1e-6 if dtype == jnp.float32 else 2**-8)
  for one, other in (
    (found, exact),
    (slope(dy.astype(dtype))[0], exact_slope(dy.astype(dtype).astype(jnp.float32))[0]),
  ):
    assert one.dtype == dtype
    np.testing.assert_allclose(one.astype(jnp.float32), other, **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize('length', [512, 1152])  # one block, and three
@pytest.mark.parametrize(
  'causal,window,scores',
  [(True, None, {}), (True, 64, dict(scale=0.3, softcap=2.0)), (False, None, {}), (False, 64, dict(softcap=1.0))],
)
def test_splash_equals_xla(causal, window, scores, length):
  """The Pallas kernels, interpreted on the CPU: values and gradients, two query heads for each of two key heads."""
  keys = jax.random.split(jax.random.key(5), 4)
  q, k, v, dy = (jax.random.normal(key, (1, length, heads, 64)) for key, heads in zip(keys, (4, 2, 2, 4)))
  segments = jnp.repeat(jnp.array([[1, 2]]), length // 2, axis=1)
  settings = dict(causal=causal, window=window) | scores

  def splash(q, k, v):
    return attention._splash(q, k, v, segments, **settings, interpret=True)

  def xla(q, k, v):
    return attention.attend(q, k, v, **settings, segments_BT=segments)

  got, got_gradients = jax.vjp(splash, q, k, v)
  expected, gradients = jax.vjp(xla, q, k, v)
  np.testing.assert_allclose(got, expected, atol=2e-3)
  for name, a, b in zip('qkv', got_gradients(dy), gradients(dy)):
    np.testing.assert_allclose(a, b, atol=5e-3, err_msg=name)


def test_rotary_scores_depend_on_distance_alone():
  q, k = (jax.random.normal(key, (1, 1, 1, 8)) for key in jax.random.split(jax.random.key(6)))

  def score(i, j):
    rotated = (positions.rotate(x, jnp.array([[p]]), 100.0) for x, p in ((q, i), (k, j)))
    return float(jnp.sum(jnp.multiply(*rotated)))

  assert abs(score(5, 2) - score(105, 102)) < 1e-4
  assert abs(score(5, 2) - score(5, 3)) > 1e-3


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_rotation_on_tpus_is_the_same(monkeypatch, dtype):
  """Values and gradients, in an order of operations that the TPU compiler likes."""
  x, dy = jax.random.normal(jax.random.key(6), (2, 2, 5, 3, 8), dtype)
  places = jnp.array([[0, 1, 2, 3, 4], [7, 30, 2, 100, 5]])

  def found(target):
    monkeypatch.setattr(platforms, 'target', lambda: target)
    y, gradient = jax.vjp(lambda x: positions.rotate(x, places, 50.0), x)
    return y, gradient(dy)[0]

  tolerance = 1e-6 if dtype == 'float32' else 2**-7  # one rounding
  for mine, expected in zip(found('tpu'), found('cpu')):
    assert mine.dtype == dtype
    np.testing.assert_allclose(np.float32(mine), np.float32(expected), rtol=tolerance, atol=1e-6)


def test_norms_equal_their_definitions():
  x = np.random.default_rng(0).normal(3.0, 2.0, (4, 16)).astype(np.float32)
  scale, bias = np.linspace(0.5, 2, 16, dtype=np.float32), np.linspace(-1, 1, 16, dtype=np.float32)
  expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + bias
  np.testing.assert_allclose(norms.layer_norm(x, scale, bias, 1e-5), expected, atol=1e-5)
  expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale
  np.testing.assert_allclose(norms.rms_norm(jnp.asarray(x), scale, 1e-5), expected, atol=1e-5)
