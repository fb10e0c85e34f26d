"""Every suite of the benchmarks runs, at its smallest sizes, by the command that its README gives."""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

README = (ROOT / 'experiments/benchmarks/README.md').read_text(encoding='utf-8')
SUITES = re.findall(r'^python experiments/benchmarks/run.py --suite=(\w+)', README, re.MULTILINE)
KEYS = {'name', 'peer', 'ratio', 'ratio_min', 'ratio_max', 'ours', 'theirs', 'unit', 'note'}


@pytest.mark.slow
@pytest.mark.parametrize('suite', SUITES)
def test_a_suite_runs_and_leaves_its_rows(suite, tmp_path):
  if suite == 'cpu':
    pytest.importorskip('torch')
  command = [sys.executable, 'experiments/benchmarks/run.py', f'--suite={suite}', f'--out={tmp_path}']
  for _ in range(2 if suite == 'memory' else 1):  # the folder may exist
    done = subprocess.run([*command, '--rounds=1', '--tiny'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / f'{suite}.json').read_text())['rows']
  assert rows and (tmp_path / f'{suite}.png').read_bytes().startswith(b'\x89PNG')
  for row in rows:
    assert row.keys() == KEYS and row['ratio_min'] <= row['ratio'] <= row['ratio_max']
    assert f'| {row["name"]} | {row["peer"]} | **{row["ratio"]:.2f}**' in done.stdout
  if suite == 'cpu':
    pairs = {(row['name'], row['peer']) for row in rows}
    assert pairs >= {(model, 'torch eager') for model in ('gpt2', 'bert', 'llama')}
