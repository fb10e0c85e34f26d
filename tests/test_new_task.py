"""The commands of docs/new_task.md, in the order in which they stand there, in a copy of the package."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import QUICK, ROOT


@pytest.mark.slow
def test_the_page_runs(tmp_path):
  text = (ROOT / 'docs' / 'new_task.md').read_text(encoding='utf-8')
  blocks = re.findall(r'^```(bash|python)(?: (\S+))?\n(.*?)^```$', text, flags=re.MULTILINE | re.DOTALL)
  assert len(blocks) == 8
  for folder in ('configs', 'lmjax'):  # a copy, since the page adds a task
    shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns('__pycache__'))
  folder = os.path.dirname(sys.executable)
  env = os.environ | {'PYTHONPATH': str(tmp_path), 'XLA_FLAGS': QUICK, 'PATH': f'{folder}:{os.environ["PATH"]}'}
  printed = []
  for kind, file, code in blocks:
    if file:
      with open(tmp_path / file, 'a', encoding='utf-8') as opened:
        opened.write(code)
      continue
    command = [sys.executable, '-c', code] if kind == 'python' else ['bash', '-euo', 'pipefail', '-c', code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    printed.append(done.stdout)
  results = json.loads((tmp_path / 'runs/translate/results.json').read_text())
  assert results['metrics']['valid/chrf'] > 0.5 and 'valid/bleu' in results['metrics']
  assert 'lead_chrf' not in str(results)
  assert re.search(r'test/chrf +0\.\d', printed[3]), printed[3]
  lora = json.loads((tmp_path / 'runs/translate-lora/results.json').read_text())
  assert lora['hand_off']['fresh'] and all('lora_' in path for path in lora['hand_off']['fresh'])
  ratings = json.loads((tmp_path / 'runs/ratings/results.json').read_text())
  assert ratings['main_metric'] == 'distance'
  assert ratings['metrics']['valid/distance'] < 0.2 < 0.4 < ratings['metrics']['valid/median_distance']
  assert re.search(r'^good\t', printed[5], flags=re.MULTILINE), printed[5]
  assert re.search(r'test/distance +0(\.[01]\d+)?$', printed[5], re.MULTILINE), printed[5]
