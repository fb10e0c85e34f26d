"""Prefix attention (a causal model that reads its prompt from both sides), and scaled rotary positions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax.models import presets
from lmjax.models.config import ModelConfig
from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import Transformer
from lmjax.ops import attention, positions
from lmjax.ops.masks import attention_mask

VOCAB, LENGTH, PREFIX = 50, 12, 5
KINDS = {
  'rotary': ('tiny', {}),
  'learned': ('gpt2_small', dict(max_length=24)),
  'windows': ('tiny', dict(window=4, global_every=2)),
}


def model_of(kind, **changes):
  preset, further = KINDS[kind]
  small = dict(layers=2, width=32, heads=4, kv_heads=2, mlp_width=48, vocab_multiple=8, dtype='float32', init_std=0.2)
  model = presets.PRESETS[preset]['model'] | small | dict(scan=False, attention_implementation='xla')
  return LanguageModel(Transformer(ModelConfig(**model | further | changes), VOCAB))


@functools.cache
def params_of(kind):
  return jax.jit(model_of(kind).init)(jax.random.key(0))


def made(kind, **changes):
  """A tiny decoder and its parameters, which are those without the changes: these are of how it is computed."""
  return model_of(kind, **changes), params_of('learned' if kind == 'learned' else 'rotary')


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, tokens, **arguments):
  return model.backbone.apply(params, tokens, **arguments)


def prefix_of(length, rows=1):
  return jnp.broadcast_to(jnp.arange(LENGTH) < length, (rows, LENGTH))


def influence(model, params, **arguments):
  """[T, T] bool: whether the output at a place (row) depends on the token at a place (column), by gradient."""
  table = params['embeddings']['token']['embedding']

  @jax.jit
  def outputs(table):
    moved = {**params, 'embeddings': {**params['embeddings'], 'token': {'embedding': table}}}
    # each token of the row occurs once, so a row of the table is a place of the text
    x_BTD = model.backbone.apply(moved, jnp.arange(LENGTH)[None], **arguments)
    return (x_BTD[0] ** 3).sum(axis=-1)

  jacobian = np.asarray(jax.jacrev(outputs)(table))[:, :LENGTH]
  return np.abs(jacobian).sum(axis=-1) > 0


@pytest.mark.parametrize('kind, scan', [('rotary', True), pytest.param('learned', False, marks=pytest.mark.slow)])
def test_a_prefix_is_seen_whole_and_nothing_else_of_the_future(kind, scan):
  model, params = made(kind, scan=scan)
  causal = np.tri(LENGTH, dtype=bool)
  np.testing.assert_array_equal(influence(model, params), causal)
  expected = causal | (np.arange(LENGTH) < PREFIX)
  np.testing.assert_array_equal(influence(model, params, prefix_BT=prefix_of(PREFIX)), expected)


def test_an_empty_prefix_changes_nothing_and_a_whole_one_makes_an_encoder():
  model, params = made('rotary')
  tokens = jax.random.randint(jax.random.key(1), (1, LENGTH), 0, VOCAB)
  plain = apply(model, params, tokens)
  np.testing.assert_array_equal(apply(model, params, tokens, prefix_BT=prefix_of(0)), plain)
  whole = apply(model, params, tokens, prefix_BT=prefix_of(LENGTH))
  encoder, _ = made('rotary', attention='bidirectional')
  np.testing.assert_allclose(whole, apply(encoder, params, tokens), atol=1e-5)
  assert np.abs(whole - plain).max() > 1e-2


def test_a_window_limits_a_prefix_too():
  """One layer of window 4: a token sees the 3 before it, and of a prefix the 3 after it."""
  model, params = made('windows', layers=1, global_every=None)
  seen = influence(model, params, prefix_BT=prefix_of(PREFIX))
  for t, s in itertools.product(range(LENGTH), repeat=2):
    assert seen[t, s] == (abs(t - s) < 4 and (s <= t or s < PREFIX)), (t, s)


def test_a_prefix_stays_within_its_segment():
  """Two documents in a row, each with a prefix of its own: neither sees the other's."""
  model, params = made('rotary')
  segments = jnp.array([[1] * 6 + [2] * 6])
  prefix = jnp.array([[True] * 3 + [False] * 3 + [True] * 4 + [False] * 2])
  seen = influence(model, params, prefix_BT=prefix, segments_BT=segments)
  for t, s in itertools.product(range(LENGTH), repeat=2):
    assert seen[t, s] == (t // 6 == s // 6 and (s <= t or bool(prefix[0, s]))), (t, s)


@pytest.mark.parametrize('window, segmented', itertools.product([None, 3], [True, False]))
def test_the_mask_equals_its_definition(window, segmented):
  T = 7
  segments = np.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 0, 0]]) if segmented else None
  prefix = np.array([[1, 1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0]], bool)
  options = dict(causal=True, window=window, q_segments_BT=segments, k_segments_BS=segments, k_prefix_BS=prefix)
  mask = attention_mask(jnp.arange(T), jnp.arange(T), **options)
  for b, t, s in itertools.product(range(2), range(T), range(T)):
    visible = s <= t or prefix[b, s]
    visible = visible and (window is None or abs(t - s) < window)
    visible = visible and (not segmented or segments[b, t] == segments[b, s])
    assert bool(mask[b, 0, t, s]) == visible, (b, t, s)


@pytest.mark.parametrize('window', [None, 5])
@pytest.mark.parametrize('length', [pytest.param(16, marks=pytest.mark.slow), 18])
def test_blockwise_equals_xla(window, length):
  """Outputs and gradients; 16 makes blocks of queries, 18 does not divide into them."""
  keys = jax.random.split(jax.random.key(2), 4)
  q, k, v = (jax.random.normal(key, (2, length, heads, 8)) for key, heads in zip(keys, (4, 2, 2)))
  cotangent = jax.random.normal(keys[3], q.shape)
  segments = jnp.where(jnp.arange(length) < jnp.array([[length], [length - 3]]), 1, 0)
  # longer than a block, and another length in each row
  prefix = jnp.arange(length) < jnp.array([[3], [11]])
  options = dict(causal=True, window=window, segments_BT=segments, prefix_BT=prefix)

  @functools.partial(jax.jit, static_argnums=0)
  def run(implementation, q, k, v):
    f = lambda q, k, v: attention.attend(q, k, v, **options, implementation=implementation)
    y, pull = jax.vjp(f, q, k, v)
    return y, pull(cotangent)

  got, expected = run('blockwise', q, k, v), run('xla', q, k, v)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, expected)
  without = attention.attend(q, k, v, **options | dict(prefix_BT=None), implementation='xla')
  assert np.abs(expected[0] - without).max() > 1e-2


@pytest.mark.parametrize('implementation', ['splash', 'auto'])
def test_kernels_give_way_where_they_have_no_prefix(implementation):
  """Splash takes no such mask: asked for it with a prefix, the result is still that of the reference."""
  q, k, v = (jax.random.normal(key, (1, 128, 2, 8)) for key in jax.random.split(jax.random.key(3), 3))
  prefix = jnp.arange(128)[None] < 70
  chosen = attention.choose(implementation, 'float32', 0.0, None)
  got = attention.attend(q, k, v, causal=True, prefix_BT=prefix, implementation=chosen)
  mask = jnp.tri(128, dtype=bool)[None, None] | prefix[:, None, None]
  expected = jax.nn.dot_product_attention(q, k, v, mask=mask)
  np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize('kind', [pytest.param('learned', marks=pytest.mark.slow), 'windows'])
def test_the_cache_equals_the_full_pass(kind):
  """The prefix in one pass, then token by token; rows whose prefix ends early are padded on the left."""
  model, params = made(kind)
  tokens = jax.random.randint(jax.random.key(4), (2, LENGTH), 0, VOCAB)
  segments = jnp.array([[1] * LENGTH, [0] * 2 + [1] * (LENGTH - 2)])
  places = jnp.maximum(jnp.arange(LENGTH) - jnp.array([[0], [2]]), 0)
  prefix = prefix_of(PREFIX, 2) & (segments > 0)
  full = apply(model, params, tokens, segments_BT=segments, positions_BT=places, prefix_BT=prefix)
  cache, found = model.backbone.init_cache(2, LENGTH), []
  for start, end in [(0, PREFIX), *((t, t + 1) for t in range(PREFIX, LENGTH))]:
    part = dict(segments_BT=segments[:, start:end], positions_BT=places[:, start:end])
    part['prefix_BT'] = prefix[:, start:end] if start == 0 else None
    x, cache = apply(model, params, tokens[:, start:end], **part, cache=cache)
    found.append(x)
  got = jnp.concatenate(found, axis=1)
  real = np.asarray(segments, bool)
  np.testing.assert_allclose(np.asarray(got)[real], np.asarray(full)[real], atol=1e-4)
  without = apply(model, params, tokens, segments_BT=segments, positions_BT=places)
  assert np.abs(full - without)[real].max() > 1e-2


def test_decode_step_reads_the_prompt_from_both_sides_only_if_asked():
  model, params = made('rotary')
  tokens = jax.random.randint(jax.random.key(5), (1, LENGTH), 0, VOCAB)
  arguments = (tokens[:, :PREFIX], jnp.arange(PREFIX)[None], jnp.ones((1, PREFIX), jnp.int32))
  found = {
    prefix: jax.jit(model.decode_step(params, prefix))(model.backbone.init_cache(1, LENGTH), *arguments)[0]
    for prefix in (True, False)
  }
  for prefix, logits in found.items():
    x = apply(model, params, tokens[:, :PREFIX], prefix_BT=jnp.full((1, PREFIX), prefix))
    np.testing.assert_allclose(logits, model.logits(params, x)[:, -1], atol=1e-4)
  assert np.abs(found[True] - found[False]).max() > 1e-3


def test_rope_scaling_divides_the_positions():
  """Scaled by 4, positions are those of unscaled text divided by 4, between whole numbers too."""
  model, params = made('rotary')
  scaled, _ = made('rotary', rope_scaling=4.0)
  tokens, places = jnp.arange(LENGTH)[None], jnp.arange(LENGTH)[None]
  plain = apply(model, params, tokens)
  np.testing.assert_allclose(apply(scaled, params, tokens, positions_BT=4 * places), plain, atol=1e-4)
  found = apply(scaled, params, tokens)
  np.testing.assert_allclose(found, apply(model, params, tokens, positions_BT=places / 4.0), atol=1e-4)
  assert np.abs(found - plain).max() > 1e-3


def test_rope_scaling_holds_for_scanned_layers_and_both_bases():
  options = dict(window=4, global_every=2, rope_theta_local=100.0, scan=True)
  model, params = made('rotary', **options)
  scaled, _ = made('rotary', rope_scaling=2.5, **options)
  tokens, places = jnp.arange(LENGTH)[None], jnp.arange(LENGTH)[None]
  plain = apply(model, params, tokens, positions_BT=2 * places)
  np.testing.assert_allclose(apply(scaled, params, tokens, positions_BT=5 * places), plain, atol=1e-4)


def test_rotation_takes_positions_between_whole_numbers():
  """What scaling needs: a rotation by p / s, not by p // s."""
  x = jnp.ones((1, 3, 1, 8))
  angles = jnp.array([[0.0, 0.5, 1.0]])
  rotated = positions.rotate(x, angles, 10_000.0)
  # the first pair turns by the position itself (frequency 1)
  first, second = rotated[0, :, 0, 0], rotated[0, :, 0, 4]
  np.testing.assert_allclose(first, np.cos(angles[0]) - np.sin(angles[0]), atol=1e-6)
  np.testing.assert_allclose(second, np.cos(angles[0]) + np.sin(angles[0]), atol=1e-6)


def test_the_cache_keeps_scaled_keys():
  model, params = made('rotary', rope_scaling=3.0)
  tokens = jnp.arange(LENGTH)[None]
  full = apply(model, params, tokens)
  cache, found = model.backbone.init_cache(1, LENGTH), []
  for start, end in [(0, 6), (6, LENGTH)]:
    x, cache = apply(model, params, tokens[:, start:end], positions_BT=jnp.arange(start, end)[None], cache=cache)
    found.append(x)
  np.testing.assert_allclose(jnp.concatenate(found, axis=1), full, atol=1e-4)
