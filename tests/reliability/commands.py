"""The training command as a process of its own: started, watched line by line, sent signals."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from lmjax.workdir import files
from tests import conftest

LEAVES = {
  'data.length': 32,
  'data.tokenizer.vocab_size': 320,
  'data.valid_fraction': 0.1,
  'data.valid_bytes': 4000,
  'model.width': 32,
  'model.mlp_width': 64,
  'model.residual_dropout': 0.1,
  'objective.chunk': 8,
  'optim.warmup_steps': 2,
  'eval.every': 4,
  'checkpoint.every': 4,
}
# Lines that tell of time, not of the run.
TIMES = ('seconds', 'tokens_per_second', 'mfu')


def arguments(task, corpus, cache_dir, workdir, **leaves) -> list[str]:
  """`lmjax.main` for a very small run."""
  leaves = LEAVES | {'data.cache_dir': cache_dir} | leaves
  flags = [f'--config.{path}={value}' for path, value in leaves.items()]
  return [f'--config={conftest.CONFIGS[task]}:smoke,data={corpus}', f'--workdir={workdir}', *flags]


def start(words, devices=1, module=('-m', 'lmjax.main'), variables=None, **more) -> subprocess.Popen:
  """The command, with both outputs in one pipe; ended after ten minutes, whatever happens.

  Args:
    words: of the command line.
    devices: CPU devices.
    module: what python runs.
    variables: of the environment, besides those that are there.
    **more: for subprocess.Popen.
  """
  environment = os.environ | {
    'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices} {conftest.QUICK}',
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(conftest.ROOT),
    **(variables or {}),
  }
  pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
  started = subprocess.Popen(
    [sys.executable, '-u', *module, *words], env=environment, cwd=conftest.ROOT, **pipes, **more
  )
  late = threading.Timer(600, started.kill)
  late.daemon = True
  late.start()
  return started


def read_until(started: subprocess.Popen, beginning: str) -> list[str]:
  """Lines up to the first one that begins so, or to the end."""
  lines = []
  for line in started.stdout:
    lines.append(line)
    if line.startswith(beginning):
      break
  return lines


def outputs_of(started: list[subprocess.Popen]) -> list[str]:
  """All that each prints until its end; read at once, since one whose pipe is full would keep the others waiting."""
  with ThreadPoolExecutor(len(started)) as pool:
    return list(pool.map(lambda one: one.communicate()[0], started))


def run(words, **how) -> tuple[int, str]:
  """(exit code, all that it printed)."""
  started = start(words, **how)
  said, _ = started.communicate()
  return started.returncode, said


def metrics(workdir) -> list[dict]:
  """The lines of metrics.jsonl without times; floats as hex, so that equal means equal to the last bit."""
  return [
    {k: v.hex() if isinstance(v, float) else v for k, v in line.items() if k not in TIMES}
    for line in files.read_metrics(str(workdir))
  ]
