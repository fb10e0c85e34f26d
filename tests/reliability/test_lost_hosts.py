"""Two processes as two hosts, one of which is killed, stopped, told to stop, or fails: both end in time and say who."""

import re
import signal
import subprocess
import time

import pytest

from lmjax.checkpoint import locate
from tests.hosts.test_hosts import free_port
from tests.reliability import commands

pytestmark = pytest.mark.slow

# Process 1 stands still in the middle of its data, and lives.
HANGS = """
import sys, time
import jax
from lmjax import main
from lmjax.data.batches import pipeline

batch = pipeline.Pipeline.batch

def hang(self, step):
  if step == 30 and jax.process_index() == 1:
    time.sleep(1000)
  return batch(self, step)

pipeline.Pipeline.batch = hang
sys.exit(main.main())
"""
# Process 1 alone meets an error.
FAILS = HANGS.replace('time.sleep(1000)', "raise pipeline.DataError('rows.bin: cannot be read; fix the disk')")
# Process 1 is told to stop while it saves; the others hear of it before its next step.
STOPPED_AS_IT_SAVES = """
import os, signal, sys, time
import jax
from lmjax import main
from lmjax.checkpoint import checkpoints, locate

save = checkpoints.Checkpoints.save

def stopped(self, step, *args, **kwargs):
  save(self, step, *args, **kwargs)
  if step == 8 and jax.process_index() == 1:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(3)

checkpoints.Checkpoints.save = stopped
sys.exit(main.main())
"""
LEAVES = {'train.steps': 100_000, 'hosts.start_seconds': 60, 'hosts.lost_seconds': 8, 'hosts.hang_seconds': 30}


def flags(port: int, process: int) -> list[str]:
  return [f'--coordinator=localhost:{port}', '--num_processes=2', f'--process_id={process}']


def task_of_slurm(port: int, task: int) -> dict[str, str]:
  """What `srun` sets for a task of two on this machine."""
  two = {name: '2' for name in ('SLURM_NTASKS', 'SLURM_STEP_NUM_TASKS')}
  mine = {name: str(task) for name in ('SLURM_PROCID', 'SLURM_LOCALID')}
  where = {'SLURM_JOB_ID': '7', 'SLURM_STEP_NODELIST': 'localhost', 'JAX_COORDINATOR_PORT': str(port)}
  return two | mine | where


@pytest.fixture
def start_two(corpus, cache_dir, tmp_path):
  started = []

  def start(module=('-m', 'lmjax.main'), workdirs=('run', 'run'), slurm=False):
    port = free_port()
    for i, name in enumerate(workdirs):
      words = commands.arguments('causal_lm', corpus, cache_dir, tmp_path / name, **LEAVES)
      if slurm:
        started.append(commands.start(words, module=module, variables=task_of_slurm(port, i)))
      else:
        started.append(commands.start([*words, *flags(port, i)], module=module))
    return started

  yield start
  for one in started:
    one.kill()
    one.wait()


def wait_for_step(started: subprocess.Popen) -> None:
  lines = commands.read_until(started, 'step 5/')
  assert lines and lines[-1].startswith('step 5/'), ''.join(lines)


def end(started, seconds: float) -> str:
  """What it printed until it ended, in time."""
  said, _ = started.communicate(timeout=seconds)
  return said


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSTOP], ids=['killed', 'stopped'])
@pytest.mark.parametrize('victim', [1, 0])
def test_a_lost_host(start_two, victim, number):
  started = start_two()
  wait_for_step(started[0])
  began = time.monotonic()
  started[victim].send_signal(number)
  other = started[1 - victim]
  said = end(other, 90)
  assert time.monotonic() - began < 60  # 8 seconds, and what a busy machine takes
  assert other.returncode == 6, said
  # of host 0, where the coordinator is, JAX may tell first, as it aborts: "the leader task"
  named = f'host {victim} of 2: silent' if victim else r'host 0 of 2: silent|leader task was preempted/died'
  assert re.search(named, said), said


def test_a_host_that_hangs_but_lives(start_two, tmp_path):
  (tmp_path / 'main.py').write_text(HANGS)
  started = start_two((str(tmp_path / 'main.py'),))
  wait_for_step(started[0])
  said = [end(one, 150) for one in started]
  assert [one.returncode for one in started] == [6, 6], said
  assert all('host 1 of 2 hangs (step ' in one for one in said), said


def test_a_host_that_fails(start_two, tmp_path):
  (tmp_path / 'main.py').write_text(FAILS)
  started = start_two((str(tmp_path / 'main.py'),))
  said = [end(one, 120) for one in started]
  assert [one.returncode for one in started] == [6, 3], said
  assert 'lmjax: host 1 of 2 ended: DataError: rows.bin: cannot be read' in said[0], said[0]
  assert 'lmjax: rows.bin: cannot be read; fix the disk' in said[1], said[1]


def test_sigterm_to_one_of_two_saves_one_step(start_two, tmp_path):
  """In a SLURM job, where no flags are needed, and SIGTERM is what a job is told before its limit."""
  started = start_two(slurm=True)
  wait_for_step(started[0])
  started[1].send_signal(signal.SIGTERM)
  said = [end(one, 90) for one in started]
  assert [one.returncode for one in started] == [143, 143], said
  steps = {re.search(r'SIGTERM: saved at step (\d+)', one)[1] for one in said}
  assert len(steps) == 1 and max(locate.saved_steps(locate.directory_of(tmp_path / 'run'))) == int(steps.pop())


def test_sigterm_while_a_checkpoint_is_saved(start_two, tmp_path):
  """JAX's own agreement would miss it: Orbax, when it saves, tells it another number of steps than the run's own."""
  (tmp_path / 'main.py').write_text(STOPPED_AS_IT_SAVES)
  started = start_two((str(tmp_path / 'main.py'),))
  said = [end(one, 90) for one in started]
  assert [one.returncode for one in started] == [143, 143], said
  assert max(locate.saved_steps(locate.directory_of(tmp_path / 'run'))) < 16


@pytest.mark.parametrize('slurm', [False, True])
def test_a_host_that_never_comes(corpus, cache_dir, tmp_path, slurm):
  words = commands.arguments('causal_lm', corpus, cache_dir, tmp_path / 'run', **(LEAVES | {'hosts.start_seconds': 2}))
  port = free_port()
  if slurm:
    code, said = commands.run(words, variables=task_of_slurm(port, 0))
  else:
    code, said = commands.run([*words, *flags(port, 0)])
  assert code == 6 and 'lmjax: host 1 of 2: did not come within hosts.start_seconds = 2; look' in said, said
  assert not (tmp_path / 'run').exists()


def test_a_workdir_that_is_not_shared(start_two):
  """Orbax would wait forever: each host for the other's files."""
  started = start_two(workdirs=('mine', 'yours'))
  said = [end(one, 120) for one in started]
  assert [one.returncode for one in started] == [2, 2], said
  assert all('host 1 cannot see what host 0 writes there' in one for one in said), said
