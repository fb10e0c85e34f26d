"""One answer, however it is computed: loss and gradients of every objective against a reference, one axis at a time.

The reference is one device, one pass over the batch, layers written out, nothing computed again.
"""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from lmjax import optim, paths, sharding
from lmjax.data.batches.packing import RowSpec
from lmjax.schema.slices import MeshConfig
from lmjax.tasks import prepare
from lmjax.training import state as state_lib
from lmjax.training import step as step_lib
from tests import runs
from tests.conftest import FINE_TUNING, TASKS, WORDS

# 1e-5 of the largest gradient of an array; losses relatively
TOLERANCE = 1e-5
# What is always run has every axis of a mesh, for both objectives. Each axis by itself, and the tasks that fine-tune,
# whose backbone and gradient are those of pre-training, come with `slow`.
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
TUNED = ['classification', slow('extractive_qa'), slow('summarization')]
SETTINGS = {
  'classification': {'objective.labels': ('a', 'b'), 'objective.class_weights': (3.0, 0.5)},
  'extractive_qa': {'objective.stride': 8},
  'summarization': {'objective.max_summary': 6, 'objective.prefix': True},
}

# Settings of the model that are off by default.
YARN = {'model.rope_scaling': 4.0, 'model.rope_scaling_type': 'yarn', 'model.rope_original_length': 2000}
YARN |= {'model.rope_rotations': (1.0, 32.0), 'model.rope_scaling_layers': 'global'}
OFF = {
  'causal_lm': {'model.head_dim': 12, 'model.norm_placement': 'sandwich', 'model.qk_norm_over': 'width'}
  | {'model.norm_offset': 1.0, 'model.embedding_scale': 3.0, 'model.activation': 'geglu_tanh', 'model.qkv_bias': True}
  | {'model.window': 8, 'model.global_every': 2, 'model.global_offset': 1, 'model.vocab_size': 400}
  | {'model.attention_scale': 0.5, 'model.attention_softcap': 2.0, 'model.logit_softcap': 3.0}
  | YARN,
  'masked_lm': {'model.parallel_residual': True, 'model.first_norm': False, 'model.rotary_skip_every': 2}
  | {'model.rotary_width': 4, 'model.activation': 'relu', 'model.mlm_transform': True, 'model.logit_softcap': 3.0},
}


@functools.cache
def ragged_batch(task_name, task, rows=8, length=24):
  """Rows of very different lengths, so that a mean of means would be far off: 2 to 24 real tokens a row."""
  rng = np.random.default_rng(0)
  if task_name in FINE_TUNING:
    made = task.rows_of([record_of(i, [11, 1, 6, 14, 2, 9, 3, 7][i % 8]) for i in range(rows)])
    examples = [task.example(row) for row in made.rows[:rows]]
    assert min(example['segments'].sum() for example in examples) < 0.5 * length
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}
  used_B = np.resize([length, 2, 9, 24, 3, 17, 5, 12], rows)
  place_BT = np.indices((rows, length + 1 if task_name == 'causal_lm' else length), np.int32)[1]
  segments_BT = (place_BT < used_B[:, None]).astype(np.int32)
  tokens_BT = rng.integers(7, task.tokenizer.vocab_size, place_BT.shape).astype(np.int32) * segments_BT
  made = dict(tokens=tokens_BT, segments=segments_BT, positions=place_BT)
  return task.batch_of(made, np.arange(rows, dtype=np.uint64), keep_segments=True)


def record_of(i, words):
  """What each task of fine-tuning takes, with so many words."""
  text = ' '.join(WORDS[(3 * i + j) % len(WORDS)] for j in range(words))
  answer = {'text': text.split()[-1], 'answer_start': text.rindex(' ') + 1 if words > 1 else 0}
  record = {'id': str(i), 'text': text, 'label': 'ab'[i % 3 == 0], 'document': text, 'summary': text[: 5 * (1 + i % 4)]}
  return record | {'question': WORDS[i], 'context': text, 'answers': [answer] if i % 4 else []}


def make_task(make_config, tokenizer, name, **leaves):
  shared = {'data.length': 24, 'model.layers': 2, 'model.init_std': 0.3}
  shared |= SETTINGS.get(name, {'data.rows': 'padded'})
  return prepare.build(make_config(name, **shared | leaves), tokenizer)


@functools.cache
def compiled(task, parts, mesh_shape):
  """(mesh, parameters that depend on the seed alone, their gradient)."""
  mesh = sharding.make_mesh(MeshConfig(*mesh_shape), jax.devices()[: int(np.prod(mesh_shape))])
  with jax.set_mesh(mesh):
    places = sharding.shardings(task.model.axes(), mesh)
    params = state_lib.init_params(task, mesh, seed=7)
    return mesh, params, jax.jit(step_lib.make_gradient(task.loss, parts), out_shardings=(places, None, None))


def evaluate(task, batch, parts=1, mesh_shape=(1, 1, 1)):
  """(mean loss, weight, gradient of the mean loss), on a mesh."""
  mesh, params, gradient = compiled(task, parts, mesh_shape)
  with jax.set_mesh(mesh):
    grads, weight, pairs = gradient(params, sharding.shard_batch(batch, mesh), None)
    return float(pairs['loss'][0] / pairs['loss'][1]), float(weight), jax.device_get(grads)


@pytest.fixture(scope='module')
def reference(make_config, tokenizer):
  @functools.cache
  def of(name):
    task = make_task(make_config, tokenizer, name)
    batch = ragged_batch(name, task)
    return task, batch, evaluate(task, batch)

  return of


def assert_same(got, expected):
  assert got[1] == expected[1], 'another number of labelled positions'
  np.testing.assert_allclose(got[0], expected[0], rtol=TOLERANCE)
  wanted = paths.flatten(expected[2])
  for path, a in paths.flatten(got[2]).items():
    # the bias of the spans shifts the logits of all places alike: its gradient is 0 but for rounding
    scale = max(np.abs(wanted[path]).max(), 1.0 if path == 'span/bias' else 1e-3)
    np.testing.assert_allclose(a, wanted[path], atol=TOLERANCE * scale, err_msg=path)


@pytest.mark.parametrize('name', ['causal_lm', slow('masked_lm')])
@pytest.mark.parametrize('mesh', [slow((8, 1, 1)), (2, 2, 2), slow((1, 8, 1))], ids=str)
def test_meshes(reference, name, mesh):
  task, batch, expected = reference(name)
  assert_same(evaluate(task, batch, mesh_shape=mesh), expected)


@pytest.mark.parametrize('name', ['causal_lm', slow('masked_lm')])
def test_settings_that_are_off_by_default(make_config, tokenizer, name):
  task = make_task(make_config, tokenizer, name, **OFF[name])
  batch = ragged_batch(name, task)
  assert_same(evaluate(task, batch, mesh_shape=(2, 2, 2)), evaluate(task, batch))


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_settings_that_are_off_by_default_in_scanned_layers(make_config, tokenizer, name):
  task = make_task(make_config, tokenizer, name, **OFF[name])
  batch = ragged_batch(name, task)
  scanned = make_task(make_config, tokenizer, name, **OFF[name], **{'model.scan': True, 'model.remat': 'full'})
  assert_same(evaluate(scanned, batch, parts=4, mesh_shape=(2, 2, 2)), evaluate(task, batch))


@pytest.mark.parametrize('name', ['causal_lm', slow('masked_lm')])
@pytest.mark.parametrize('parts', [slow(2), 4])
def test_accumulation_with_ragged_masks(reference, name, parts):
  task, batch, expected = reference(name)
  assert_same(evaluate(task, batch, parts=parts), expected)


@pytest.mark.slow
@pytest.mark.parametrize('name', FINE_TUNING)
def test_a_mesh_accumulation_and_scanned_layers_in_fine_tuning(reference, make_config, tokenizer, name):
  task, batch, expected = reference(name)
  assert_same(evaluate(task, batch, mesh_shape=(2, 2, 2)), expected)
  assert_same(evaluate(task, batch, parts=4), expected)
  scanned = make_task(make_config, tokenizer, name, **{'model.scan': True, 'model.remat': 'full'})
  assert_same(evaluate(scanned, batch), expected)


@pytest.mark.parametrize('name', ['causal_lm', slow('classification')])
def test_a_mean_of_means_would_be_caught(reference, name):
  """The batch is ragged enough: averaging the gradients of the parts' means is off by far more than the tolerance."""
  task, batch, expected = reference(name)
  parts = [evaluate(task, jax.tree.map(lambda a, i=i: a[i::4], batch))[2] for i in range(4)]
  wrong = jax.tree.map(lambda *grads: sum(grads) / 4, *parts)
  off = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), wrong, expected[2])
  assert max(jax.tree.leaves(off)) > 1000 * TOLERANCE


@pytest.mark.parametrize('name', ['causal_lm', slow('masked_lm')])
@pytest.mark.parametrize(
  'change',
  [{'model.scan': True, 'model.remat': 'full'}, slow({'model.scan': True}), slow({'model.remat': 'dots'})],
  ids=str,
)
def test_scan_and_remat(reference, make_config, tokenizer, name, change):
  _, batch, expected = reference(name)
  assert_same(evaluate(make_task(make_config, tokenizer, name, **change), batch), expected)


@pytest.mark.parametrize('name', TASKS)
def test_padded_against_packed(reference, name):
  """The same documents, one a row with padding, or several in a row that do not see each other."""
  task, batch, expected = reference(name)
  longest = batch['inputs'].shape[1]
  batch = batch | {'positions': np.broadcast_to(np.arange(longest, dtype=np.int32), batch['inputs'].shape)}
  packed = {key: [] for key in batch}
  rows, row, room = [], [], 0
  for i in range(len(batch['inputs'])):
    used = int((batch['segments'][i] > 0).sum())
    if used > room:
      row, room = [], longest
      rows.append(row)
    row.append((i, used))
    room -= used
  assert len(rows) < len(batch['inputs']), 'nothing was packed'
  slots = max(sum(int((batch['weights'][i] > 0).sum()) for i, _ in row) for row in rows)
  for row in rows:
    pieces = {key: [] for key in batch}
    for number, (i, used) in enumerate(row, 1):
      offset = sum(n for _, n in row[: number - 1])
      for key in ('inputs', 'positions') + (('targets', 'weights') if 'slots' not in batch else ()):
        pieces[key].append(batch[key][i, :used])
      pieces['segments'].append(np.full(used, number, np.int32))
      if 'slots' in batch:
        real = batch['weights'][i] > 0
        pieces['slots'].append(batch['slots'][i][real] + offset)
        for key in ('targets', 'weights', 'shown'):
          pieces[key].append(batch[key][i][real])
    for key in batch:
      size = slots if 'slots' in batch and key in ('slots', 'targets', 'weights', 'shown') else longest
      joined = np.concatenate(pieces[key])
      packed[key].append(np.pad(joined, (0, size - len(joined))))
  packed = {key: np.stack(values).astype(batch[key].dtype) for key, values in packed.items()}
  assert_same(evaluate(task, packed), expected)


@pytest.mark.parametrize('name', TUNED)
def test_a_row_that_fills_up_a_batch_does_not_count(reference, name):
  """Rows of weight 0 leave loss, gradient and scores as they are without these rows."""
  task, batch, _ = reference(name)
  filled = batch | {'weights': (batch['weights'].T * (np.arange(8) < 5)).T}
  assert_same(evaluate(task, filled), evaluate(task, {key: rows[:5] for key, rows in batch.items()}))


@pytest.mark.parametrize('name', TUNED)
def test_padding_is_never_read(reference, name):
  """Other ids in the padding change nothing, down to the last bit."""
  task, batch, expected = reference(name)
  other = batch | {'inputs': np.where(batch['segments'] > 0, batch['inputs'], 9)}
  assert (other['inputs'] != batch['inputs']).any()
  loss, weight, grads = evaluate(task, other)
  assert (loss, weight) == expected[:2]
  # the row of the table that fills the padding gets no gradient by it
  jax.tree.map(np.testing.assert_array_equal, grads, expected[2])


def test_masked_logits_equal_full_logits(reference):
  """Logits at the slots alone are those that a full pass has there."""
  task, batch, _ = reference('masked_lm')
  params = runs.random_params(task, 7)
  x = jax.jit(task.model.backbone.apply)(params, batch['inputs'], segments_BT=batch['segments'])
  logits = jax.jit(task.model.logits)
  full = logits(params, x)
  picked = np.take_along_axis(np.asarray(x), batch['slots'][:, :, None], axis=1)
  at_slots = logits(params, picked)
  np.testing.assert_allclose(
    at_slots, np.take_along_axis(np.asarray(full), batch['slots'][:, :, None], axis=1), atol=1e-5
  )
  log_p = jax.nn.log_softmax(full)
  expected = -sum(
    float(log_p[b, batch['slots'][b, k], batch['targets'][b, k]]) * batch['weights'][b, k]
    for b in range(batch['slots'].shape[0])
    for k in range(batch['slots'].shape[1])
  )
  loss, weight, _ = task.loss(params, batch, None)
  np.testing.assert_allclose(float(loss), expected, rtol=1e-5)
  assert float(weight) == batch['weights'].sum()


def test_a_row_without_anything_to_mask_is_not_nan(reference):
  task, batch, _ = reference('masked_lm')
  nothing = batch | {'weights': np.zeros_like(batch['weights'])}
  loss, weight, pairs = evaluate(task, nothing)
  assert weight == 0 and all(np.isfinite(leaf).all() and not leaf.any() for leaf in jax.tree.leaves(pairs))
  one_row = batch | {'weights': batch['weights'] * (np.arange(8) != 3)[:, None]}
  assert np.isfinite(evaluate(task, one_row)[0])


@pytest.mark.slow
def test_the_whole_step_is_the_same_on_a_mesh(make_config, tokenizer):
  """Optimizer and schedule too: three steps on 2x2x2 move the weights as three on one device do."""
  moved = {}
  for shape in ((1, 1, 1), (2, 2, 2)):
    config = make_config('causal_lm', **{'data.length': 24, 'optim.clip_norm': 0.5, 'model.scan': False})
    config = dataclasses.replace(config, mesh=MeshConfig(*shape))
    task = prepare.build(config, tokenizer)
    tx = optim.make(config.optim, task.shapes())
    mesh = sharding.make_mesh(config.mesh, jax.devices()[: int(np.prod(shape))])
    with jax.set_mesh(mesh):
      state = state_lib.init_state(task, tx, mesh, state_lib.init_params(task, mesh, 3))
      places = jax.tree.map(lambda a: a.sharding, state)
      step = jax.jit(runs.train_step(task, tx, config), out_shardings=(places, None))
      batch = ragged_batch('causal_lm', task)
      batch = {key: batch[key] for key in ('inputs', 'targets', 'weights')}
      for _ in range(3):
        state, report = step(state, sharding.shard_batch(batch, mesh))
        jax.block_until_ready(report)
      moved[shape] = jax.device_get(state.params)
  # Adam divides by the root of the second moment: where a gradient is near 0, rounding shows
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-4), moved[(2, 2, 2)], moved[(1, 1, 1)])


def test_state_is_sharded_from_birth(make_config, tokenizer):
  config = make_config('causal_lm')
  task = prepare.build(config, tokenizer)
  tx = optim.make(config.optim, task.shapes())
  mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
  with jax.set_mesh(mesh):
    state = state_lib.init_state(task, tx, mesh, state_lib.init_params(task, mesh, 0))
  kernel = state.params['layers']['0']['mlp']['up']['kernel']
  assert kernel.addressable_shards[0].data.size * 4 == kernel.size  # over fsdp and tensor, not over data
  found = paths.flatten(state.opt_state)
  [mu] = [leaf for path, leaf in found.items() if path.endswith('mu/layers/0/mlp/up/kernel')]
  assert mu.sharding == kernel.sharding


def test_causal_rows_begin_as_the_spec_defines(make_config, tokenizer):
  task = prepare.build(make_config('causal_lm', **{'data.rows': 'packed'}), tokenizer)
  assert task.row_spec() == RowSpec(33, 32, (tokenizer.bos,), (tokenizer.eos,), (), (), tokenizer.pad)
  task = prepare.build(make_config('masked_lm'), tokenizer)
  assert task.row_spec() == RowSpec(32, 30, (), (tokenizer.eos,), (tokenizer.cls,), (tokenizer.sep,), tokenizer.pad)
