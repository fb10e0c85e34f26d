"""Several processes as several hosts: the same losses, one checkpoint, and resuming on another number of them."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests import conftest


def free_port() -> int:
  with socket.socket() as opened:
    opened.bind(('localhost', 0))
    return opened.getsockname()[1]


def run(processes: int, *arguments: str) -> list[str]:
  """The same command in so many processes with four CPU devices in all; what each printed."""
  port = free_port()
  environment = os.environ | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={4 // processes} --xla_backend_optimization_level=0',
    'JAX_PLATFORMS': 'cpu',
  }
  started = []
  for i in range(processes):
    hosts = [] if processes == 1 else [f'--coordinator=localhost:{port}', f'--processes={processes}', f'--process={i}']
    command = [sys.executable, '-m', 'lmjax.main', *arguments, *hosts]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    started.append(subprocess.Popen(command, env=environment, cwd=conftest.ROOT, **pipes))
  said = [one.communicate(timeout=240)[0] for one in started]
  assert [one.returncode for one in started] == [0] * processes, '\n'.join(said)
  return said


def losses(workdir) -> dict:
  lines = [json.loads(line) for line in open(workdir / 'metrics.jsonl', encoding='utf-8')]
  return {(line['split'], line['step']): line['loss'] for line in lines}


def command(task, corpus, cache_dir, workdir, steps=6):
  small = {
    'data.length': 32,
    'model.width': 32,
    'model.mlp_width': 64,
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
  flags = [f'--config.{path}={value}' for path, value in small.items()]
  return [f'--config={conftest.CONFIGS[task]}:smoke,data={corpus}', f'--workdir={workdir}', *flags]


@pytest.mark.slow
@pytest.mark.parametrize('task', conftest.TASKS)
def test_any_number_of_hosts_trains_alike(task, corpus, cache_dir, tmp_path):
  """1, 2 and 4 processes from the same command: the same losses; one checkpoint; resumed by another number."""
  for processes in (1, 2, 4):
    said = run(processes, *command(task, corpus, cache_dir, tmp_path / str(processes)))
    assert 'done: step 6' in said[0]
    assert all('done: step' not in other for other in said[1:])  # one host alone speaks
  alone = losses(tmp_path / '1')
  assert {step for _, step in alone} == {0, 1, 2, 3, 4, 5, 6}
  for processes in ('2', '4'):
    assert losses(tmp_path / processes) == pytest.approx(alone, rel=1e-5)
    assert sorted(os.listdir(tmp_path / processes / 'checkpoints')) == ['3', '6']
  more = [
    run(n, *command(task, corpus, cache_dir, tmp_path / folder, 9)) for n, folder in ((1, '4'), (4, '1'), (1, '2'))
  ]
  assert all('resuming from step 6' in said[0] for said in more)
  after = losses(tmp_path / '1')
  assert ('valid', 9) in after
  for folder in ('4', '2'):
    assert losses(tmp_path / folder) == pytest.approx(after, rel=1e-5)
