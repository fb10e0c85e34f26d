"""The commands of docs/new_task.md, in the order in which they stand there."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_the_page_runs(tmp_path):
  text = (ROOT / 'docs' / 'new_task.md').read_text(encoding='utf-8')
  blocks = re.findall(r'^```(bash|python)\n(.*?)^```$', text, flags=re.MULTILINE | re.DOTALL)
  assert len(blocks) == 5
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  folder = os.path.dirname(sys.executable)
  env = os.environ | {'PYTHONPATH': str(ROOT), 'XLA_FLAGS': '', 'PATH': f'{folder}:{os.environ["PATH"]}'}
  said = []
  for kind, code in blocks:
    command = [sys.executable, '-c', code] if kind == 'python' else ['bash', '-euo', 'pipefail', '-c', code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    said.append(done.stdout)
  results = json.loads((tmp_path / 'runs/translate/results.json').read_text())
  assert results['metrics']['valid/chrf'] > 0.5 and 'valid/bleu' in results['metrics']
  assert 'lead_chrf' not in str(results)
  assert re.search(r'test/chrf +0\.\d', said[3]), said[3]
  moved = json.loads((tmp_path / 'runs/translate-lora/results.json').read_text())
  assert moved['hand_off']['fresh'] and all('lora_' in path for path in moved['hand_off']['fresh'])
