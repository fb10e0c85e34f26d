"""A run whose workdir and data are on `gs://`: against an emulator of the object store, which `.ci/run` installs."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from lmjax import experiment
from lmjax.data.corpus import address
from tests import conftest, runs


def test_what_must_be_on_a_local_disk_is_refused(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  study = f'--config={conftest.ROOT}/experiments/pretraining_helps.py:smoke'
  assert experiment.main([study, '--workdir=gs://bucket/study']) == 2
  assert '--workdir = gs://bucket/study: must be a local folder' in capsys.readouterr().err
  assert os.listdir(tmp_path) == []


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  """The environment of a process that is to reach the emulator, which keeps `gs://bucket` in memory."""
  pytest.importorskip('gcp_storage_emulator', reason="comes with pip install 'lmjax[emulator]'")
  with socket.socket() as opened:
    opened.bind(('localhost', 0))
    port = opened.getsockname()[1]
  command = [sys.executable, '-m', 'gcp_storage_emulator', 'start', '--in-memory', f'--port={port}']
  with open(tmp_path_factory.mktemp('emulator') / 'log', 'w') as log:
    server = subprocess.Popen([*command, '--default-bucket=bucket'], stdout=log, stderr=log)
  url = f'http://localhost:{port}'
  while True:
    with socket.socket() as opened:
      if opened.connect_ex(('localhost', port)) == 0:
        break
    assert server.poll() is None
    time.sleep(0.1)
  yield {
    'STORAGE_EMULATOR_HOST': url,
    'TENSORSTORE_GCS_HTTP_URL': url,
    'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'none',
    'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # it would ask Google what kind of bucket it is
    'NO_GCE_CHECK': 'true',
    'XLA_FLAGS': conftest.QUICK,
  }
  server.terminate()
  server.wait()


def run(store, module, *arguments, code=0):
  command = [sys.executable, '-m', f'lmjax.{module}', *arguments]
  done = subprocess.run(command, env=os.environ | store, cwd=conftest.ROOT, capture_output=True, text=True, timeout=300)
  assert done.returncode == code, done.stdout + done.stderr
  return done


def in_store(store, expression: str):
  """The JSON of an expression over `bucket`, an epath of gs://bucket."""
  code = f'import json; from etils import epath; bucket = epath.Path("gs://bucket"); print(json.dumps({expression}))'
  done = subprocess.run(
    [sys.executable, '-c', code], env=os.environ | store, capture_output=True, text=True, check=True
  )
  return json.loads(done.stdout)


@pytest.mark.slow
def test_a_run_on_an_object_store(store, corpus, cache_dir, tmp_path):
  """Trains, goes on, hands over, is looked into: the same losses as on a local disk."""
  in_store(store, f'bucket.joinpath("data/corpus.jsonl").write_bytes(open({corpus!r}, "rb").read())')
  store |= {address.VARIABLE: str(tmp_path / 'copies')}
  in_cloud = 'gs://bucket/run', 'gs://bucket/data/*.jsonl', 'gs://bucket/cache'
  for folder, data, cache in (in_cloud, (f'{tmp_path}/run', corpus, cache_dir)):
    leaves = [f'--config.data.cache_dir={cache}', '--config.train.steps=20']
    run(store, 'main', f'--config=configs/pretrain_clm.py:smoke,data={data}', f'--workdir={folder}', *leaves)
  names = in_store(store, 'sorted(p.name for p in (bucket / "run").iterdir())')
  assert names == sorted(set(os.listdir(tmp_path / 'run')) - {'.lock'})  # there are no locks in an object store
  lines = [json.loads(line) for line in in_store(store, '(bucket / "run/metrics.jsonl").read_text()').splitlines()]
  remote = [line['loss'] for line in lines if line['split'] == 'train']
  assert remote == [line['loss'] for line in runs.metrics_of(tmp_path / 'run', 'train')] and len(remote) == 20
  assert in_store(store, 'sorted(path.name for path in (bucket / "cache").iterdir())')[:2] == ['corpora', 'listed']
  shutil.rmtree(tmp_path / 'copies')
  more = ['--config.data.cache_dir=gs://bucket/cache', '--config.train.steps=24']
  command = ['--config=configs/pretrain_clm.py:smoke,data=gs://bucket/data/*.jsonl', '--workdir=gs://bucket/run', *more]
  assert 'resuming from step 20' in run(store, 'main', *command).stdout
  lines = in_store(store, '(bucket / "run/metrics.jsonl").read_text()').splitlines()
  assert len([line for line in lines if '"train"' in line]) == 24
  start = ['--config=configs/finetune_sentiment.py:smoke', '--config.init_from.path=gs://bucket/run']
  assert 'step 24 of gs://bucket/run' in run(store, 'main', *start, '--workdir=gs://bucket/sentiment').stdout
  label = run(store, 'predict', '--workdir=gs://bucket/sentiment', '--json', 'Clear and correct.').stdout
  assert json.loads(label)['label']


@pytest.mark.slow
def test_what_is_not_there(store):
  command = ['--config=configs/pretrain_clm.py:smoke,data=gs://bucket/none/*.jsonl', '--workdir=gs://bucket/other']
  error = run(store, 'main', *command, code=3).stderr
  assert 'gs://bucket/none/*.jsonl: the glob matches no file' in error
  error = run(store, 'predict', '--workdir=gs://bucket/nothing', 'text', code=4).stderr
  assert 'gs://bucket/nothing/config.json: no such file' in error
