"""Models of the Hub, from a server that stands in for it."""

import hashlib
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import pytest

from lmjax.hf.folder import Weights
from tests.conftest import ROOT

GOLDEN = pathlib.Path(__file__).parent / 'golden'
REVISION = 'a' * 40


class Hub(http.server.BaseHTTPRequestHandler):
  """What `huggingface_hub` asks of the Hub: a repository's files, and each of them."""

  folder = GOLDEN / 'bert'

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    self.server.asked.append(self.path)
    path = self.path.partition('?')[0]
    if '/org/gated' in path:
      return self._answer(403, b'{}', {'X-Error-Code': 'GatedRepo', 'X-Error-Message': 'ask'})
    if '/org/bert' not in path and '/org/old' not in path:
      return self._answer(404, b'{}', {'X-Error-Code': 'RepoNotFound', 'X-Error-Message': 'none'})
    if '/resolve/' in path:
      file = self.folder / path.rpartition('/')[2]
      if not self._has(file):
        return self._answer(404, b'', {'X-Error-Code': 'EntryNotFound'})
      content = file.read_bytes()
      headers = {'ETag': f'"{hashlib.sha1(content).hexdigest()}"', 'X-Repo-Commit': REVISION}
      return self._answer(200, content, headers)
    if 'revision/other' in path:
      return self._answer(404, b'{}', {'X-Error-Code': 'RevisionNotFound', 'X-Error-Message': 'none'})
    files = [file for file in sorted(self.folder.iterdir()) if self._has(file)]
    if '/tree/' in path:
      entries = [{'type': 'file', 'path': f.name, 'size': f.stat().st_size, 'oid': 'b' * 40} for f in files]
      return self._answer(200, json.dumps(entries).encode(), {'Content-Type': 'application/json'})
    siblings = [{'rfilename': file.name} for file in files]
    info = {
      'id': 'org/bert',
      'modelId': 'org/bert',
      'sha': REVISION,
      'siblings': siblings,
      'tags': [],
      'private': False,
    }
    return self._answer(200, json.dumps(info).encode(), {'Content-Type': 'application/json'})

  def _has(self, file) -> bool:
    """An old repository holds pickles and no tokenizer.json."""
    return file.exists() and not ('/org/old' in self.path and file.name in ('model.safetensors', 'tokenizer.json'))

  def _answer(self, status, content, headers):
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(content)

  def log_message(self, *arguments):
    pass


@pytest.fixture
def hub(tmp_path):
  """`hub(expression)` -> (exit status, what a Python process prints that evaluates it); `hub.asked`: paths."""
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
  server.asked = []
  threading.Thread(target=server.serve_forever, daemon=True).start()
  settings = {'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}', 'HF_HOME': str(tmp_path / 'hf')}

  def run(path, expression='source.revision, source.folder.is_dir(), len(source.arrays)', **more):
    code = f'from lmjax.hf.source import PublicModel\nsource = PublicModel({path!r})\nprint({expression})'
    command = [sys.executable, '-c', code]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | settings | more)
    return found.stdout.strip(), found.stderr.strip().splitlines()[-1] if found.stderr else ''

  run.asked = server.asked
  yield run
  server.shutdown()


def test_a_model_of_the_hub_comes_from_its_cache_the_second_time(hub, tmp_path):
  assert hub('hf:org/bert', 'source.revision, source.folder.is_dir()')[0] == f'{REVISION} True'
  assert not any('model.safetensors' in path for path in hub.asked), 'a dry run needs no weights'
  assert hub('hf:org/bert')[0] == f'{REVISION} True 42'
  assert any('model.safetensors' in path for path in hub.asked)
  assert hub('hf:org/bert', HF_HUB_OFFLINE='1')[0] == f'{REVISION} True 42'
  assert hub(f'hf:org/bert@{REVISION}', HF_HUB_OFFLINE='1')[0] == f'{REVISION} True 42'


@pytest.mark.slow
def test_a_dry_run_downloads_no_weights(hub):
  flags = [f'--config={ROOT}/configs/legal_mlm.py:smoke', '--config.init_from.path=hf:org/bert', '--dry_run=cpu:8']
  command = f'__import__("lmjax.main", fromlist=["main"]).main({flags})'
  assert hub('hf:org/bert', command)[0].splitlines()[-2:] == ['verdict: fits', '0']
  assert not any('safetensors' in path for path in hub.asked)


def test_an_index_of_weights_is_none(tmp_path):
  """It is downloaded with what is small."""
  assert Weights.are_in(GOLDEN / 'qwen2')
  for file in ('model.safetensors.index.json', 'model-00001-of-00002.safetensors'):  # and a part is not the whole
    shutil.copy(GOLDEN / 'qwen2' / file, tmp_path)
    assert not Weights.are_in(tmp_path)


@pytest.mark.parametrize(
  'path, settings, message',
  [
    ('hf:org/gated', {}, 'init_from.path = hf:org/gated: its owner gives access on request; accept its terms'),
    ('hf:org/none', {}, 'init_from.path = hf:org/none: no folder, and no repository of the Hub, of that name; check'),
    ('hf:org/bert@other', {}, 'init_from.path = hf:org/bert@other: no revision other of org/bert; check it'),
    ('hf:org/bert', {'HF_HUB_OFFLINE': '1'}, 'is no folder, not in the cache, and the Hub cannot be reached; check'),
    (
      'hf:org/bert',
      {'HF_ENDPOINT': 'http://127.0.0.1:9'},
      'is no folder, not in the cache, and the Hub cannot be reached',
    ),
    (
      'hf:org/old',
      {},
      'there; if the Hub cannot be reached now, try again; else `hf download org/old --local-dir FOLDER`, then give',
    ),
    ('hf:a/b/c', {}, 'init_from.path = hf:a/b/c: no such folder, and no id of the Hub; name a folder, or'),
    ('hf:', {}, 'init_from.path = hf:: no such folder, and no id of the Hub'),
  ],
)
def test_what_cannot_be_had_is_one_line(hub, path, settings, message):
  printed, error = hub(path, **settings)
  assert not printed and error.startswith('lmjax.errors.CheckpointError') and message in error, error
