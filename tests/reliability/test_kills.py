"""SIGKILL at random moments, and SIGTERM in every phase: what was saved is used, and the losses are those of a run
that nothing happened to."""

import os
import random
import re
import signal
import time

import pytest

from lmjax.checkpoint import locate
from lmjax.checkpoint.manifest import read_manifest
from tests import conftest
from tests.reliability import commands

KILLS = int(os.environ.get('LMJAX_KILLS', '10'))

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('task', conftest.TASKS)
def test_killed_at_random_moments(task, corpus, cache_dir, tmp_path):
  """A third of the kills in the start, the others in training, with a save every 4 steps under way or not."""
  leaves = {'train.steps': 240, 'train.log_every': 2, 'eval.every': 40, 'checkpoint.keep_best': 0}
  whole, killed = (
    commands.arguments(task, corpus, cache_dir, tmp_path / name, **leaves) for name in ('whole', 'killed')
  )
  code, said = commands.run(whole)
  assert code == 0, said
  draw = random.Random(task)
  kills = KILLS - KILLS // 2 if task == 'causal_lm' else KILLS // 2
  resumed = [0]
  for i in range(kills):
    started = commands.start(killed)
    if i % 3:
      said = ''.join(commands.read_until(started, 'compiling ... done'))
      resumed += [int(step) for step in re.findall(r'resuming from step (\d+)', said)]
      assert not re.search(r'Traceback|rejected', said), said
      time.sleep(draw.uniform(0, 0.6))
    else:
      time.sleep(draw.uniform(0, 6))
    started.kill()
    started.communicate()
  assert resumed == sorted(resumed), resumed
  code, said = commands.run(killed)
  assert code == 0 and 'rejected' not in said, said
  assert commands.metrics(tmp_path / 'killed') == commands.metrics(tmp_path / 'whole')
  assert (tmp_path / 'killed' / 'samples.md').read_text() == (tmp_path / 'whole' / 'samples.md').read_text()
  last = [read_manifest(locate.directory_of(tmp_path / name), 240) for name in ('whole', 'killed')]
  assert last[0]['arrays'] == last[1]['arrays']
  left = [name for name in os.listdir(tmp_path / 'killed') if name.endswith('.tmp')]
  assert not left and all(name.isdigit() for name in os.listdir(tmp_path / 'killed' / 'checkpoints'))


# (the line after which the signal is sent, seconds later, what is said)
PHASES = {
  'at the first line': ('', 0.0, 'nothing to save yet'),
  'compiling': ('starting from random weights', 0.3, 'nothing to save yet'),
  'evaluating the start': ('compiling ... done', 0.05, 'nothing to save yet'),
  'training': ('step 2/', 0.0, 'saved at step'),
  'training, later': ('step 9/', 0.0, 'saved at step'),
  'about to evaluate': ('step 3/', 0.0, 'saved at step'),
  'evaluating': ('step 4/40 | train', 0.1, 'saved at step'),
  'generating': ('step 8/40 | train', 0.3, 'saved at step'),
  'saving': ('step 8/40 | valid', 0.0, 'saved at step'),
  'the last step': ('step 39/', 0.0, 'saved at step'),
}


@pytest.fixture(scope='module')
def uninterrupted(corpus, cache_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted') / 'run'
  leaves = {'train.steps': 40, 'samples.new_tokens': 48, 'checkpoint.keep_last': 20}
  code, said = commands.run(commands.arguments('causal_lm', corpus, cache_dir, workdir, **leaves))
  assert code == 0, said
  return workdir, leaves


@pytest.mark.parametrize('phase', PHASES)
def test_terminated_in_every_phase(phase, uninterrupted, corpus, cache_dir, tmp_path):
  whole, leaves = uninterrupted
  words = commands.arguments('causal_lm', corpus, cache_dir, tmp_path / 'run', **leaves)
  line, seconds, expected = PHASES[phase]
  started = commands.start(words)
  said = commands.read_until(started, line) if line else [time.sleep(2.5) or '']
  time.sleep(seconds)
  began = time.monotonic()
  started.send_signal(signal.SIGTERM)
  rest, _ = started.communicate()
  said = ''.join(said) + rest
  if phase == 'the last step' and started.returncode == 0:
    pytest.fail(f'ended before the signal: {said}')
  assert started.returncode == 143 and expected in said and 'Traceback' not in said, said
  assert time.monotonic() - began < 60
  saved = re.search(r'SIGTERM: saved at step (\d+)', said)
  if saved:
    assert max(locate.saved_steps(locate.directory_of(tmp_path / 'run'))) == int(saved[1])
  code, said = commands.run(words)
  assert code == 0 and (f'resuming from step {saved[1]}' if saved else 'starting from random weights') in said, said
  assert commands.metrics(tmp_path / 'run') == commands.metrics(whole)


# The batch of step 6 never comes, so no next step either; it is asked for when step 5 is done.
STANDS_STILL = """
import itertools, sys, time
from lmjax import main
from lmjax.data.batches import pipeline

iterate = pipeline.Pipeline.iterate

def stands_still(self, start):
  yield from itertools.islice(iterate(self, start), 5)
  print('the batch does not come', flush=True)
  time.sleep(1000)

pipeline.Pipeline.iterate = stands_still
sys.exit(main.main())
"""


def test_a_second_signal_ends_at_once(corpus, cache_dir, tmp_path):
  """Where the next step does not come, the first signal alone would wait forever."""
  (tmp_path / 'main.py').write_text(STANDS_STILL)
  words = commands.arguments('causal_lm', corpus, cache_dir, tmp_path / 'run', **{'train.steps': 100_000})
  started = commands.start(words, module=(str(tmp_path / 'main.py'),))
  commands.read_until(started, 'the batch does not come')
  started.send_signal(signal.SIGTERM)
  said = commands.read_until(started, 'lmjax: SIGTERM: saving at the next step; once more ends at once')
  assert said and 'once more' in said[-1] and started.poll() is None, said
  started.send_signal(signal.SIGINT)
  rest, _ = started.communicate()
  assert started.returncode == 143 and 'SIGINT: ends at once; the same command continues' in rest, rest


def test_two_runs_in_one_workdir(corpus, cache_dir, tmp_path):
  """The second is refused and says by whom; once the first was killed, its lock is stale."""
  words = commands.arguments('causal_lm', corpus, cache_dir, tmp_path / 'run', **{'train.steps': 100_000})
  started = commands.start(words)
  commands.read_until(started, 'step 5/')
  code, said = commands.run(words)
  assert code == 2 and f'in use by process {started.pid} on ' in said and 'Traceback' not in said, said
  started.kill()
  started.communicate()
  again = commands.start(words)
  said = ''.join(commands.read_until(again, 'compiling ... done'))
  again.kill()
  again.communicate()
  assert f'.lock: stale; the last run here, process {started.pid}, was killed' in said, said
