"""Files at an address: listed and read through fsspec; what is missing to reach one is named."""

import gzip
import http.server
import pathlib
import sys
import threading

import fsspec
import pytest

from lmjax.data.sources import files, remote
from lmjax.data.sources.listing import files_of
from lmjax.errors import DataError
from tests.data.sources.reading import read
from tests.data.sources.test_formats import TEXTS, arrow, lines, parquet, zstd


@pytest.fixture
def memory():
  """A file system of fsspec that holds what it is given, `{name: bytes}`."""
  system = fsspec.filesystem('memory')
  yield lambda contents: [system.pipe_file(f'/{name}', content) for name, content in contents.items()]
  system.rm('/', recursive=True)


def test_folders_globs_and_braces_at_an_address(memory):
  memory({'b/x.jsonl': lines(['x']), 'b/d/y.json.gz': gzip.compress(lines(['y'])), 'b/z.pdf': b'', 'b/.h.txt': b''})
  for path, wanted in {
    'memory://b': ['d/y.json.gz', 'x.jsonl'],
    'memory://b/': ['d/y.json.gz', 'x.jsonl'],
    'memory://b/*.jsonl': ['x.jsonl'],
    'memory://b/**/*.gz': ['d/y.json.gz'],
    'memory://b/{x,d/y}.{jsonl,json.gz}': ['d/y.json.gz', 'x.jsonl'],
    'memory://b/x.jsonl': ['x.jsonl'],
  }.items():
    assert [file.name.partition('/b/')[2] for file in files_of(path)] == wanted, path
  assert read('memory://b')[0] == ['y', 'x']
  assert read('memory://b', target=1)[0] == ['y', 'x']
  for path, message in [
    ('memory://b/none.txt', 'there is no such file'),
    ('memory://b/*.txt.gz', 'the glob matches no'),
  ]:
    with pytest.raises(DataError, match=message):
      files_of(path)
  assert files.identity('memory://b/*.jsonl') == files.identity('memory://b/x.jsonl')


def test_every_kind_is_read_at_an_address_in_pieces(memory):
  contents = {
    'a.jsonl': lines(),
    'a.parquet': parquet(row_group_size=5),
    'a.arrow': arrow(),
    'a.jsonl.zst': zstd(lines()),
  }
  memory({f'b/{name}': content for name, content in contents.items()})
  for name in contents:
    for target in (100, 1 << 30):
      assert read(f'memory://b/{name}', target=target) == (TEXTS, {}), name


def test_a_saved_folder_at_an_address(memory):
  both = {f'b/data-0000{i}-of-00002.arrow': arrow([text]) for i, text in enumerate('ab')}
  memory({**both, 'b/state.json': b'{}', 'b/dataset_info.json': b'{}'})
  assert read('memory://b') == (['a', 'b'], {})


@pytest.mark.parametrize(
  'address, library, command',
  [
    ('gs://bucket/a.txt', 'gcsfs', r"pip install 'lmjax\[gcs\]'"),
    ('s3://bucket/a.txt', 's3fs', r"pip install 'lmjax\[s3\]'"),
    ('https://host/a.txt', 'aiohttp', r"pip install 'lmjax\[https\]'"),
  ],
)
def test_what_is_not_installed_is_named(monkeypatch, address, library, command):
  monkeypatch.setitem(sys.modules, library, None)
  for module in [name for name in sys.modules if name.startswith((f'{library}.', 'fsspec.implementations.http'))]:
    monkeypatch.delitem(sys.modules, module)
  for scheme in ('gs', 's3', 'https'):
    monkeypatch.delitem(sys.modules['fsspec.registry']._registry, scheme, raising=False)
  with pytest.raises(DataError, match=f'^{address}: .*cannot be reached without {library}; .*; {command}$'):
    files_of(address)


def test_an_address_that_nothing_reads():
  with pytest.raises(
    DataError, match='nothing reads nope://; an address must begin with one of gs://, s3://, https://'
  ):
    files_of('nope://host/a.txt')


class Web(http.server.SimpleHTTPRequestHandler):
  """A server that sends parts of files where `ranges` are allowed."""

  ranges = True

  def do_GET(self):
    path = pathlib.Path(self.translate_path(self.path))
    if not path.is_file():
      return self.send_error(404)
    content, status = path.read_bytes(), 200
    whole = len(content)
    wanted = self.headers.get('Range', '') if self.ranges else ''
    if wanted.startswith('bytes='):
      first, _, last = wanted.removeprefix('bytes=').partition('-')
      content, status = content[int(first) : int(last) + 1 if last else None], 206
    self.send_response(status)
    self.send_header('ETag', f'"{path.stat().st_mtime_ns}"')
    if status == 206:
      self.send_header('Content-Range', f'bytes {first}-{int(first) + len(content) - 1}/{whole}')
    if self.ranges:
      self.send_header('Accept-Ranges', 'bytes')
    if self.ranges or self.command == 'GET':
      self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(content)

  do_HEAD = do_GET

  def log_message(self, *arguments):
    pass


@pytest.fixture(params=[True, False], ids=['with ranges', 'as a stream'])
def web(tmp_path, request):
  pytest.importorskip('aiohttp')
  handler = type('Handler', (Web,), {'ranges': request.param})
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), lambda *a: handler(*a, directory=str(tmp_path)))
  threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
  remote.filesystem('http://').invalidate_cache()
  yield f'http://127.0.0.1:{server.server_port}'
  server.shutdown()
  server.server_close()


def test_files_of_the_web_are_read(web, tmp_path):
  for name, content in {'a.jsonl': lines(), 'b.json.gz': gzip.compress(lines()), 'c.jsonl.zst': zstd(lines())}.items():
    (tmp_path / name).write_bytes(content)
    assert read(f'{web}/{name}?download=true') == (TEXTS, {}), name
    [file] = files_of(f'{web}/{name}')
    assert file.stamp == f'"{(tmp_path / name).stat().st_mtime_ns}"'
    [[_, size, _]] = files.identity(f'{web}/{name}')['files']
    assert size == len(content)
  assert read(f'{web}/{{b.json.gz,a.jsonl}}')[0] == TEXTS * 2
  with pytest.raises(DataError, match='none.jsonl: there is no such file'):
    files_of(f'{web}/none.jsonl')


def test_what_does_not_answer_is_named():
  pytest.importorskip('aiohttp')
  with pytest.raises(DataError, match='127.0.0.1:9/a.txt: cannot be reached .*; check address and network'):
    files_of('http://127.0.0.1:9/a.txt')
