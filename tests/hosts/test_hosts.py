"""Several processes as several hosts: the same losses, one checkpoint, and resuming on another number of them."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from lmjax.workdir import files
from tests import conftest


def free_port() -> int:
  with socket.socket() as opened:
    opened.bind(('localhost', 0))
    return opened.getsockname()[1]


def start(processes: int, *command: str) -> list[subprocess.Popen]:
  """The same command in so many processes, with four CPU devices in all."""
  port = free_port()
  environment = os.environ | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={4 // processes} {conftest.QUICK}',
    'JAX_PLATFORMS': 'cpu',
  }
  started = []
  for i in range(processes):
    hosts = (
      [] if processes == 1 else [f'--coordinator=localhost:{port}', f'--num_processes={processes}', f'--process_id={i}']
    )
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    words = [sys.executable, '-u', *command, *hosts]
    # a job in the background, as CI may be, would hand down that it ignores SIGINT
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    started.append(subprocess.Popen(words, env=environment, cwd=conftest.ROOT, preexec_fn=heed, **pipes))
  return started


def run(processes: int, *command: str) -> list[str]:
  """What each process printed, once all have ended well."""
  started = start(processes, *command)
  said = [one.communicate(timeout=240)[0] for one in started]
  assert [one.returncode for one in started] == [0] * processes, '\n'.join(said)
  return said


def losses(workdir) -> dict:
  return {(line['split'], line['step']): line['loss'] for line in files.read_metrics(str(workdir))}


def command(task, corpus, cache_dir, workdir, steps=6, **leaves):
  small = {
    'data.length': 32,
    'model.width': 32,
    'model.mlp_width': 64,
    'model.remat': 'auto',
    'data.cache_dir': cache_dir,
    'data.tokenizer.vocab_size': 320,
    'data.valid_fraction': 0.1,
    'data.valid_bytes': 4000,
    'objective.chunk': 8,
    'optim.warmup_steps': 2,
    'eval.every': 3,
    'checkpoint.every': 3,
    'train.steps': steps,
  }
  small |= leaves
  flags = [f'--config.{path}={value}' for path, value in small.items()]
  words = ['-m', 'lmjax.main', f'--config={conftest.CONFIGS[task]}:smoke,data={corpus}']
  return [*words, f'--workdir={workdir}', *flags]


@pytest.mark.slow
def test_any_number_of_hosts_trains_alike(corpus, cache_dir, tmp_path):
  """Several processes from the same command: the same losses; one checkpoint; resumed by another number."""
  task, others = 'causal_lm', 4
  for processes in (1, 2):
    said = run(processes, *command(task, corpus, cache_dir, tmp_path / str(processes)))
    assert 'done: step 6' in said[0]
    assert all('done: step' not in other for other in said[1:])  # one host alone speaks
  alone, shared = losses(tmp_path / '1'), losses(tmp_path / '2')
  assert {step for _, step in alone} == {0, 1, 2, 3, 4, 5, 6}
  assert shared == pytest.approx(alone, rel=1e-5)
  assert sorted(os.listdir(tmp_path / '2' / 'checkpoints')) == ['3', '6']
  for before, processes in {1: others, 2: 1}.items():
    said = run(processes, *command(task, corpus, cache_dir, tmp_path / str(before), 9))
    assert 'resuming from step 6' in said[0]
  alone, shared = losses(tmp_path / '1'), losses(tmp_path / '2')
  assert ('valid', 9) in alone and shared == pytest.approx(alone, rel=1e-5)


# What `lmjax.main` does, but that processes count as slices; and that every process says how it is laid out.
SLICES = """
import functools, sys
import jax
from lmjax import main, sharding

make_mesh = functools.partial(sharding.make_mesh, granule='process_index')

def shown(*args, **kwargs):
  mesh = make_mesh(*args, **kwargs)
  print('layout', [[device.process_index for device in row.flat] for row in mesh.devices])
  return mesh

sharding.make_mesh = shown
sys.exit(main.main())
"""


@pytest.mark.slow
def test_slices_are_parallel_in_data_alone(corpus, cache_dir, tmp_path):
  """Two processes of two devices stand for two slices: `data` crosses from one to the other, `fsdp` does not."""
  leaves = {'mesh.data': 2, 'mesh.fsdp': 2}
  run(1, *command('causal_lm', corpus, cache_dir, tmp_path / 'whole', **leaves))
  (tmp_path / 'main.py').write_text(SLICES)
  _, _, *words = command('causal_lm', corpus, cache_dir, tmp_path / 'slices', **leaves)
  said = run(2, str(tmp_path / 'main.py'), *words)
  assert all('layout [[0, 0], [1, 1]]' in one for one in said)
  assert losses(tmp_path / 'slices') == pytest.approx(losses(tmp_path / 'whole'), rel=1e-5)
  _, _, *words = command('causal_lm', corpus, cache_dir, tmp_path / 'no', **{'mesh.data': 1, 'mesh.fsdp': 4})
  for one in start(2, str(tmp_path / 'main.py'), *words):
    said, _ = one.communicate(timeout=240)
    assert one.returncode == 2 and 'mesh.data = 1: must be a multiple of the 2 slices' in said


@pytest.mark.slow
def test_a_row_does_not_lie_on_two_hosts(corpus, cache_dir, tmp_path):
  for one in start(2, *command('causal_lm', corpus, cache_dir, tmp_path / 'no', **{'mesh.data': 1, 'mesh.tensor': 4})):
    said, _ = one.communicate(timeout=240)
    assert one.returncode == 2 and 'mesh.tensor = 4: must lie within a host, of 2 devices' in said


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_hosts_that_are_terminated_save_the_same_step(number, corpus, cache_dir, tmp_path):
  """A signal to all: a scheduler sends SIGTERM before the time limit, a terminal SIGINT."""
  started = start(2, *command('causal_lm', corpus, cache_dir, tmp_path / 'run', steps=100_000))
  late = threading.Timer(240, lambda: [one.kill() for one in started])
  late.start()
  for line in started[0].stdout:
    if line.startswith('step 5/'):
      break
  late.cancel()
  for one in started:
    one.send_signal(number)
  try:
    said = [one.communicate(timeout=240)[0] for one in started]
  finally:
    for one in started:
      one.kill()
  assert [one.returncode for one in started] == [143, 143], said
  steps = {re.search(rf'{number.name}: saved at step (\d+)', one).group(1) for one in said}
  assert len(steps) == 1 and max(map(int, os.listdir(tmp_path / 'run' / 'checkpoints'))) == int(steps.pop())
