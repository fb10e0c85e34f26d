"""What runs compute, bit by bit, to be compared before and after a change of structure.

`python -m tests.record FILE.json` runs `:smoke` of every config (those that fine-tune are handed over from the
pre-training run), and one run that is resumed halfway, through the command line alone. It writes the losses as
hexadecimal float32, the digests of the arrays, the predictions and the results. Times, rates and paths are left out.
The figures hold for one machine:

  python -m tests.record before.json     # at one commit
  python -m tests.record after.json      # at another, on the same machine
  diff before.json after.json
"""

import hashlib
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
# What depends on the clock, or on the version of the code rather than on what it computes.
UNEQUAL = ('seconds', 'tokens_per_second', 'mfu', 'time', 'step_seconds', 'examples_per_second', 'recompilations')


def main(out: str) -> None:
  """Makes the runs in a temporary folder and writes the record."""
  record = {'machine': _machine()}
  with tempfile.TemporaryDirectory() as folder:
    for name in ('pretrain_clm', 'pretrain_mlm', 'finetune_sentiment', 'finetune_qa', 'finetune_summarization'):
      record[name] = _run(folder, name, f'runs/{name}-smoke')
    steps = int(record['pretrain_clm']['results']['step'])
    _run(folder, 'pretrain_clm', 'runs/resumed', f'--config.train.steps={steps // 2}')
    record['resumed'] = _run(folder, 'pretrain_clm', 'runs/resumed')
  pathlib.Path(out).write_text(json.dumps(record, indent=1, sort_keys=True) + '\n', encoding='utf-8')


def _run(folder: str, name: str, workdir: str, *flags: str) -> dict:
  config = f'--config={ROOT}/configs/{name}.py:smoke'
  if name.startswith('pretrain'):
    flags = (*flags, f'--config.data.cache_dir={folder}/cache')
  command = [sys.executable, '-m', 'lmjax.main', config, f'--workdir={workdir}', *flags]
  subprocess.run(command, cwd=folder, check=True, env=os.environ | {'PYTHONPATH': str(ROOT)})
  return _read(pathlib.Path(folder) / workdir)


def _read(workdir: pathlib.Path) -> dict:
  metrics = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()]
  results = json.loads((workdir / 'results.json').read_text(encoding='utf-8'))
  results['hand_off'] = results['hand_off'] and {k: v for k, v in results['hand_off'].items() if k != 'source'}
  files = [file for file in sorted(workdir.iterdir()) if file.name.startswith(('predictions', 'samples', 'tokenizer'))]
  return {
    'loss': [f'{line["split"]} {line["step"]} {_bits(line["loss"])}' for line in metrics],
    'metrics': _hash(_bits(metrics)),
    'results': _bits(results),
    'checkpoints': {folder.name: _arrays(folder) for folder in sorted(workdir.glob('checkpoints/*'))},
    'files': {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
  }


def _arrays(checkpoint: pathlib.Path) -> dict[str, str]:
  """A hash over the digests of each part of the state: step, params, opt_state, skipped."""
  arrays = json.loads((checkpoint / 'manifest/manifest.json').read_text(encoding='utf-8'))['arrays']
  parts: dict[str, dict] = {}
  for path, array in arrays.items():
    parts.setdefault(path.partition('/')[0], {})[path] = array['digest']
  return {part: f'{len(digests)} arrays, {_hash(digests)}' for part, digests in parts.items()}


def _hash(value) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _bits(value):
  """The same tree with every float as the hexadecimal text of its float32, without what depends on the clock."""
  if isinstance(value, dict):
    return {k: _bits(v) for k, v in value.items() if k.rpartition('/')[2] not in UNEQUAL}
  if isinstance(value, list):
    return [_bits(v) for v in value]
  return float(np.float32(value)).hex() if isinstance(value, float) else value


def _machine() -> str:
  names = [
    line.partition(':')[2].strip() for line in open('/proc/cpuinfo') if line.startswith(('model name', 'model\t'))
  ]
  return (
    f'{platform.machine()}, {" ".join(reversed(names[:2]))}, {os.cpu_count()} cores, Python {platform.python_version()}'
  )


if __name__ == '__main__':
  main(sys.argv[1])
