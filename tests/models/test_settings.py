"""Settings of the model that are off by default: what each computes, in a few plain lines, and in every way."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lmjax import paths
from lmjax.errors import ConfigError
from lmjax.models import flops, layers
from lmjax.models.config import ModelConfig
from lmjax.models.heads import LanguageModel
from lmjax.models.layers import Attention, Block, Embeddings, FeedForward, Norm, TokenInfo
from lmjax.models.transformer import Transformer
from lmjax.ops import norms, platforms
from lmjax.training import compiled, progress
from tests.models.test_transformer import config_of, slow

VOCAB, LENGTH = 50, 12
YARN = dict(rope_scaling=4.0, rope_scaling_type='yarn', rope_original_length=2000, rope_rotations=(1.0, 32.0))
LLAMA3 = YARN | dict(rope_scaling_type='llama3', rope_rotations=(1.0, 4.0))
CAPPED = dict(attention_scale=0.7, attention_softcap=2.0, logit_softcap=3.0)
# Several settings at a time, with layers of more than one kind. `wide`: all heads together are wider than the model.
GROUPS = {
  'wide': dict(head_dim=12, layers=3, window=4, global_every=2, global_offset=1, norm_placement='sandwich')
  | dict(norm_offset=1.0, embedding_scale=3.0, activation='geglu_tanh', rope_theta_local=100.0, **CAPPED)
  | dict(rope_scaling=8.0, rope_scaling_layers='global'),
  'parallel': dict(layers=3, parallel_residual=True, rotary_width=4, rotary_skip_every=2, first_norm=False)
  | dict(qkv_bias=True, vocab_size=60)
  | LLAMA3,
  'output': dict(norm_placement='output', qk_norm_over='width', activation='relu') | YARN,
  'encoder': dict(attention='bidirectional', head_dim=6, positions='learned', rope_theta=None, max_length=LENGTH)
  | dict(position_offset=2, qkv_bias=True, first_norm=False, mlm_transform=True, logit_softcap=3.0, window=4),
  'periods': dict(layers=8, first_norm=False, rotary_skip_every=2, window=4, global_every=3, global_offset=2),
}


def make(**changes):
  return LanguageModel(Transformer(config_of('tiny', **changes), VOCAB))


@functools.cache
def made(group):
  """A model of a group and its parameters, shared by the tests that change nothing."""
  model = make(**GROUPS[group])
  assert not list(model.backbone.config.problems())
  return model, disturbed(jax.jit(model.init)(jax.random.key(0)))


def disturbed(params):
  """With noise on every parameter, so that no scale is 1 and no bias 0."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return tree.unflatten([p + 0.2 * jax.random.normal(key, p.shape) for key, p in zip(keys, leaves)])


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


@pytest.mark.parametrize('group', ['wide', 'parallel', *slow('output', 'encoder', 'periods')])
def test_scanned_and_blockwise_layers_are_those_written_out(group, tokens):
  """Loss and gradients; blockwise against the reference, scanned and recomputed ones against those written out."""
  model, params = made(group)
  expected = loss_and_gradient(changed(model, attention_implementation='xla'), params, tokens)
  ways = dict(attention_implementation='blockwise', scan=True, remat='full')
  assert_same(loss_and_gradient(changed(model, **ways), params, tokens), expected)


@pytest.mark.parametrize('group', ['wide', *slow('parallel', 'output', 'periods')])
def test_the_cache_equals_the_full_pass(group, tokens):
  model, params = made(group)
  cache, found = model.backbone.init_cache(2, LENGTH), []
  step = jax.jit(lambda p, t, places, cache: model.backbone.apply(p, t, positions_BT=places, cache=cache))
  for start, end in ((0, 4), (4, 8), (8, 12)):
    places = jnp.broadcast_to(jnp.arange(start, end), (2, end - start))
    x, cache = step(params, tokens[:, start:end], places, cache)
    found.append(model.logits(params, x))
  np.testing.assert_allclose(jnp.concatenate(found, axis=1), logits_of(model, params, tokens), atol=2e-4)


def test_what_changes_nothing(tokens):
  """The default's value, or one that never takes effect."""
  model = make(layers=1)
  params = disturbed(jax.jit(model.init)(jax.random.key(0)))
  explicit = dict(head_dim=8, rotary_width=8, attention_scale=8**-0.5, embedding_scale=1.0, vocab_size=VOCAB)
  never = dict(attention_softcap=1e4, logit_softcap=1e4, **YARN | dict(rope_scaling=1.0))
  other = changed(model, **explicit, **never)
  assert not list(other.backbone.config.problems())
  assert_same(loss_and_gradient(other, params, tokens), loss_and_gradient(model, params, tokens))


def begun(module, *arguments):
  """Parameters of a part of the model."""
  return disturbed(nn.unbox(jax.jit(lambda: module.init(jax.random.key(0), *arguments))())['params'])


def applied(module, params, *arguments):
  return jax.jit(lambda: module.apply({'params': params}, *arguments))()


def rms(x, scale, offset=0.0):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (np.asarray(scale, np.float64) + offset)


@pytest.fixture(scope='module')
def x_BTD():
  return 2 * jax.random.normal(jax.random.key(5), (1, LENGTH, 32))


INFO = TokenInfo(jnp.arange(LENGTH)[None])


@pytest.mark.parametrize(
  'changes',
  [
    dict(norm_placement='sandwich'),
    dict(norm_placement='output'),
    dict(parallel_residual=True),
    dict(parallel_residual=True, first_norm=False),
  ],
  ids=str,
)
def test_where_norms_and_residual_sums_are(changes, x_BTD):
  model = make(layers=1, **changes)
  c = model.backbone.config
  kind, p = c.layer(0), disturbed(jax.jit(model.init)(jax.random.key(0)))['layers']['0']
  attend = lambda x: applied(Attention(c), p['attention'], x, INFO, kind, None, None)[0]
  feed_forward = lambda x: applied(FeedForward(c), p['mlp'], x, None)
  norm = lambda name: lambda x: norms.rms_norm(x, p[name]['scale'], c.norm_eps)
  before = {'attention': norm('attention_norm'), 'mlp': norm('mlp_norm')}
  after = {'attention': lambda x: x, 'mlp': lambda x: x}
  if c.norm_placement == 'sandwich':
    after = {'attention': norm('attention_output_norm'), 'mlp': norm('mlp_output_norm')}
  if c.norm_placement == 'output':
    before, after = after, before
  if not c.first_norm:
    assert 'attention_norm' not in p
    before['attention'] = lambda x: x
  attended = x_BTD + after['attention'](attend(before['attention'](x_BTD)))
  read = x_BTD if c.parallel_residual else attended
  expected = attended + after['mlp'](feed_forward(before['mlp'](read)))
  found, _ = applied(Block(c), p, x_BTD, INFO, kind, None)
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert ('final_norm' in model.shapes()) and len(p) == 2 + 2 * (1 + (c.norm_placement == 'sandwich')) - (
    not c.first_norm
  )


@pytest.mark.parametrize('over', ['head', 'width'])
def test_an_attention_of_many_settings_by_hand(over, x_BTD):
  """Queries and keys with biases, normalised, rotated in part, their scores scaled and capped, in NumPy."""
  H, G, K, W, cap, scale = 4, 2, 12, 6, 1.5, 0.4
  changes = dict(
    head_dim=K, rotary_width=W, attention_scale=scale, attention_softcap=cap, qkv_bias=True, norm_offset=1.0
  )
  c = config_of('tiny', layers=1, qk_norm_over=over, **changes)
  module, kind = Attention(c), c.layer(0)
  p = begun(module, x_BTD, INFO, kind, None, None)
  assert p['query_norm']['scale'].shape == ((K,) if over == 'head' else (H * K,)) and 'bias' not in p['output']
  x, T = np.asarray(x_BTD[0], np.float64), LENGTH

  def projected(name, heads):
    y = x @ np.asarray(p[name]['kernel']) + np.asarray(p[name]['bias'])
    if name != 'value':
      rows = y.reshape(T, -1, K) if over == 'head' else y
      y = rms(rows, p[f'{name}_norm']['scale'], offset=1.0)
    return y.reshape(T, heads, K)

  def rotated(y):
    turn = np.exp(1j * np.arange(T)[:, None, None] * c.rope_theta ** (-2 * np.arange(W // 2) / W))
    pairs = (y[..., : W // 2] + 1j * y[..., W // 2 : W]) * turn
    return np.concatenate([pairs.real, pairs.imag, y[..., W:]], axis=-1)

  q, k, v = rotated(projected('query', H)), rotated(projected('key', G)), projected('value', G)
  k, v = (np.repeat(a, H // G, axis=1) for a in (k, v))
  scores = cap * np.tanh(np.einsum('thk,shk->hts', q, k) * scale / cap)
  weights = np.exp(np.where(np.tri(T, dtype=bool), scores, -np.inf))
  mixed = np.einsum('hts,shk->thk', weights / weights.sum(-1, keepdims=True), v)
  expected = mixed.reshape(T, H * K) @ np.asarray(p['output']['kernel'])
  found, _ = applied(module, p, x_BTD, INFO, kind, None, None)
  np.testing.assert_allclose(found[0], expected, atol=2e-4)


@pytest.mark.parametrize('activation', ['relu', 'geglu_tanh'])
def test_activations_by_hand(activation, x_BTD):
  c = config_of('tiny', activation=activation)
  p = begun(FeedForward(c), x_BTD, None)
  x, kernel = np.asarray(x_BTD, np.float64), {name: np.asarray(p[name]['kernel'], np.float64) for name in p}
  up = x @ kernel['up']
  if activation == 'relu':
    hidden = np.maximum(up, 0)
  else:
    gate = x @ kernel['gate']
    hidden = up * gate / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (gate + 0.044715 * gate**3)))
  np.testing.assert_allclose(applied(FeedForward(c), p, x_BTD, None), hidden @ kernel['down'], atol=1e-3)


def test_tables_are_scaled_and_offset(tokens):
  c = config_of('gpt2_small', embedding_scale=3.0, position_offset=2, max_length=LENGTH)
  p = begun(Embeddings(c, VOCAB), tokens, tokens, tokens, None)
  token, position = (np.asarray(p[name]['embedding']) for name in ('token', 'position'))
  assert position.shape[0] == LENGTH + 2
  places = np.broadcast_to(np.arange(LENGTH), tokens.shape)
  expected = 3 * token[np.asarray(tokens)] + position[2:][places]
  np.testing.assert_allclose(applied(Embeddings(c, VOCAB), p, tokens, places, tokens, None), expected, atol=1e-5)


def test_an_offset_of_scales_changes_where_they_begin_alone(x_BTD):
  plain, shifted = (Norm(config_of('tiny', norm_offset=offset)) for offset in (0.0, 1.0))
  ones, zeros = (nn.unbox(norm.init(jax.random.key(0), x_BTD)['params']) for norm in (plain, shifted))
  assert (ones['scale'] == 1).all() and (zeros['scale'] == 0).all()
  np.testing.assert_allclose(applied(shifted, zeros, x_BTD), applied(plain, ones, x_BTD), rtol=1e-6)


def test_rows_beyond_the_tokenizer_are_trained_and_never_predicted(tokens):
  model = make(layers=1, vocab_size=60)
  params = disturbed(jax.jit(model.init)(jax.random.key(0)))
  assert params['embeddings']['token']['embedding'].shape[0] == 64  # a multiple of 8
  assert logits_of(model, params, tokens).shape[-1] == VOCAB

  @jax.jit
  def losses():
    x_BTD, ones = model.backbone.apply(params, tokens), jnp.ones(tokens.shape)
    log_p = jax.nn.log_softmax(x_BTD @ params['embeddings']['token']['embedding'][:60].T)
    expected = -jnp.take_along_axis(log_p, tokens[..., None], axis=-1).sum()
    return model.cross_entropy(params, x_BTD, tokens, ones, ones, 5).loss, expected

  np.testing.assert_allclose(*losses(), rtol=1e-5)
  with pytest.raises(ConfigError, match="model.vocab_size = 49: must be at least the tokenizer's 50; raise it"):
    make(vocab_size=49)


def test_kinds_of_layers():
  scaled = dict(rope_scaling=2.0, rope_scaling_layers='global', rope_theta=1e4, rope_theta_local=100.0)
  c = config_of(
    'tiny', layers=6, window=4, global_every=3, global_offset=2, rotary_skip_every=2, first_norm=False, **scaled
  )
  local, skipped = (4, 100.0, False, True), (4, None, False, True)
  expected = [(4, 100.0, False, False), skipped, (None, 1e4, True, True), skipped, local, (None, None, True, True)]
  assert [tuple(c.layer(i)) for i in range(6)] == expected and c.period == 6
  assert [tuple(c.layer(i)) for i in range(6, 12)] == [local, *expected[1:]]


def test_heads_of_another_width_are_counted():
  """FLOPs of one token: weights of two layers of 4 query and 2 key heads of width 12, over 3 keys; bytes alike."""
  c = config_of('tiny', head_dim=12, activation='geglu_tanh')
  layer = 2 * (32 * 12 * (4 + 2 + 2 + 4) + 3 * 32 * 48) + 2 * 2 * 4 * 12 * 3
  assert flops.train_flops(c, 56, batch_size=1, length=3, predicted=1) == 3 * (2 * 3 * layer + 2 * 32 * 56)
  assert compiled.kept_bytes(c, 'attention', 0) == 4 * (32 + 2 * 4 * 12 + 2 * 2 * 12)  # the input, q, k, v and y


def test_a_line_for_people_where_auto_gives_way(monkeypatch):
  c = config_of('tiny', dtype='bfloat16', attention_softcap=50.0)
  assert progress.attention_rows(c) == []
  monkeypatch.setattr(platforms, 'target', lambda: 'gpu')
  assert progress.attention_rows(c) == [('attention', 'xla: cudnn has no model.attention_softcap')]
  for changes in (dict(attention_softcap=None), dict(attention_implementation='xla')):
    assert progress.attention_rows(dataclasses.replace(c, **changes)) == []
  monkeypatch.setattr(platforms, 'target', lambda: 'tpu')
  assert layers.implementation_of(c) == 'splash' and progress.attention_rows(c) == []
  dropping = dataclasses.replace(c, attention_dropout=0.1)
  assert progress.attention_rows(dropping) == [('attention', 'xla: splash has no model.attention_dropout')]


LEARNED = dict(positions='learned', rope_theta=None, max_length=24)
REFUSED = [
  ('heads', dict(heads=5)),
  ('head_dim', dict(head_dim=5)),
  ('rotary_width', dict(rotary_width=5)),
  ('rotary_width', dict(rotary_width=10)),
  ('rotary_width', dict(rotary_width=4, **LEARNED)),
  ('qkv_bias', dict(qkv_bias=True, biases=True)),
  ('first_norm', dict(first_norm=False, norm_placement='post')),
  ('parallel_residual', dict(parallel_residual=True, norm_placement='sandwich')),
  ('global_offset', dict(global_offset=1)),
  ('global_offset', dict(global_offset=2, window=4, global_every=2)),
  ('rotary_skip_every', dict(rotary_skip_every=1)),
  ('rotary_skip_every', dict(rotary_skip_every=3)),
  ('rotary_skip_every', dict(rotary_skip_every=2, **LEARNED)),
  ('rope_scaling_type', YARN | dict(rope_scaling=None)),
  ('rope_original_length', YARN | dict(rope_original_length=None)),
  ('rope_original_length', YARN | dict(rope_scaling_type='linear')),
  ('rope_rotations', YARN | dict(rope_rotations=None)),
  ('rope_rotations', YARN | dict(rope_rotations=(4.0, 1.0))),
  ('rope_attention_factor', LLAMA3 | dict(rope_attention_factor=1.0)),
  ('rope_scaling_layers', dict(rope_scaling=2.0, rope_scaling_layers='global', window=4)),
  ('position_offset', dict(position_offset=2)),
  ('qk_norm_over', dict(qk_norm_over='width', qk_norm=False)),
  ('norm_offset', dict(norm_offset=1.0, norm='layernorm')),
  ('embedding_scale', dict(embedding_scale=2.0, embedding_norm=True)),
  ('attention_softcap', dict(attention_softcap=50.0, attention_implementation='cudnn', dtype='bfloat16')),
]


@pytest.mark.parametrize('setting,changes', REFUSED, ids=[f'{setting}-{i}' for i, (setting, _) in enumerate(REFUSED)])
def test_refused(setting, changes):
  """Each with the one setting that is to blame, or with those that have no effect without it."""
  problems = list(config_of('tiny', **changes).problems())
  assert setting in {name for name, _, _ in problems}
  assert all(rule and remedy for _, rule, remedy in problems)
  assert not list(ModelConfig(**dataclasses.asdict(config_of('tiny'))).problems())
