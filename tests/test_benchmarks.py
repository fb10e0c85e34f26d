"""Every suite and program of the benchmarks runs, at its smallest sizes, by the command that its README gives."""

import importlib
import json
import lzma
import os
import re
import subprocess
import sys

import pytest

from tests import runs
from tests.conftest import ROOT
from tests.test_commands import squad

README = (ROOT / 'experiments/benchmarks/README.md').read_text(encoding='utf-8')
SUITES = re.findall(r'^python experiments/benchmarks/run.py --suite=(\w+)', README, re.MULTILINE)
OTHERS = re.findall(r'^python (experiments/benchmarks/(?!run\.py).*)$', README, re.MULTILINE)
KEYS = {'name', 'peer', 'ratio', 'ratio_min', 'ratio_max', 'ours', 'theirs', 'unit', 'note'}


@pytest.fixture
def benchmarks(monkeypatch):
  """Imports a module of the folder, as its programs do."""
  monkeypatch.syspath_prepend(str(ROOT / 'experiments/benchmarks'))
  return importlib.import_module


@pytest.mark.slow
@pytest.mark.parametrize('suite', [pytest.param(s, marks=pytest.mark.tpu_compile) if s == 'tpu' else s for s in SUITES])
def test_a_suite_runs_and_leaves_its_rows(suite, tmp_path):
  if suite in ('cpu', 'gpu'):
    pytest.importorskip('torch')
  if suite == 'tpu':
    pytest.importorskip('libtpu')
  command = [sys.executable, 'experiments/benchmarks/run.py', f'--suite={suite}', f'--out={tmp_path}']
  # or each contender starts a pool of processes that import torch
  environment = os.environ | {'TORCHINDUCTOR_COMPILE_THREADS': '1'}
  for _ in range(2 if suite == 'memory' else 1):  # the folder may exist
    done = subprocess.run([*command, '--rounds=1', '--tiny'], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / f'{suite}.json').read_text())['rows']
  assert rows and (tmp_path / f'{suite}.png').read_bytes().startswith(b'\x89PNG')
  for row in rows:
    assert row.keys() == KEYS and row['ratio_min'] <= row['ratio'] <= row['ratio_max']
    assert f'| {row["name"]} | {row["peer"]} | **{row["ratio"]:.2f}**' in done.stdout
  if suite == 'tpu':
    assert 'kernels ' in rows[0]['note'] and 'kernels 0 s' not in rows[0]['note']
  if suite == 'gpu':
    peers = [row['peer'] for row in rows if row['unit'] == 'tokens/s']
    assert peers == 2 * ['torch.compile', 'plain torch']
  if suite == 'cpu':
    pairs = {(row['name'], row['peer']) for row in rows}
    assert pairs >= {(model, 'torch eager') for model in ('gpt2', 'bert', 'llama')}


@pytest.mark.slow
@pytest.mark.parametrize('command', OTHERS, ids=lambda command: command.removeprefix('experiments/benchmarks/')[:60])
def test_another_program_runs(command, tmp_path):
  if '--model' in command or '--task' in command:
    pytest.importorskip('torch')
  if '--task=embed' in command:
    pytest.importorskip('sentence_transformers')
  if 'data_build.py' in command and '--tasks' not in command:
    pytest.importorskip('datasets', reason='comes with the extra harness')
  for name in ('train', 'dev'):
    runs.write_tsv(tmp_path / f'sst2_{name}.tsv', runs.texts(24 if name == 'train' else 8))
  with lzma.open(tmp_path / 'squad_v1.1_dev_first24articles.json.xz', 'wt') as file:
    json.dump(squad(16), file)
  program, *words = command.replace('FOLDER', str(ROOT / 'tests/hf/golden/bert')).split()
  done = subprocess.run(
    [sys.executable, ROOT / program, *words, '--tiny'],
    cwd=tmp_path,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  if 'inference.py' in command:
    rows = re.findall(r'^\| (.+) \| [\d.]+ \| [\d.]+ \| \*\*[\d.]+\*\* \(.*\) \| (.*) \|$', done.stdout, re.MULTILINE)
    if '--task=embed' in command:
      [(name, note)] = rows
      assert name == 'vectors' and float(re.search(r'by ([\d.e-]+) at most', note)[1]) < 1e-5
    else:
      same = '2 of 2 rows of the same tokens'
      assert rows == [('greedy', same), ('4 beams', same)]
  elif 'data_rows.py' in command:
    rows = re.findall(
      r'^\| ((?:causal|masked).+) \| \*\*[\d.]+\*\* \([\d.]+ to [\d.]+\) \|$', done.stdout, re.MULTILINE
    )
    assert len(rows) == len(set(rows)) == 8
  elif '--model' in command:
    assert re.search(r'^\| all \| [\d.]+ \| [\d.]+ \| \| \| \*\*[\d.]+\*\* \|$', done.stdout, re.MULTILINE)
  elif 'data_records' in command:
    rows = re.findall(
      r'^\| (.+) \| (?:first|second) \| \*\*[\d.]+\*\* \| .* \| ([\d,]+) \|$', done.stdout, re.MULTILINE
    )
    assert len(rows) == 6 and rows[0] == rows[1] == ('3,000 rows of .tsv: records', '3,000') and rows[2] == rows[3]
  elif '--tasks' in command:
    rows = re.findall(r'^\| (\d) \| [\d.]+ \| [\d.]+ \| -?[\d.]+ \| True \|$', done.stdout, re.MULTILINE)
    assert rows == ['1', '2', '4']
  elif 'data_build' in command:
    assert re.search(r'the same ids in all of [\d,]+ documents; datasets takes [\d.]+ times', done.stdout)
  elif 'data_scale' in command:
    assert (
      len(re.findall(r'^\| (2,000|20,000) \| 8 \|( [\d.,]+ \([\d,]+\) \|| \d+ \|){4}$', done.stdout, re.MULTILINE)) == 2
    )
  elif 'data_rows' in command:
    assert re.search(r'^\| masked words, 128 \| \*\*[\d.]+\*\* \(.*\) \|$', done.stdout, re.MULTILINE)
  else:
    assert re.search(r'of the import: [\d.]+ .*\ndry run: [\d.]+ s of CPU time', done.stdout)


@pytest.mark.slow
def test_the_memory_of_training_does_not_grow_with_documents():
  command = [sys.executable, 'experiments/benchmarks/data_scale.py', '--documents=100000,10000000', '--steps=60']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  deciding, training = zip(*re.findall(r'^\| [\d,]+ \| 8 \| .*\(([\d,]+)\) \| (\d+) \|', done.stdout, re.MULTILINE))
  few, many = map(int, training)
  # what JAX compiles differs by some 60 MB from run to run; ten bytes a document would be 100
  assert many < min(few + 100, 1_000) and int(deciding[1]) < 500, done.stdout


# As the TPU compiler writes a kernel: a step of its grid, which the last one jumps over, in it a part that begins a row
# of blocks, the scores, and a short one that starts a copy.
BUNDLES = """
     0   :  { %s0 = smov 0 } /* Start region 1 */
   0x1 LB: > { %p1 = scmp.eq.s32.totalorder %s1, 0 }
   0x2   : > { %9 = sbr.rel (%p1) target = $region44 }
   0x3   : > { %10 = sbr.rel (%p2) target = $region72 }
  0x67 PF: > { %s4 = sld [smem:[#allocation58_spill]] } /* Start/End empty region 72 :: Start region 73 */
  0x69   : > { %11 = sbr.rel (%p3) target = $region76 }
 0x451 PF: > { %s5 = sld [smem:[#allocation58_spill]] } /* Start/End empty region 76 :: Start region 77 */
 0x452   : > { %12 = sbr.rel (!%p4) target = $region80 }
 0x456 PF: > { %s5 = sld [smem:[#allocation58_spill]] } /* Start/End empty region 80 */
 0x460 PF: > { %s6 = sld [smem:[#allocation66_spill]] } /* Start/End empty region 44 */
 0x464   : > { %56 = sbr.rel (!%p5) target = $region1 }
"""


def test_static_bundles_of_a_kernel(benchmarks):
  tpu = benchmarks('tpu')
  assert tpu.step_bundles(BUNDLES) == (0x464 - 1000 - 100, 1000, 100)
  # two blocks a row and side: three of four have something to see, a row begins twice
  attention = tpu.Attention(layers=1, rows=2, length=8, heads=3, kv_heads=3, width=4, causal=True)
  assert tpu._grid_bundles(attention, 4, 4, (10, 1000, 100), 'splash_mha_fwd') == 2 * 3 * (4 * 10 + 3 * 1000 + 2 * 100)
  # a window of one block and what comes before it: two steps a row at most, of four
  local = tpu.Attention(layers=1, rows=1, length=16, heads=1, kv_heads=1, width=4, causal=True, window=4)
  assert tpu._grid_bundles(local, 4, 4, (10, 1000, 100), 'splash_mha_dkv') == 4 * 2 * 10 + 7 * 1000 + 4 * 100


def test_recorded_steps_are_what_a_preset_is_compared_with(benchmarks, monkeypatch):
  tpu, run = benchmarks('tpu'), benchmarks('run')
  recorded = tpu.RECORDED['gpt2_small']['MaxText']
  monkeypatch.setattr(tpu, 'ours', lambda preset, tiny: recorded)
  found = {(row.name, row.peer, row.unit): row.ratio for row in run.tpu(rounds=1, tiny=False)}
  assert {found['gpt2_small', 'MaxText', unit] for unit in ('s', 'bytes', 's of the compiler')} == {1.0}
  assert found['llama_1b', 'MaxText', 's'] == pytest.approx(1.9485 / recorded.seconds, rel=1e-3)


def test_a_program_refuses_what_it_cannot_read():
  command = [sys.executable, 'experiments/benchmarks/fine_tuning.py', '--model=m', '--task=qa', '--train=t.tsv']
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 2 and '--task=qa needs --data' in done.stderr


@pytest.mark.parametrize(
  'words', [['--suite=cpu', '--maxtext=python'], ['--suite=memory', '--rounds=0'], ['--suite=all']]
)
def test_a_wrong_command_is_refused(words):
  done = subprocess.run(
    [sys.executable, 'experiments/benchmarks/run.py', *words], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 2 and words[-1].partition('=')[0] in done.stderr
