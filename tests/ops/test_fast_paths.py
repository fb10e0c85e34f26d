"""What is computed in another way for speed gives the same values and gradients as the plain way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.ops import attention, platforms
from lmjax.ops.matmul import add_bias, matmul


def draw(shape, seed=0, dtype=jnp.float32):
  return jax.random.normal(jax.random.key(seed), shape, dtype)


def heads(query_heads, key_heads, length=32, batch=2, width=8, dtype=jnp.float32):
  shapes = [(batch, length, n, width) for n in (query_heads, key_heads, key_heads)]
  return [draw(shape, seed, dtype) for seed, shape in enumerate(shapes)]


def value_and_gradients(function, arrays):
  """The output and the gradients of a sum in which every element weighs differently."""

  def weighted(*arrays):
    y = function(*arrays)
    return (y * jnp.arange(1, y.size + 1).reshape(y.shape) / y.size).sum().astype(jnp.float32), y

  (_, y), gradients = jax.jit(jax.value_and_grad(weighted, tuple(range(len(arrays))), has_aux=True))(*arrays)
  return [y, *gradients]


def assert_same(got, expected, tolerance=1e-5):
  for g, e in zip(got, expected, strict=True):
    assert g.dtype == e.dtype and g.shape == e.shape
    np.testing.assert_allclose(g.astype(jnp.float32), e.astype(jnp.float32), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
  'length,key_heads,causal,window,segmented,softcap',
  [
    (32, 4, True, None, False, None),
    (32, 2, True, None, True, None),
    (32, 1, True, 6, False, None),
    (32, 2, True, 6, True, 1.5),
    (30, 4, True, 6, True, None),  # no multiple of the blocks
    (30, 2, True, None, False, None),
    (32, 4, False, None, False, 0.5),
    (32, 2, False, 6, True, None),
    (30, 1, False, None, True, None),
  ],
)
def test_blockwise_equals_xla(length, key_heads, causal, window, segmented, softcap):
  segments = None
  if segmented:  # documents that end inside and at the edges of blocks, and padding at the end of one row
    segments = jnp.array([[1] * 8 + [2] * 11 + [3] * (length - 19), [1] * 5 + [2] * 20 + [0] * (length - 25)])
  scores = {} if softcap is None else dict(scale=0.9, softcap=softcap)
  attend = functools.partial(attention.attend, causal=causal, window=window, segments_BT=segments, **scores)
  arrays = heads(4, key_heads, length)
  got, expected = (
    value_and_gradients(functools.partial(attend, implementation=i), arrays) for i in ('blockwise', 'xla')
  )
  assert_same(got, expected)


@pytest.mark.parametrize('causal, length, softcap', [(True, 32, None), (True, 30, 1.5), (False, 32, None)])
def test_blockwise_drops_what_xla_drops(causal, length, softcap):
  """The same weights, forwards and backwards, of every block and head."""
  segments = jnp.array([[1] * length, [1] * 20 + [0] * (length - 20)])
  attend = functools.partial(attention.attend, causal=causal, segments_BT=segments)
  attend = functools.partial(attend, softcap=softcap, dropout=0.3, key=jax.random.key(5))
  arrays = heads(4, 2, length)
  got, expected = (
    value_and_gradients(functools.partial(attend, implementation=one), arrays) for one in ('blockwise', 'xla')
  )
  assert_same(got, expected, 2e-5)
  without = value_and_gradients(functools.partial(attend, implementation='xla', key=None), arrays)
  assert np.abs(without[0] - expected[0]).max() > 0.1


def test_blockwise_is_exact_where_scores_are_large():
  q, k, v = heads(2, 2)
  arrays = [40 * q, 40 * k, v]  # exp of these scores overflows unless the largest is taken off
  got, expected = (
    value_and_gradients(functools.partial(attention.attend, causal=True, implementation=i), arrays)
    for i in ('blockwise', 'xla')
  )
  assert np.isfinite(got[0]).all()
  assert_same(got, expected, 1e-4)


def test_blockwise_with_an_array_of_a_window_and_recomputed():
  arrays = heads(4, 2)

  def run(implementation, wrap):
    attend = lambda *a: attention.attend(*a, causal=True, window=jnp.array(5), implementation=implementation)
    return value_and_gradients(wrap(attend), arrays)

  expected = run('xla', lambda f: f)
  assert_same(run('blockwise', lambda f: f), expected)
  assert_same(run('blockwise', jax.checkpoint), expected)


def test_blockwise_in_bfloat16_stays_near_float32():
  arrays = heads(4, 2, dtype=jnp.bfloat16)
  attend = functools.partial(attention.attend, causal=True, implementation='blockwise')
  got = value_and_gradients(attend, arrays)
  exact = value_and_gradients(attend, [a.astype(jnp.float32) for a in arrays])
  assert all(g.dtype == jnp.bfloat16 for g in got)
  for g, e in zip(got, exact):
    assert jnp.linalg.norm(g.astype(jnp.float32) - e) < 0.02 * jnp.linalg.norm(e)


@pytest.mark.parametrize('softcap', [None, 1.5])
def test_a_cache_is_read_as_the_reference_does(softcap):
  """Queries that each see other slots, two query heads for each key head."""
  q, k, v = heads(4, 2)
  visible = jnp.tri(32, dtype=bool)[None] & (jax.random.uniform(jax.random.key(1), (2, 32, 32)) < 0.7)
  visible |= jnp.eye(32, dtype=bool)
  expected = attention._xla(q, k, v, visible[:, None], 0.9, softcap, 0.0, None)
  k_BGKS, v_BGSK = jnp.moveaxis(k, 1, 3), jnp.moveaxis(v, 1, 2)
  got = attention.attend_cached(q, k_BGKS, v_BGSK, visible, scale=0.9, softcap=softcap)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_prompts_that_the_devices_do_not_divide_take_the_reference():
  """Splash would give each device as many rows; what is asked for in one row is still answered."""
  mesh = jax.make_mesh((2, 2, 1), ('data', 'fsdp', 'tensor'), axis_types=(jax.sharding.AxisType.Auto,) * 3)
  q, k, v = (jax.random.normal(key, (3, 128, 2, 8)) for key in jax.random.split(jax.random.key(3), 3))
  with jax.set_mesh(mesh):
    got = jax.jit(functools.partial(attention.attend, causal=True, implementation='splash'))(q, k, v)
  expected = attention.attend(q, k, v, causal=True)
  np.testing.assert_allclose(got, expected, atol=1e-5)


def test_blockwise_skips_hidden_scores():
  """No array of all scores, forwards or backwards."""
  arrays = heads(2, 2, length=64)
  attend = functools.partial(attention.attend, causal=True, implementation='blockwise')
  program = str(jax.make_jaxpr(jax.grad(lambda *a: attend(*a).sum(), (0, 1, 2)))(*arrays))
  assert 'f32[2,2,16,16]' in program and 'f32[2,2,16,64]' in program
  assert 'f32[2,2,64,64]' not in program


def test_auto_takes_blockwise_for_float32_on_a_cpu_alone(monkeypatch):
  assert jax.default_backend() == 'cpu'
  assert attention.choose('auto', 'float32', 0.0, None) == 'blockwise'
  assert attention.choose('auto', 'float32', 0.1, None) == 'blockwise'
  assert attention.choose('auto', 'bfloat16', 0.1, None) == 'xla'  # dropout on the weights
  assert attention.choose('auto', 'bfloat16', 0.0, None) == 'xla'
  assert attention.choose('xla', 'float32', 0.0, None) == 'xla'
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert attention.choose('auto', 'float32', 0.0, None) == 'xla'


def test_auto_takes_no_kernel_without_a_softcap_for_one(monkeypatch):
  for target, expected in (('gpu', 'xla'), ('tpu', 'splash')):
    monkeypatch.setattr(platforms, 'target', lambda target=target: target)
    assert attention.choose('auto', 'bfloat16', 0.0, 50.0) == expected
    assert attention.choose('auto', 'bfloat16', 0.0, None) != 'xla'


@pytest.mark.parametrize('shape', [(3, 5, 8), (7, 8), (8,)])
def test_matmul_equals_that_of_jax(shape):
  arrays = [draw(shape), draw((8, 6), 1)]
  assert_same(value_and_gradients(matmul, arrays), value_and_gradients(jnp.matmul, arrays))


CUDNN_CASES = {
  'causal': (dict(causal=True), 'CAUSAL', 0),
  'window': (dict(causal=True, window=8), 'CAUSAL', 8),
  'padded': (dict(causal=False, lengths_B=jnp.array([20, 32])), 'PADDING', 0),
  'causal padded': (dict(causal=True, window=8, lengths_B=jnp.array([20, 32])), 'PADDING_CAUSAL', 8),
}


@pytest.mark.parametrize('case', CUDNN_CASES)
def test_cudnn_hides_by_its_own_settings_without_a_mask(case, monkeypatch):
  """Lowered for CUDA on a CPU: a mask would be an operand of T x T numbers, and every tile of scores computed."""
  settings, mask_type, window = CUDNN_CASES[case]
  from jax._src.cudnn import fused_attention_stablehlo as cudnn

  monkeypatch.setattr(cudnn, 'check_cudnn_version', lambda: 91000)
  monkeypatch.setattr(cudnn, 'check_compute_capability', lambda capability: True)
  function = functools.partial(attention.attend, implementation='cudnn', **settings)
  loss = lambda *arrays: function(*arrays).astype(jnp.float32).sum()
  arrays = heads(4, 2, width=16, dtype=jnp.bfloat16)
  lowered = jax.jit(jax.grad(loss, (0, 1, 2))).trace(*arrays).lower(lowering_platforms=('cuda',)).as_text()
  text = lowered.replace('\\22', '"')
  assert text.count('@__cudnn$fmhaSoftmax(') == text.count('@__cudnn$fmhaSoftmaxBackward(') == 1
  assert text.count(f'"mask_type": "{mask_type}"') == text.count(f'"sliding_window_length": {window}') == 2
  assert 'x32x32x' not in text, 'an operand [.., T, T]'


@pytest.mark.parametrize('case', [*CUDNN_CASES, 'packed', 'two-sided window'])
def test_cudnn_hides_what_xla_hides(case, monkeypatch):
  """Its settings mean what the mask does, wherever a token counts: as XLA computes them."""
  segments = jnp.array([[1] * 20 + [2] * 8 + [0] * 4, [1] * 32])
  others = {
    'packed': dict(causal=True, segments_BT=segments, scale=0.9),
    'two-sided window': dict(causal=False, window=8),
  }
  settings = others[case] if case in others else CUDNN_CASES[case][0]
  plain, asked = jax.nn.dot_product_attention, []

  def computed(*arrays, implementation, **rest):
    asked.append(implementation)
    return plain(*arrays, implementation='xla', **rest)

  counted = jnp.arange(32) < settings.get('lengths_B', jnp.full(2, 32))[:, None]

  def masked(implementation):
    return lambda *arrays: jnp.where(
      counted[:, :, None, None], attention.attend(*arrays, implementation=implementation, **settings), 0.0
    )

  expected = value_and_gradients(masked('xla'), heads(4, 2))
  monkeypatch.setattr(jax.nn, 'dot_product_attention', computed)
  assert_same(value_and_gradients(masked('cudnn'), heads(4, 2)), expected)
  assert set(asked) == {'cudnn'}


@pytest.mark.parametrize('x, kernel, over', [((2, 16, 12), (12, 3, 4), 1), ((2, 16, 3, 4), (3, 4, 12), 2)])
def test_heads_are_projected_in_the_order_of_a_tpus_kernel(monkeypatch, x, kernel, over):
  """Another order of axes in the program; the same product."""
  arrays = [draw(x), draw(kernel, seed=1)]
  plain = functools.partial(matmul, over=over)
  expected, program = value_and_gradients(plain, arrays), str(jax.make_jaxpr(plain)(*arrays))
  monkeypatch.setattr(platforms, 'target', lambda: 'tpu')
  turned = functools.partial(matmul, over=over)
  assert_same(value_and_gradients(turned, arrays), expected)
  assert 'transpose' in str(jax.make_jaxpr(turned)(*arrays)) and 'transpose' not in program


def test_a_bias_has_the_whole_sum_as_its_gradient():
  """257 ones, which bfloat16 counts as 256."""
  y, bias = jnp.zeros((1, 257, 3), jnp.bfloat16), jnp.zeros(3)
  gradient = jax.grad(lambda bias: add_bias(y, bias).astype(jnp.float32).sum())(bias)
  assert gradient.dtype == jnp.float32 and (gradient == 257).all()
