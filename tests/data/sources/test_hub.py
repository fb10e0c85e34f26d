"""Data sets of the Hub by their id: what a card says of configurations and splits; a server that stands in for it."""

import http.server
import json
import os
import subprocess
import sys
import threading
import types

import huggingface_hub
import pytest
from huggingface_hub import errors

from lmjax.data.sources import hub, notes
from lmjax.data.sources.listing import files_of
from lmjax.errors import DataError
from tests.conftest import ROOT
from tests.data.sources.test_formats import parquet

COMMIT, CONVERTED, OTHER = 'a' * 40, 'b' * 40, 'c' * 40
FINEWEB = [
  {'config_name': 'default', 'data_files': [{'split': 'train', 'path': 'data/*/*'}]},
  {'config_name': 'sample-10BT', 'data_files': [{'split': 'train', 'path': 'sample/10BT/*'}]},
]
WIKIPEDIA = [{'config_name': f'2023.{name}', 'data_files': f'2023.{name}/train-*'} for name in ('de', 'en')]
# {id: (what its card says of configurations, {commit: names of files})}
SETS = {
  'org/fineweb': (
    FINEWEB,
    {COMMIT: ['data/a/000.parquet', 'data/b/000.parquet', 'sample/10BT/0.parquet', 'README.md']},
  ),
  'org/wikipedia': (
    WIKIPEDIA,
    {COMMIT: ['2023.de/train-0.parquet', '2023.en/train-0.parquet', '2023.en/test-0.parquet']},
  ),
  'squad': (None, {COMMIT: ['plain_text/train-0-of-1.parquet', 'plain_text/validation-0-of-1.parquet']}),
  'org/plain': (None, {COMMIT: ['data/test-0.parquet', 'data/train-1.parquet', 'data/train-0.parquet']}),
  'org/flat': (None, {COMMIT: ['b.parquet', 'a.parquet'], OTHER: ['old.parquet']}),
  'org/held': (None, {COMMIT: ['data/test-0.parquet', 'data/validation-0.parquet']}),
  'org/lines': (
    None,
    {COMMIT: ['a.jsonl'], CONVERTED: ['default/partial-train/0000.parquet', 'default/test/0000.parquet']},
  ),
  'org/code': (None, {COMMIT: ['code.py']}),
}


class Api:
  """What is asked of `HfApi`."""

  def dataset_info(self, name, revision=None):
    response = types.SimpleNamespace(headers={}, status_code=404, request=None)
    if name == 'org/gated':
      raise errors.GatedRepoError('gated', response=response)
    if name == 'org/far':
      raise ConnectionError('no network')
    if name not in SETS:
      raise errors.RepositoryNotFoundError('none', response=response)
    configs, commits = SETS[name]
    commit = {None: COMMIT, 'refs/convert/parquet': CONVERTED, 'v1': OTHER}.get(revision, revision)
    if commit not in commits:
      raise errors.RevisionNotFoundError('none', response=response)
    card = None if configs is None else huggingface_hub.DatasetCardData(configs=configs)
    return types.SimpleNamespace(sha=commit, card_data=card)

  def list_repo_tree(self, name, recursive, revision, repo_type):
    assert recursive and repo_type == 'dataset'
    yield huggingface_hub.hf_api.RepoFolder(path='data', oid='d')
    for number, path in enumerate(SETS[name][1][revision]):
      yield huggingface_hub.hf_api.RepoFile(path=path, size=number, oid=f'oid {path}')


@pytest.fixture
def api(monkeypatch):
  notes.note.cache_clear()
  monkeypatch.setattr(huggingface_hub, 'HfApi', Api)


@pytest.mark.parametrize(
  'path, wanted, commit',
  [
    ('hf:org/fineweb', ['data/a/000.parquet', 'data/b/000.parquet'], COMMIT),
    ('hf:org/fineweb/sample-10BT', ['sample/10BT/0.parquet'], COMMIT),
    ('hf:org/wikipedia/2023.en', ['2023.en/train-0.parquet'], COMMIT),
    ('hf:squad', ['plain_text/train-0-of-1.parquet'], COMMIT),
    ('hf:squad@validation', ['plain_text/validation-0-of-1.parquet'], COMMIT),
    ('hf:squad@valid', ['plain_text/validation-0-of-1.parquet'], COMMIT),
    ('hf:org/plain', ['data/train-0.parquet', 'data/train-1.parquet'], COMMIT),
    ('hf:org/plain@test', ['data/test-0.parquet'], COMMIT),
    ('hf:org/flat', ['a.parquet', 'b.parquet'], COMMIT),
    ('hf:org/flat@v1', ['old.parquet'], OTHER),
    (f'hf:org/flat@{OTHER}', ['old.parquet'], OTHER),
    ('hf:org/held@test', ['data/test-0.parquet'], COMMIT),
    ('hf:org/lines@test', ['default/test/0000.parquet'], CONVERTED),
  ],
)
def test_an_id_names_the_parquet_files_of_a_split(api, path, wanted, commit):
  found = files_of(path)
  start = f'hf://datasets/{path[3:].partition("@")[0].removesuffix("/sample-10BT").removesuffix("/2023.en")}@{commit}/'
  assert [file.name for file in found] == [start + name for name in wanted]
  assert [file.stamp for file in found] == [f'oid {name}' for name in wanted]


def test_what_the_hub_converted_in_part_is_told(api, capsys):
  assert [file.name.rpartition(CONVERTED)[2] for file in files_of('hf:org/lines')] == [
    '/default/partial-train/0000.parquet'
  ]
  assert 'hf:org/lines: the Hub has converted a first part of it to parquet' in capsys.readouterr().err


@pytest.mark.parametrize(
  'path, message',
  [
    ('hf:org/none', 'the Hub has no data set of that name that may be read; .*HF_TOKEN'),
    ('hf:org/gated', 'its owner gives access on request; accept its terms'),
    ('hf:org/far', r'the Hub cannot be reached \(ConnectionError: no network\); check the network, or download'),
    ('hf:org/wikipedia', 'has the configurations 2023.de, 2023.en; one must be named; write hf:ORG/NAME/CONFIG'),
    ('hf:org/wikipedia/fr', "no configuration 'fr'; there are: 2023.de, 2023.en"),
    ('hf:org/plain@dev', "no split and no revision 'dev'; splits there: test, train; name one after @"),
    ('hf:org/held', 'has the splits test, validation; a source must be one of them; name it after @'),
    ('hf:org/code', r'holds no .parquet.*; name files that it holds, such as hf://datasets/org/code/\*\*'),
    ('hf:', 'names no data set; a data set is hf:ORG/NAME'),
    ('hf:a/b/c/d.parquet', 'names no data set; .*hf://datasets'),
  ],
)
def test_what_cannot_be_named(api, path, message):
  with pytest.raises(DataError, match=f'^{path}: {message}') as refused:
    files_of(path)
  assert '\n' not in str(refused.value)


def test_splits_are_told_by_names():
  found = {
    name: hub._split_of(name) for name in ('data/train-0.parquet', 'x/dev.parquet', 'test/0.parquet', '000.parquet')
  }
  assert list(found.values()) == ['train', 'validation', 'test', 'train']
  assert hub._split_of('latest/0.parquet') == hub._split_of('contest-0.parquet') == 'train'


class Server(http.server.BaseHTTPRequestHandler):
  """What `huggingface_hub` asks of the Hub about one data set."""

  def do_GET(self):
    path, content = self.path.partition('?')[0], parquet(['a', None, 'größer'])
    if '/org/web' not in path:
      return self.answer(404, b'{}', {'X-Error-Code': 'RepoNotFound', 'X-Error-Message': 'none'})
    if '/resolve/' in path:
      first, _, last = self.headers.get('Range', 'bytes=0-').removeprefix('bytes=').partition('-')
      return self.answer(206, content[int(first) : int(last) + 1 if last else None], {})
    if '/tree/' in path:
      entry = {'type': 'file', 'path': 'data/train-0.parquet', 'size': len(content), 'oid': 'b' * 40}
      if not path.endswith('/data') and 'recursive=true' not in self.path.lower():
        entry = {'type': 'directory', 'path': 'data', 'oid': 'd' * 40}
      return self.answer(200, json.dumps([entry]).encode(), {'Content-Type': 'application/json'})
    info = {'id': 'org/web', 'sha': COMMIT, 'siblings': [], 'tags': [], 'private': False}
    return self.answer(200, json.dumps(info).encode(), {'Content-Type': 'application/json'})

  def answer(self, status, content, headers):
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *arguments):
    pass


CODE = """
import collections
from lmjax.data.config import SourceConfig
from lmjax.data.sources import documents
from tests.data.sources.reading import texts
from lmjax.errors import DataError

def read(path):
  try:
    return list(texts(SourceConfig(path, 'text', 1.0), 'raise', collections.Counter()))
  except DataError as error:
    return str(error)

print([read(path) for path in ('hf:org/web', 'hf://datasets/org/web/data/*.parquet', 'hf:org/none')])
print(documents.identity('hf:org/web')['files'])
"""


def test_a_data_set_is_read_from_a_server(tmp_path):
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server)
  threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
  settings = {'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}', 'HF_HOME': str(tmp_path)}
  try:
    command = [sys.executable, '-c', CODE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | settings, timeout=60)
  finally:
    server.shutdown()
  assert done.returncode == 0, done.stderr
  texts, identity = map(eval, done.stdout.splitlines())
  assert texts[:2] == [['a', 'größer']] * 2 and texts[2].startswith('hf:org/none: the Hub has no data set of that name')
  assert identity == [['train-0.parquet', len(parquet(['a', None, 'größer'])), 'b' * 40]]
