"""What is learned, and what cannot be: nothing leaks, mixtures are mixtures, scores mean what they say."""

import gzip
import json
import math
import random

import jax
import numpy as np
import pytest

from lmjax import optim, sharding
from lmjax.data.batches import pipeline
from lmjax.errors import NonFiniteError
from lmjax.schema.slices import MeshConfig
from lmjax.tasks import prepare
from lmjax.train import train
from lmjax.training import evaluator
from tests import runs
from tests.conftest import text

QUIET = dict(log=lambda line: None)


@pytest.mark.slow
def test_nothing_leaks(raw_config, tmp_path, one_device):
  """On random letters out of 16 no model gets below 4 bits a byte: less would mean that it sees its targets."""
  draw = random.Random(0)
  with open(tmp_path / 'letters.jsonl', 'w') as file:
    for _ in range(600):
      file.write(json.dumps({'text': ''.join(draw.choices('abcdefghijklmnop', k=200))}) + '\n')
  leaves = dict.fromkeys(('train.steps', 'train.log_every', 'eval.every', 'checkpoint.every'), 80)
  leaves |= {'data.valid_bytes': None}
  leaves |= {'data.sources.main.path': tmp_path / 'letters.jsonl', 'model.width': 64, 'model.mlp_width': 128}
  results = train(raw_config('causal_lm', **leaves), str(tmp_path / 'run'), devices=one_device, **QUIET)
  found = results['metrics']['valid/bits_per_byte']
  # not much above either: the letters' frequencies are learned
  assert 3.9 <= found < 4.4, found


@pytest.mark.slow
def test_masked_accuracy_does_not_count_what_is_shown(raw_config, tmp_path, one_device):
  """On random letters the hidden ones are guessed by chance, though kept tokens can be copied."""
  draw = random.Random(1)
  with open(tmp_path / 'letters.jsonl', 'w') as file:
    for _ in range(600):
      file.write(json.dumps({'text': ' '.join(draw.choices('abcdefghijklmnop', k=60))}) + '\n')
  leaves = dict.fromkeys(('train.steps', 'train.log_every', 'eval.every', 'checkpoint.every'), 60)
  leaves |= {'data.valid_bytes': None}
  leaves |= {'data.sources.main.path': tmp_path / 'letters.jsonl', 'objective.masking.keep_share': 0.5}
  leaves |= {'objective.masking.mask_share': 0.5, 'objective.masking.random_share': 0.0}
  results = train(raw_config('masked_lm', **leaves), str(tmp_path / 'run'), devices=one_device, **QUIET)
  assert results['metrics']['valid/accuracy'] < 0.2
  assert abs(results['metrics']['valid/majority_accuracy'] - 1 / 16) < 0.05


@pytest.mark.slow
def test_momentum_in_bfloat16_costs_little_and_resumes_exactly(raw_config, tmp_path):
  """At most 2% of the loss after 120 steps of AdamW (0.6% after 300 of the preset mini); a resume loses no bit."""
  leaves = dict.fromkeys(('train.log_every', 'eval.every', 'checkpoint.every'), 60)
  leaves |= {'train.steps': 120, 'optim.learning_rate': 1e-3, 'optim.schedule': 'constant', 'optim.final_rate': None}
  low = leaves | {'optim.momentum_dtype': 'bfloat16'}
  found = {
    name: runs.train(raw_config('causal_lm', **given), tmp_path / name)['metrics']['valid/loss']
    for name, given in {'float32': leaves, 'bfloat16': low, 'resumed': low | {'train.steps': 60}}.items()
  }
  assert found['bfloat16'] != found['float32'] and found['bfloat16'] < found['resumed']
  assert found['bfloat16'] == pytest.approx(found['float32'], rel=0.02)
  again = runs.train(raw_config('causal_lm', **low), tmp_path / 'resumed')['metrics']['valid/loss']
  arrays = [runs.manifest_of(tmp_path / name)['arrays'] for name in ('bfloat16', 'resumed')]
  assert again == found['bfloat16'] and arrays[0] == arrays[1]
  assert {'bfloat16', 'float32'} <= {array['dtype'] for array in arrays[0].values()}


def test_evaluation_is_what_its_names_say(make_config, one_device):
  """Loss, bits a byte and the most frequent token, against sums made one token at a time."""
  config = make_config('causal_lm')
  config, task, stores = prepare.prepare(config)
  tokenizer = task.tokenizer
  mesh = sharding.make_mesh(MeshConfig(1, 1, 1), one_device)
  params = runs.random_params(task)
  with jax.set_mesh(mesh):
    run = evaluator.make(task, stores, evaluator.Runner(mesh))
    values, predictions = run(params)
  assert predictions is None
  majority = task.majority_token(stores)

  @jax.jit
  def forward(tokens):
    return jax.nn.log_softmax(task.model.logits(params, task.model.backbone.apply(params, tokens)))

  documents, n_bytes = pipeline.held_out(config.data, stores['main'])
  stream = [t for i in range(len(n_bytes)) for t in [*documents.ids(i), tokenizer.eos]]
  nats, hits, size, count = 0.0, 0, 0.0, 0
  T = config.data.length
  for start in range(0, len(stream) - 1, T):
    row = [int(t) for t in stream[start : start + T + 1]]
    log_p = np.asarray(forward(np.pad(row[:-1], (0, T - len(row) + 1))[None]))[0]
    for i, target in enumerate(row[1:]):
      nats, hits, count = nats - float(log_p[i, target]), hits + (target == majority), count + 1
      size += len(tokenizer.decode([target]).encode()) if target != tokenizer.eos else 0
  assert count == len(stream) - 1
  np.testing.assert_allclose(values['loss'], nats / count, rtol=1e-5)
  np.testing.assert_allclose(values['perplexity'], math.exp(nats / count), rtol=1e-4)
  np.testing.assert_allclose(values['bits_per_byte'], nats / size / math.log(2), rtol=1e-4)
  np.testing.assert_allclose(values['majority_accuracy'], hits / count, rtol=1e-6)
  held_out = pipeline.valid_text(config.data, stores['main'])
  assert values['gzip_bits_per_byte'] == 8 * len(gzip.compress(held_out, 9, mtime=0)) / len(held_out)
  assert int(n_bytes.sum()) == len(held_out) and len(stores['main'].held_out.n_bytes) >= len(n_bytes)


def test_a_mixture_is_evaluated_by_source(raw_config, corpus, tmp_path, one_device):
  with open(tmp_path / 'other.txt', 'w') as file:
    file.write('\n\n'.join(text(700 + i, 300) for i in range(60)))
  leaves = {f'data.sources.second.{k}': v for k, v in dict(path=tmp_path / 'other.txt', field=None, weight=3.0).items()}
  said = []
  config = raw_config('causal_lm', **leaves | {'data.valid_fraction': 0.3})
  results = train(config, str(tmp_path / 'run'), devices=one_device, log=said.append)
  found = results['metrics']
  assert {
    'valid/loss',
    'valid/main/loss',
    'valid/second/bits_per_byte',
    'valid/main/gzip_bits_per_byte',
  } <= found.keys()
  low, high = sorted([found['valid/main/loss'], found['valid/second/loss']])
  assert low <= found['valid/loss'] <= high


def test_a_step_without_a_finite_loss_changes_nothing(make_config, tokenizer, one_device):
  """Skipped, counted, and the next batch continues from the same weights."""
  config = make_config('causal_lm')
  task = prepare.build(config, tokenizer)
  tx = optim.make(config.optim, task.shapes())
  step = jax.jit(runs.train_step(task, tx, config))
  state = runs.random_state(task, tx)
  batch = {name: np.ones((8, 32), np.int32) for name in ('inputs', 'targets')} | {
    'weights': np.ones((8, 32), np.float32)
  }
  for bad in (np.nan, 0.0):
    after, report = step(state, batch | {'weights': np.full((8, 32), bad, np.float32)})
    assert int(after.step) == int(state.step) + 1 and int(report['skipped']) == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, state.opt_state)
  good, report = step(after, batch)
  assert int(report['skipped']) == 0 and int(good.skipped) == 0
  assert not np.array_equal(good.params['final_norm']['scale'], state.params['final_norm']['scale'])


def test_a_run_that_diverges_ends_with_its_reason(raw_config, tmp_path, one_device):
  said = []
  config = raw_config('causal_lm', **{'optim.learning_rate': 1e30, 'optim.clip_norm': None, 'train.max_skipped': 2})
  with pytest.raises(NonFiniteError, match='2 batches in a row .* its rows: main epoch 0 row'):
    train(config, str(tmp_path / 'run'), devices=one_device, log=said.append)
  assert any('its rows: main epoch 0 row' in line and 'and 4 more' in line for line in said)
