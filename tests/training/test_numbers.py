"""Numbers that are not what they should be: detected, counted, said."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lmjax import optim
from lmjax.errors import NonFiniteError
from lmjax.tasks import prepare
from lmjax.training import progress
from lmjax.workdir.run_files import RunFiles
from tests import runs


@pytest.mark.parametrize('rate,moves', [(1e-3, True), (3e38, False)])
def test_an_update_that_is_not_finite_is_not_made(make_config, tokenizer, rate, moves):
  """Loss and gradient can be finite, and the step beyond every number."""
  config = make_config('causal_lm', **{'optim.learning_rate': rate, 'optim.warmup_steps': 0})
  task = prepare.build(config, tokenizer)
  tx = optim.make(config.optim, task.shapes())
  state = runs.random_state(task, tx)
  batch = {name: np.full((8, 32), 7, np.int32) for name in ('inputs', 'targets')}
  batch['weights'] = np.ones((8, 32), np.float32)
  after, found = jax.jit(runs.train_step(task, tx, config))(state, batch)
  assert np.isfinite(found['grad_norm']) and int(found['skipped']) == 1 - moves
  same = [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params))]
  assert not all(same) if moves else all(same)


def test_nothing_labelled_is_reported(make_config):
  """Zero labelled positions are no NaN, but no learning either."""
  said = []
  config = make_config('causal_lm', **{'train.max_skipped': 2})
  backbone = SimpleNamespace(config=config.model, padded_vocab_size=8)
  task = SimpleNamespace(model=SimpleNamespace(backbone=backbone), data=config.data, predicted=1)
  rows_of = lambda step: [('main', 0, row) for row in range(8)]
  reporter = progress.Progress(task, config.train, 0, {}, 1, rows_of, RunFiles('/nowhere', writes=False), said.append)
  found = {'pairs': {'loss': (np.float32(0), np.float32(0))}, 'grad_norm': np.float32(0), 'groups': {}}
  rows = 'main epoch 0 row 0, main epoch 0 row 1, main epoch 0 row 2, main epoch 0 row 3 and 4 more'
  with pytest.raises(KeyError):  # the log line of step 1, for which this report says too little
    reporter.read(1, found | {'skipped': np.int32(1)})
  assert said == [f'step 1 skipped: nothing in it is labelled; 1 of at most 2 in a row; its rows: {rows}']
  with pytest.raises(NonFiniteError) as raised:
    reporter.read(2, found | {'skipped': np.int32(2)})
  assert raised.value.exit_code == 5 and rows in str(raised.value) and 'train.max_skipped = 2' in str(raised.value)


def test_a_compilation_in_the_middle_of_training_is_reported(raw_config, tmp_path):
  said = []
  plain = runs.train(raw_config('causal_lm', **{'train.log_every': 1}), tmp_path / 'plain', said.append)
  assert plain['recompilations'] == 0 and not any('were compiled' in line for line in said)

  def say(line):
    said.append(line)
    if line.startswith('step 4/6 | train'):
      jax.jit(lambda x: x * 3.25)(np.arange(5.0)).block_until_ready()

  found = runs.train(raw_config('causal_lm', **{'train.log_every': 1}), tmp_path / 'run', say)
  assert found['recompilations'] == 1
  assert any(line.startswith('step 5: 1 programs were compiled in the middle of training') for line in said), said


@pytest.mark.parametrize('best, first', [(10, 'done: step 20; best: step 10, '), (20, 'done: step 20, ')])
def test_the_last_lines_name_the_step_that_their_numbers_are_of(best, first):
  task = SimpleNamespace(NAME='classification', MAIN_METRIC='accuracy', BASELINE='majority_accuracy')
  results = {'step': 20, 'best_step': best, 'metrics': {'valid/loss': 0.5, 'valid/accuracy': 0.75}}
  said = progress.farewell(task, 'runs/a', results)
  assert said.startswith(f'{first}valid loss 0.5000, accuracy 0.7500\n')
