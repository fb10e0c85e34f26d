"""The notebook: it agrees with its script, and runs from top to bottom where jax is already there."""

import glob
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / 'experiments' / 'notebooks'
# One step before the newest: pip would gladly bring that.
OLDER_JAX = '0.11.2'
# The model is made smaller and the runs shorter, with a warm-up that fits: {a line of a cell: what is executed for it}.
_LOAD = "config = load_config_file('configs/pretrain_clm.py'{})"
SMALLER = {
  _LOAD.format(''): _LOAD.format(", 'preset=mini'"),
  'config.train.steps = 200': 'config.train.steps = 20\nconfig.optim.warmup_steps = 5',
  "config.init_from.path = 'runs/notebook_clm'": "config.init_from.path = 'runs/notebook_clm'\nconfig.train.steps = 20",
}


def notebook() -> dict:
  return json.loads((FOLDER / 'lmjax_tpu.ipynb').read_text(encoding='utf-8'))


@pytest.mark.slow  # jupytext comes with the extra `dev`
def test_the_notebook_and_its_script_agree():
  import jupytext

  script = jupytext.read(FOLDER / 'lmjax_tpu.py')
  cells = [(cell['cell_type'], ''.join(cell['source'])) for cell in notebook()['cells']]
  assert cells == [(cell.cell_type, cell.source) for cell in script.cells]


def test_the_outputs_that_are_shown_are_a_whole_run():
  code = [cell for cell in notebook()['cells'] if cell['cell_type'] == 'code']
  assert [cell['execution_count'] for cell in code] == list(range(1, len(code) + 1))
  outputs = [output for cell in code for output in cell['outputs']]
  assert not [output for output in outputs if output['output_type'] == 'error']
  assert len([output for output in outputs if 'image/png' in output.get('data', {})]) == 3


@pytest.mark.slow
def test_the_notebook_runs_where_jax_is_there_already(tmp_path, monkeypatch):
  """In a fresh environment like Colab's: Python 3.12 if there is one, with a jax that is not the newest."""
  nbclient = pytest.importorskip('nbclient', reason="comes with pip install 'lmjax[notebook]'")
  nbformat = pytest.importorskip('nbformat')
  found = sorted(glob.glob(os.path.expanduser('~/.pyenv/versions/3.12.*/bin/python')))
  python, jax = (found[-1], f'jax=={OLDER_JAX}') if found else (sys.executable, 'jax')
  subprocess.run([python, '-m', 'venv', tmp_path / 'env'], check=True)
  there = tmp_path / 'env' / 'bin' / 'python'
  subprocess.run([there, '-m', 'pip', 'install', '-q', jax, 'ipykernel'], check=True)
  kernels = tmp_path / 'share'
  subprocess.run([there, '-m', 'ipykernel', 'install', '--prefix', kernels, '--name', 'fresh'], check=True)
  monkeypatch.setenv('JUPYTER_PATH', str(kernels / 'share' / 'jupyter'))
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')  # a third of the time
  for name in ('JAX_PLATFORMS', 'JAX_COMPILATION_CACHE_DIR', 'PYTHONPATH'):  # those of the tests
    monkeypatch.delenv(name, raising=False)
  before = _versions(there)
  checkout = tmp_path / 'lmjax'
  names = subprocess.run(['git', '-C', ROOT, 'ls-files'], check=True, capture_output=True, text=True).stdout
  for name in names.splitlines():
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_bytes((ROOT / name).read_bytes())
  book = nbformat.read(FOLDER / 'lmjax_tpu.ipynb', as_version=4)
  replaced: list[str] = []
  for cell in book.cells:
    if cell.cell_type == 'code':
      cell.outputs, cell.execution_count = [], None
      replaced += [line for line in cell.source.splitlines() if line in SMALLER]
      cell.source = '\n'.join(SMALLER.get(line, line) for line in cell.source.splitlines())
  assert replaced == list(SMALLER)
  here = {'metadata': {'path': str(checkout / 'experiments' / 'notebooks')}}
  nbclient.NotebookClient(book, timeout=1200, kernel_name='fresh', resources=here).execute()
  pictures = [out for cell in book.cells for out in cell.get('outputs', []) if 'image/png' in out.get('data', {})]
  assert len(pictures) == 3
  assert before.items() <= _versions(there).items()
  text = json.dumps([cell.get('outputs', []) for cell in book.cells])
  for said in ('step 20/20', 'done: step', 'taken', 'pre-trained: test accuracy', 'negative', 'attention'):
    assert said in text


def _versions(python) -> dict[str, str]:
  found = subprocess.run([python, '-m', 'pip', 'list', '--format=json'], check=True, capture_output=True, text=True)
  return {d['name']: d['version'] for d in json.loads(found.stdout) if d['name'].startswith('jax')}
