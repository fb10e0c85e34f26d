"""Archives of samples, as webdataset has them."""

import gzip
import json
import tracemalloc

import pytest

from lmjax.data.sources import archives
from lmjax.errors import DataError
from tests.data.sources.reading import read
from tests.data.sources.test_formats import tar


@pytest.fixture(autouse=True)
def notes_are_printed_again():
  archives.note.cache_clear()


def test_a_sample_gives_one_text_and_other_members_are_counted(tmp_path, capsys):
  members = {
    'a/000.cls': b'1',
    'a/000.json': b'{"caption": "not read"}',
    'a/000.jpg': b'\xff\xd8',
    'a/000.txt': b'text of a sample',
    'a/001.json': b'{"text": "of JSON", "url": "x"}',
    'a/002.json': b'"a bare string"',
    'b/002.txt': b'of another folder',
    'b/._002.txt': b'what macOS adds',
    'b/lines.jsonl': b'{"text": "line 1"}\n{"text": null}\n{"text": "line 3"}\n',
    'b/003.md': b'',
  }
  (tmp_path / 'a.tar').write_bytes(tar(members))
  texts = ['text of a sample', 'of JSON', 'a bare string', 'of another folder', 'line 1', 'line 3']
  assert read(tmp_path / 'a.tar') == (texts, {'empty': 2})
  line = f'lmjax: {tmp_path}/a.tar: is read; 3 members that are no text are left out (.cls 1, .jpg 1, .txt 1)\n'
  assert capsys.readouterr().err == line
  (tmp_path / 'b.tar.gz').write_bytes(gzip.compress(tar(members)))
  assert read(tmp_path / 'b.tar.gz') == (texts, {'empty': 2})


def test_names_that_lead_elsewhere_are_text_like_others(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'a.tar').write_bytes(tar({'../../up.txt': b'up', '/etc/root.txt': b'root'}))
  assert read('a.tar')[0] == ['up', 'root']
  assert [path.name for path in tmp_path.iterdir()] == ['a.tar']


def test_a_broken_member_is_named(tmp_path):
  for member, message in [
    (b'{"text": ', 'broken JSON .*the file must be one object'),
    (b'{"body": "a"}', "no field 'text'.*body"),
    (b'[1]', 'a JSON list'),
  ]:
    (tmp_path / 'a.tar').write_bytes(tar({'0.json': b'{"text": "a"}', '1.json': member}))
    with pytest.raises(DataError, match=f'a.tar, 1.json: {message}'):
      read(tmp_path / 'a.tar')


def test_an_archive_is_not_held_in_memory(tmp_path):
  data = tar({f'{i}.json': json.dumps({'text': 'word ' * 10}).encode() for i in range(3_000)})
  (tmp_path / 'a.tar').write_bytes(data)
  tracemalloc.start()
  try:
    assert len(read(tmp_path / 'a.tar', target=1)[0]) == 3_000
    kept = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert kept < 2_000_000
