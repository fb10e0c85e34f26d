"""A run that is asked to stop: it saves first, says how to go on, and loses nothing."""

import signal

import pytest

from lmjax import checkpoint, manifest
from lmjax.errors import Stopped
from tests import runs


@pytest.fixture(autouse=True)
def interruptible():
  """Signals as in a terminal, also where the tests were started to ignore some: in the background, under nohup."""
  handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
  before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
  yield
  for number, handler in before.items():
    signal.signal(number, handler)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_saves_and_the_run_goes_on_exactly(raw_config, tmp_path, number):
  leaves = {'train.steps': 8, 'train.log_every': 1, 'eval.every': 8, 'checkpoint.every': 8}
  runs.train(raw_config('causal_lm', **leaves), tmp_path / 'whole')
  before = signal.getsignal(number)

  def say(line):
    if line.startswith('step 3/'):
      signal.raise_signal(number)

  with pytest.raises(Stopped, match=f'{number.name}: saved at step 4') as caught:
    runs.train(raw_config('causal_lm', **leaves), tmp_path / 'run', say=say)
  assert caught.value.exit_code == 143 and signal.getsignal(number) is before
  assert checkpoint.saved_steps(checkpoint.directory_of(tmp_path / 'run')) == [4]
  said = []
  runs.train(raw_config('causal_lm', **leaves), tmp_path / 'run', say=said.append)
  assert any('resuming from step 4' in line for line in said)
  losses = [[line['loss'] for line in runs.metrics_of(tmp_path / name, 'train')] for name in ('whole', 'run')]
  assert losses[0] == losses[1]


def test_a_second_signal_interrupts_at_once(raw_config, tmp_path):
  def say(line):
    if line.startswith('step 3/'):
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    runs.train(raw_config('causal_lm', **{'train.log_every': 1}), tmp_path / 'run', say=say)


@pytest.mark.parametrize('task', ['causal_lm', 'classification'])
def test_an_evaluation_is_given_up_and_made_when_the_run_goes_on(task, raw_config, tmp_path):
  """The checkpoint is there at once; its rank, lines and results are those of a run that was not stopped."""
  leaves = {'train.steps': 6, 'train.log_every': 1, 'eval.every': 2, 'checkpoint.keep_last': 9}
  leaves |= {'checkpoint.every': 2} if task == 'causal_lm' else {}
  whole = runs.train(raw_config(task, **leaves), tmp_path / 'whole')
  for step in (2, 6):

    def say(line, step=step):
      if line.startswith(f'step {step}/6 | train'):  # the evaluation comes next
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match=f'SIGTERM: saved at step {step}'):
      runs.train(raw_config(task, **leaves), tmp_path / 'run', say=say)
    saved = runs.manifest_of(tmp_path / 'run')
    assert saved['step'] == step and saved['best']['value'] is None
    assert step not in [line['step'] for line in runs.metrics_of(tmp_path / 'run', 'valid')]
  results = runs.train(raw_config(task, **leaves), tmp_path / 'run')
  assert results['step'] == 6 and results['metrics']['valid/loss'] == whole['metrics']['valid/loss']
  assert results.get('best_step') == whole.get('best_step')
  for split in ('train', 'valid'):
    losses = [[(x['step'], x['loss']) for x in runs.metrics_of(tmp_path / name, split)] for name in ('whole', 'run')]
    assert losses[0] == losses[1]
  ranks = [manifest.evaluated(checkpoint.directory_of(tmp_path / name)) for name in ('whole', 'run')]
  assert ranks[0] == ranks[1] and set(ranks[0]) == {2, 4, 6}
