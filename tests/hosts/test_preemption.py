"""A run that is asked to stop: it saves first, says how to go on, and loses nothing."""

import signal

import numpy as np
import pytest

from lmjax import sharding, train
from lmjax.checkpoint import locate
from lmjax.errors import ConfigError, Stopped
from lmjax.hosts import preemption
from lmjax.training import evaluator
from tests import runs

LEAVES = {'train.steps': 8, 'train.log_every': 1, 'eval.every': 8, 'checkpoint.every': 8}


@pytest.fixture(scope='module')
def whole(raw_config, tmp_path_factory):
  """A run that nothing happens to."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  runs.train(raw_config('causal_lm', **LEAVES), workdir)
  return workdir


SLOW = [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGHUP)]


@pytest.mark.parametrize('number', [signal.SIGTERM, *SLOW])
def test_the_first_signal_saves_and_the_run_continues_exactly(raw_config, whole, tmp_path, number):
  before = signal.getsignal(number)

  def say(line):
    if line.startswith('step 3/'):
      signal.raise_signal(number)

  with pytest.raises(Stopped, match=f'{number.name}: saved at step 4') as caught:
    runs.train(raw_config('causal_lm', **LEAVES), tmp_path / 'run', log=say)
  assert caught.value.exit_code == 143 and signal.getsignal(number) is before
  assert locate.saved_steps(locate.directory_of(tmp_path / 'run')) == [4]
  said = []
  runs.train(raw_config('causal_lm', **LEAVES), tmp_path / 'run', log=said.append)
  assert any('resuming from step 4' in line for line in said)
  losses = [[line['loss'] for line in runs.metrics_of(folder, 'train')] for folder in (whole, tmp_path / 'run')]
  assert losses[0] == losses[1]


def test_a_second_signal_interrupts_at_once(raw_config, tmp_path):
  def say(line):
    if line.startswith('step 3/'):
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    runs.train(raw_config('causal_lm', **{'train.log_every': 1}), tmp_path / 'run', log=say)


@pytest.mark.parametrize('task', ['causal_lm', pytest.param('classification', marks=pytest.mark.slow)])
def test_an_evaluation_is_given_up_and_made_when_the_run_continues(task, raw_config, tmp_path):
  """The checkpoint is there at once; its rank, lines and results are those of a run that was not stopped."""
  leaves = {'train.steps': 6, 'train.log_every': 1, 'eval.every': 2, 'checkpoint.keep_last': 9}
  leaves |= {'checkpoint.every': 2} if task == 'causal_lm' else {}
  whole = runs.train(raw_config(task, **leaves), tmp_path / 'whole')
  for step in (2, 6):

    def say(line, step=step):
      if line.startswith(f'step {step}/6 | train'):  # the evaluation comes next
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match=f'SIGTERM: saved at step {step}'):
      runs.train(raw_config(task, **leaves), tmp_path / 'run', log=say)
    saved = runs.manifest_of(tmp_path / 'run')
    assert saved['step'] == step and saved['best']['value'] is None
    assert step not in [line['step'] for line in runs.metrics_of(tmp_path / 'run', 'valid')]
  results = runs.train(raw_config(task, **leaves), tmp_path / 'run')
  assert results['step'] == 6 and results['metrics']['valid/loss'] == whole['metrics']['valid/loss']
  assert results.get('best_step') == whole.get('best_step')
  for split in ('train', 'valid'):
    losses = [[(x['step'], x['loss']) for x in runs.metrics_of(tmp_path / name, split)] for name in ('whole', 'run')]
    assert losses[0] == losses[1]
  ranks = [locate.evaluated(locate.directory_of(tmp_path / name)) for name in ('whole', 'run')]
  assert ranks[0] == ranks[1] and set(ranks[0]) == {2, 4, 6}


def test_a_run_that_ends_early_has_saved(raw_config, tmp_path):
  """Patience may end where no checkpoint is due."""
  leaves = {'train.steps': 16, 'eval.every': 2, 'checkpoint.every': 8, 'eval.patience': 1, 'optim.learning_rate': 1e-30}
  said = []
  results = runs.train(raw_config('causal_lm', **leaves), tmp_path / 'run', said.append)
  assert any(line.startswith('step 2: no better loss in 1 evaluations; training ends') for line in said), said
  assert results['step'] == 2 and locate.saved_steps(locate.directory_of(tmp_path / 'run')) == [2]
  assert runs.train(raw_config('causal_lm', **leaves), tmp_path / 'run')['step'] == 2


def test_a_refused_run_leaves_what_others_made_meanwhile(raw_config, tmp_path, monkeypatch):
  """Two runs in a new folder: the mistake of one must not remove the other."""

  def refuse(*arguments):
    (tmp_path / 'runs' / 'other').mkdir()
    raise ConfigError('x = 1: no; 2')

  monkeypatch.setattr(train.initialize, 'initialize', refuse)
  with pytest.raises(ConfigError, match='x = 1'):
    runs.train(raw_config('causal_lm'), tmp_path / 'runs' / 'mine')
  assert [path.name for path in (tmp_path / 'runs').iterdir()] == ['other']


# ---- several hosts


@pytest.fixture
def three(monkeypatch):
  """The StopSignals of three hosts."""
  monkeypatch.setattr(preemption, '_several_hosts', lambda: True)
  return [preemption.StopSignal() for _ in range(3)]


def exchange(stops):
  """What a program does with the flags of one batch: each host reads the same number."""
  rows = np.concatenate([stop.flags(4)[preemption.FLAG] for stop in stops])
  for stop in stops:
    stop.read({preemption.FLAG: rows.max()})


@pytest.mark.parametrize('asked', [{1: 'SIGTERM'}, {0: 'SIGINT', 2: 'SIGINT'}, {0: 'SIGHUP', 2: 'SIGTERM'}])
def test_all_hosts_stop_with_the_batch_that_carries_a_flag(three, asked):
  exchange(three)
  for host, name in asked.items():
    three[host].signal = name
  assert not any(stop.asked() for stop in three), 'one that has had a signal goes on until all know of it'
  exchange(three)
  assert all(stop.asked() for stop in three)
  highest = max(asked.values(), key=lambda name: signal.Signals[name].value)
  assert [stop.signal for stop in three] == [asked.get(host, highest) for host in range(3)]
  for stop in three:
    with pytest.raises(preemption.Interrupted):
      stop.interrupt()


def test_one_host_adds_nothing_to_its_batches():
  stop = preemption.StopSignal()
  stop.signal = 'SIGTERM'
  assert stop.flags(4) == {} and stop.asked()
  stop.read({'loss': 1.0})


@pytest.mark.parametrize('number', [0, signal.SIGTERM])
def test_an_evaluation_reads_the_flag_of_each_batch(three, number):
  """The flag travels with the batch, through the program that evaluates it."""
  mesh = sharding.make_mesh(sharding.MeshConfig(data=None, fsdp=2, tensor=1))
  run = evaluator.Runner(mesh, three[0])
  three[0].signal = signal.Signals(number).name if number else None
  double = lambda params, batch: params * batch['x'].sum()
  if number:
    with pytest.raises(preemption.Interrupted):
      run(double, np.float32(2), {'x': np.ones(8, np.float32)})
  else:
    assert run(double, np.float32(2), {'x': np.ones(8, np.float32)}) == 16
