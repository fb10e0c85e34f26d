"""Exports that are pushed, to a server that stands in for the Hub."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

from tests.conftest import ROOT
from tests.hf import exports


class Hub(http.server.BaseHTTPRequestHandler):
  """What `huggingface_hub` asks of the Hub to make a repository and a commit; repositories are the server's."""

  def do_POST(self):
    content = self.rfile.read(int(self.headers.get('Content-Length', 0)))
    path, repositories = self.path.partition('?')[0], self.server.repositories
    here = f'http://127.0.0.1:{self.server.server_port}'
    if self.headers.get('Authorization') != 'Bearer hf_right':
      return self._answer(401, {'error': 'Invalid credentials'})
    if path == '/api/validate-yaml':
      return self._answer(200, {'errors': [], 'warnings': []})
    if path == '/api/repos/create':
      asked = json.loads(content)
      name = '/'.join(part for part in (asked.get('organization'), asked['name']) if part)
      if asked.get('organization') == 'others':
        return self._answer(403, {'error': 'You are not allowed to create a repository there'})
      is_private = asked.get('private') or asked.get('visibility') == 'private'  # as versions of the library ask it
      repositories.setdefault(name, {'private': is_private, 'commits': []})
      return self._answer(200, {'url': f'{here}/{name}', 'name': name})
    name = '/'.join(path.split('/')[3:5])
    if path.endswith('/preupload/main'):
      files = [
        {'path': file['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for file in json.loads(content)['files']
      ]
      return self._answer(200, {'files': files})
    if path.endswith('/commit/main'):
      if self.server.breaks:
        return self._answer(500, {'error': 'the server is broken'})
      lines = [json.loads(line) for line in content.decode().splitlines()]
      of = lambda key: [line['value'] for line in lines if line['key'] == key]
      files = {value['path']: base64.b64decode(value['content']) for value in of('file')}
      repositories[name]['commits'].append(files)
      repositories[name]['deleted'] = [value['path'] for value in of('deletedFile')]
      return self._answer(
        200, {'commitUrl': f'{here}/{name}/commit/{"1" * 40}', 'commitOid': '1' * 40, 'success': True}
      )
    return self._answer(404, {'error': path})

  def do_GET(self):
    path = self.path.partition('?')[0]
    repository = self.server.repositories.get('/'.join(path.split('/')[3:5]))
    if repository is None:
      return self._answer(404, {'error': 'Repository not found'})
    commits = repository['commits']
    files = {name: content for commit in commits for name, content in commit.items()}
    if '/tree/' in path:
      entries = [{'type': 'file', 'path': name, 'size': len(a), 'oid': 'b' * 40} for name, a in files.items()]
      return self._answer(200, entries)
    info = {'id': 'me/model', 'modelId': 'me/model', 'sha': '1' * 40, 'tags': [], 'private': False}
    return self._answer(200, info | {'siblings': [{'rfilename': name} for name in files]})

  def _answer(self, status, content):
    data = json.dumps(content).encode()
    self.send_response(status)
    self.send_header('Content-Type', 'application/json')
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *arguments):
    del arguments


@pytest.fixture
def hub():
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub)
  server.repositories, server.breaks = {}, False
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield server
  server.shutdown()


@pytest.fixture(scope='module')
def workdir(raw_config, tmp_path_factory):
  return exports.pre_trained('masked_lm', raw_config, tmp_path_factory.mktemp('pushed'))


def push(server, folder, *flags, token='hf_right', endpoint=None):
  """(exit code, standard output, standard error) of the command, which reads the address of the Hub as it starts."""
  variables = {'HF_ENDPOINT': endpoint or f'http://127.0.0.1:{server.server_port}', 'HF_HOME': str(folder / 'home')}
  variables |= {'HF_TOKEN': token} if token else {}
  env = {name: value for name, value in os.environ.items() if not name.startswith('HF_')} | variables
  env |= {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT), 'HF_HUB_DISABLE_PROGRESS_BARS': '1'}
  command = [sys.executable, '-m', 'lmjax.export', *flags]
  done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=300)
  assert 'Traceback' not in done.stderr, done.stderr
  return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_folder_is_one_commit(hub, workdir, tmp_path):
  code, out, err = push(hub, tmp_path, f'--workdir={workdir}', '--out=out', '--push=me/model', '--private')
  assert code == 0, err
  assert out.splitlines()[-1].endswith(f'/me/model/commit/{"1" * 40}')
  repository = hub.repositories['me/model']
  [files] = repository['commits']
  assert repository['private'] is True
  made = [path for path in (tmp_path / 'out').rglob('*') if path.is_file()]
  assert files == {str(path.relative_to(tmp_path / 'out')): path.read_bytes() for path in made}
  assert '# me/model' in files['README.md'].decode() and str(tmp_path) not in files['README.md'].decode()


@pytest.mark.slow
def test_a_push_takes_the_place_of_the_one_before(hub, workdir, tmp_path):
  """Parts of weights that were more files then would be read with those of now."""
  old = {name: b'' for name in ('model-00001-of-00002.safetensors', 'notes.pdf', 'config.json')}
  hub.repositories['me/model'] = {'private': None, 'commits': [old]}
  code, _, err = push(hub, tmp_path, f'--workdir={workdir}', '--out=out', '--push=me/model')
  assert code == 0, err
  assert hub.repositories['me/model']['deleted'] == ['model-00001-of-00002.safetensors']


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags, settings, code, message, is_written',
  [
    ([], dict(token=None), 2, '--push = me/model: there is no token for the Hub; log in with `hf auth login`', False),
    ([], dict(token='hf_wrong'), 2, 'the Hub refuses the token (HTTP 401)', True),
    (['--push=others/model'], {}, 2, 'the Hub refuses the token (HTTP 403)', True),
    (['--push=a/b/c'], {}, 2, 'give NAME or ORG/NAME', True),
    ([], dict(endpoint='http://127.0.0.1:9'), 4, 'nothing was pushed, the folder is whole', True),
  ],
)
def test_what_cannot_be_pushed_is_one_line(flags, settings, code, message, is_written, hub, workdir, tmp_path):
  found, out, err = push(
    hub, tmp_path, f'--workdir={workdir}', '--out=out', *(flags or ['--push=me/model']), **settings
  )
  assert found == code and message in err and len(err.strip().splitlines()) == 1, err
  assert (tmp_path / 'out/config.json').exists() == is_written
  assert not any(repository['commits'] for repository in hub.repositories.values())


@pytest.mark.slow
def test_a_server_that_breaks_has_nothing_half_pushed(hub, workdir, tmp_path):
  hub.breaks = True
  code, _, err = push(hub, tmp_path, f'--workdir={workdir}', '--out=out', '--push=me/model')
  assert code == 4 and 'nothing was pushed' in err
  assert hub.repositories['me/model']['commits'] == []
