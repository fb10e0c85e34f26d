"""What files a path names: folders, globs, braces, folders of save_to_disk."""

import json
import os

import pyarrow as pa
import pytest

from lmjax.data.sources import listing
from lmjax.data.sources.listing import files_of
from lmjax.errors import DataError
from tests.data.sources.reading import read


def write(folder, *names, content=b'{"text": "a"}\n'):
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def names(folder, path):
  return [os.path.relpath(file.name, folder) for file in files_of(str(path))]


@pytest.fixture(autouse=True)
def notes_are_printed_again():
  listing.note.cache_clear()


def test_a_folder_gives_all_readable_files_below_it(tmp_path, capsys):
  write(
    tmp_path, 'b.jsonl', 'a/z.txt', 'a/deep/er.json.gz', 'c.csv', '.hidden.txt', '.git/a.txt', 'x.pdf', 'y.md5', 'z'
  )
  assert names(tmp_path, tmp_path) == ['a/deep/er.json.gz', 'a/z.txt', 'b.jsonl', 'c.csv']
  line = '4 files are read; 3 with other endings are left out (.pdf 1, .md5 1, no ending 1)'
  assert line in capsys.readouterr().err
  assert names(tmp_path, f'{tmp_path}/') == names(tmp_path, tmp_path)


def test_a_field_is_read_where_there_are_fields(tmp_path):
  write(tmp_path, 'a.jsonl', content=b'{"body": "fields"}')
  write(tmp_path, 'b.md', content=b'plain')
  assert read(tmp_path, 'body')[0] == ['fields', 'plain']


def test_links_are_followed_once(tmp_path):
  write(tmp_path / 'data', 'a.txt')
  write(tmp_path / 'far', 'b.txt')
  (tmp_path / 'data' / 'self').symlink_to(tmp_path / 'data')
  (tmp_path / 'data' / 'other').symlink_to(tmp_path / 'far')
  assert names(tmp_path / 'data', tmp_path / 'data') == ['a.txt', 'other/b.txt']


def test_globs_and_braces(tmp_path):
  write(
    tmp_path, 'a.jsonl', 'b.jsonl', 'c.txt', 'd/a.jsonl', 'd/e/a.jsonl', 'f-08.txt', 'f-09.txt', 'f-10.txt', '{x}.txt'
  )
  for path, wanted in {
    '*.jsonl': ['a.jsonl', 'b.jsonl'],
    '{b,a}.jsonl': ['a.jsonl', 'b.jsonl'],
    '{a,c,none}.{txt,jsonl}': ['a.jsonl', 'c.txt'],
    '**/a.jsonl': ['a.jsonl', 'd/a.jsonl', 'd/e/a.jsonl'],
    '{d/*,a}.jsonl': ['a.jsonl', 'd/a.jsonl'],
    'f-{08..10}.txt': ['f-08.txt', 'f-09.txt', 'f-10.txt'],
    '{x}.txt': ['{x}.txt'],
    '{*,a}.jsonl': ['a.jsonl', 'b.jsonl'],
  }.items():
    assert names(tmp_path, tmp_path / path) == wanted, path


def test_stamps_change_with_the_file(tmp_path):
  write(tmp_path, 'a.txt')
  before = files_of(str(tmp_path / 'a.txt'))
  assert before == files_of(str(tmp_path / 'a.txt')) and before[0].size == 14
  os.utime(tmp_path / 'a.txt', ns=(1, 1))
  assert files_of(str(tmp_path / 'a.txt')) == [before[0]._replace(stamp='1')]


def test_what_is_not_there(tmp_path):
  write(tmp_path, 'only/a.pdf')
  (tmp_path / 'empty').mkdir()
  for path, message in [
    ('none.txt', r'there is no such file.*relative to [^,]*\)$'),
    ('{a,b}.txt', 'there is no such file'),
    ('*.txt', 'the glob matches no file'),
    ('only', r'a folder without a file that is read \(.pdf 1\); its files must end in one of .txt'),
    ('empty', r'a folder without a file that is read \(it is empty\)'),
    ('only/*', 'only/a.pdf: .pdf is not read as text'),
  ]:
    with pytest.raises(DataError, match=message):
      files_of(str(tmp_path / path))


def test_an_id_without_hf_is_told(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(DataError, match=r'^org/name: there is no such file.*, or write hf:org/name for a data set'):
    files_of('org/name')


def saved(folder, texts):
  """A folder as `save_to_disk` of the library `datasets` writes it, two rows a file, in an order of its own."""
  folder.mkdir(parents=True)
  files = []
  for number in reversed(range(0, len(texts), 2)):
    name = f'data-{number // 2:05}-of-{len(texts) // 2:05}.arrow'
    data = pa.table({'text': texts[number : number + 2]})
    with pa.ipc.new_stream(folder / name, data.schema) as writer:
      writer.write_table(data, max_chunksize=1)
    files.append({'filename': name})
  (folder / 'state.json').write_text(json.dumps({'_data_files': files, '_fingerprint': 'x'}))
  (folder / 'dataset_info.json').write_text(json.dumps({'features': {'text': {'dtype': 'string', '_type': 'Value'}}}))


@pytest.mark.parametrize('order', [1, -1])
def test_a_folder_with_two_names_is_read_once_under_the_first(tmp_path, monkeypatch, order):
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 't.txt').write_text('text')
  (tmp_path / 'a').symlink_to(tmp_path / 'b')
  walk = os.walk

  def in_order(folder, **options):
    for place, folders, names in walk(folder, **options):
      folders.sort(reverse=order < 0)
      yield place, folders, names

  monkeypatch.setattr(os, 'walk', in_order)
  assert [file.name for file in files_of(str(tmp_path))] == [str(tmp_path / 'a' / 't.txt')]


def test_a_folder_of_save_to_disk_is_read_in_its_order(tmp_path, capsys):
  saved(tmp_path / 'set', list('abcdef'))
  assert read(tmp_path / 'set') == (list('efcdab'), {})
  assert capsys.readouterr().err == ''  # what describes the data is no file that is left out
  saved(tmp_path / 'more' / 'deep', list('gh'))
  write(tmp_path / 'more', 'a.txt')
  assert read(tmp_path / 'more')[0] == ['{"text": "a"}\n', 'g', 'h']


def test_splits_of_save_to_disk_are_named(tmp_path):
  for split in ('test', 'train'):
    saved(tmp_path / 'set' / split, list('ab'))
  (tmp_path / 'set' / 'dataset_dict.json').write_text('{"splits": ["train", "test"]}')
  with pytest.raises(DataError, match='holds the splits test, train .*write .*set/train'):
    read(tmp_path / 'set')
  assert read(tmp_path / 'set' / 'train')[0] == ['a', 'b']


def test_a_state_that_is_broken_is_named(tmp_path):
  saved(tmp_path / 'set', list('ab'))
  (tmp_path / 'set' / 'state.json').write_text('{}')
  with pytest.raises(DataError, match='state.json: is not what save_to_disk writes'):
    read(tmp_path / 'set')
