"""What is read cannot run code, and what is written holds no secrets."""

import ast
import json
import os

import pytest

from lmjax import console, main
from lmjax.workdir import files
from tests import conftest

LOADERS = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal', 'torch', 'tarfile', 'zipfile'}


def test_nothing_is_unpickled():
  """No module that can, no numpy file that may, no YAML; no archive is unpacked."""
  looked = 0
  for file in sorted((conftest.ROOT / 'lmjax').rglob('*.py')):
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
      names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
      names += [node.module] if isinstance(node, ast.ImportFrom) else []
      # archives are read as streams, and nothing of them becomes a file
      allowed = {'tarfile'} if file.name == 'archives.py' else set()
      assert not {name.partition('.')[0] for name in names} & LOADERS - allowed, file
      if isinstance(node, ast.Call):
        looked += 1
        pickles = [word.value for word in node.keywords if word.arg == 'allow_pickle']
        assert not any(getattr(value, 'value', True) for value in pickles), f'{file}:{node.lineno}'
        called = ast.unparse(node.func)
        assert called not in ('eval', 'yaml.load', 'shutil.unpack_archive'), f'{file}:{node.lineno}'
        assert called.rpartition('.')[2] not in ('extract', 'extractall'), f'{file}:{node.lineno}'
        if called == 'exec':
          assert file.name == 'command_line.py'  # config files, which are code
  assert looked > 1000


@pytest.fixture
def secret(monkeypatch):
  monkeypatch.setenv('WANDB_API_KEY', 'c0ffee-c0ffee-c0ffee')
  return 'c0ffee-c0ffee-c0ffee'


def test_secrets_are_recognised(secret):
  assert console.redact(f'wandb said {secret}!') == 'wandb said [redacted]!'
  assert console.redact('https://me:pass@host/x') == 'https://[redacted]@host/x'
  assert console.redact('https://host/x?a=1&X-Goog-Signature=ab12&b=2') == (
    'https://host/x?a=1&X-Goog-Signature=[redacted]&b=2'
  )
  assert console.redact('https://me:p@ss@host/x') == 'https://[redacted]@host/x'
  assert console.redact('https://host/x?sig=ab12&key=cd34') == 'https://host/x?sig=[redacted]&key=[redacted]'
  for harmless in (
    'tokens.bin',
    'gs://bucket/run',
    'gs://bucket/run@2',
    'me@host',
    'data.tokenizer = None',
    'https://host/x?page=2',
  ):
    assert console.redact(harmless) == harmless


def test_secrets_are_not_written(secret, tmp_path, capsys):
  files.write_json(str(tmp_path / 'config.json'), {'data': [f'https://me:{secret}@host/a', 1], 'x': secret})
  assert json.loads((tmp_path / 'config.json').read_text()) == {
    'data': ['https://[redacted]@host/a', 1],
    'x': '[redacted]',
  }
  file = os.path.join(conftest.ROOT, conftest.CONFIGS['causal_lm'])
  assert main.main([f'--config={file}:smoke,data={tmp_path}/{secret}.txt']) == 3
  said = capsys.readouterr()
  assert secret not in said.err + said.out and '[redacted].txt' in said.err


def test_a_reader_that_is_gone_ends_nothing():
  """A terminal that was closed, or `| head`."""
  reader, closed = os.pipe()
  os.close(reader)
  with os.fdopen(closed, 'w') as file:
    console.print_line('step 1', file)
    assert os.path.samestat(os.fstat(file.fileno()), os.stat(os.devnull))  # what comes later goes nowhere
    console.print_line('step 2', file)
