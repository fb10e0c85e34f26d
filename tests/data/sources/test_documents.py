"""Sources: every kind of file, every kind of bad input, the embedded corpus, TFDS without TensorFlow."""

import collections
import gzip
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import sys
import time
import tracemalloc

import pytest

from lmjax.data.config import SourceConfig, default_field
from lmjax.data.digests import normalised_digest64
from lmjax.data.sources import documents, lines
from lmjax.data.sources import tfds as tfds_source
from lmjax.errors import DataError
from tests.conftest import ROOT
from tests.data.sources.reading import texts


def read(path, bad_text='raise', field='text'):
  counts = collections.Counter()
  path = str(path)
  found = list(texts(SourceConfig(path, default_field(path, field), 1.0), bad_text, counts))
  return found, counts


def jsonl(path, *records):
  path.write_bytes(b''.join(r if isinstance(r, bytes) else json.dumps(r).encode() + b'\n' for r in records))
  return path


def test_jsonl_is_read_plain_and_compressed_and_keeps_unicode_line_ends(tmp_path):
  records = [{'text': 'one\u2028line \x85 still'}, {'text': 'two', 'other': 1}]
  data = '\n'.join(json.dumps(record, ensure_ascii=False) for record in records).encode()
  (tmp_path / 'a.jsonl').write_bytes(data)
  with gzip.open(tmp_path / 'b.jsonl.gz', 'wb') as file:
    file.write(data)
  with lzma.open(tmp_path / 'c.jsonl.xz', 'wb') as file:
    file.write(b'\xef\xbb\xbf' + data)
  wanted = [record['text'] for record in records]
  for name in ('a.jsonl', 'b.jsonl.gz', 'c.jsonl.xz'):
    found, counts = read(tmp_path / name)
    assert found == wanted
    assert counts == {'documents': 2, 'bytes': sum(len(text.encode()) for text in wanted)}
  assert read(tmp_path / '*.jsonl*')[0] == wanted * 3


def test_text_files_are_cut_at_paragraphs_and_lose_nothing(tmp_path):
  paragraphs = [f'{number} ' + 'word ' * 200 for number in range(60)]
  text = '\n\n'.join(paragraphs) + '\n'
  path = tmp_path / 'a.txt'
  path.write_bytes(b'\xef\xbb\xbf' + text.encode())
  found, _ = read(path)
  assert ''.join(found) == text and len(found) > 5
  assert all(2_048 < len(document) < 32_768 + 1_100 and document.endswith('\n\n') for document in found[:-1])


def test_copies_of_a_text_are_cut_alike(tmp_path):
  """With other line ends, spacing, case or headers, and in parts: a document or two at the beginning differ."""
  paragraphs = [f'Paragraph {number} of ' + 'Words ' * (number % 90) + f'and {number * 7}.' for number in range(600)]
  for end, join in (('\n', '\n\n'), (' is a line.\n', '\n')):
    text = join.join(one.replace('. ', end) for one in paragraphs)
    copies = [
      text,
      text.replace('\n', '\r\n'),
      text.upper(),
      text.replace(' ', '  '),
      f'A HEADER\n\n{text}',
      text[5_000:],
    ]
    found = []
    for copy in copies:
      (tmp_path / 'a.txt').write_text(copy, newline='')
      found.append({normalised_digest64(one) for one in read(tmp_path / 'a.txt')[0]})
    assert len(found[0]) > 10 and found[0] == found[1] == found[2] == found[3]
    assert all(len(found[0] - other) <= 4 for other in found[4:]), [len(found[0] - other) for other in found]


def test_text_without_paragraphs_is_cut_at_line_ends(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('a line of text\n' * 5_000)
  found, _ = read(path)
  assert ''.join(found) == path.read_text()
  assert all(8_192 < len(document) < 32_800 for document in found[:-1]) and len(found) > 2


@pytest.mark.parametrize('unit', ['wörd ', '語'], ids=['spaces', 'no spaces'])
def test_a_line_that_never_ends_is_cut_between_characters(tmp_path, unit):
  path = tmp_path / 'a.txt'
  path.write_text(unit * 800_000, encoding='utf-8')
  found, counts = read(path)
  assert ''.join(found) == unit * 800_000
  assert len(found) > 2 and max(len(text.encode()) for text in found) <= 1 << 20
  assert not counts['replaced']
  if unit.endswith(' '):
    assert all(text.startswith(' ') for text in found[1:])


def test_empty_documents_are_counted(tmp_path):
  path = jsonl(tmp_path / 'a.jsonl', {'text': ''}, {'text': ' \n\t'}, b'\n', {'text': 'x'}, {'text': None})
  assert read(path) == (['x'], {'documents': 1, 'empty': 3, 'bytes': 1})
  (tmp_path / 'a.txt').write_text('')
  (tmp_path / 'b.txt').write_text('text')
  assert read(tmp_path / '*.txt') == (['text'], {'documents': 1, 'empty': 1, 'bytes': 4})


BAD = {
  'bytes in text': ('a.txt', b'caf\xe9', 'caf\ufffd'),
  'bytes in JSON': ('a.jsonl', b'{"text": "caf\xe9"}\n', 'caf\ufffd'),
  'surrogate in JSON': ('a.jsonl', b'{"text": "a\\ud800b"}\n', 'a\ufffdb'),
}


@pytest.mark.parametrize('kind', BAD)
def test_bad_text_is_an_error_or_repaired_or_skipped_by_policy(tmp_path, kind):
  name, data, repaired = BAD[kind]
  (tmp_path / f'0{name}').write_bytes(data)
  (tmp_path / f'1{name}').write_bytes(b'{"text": "fine"}\n')
  path = tmp_path / f'*{name}'
  with pytest.raises(DataError, match=r"0a.*(UTF-8|surrogate).*'replace'"):
    read(path)
  found, counts = read(path, 'replace')
  assert found[0] == repaired and counts['replaced'] == 1 and counts['documents'] == 2
  found, counts = read(path, 'skip')
  assert len(found) == 1 and counts['skipped'] == 1 and counts['documents'] == 1


def test_a_surrogate_pair_is_a_character(tmp_path):
  assert read(jsonl(tmp_path / 'a.jsonl', b'{"text": "\\ud83d\\ude00"}\n'))[0] == ['\U0001f600']


@pytest.mark.parametrize(
  'line, message',
  [
    (b'{"text": \n', 'line 2: broken JSON'),
    (b'[1]\n', 'line 2: a JSON list'),
    (b'{"body": "x", "title": "y"}\n', "line 2: no field 'text'.*body, title"),
    (b'[' * 100_000 + b'\n', 'line 2: broken JSON'),
  ],
)
def test_broken_records_name_file_and_line(tmp_path, line, message):
  with pytest.raises(DataError, match=message):
    read(jsonl(tmp_path / 'a.jsonl', {'text': 'fine'}, line))


def test_missing_and_unusable_paths_are_errors(tmp_path):
  for name in ('a.pdf', 'a.xyz'):
    (tmp_path / name).write_text('x')
  (tmp_path / 'empty.txt').write_text('')
  for path, message in [
    (tmp_path / 'none.txt', 'there is no such file'),
    (tmp_path / '*.txt.gz', 'matches no file'),
    (tmp_path / 'a.pdf', r'a.pdf: .pdf is not read as text; convert it to text'),
    (tmp_path / 'a.xyz', r'unknown ending.*\.jsonl, .*\.xz'),
  ]:
    with pytest.raises(DataError, match=message):
      read(path)


@pytest.mark.parametrize('pack', [lzma.compress, gzip.compress], ids=['xz', 'gz'])
def test_corrupt_archives_are_errors(tmp_path, pack):
  ending = 'xz' if pack is lzma.compress else 'gz'
  whole = pack(os.urandom(5_000).hex().encode())
  flipped = bytearray(whole)
  flipped[len(whole) // 2] ^= 0xFF
  for data in (whole[: len(whole) // 2], b'not an archive', bytes(flipped)):
    path = tmp_path / f'a.txt.{ending}'
    path.write_bytes(data)
    with pytest.raises(DataError, match='compressed file must be whole'):
      read(path)


def test_identity_follows_content_not_place(tmp_path):
  for folder in ('one', 'two'):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'a.txt').write_text('text')
  one, two = (str(tmp_path / folder / '*.txt') for folder in ('one', 'two'))
  assert documents.identity(one) == documents.identity(two)
  stat = os.stat(tmp_path / 'two' / 'a.txt')
  (tmp_path / 'two' / 'a.txt').write_text('texT')
  os.utime(tmp_path / 'two' / 'a.txt', ns=(stat.st_atime_ns, stat.st_mtime_ns))
  assert documents.identity(one) != documents.identity(two)


def test_field_is_there_exactly_where_it_is_read():
  for path in ('pydoc', 'a.txt', '*.txt.gz', 'b/*.txt.xz', '{a,b}.md', 'https://host/a.txt.zst?download=true'):
    assert default_field(path) is None
    assert not list(SourceConfig(path, None, 1.0).problems())
    assert [problem[0] for problem in SourceConfig(path, 'text', 1.0).problems()] == ['field']
  mixed = ('corpus', 'corpus/**', 'a.{txt,jsonl}', 'hf:org/name', 'https://host/a.csv?download=txt', 'a.parquet')
  for path in ('a.jsonl', '*.jsonl.xz', 'tfds:squad', *mixed):
    assert default_field(path, 'body') == 'body'
    assert not list(SourceConfig(path, 'text', 1.0).problems())
    assert [problem[0] for problem in SourceConfig(path, None, 1.0).problems()] == ['field']


def test_python_documentation_is_prose_and_unique():
  found, counts = read('pydoc')
  assert 1_500_000 < counts['bytes'] < 4_000_000
  assert len(set(found)) == len(found) > 3_000
  assert min(map(len, found)) >= 80
  assert any('The "if" statement' in text for text in found)
  assert any('Serialize ``obj`` to a JSON formatted ``str``' in text for text in found)
  assert 'antigravity' not in sys.modules and 'idlelib' not in sys.modules


@pytest.mark.slow
def test_python_documentation_is_the_same_without_docstrings():
  code = (
    'import collections, hashlib; from lmjax.data.sources.documents import *; from tests.data.sources.reading import *;'
    "texts = texts(SourceConfig('pydoc', None, 1.0), 'raise', collections.Counter());"
    "print(hashlib.sha256('|'.join(texts).encode()).hexdigest())"
  )
  env = os.environ | {'PYTHONHASHSEED': '7'}
  stripped = subprocess.run(
    [sys.executable, '-OO', '-c', code], capture_output=True, text=True, env=env, check=True, cwd=ROOT
  )
  assert stripped.stdout.strip() == hashlib.sha256('|'.join(read('pydoc')[0]).encode()).hexdigest()


def test_lines_do_not_depend_on_how_they_are_read(tmp_path):
  path = tmp_path / 'a.txt'
  data = b'x' * (lines._LONGEST_LINE - 1) + b'\n' + b'y\n' * 3
  path.write_bytes(data)
  with open(path, 'rb') as file:
    assert list(lines._lines(file)) == [data[: lines._LONGEST_LINE], b'y\n', b'y\n', b'y\n']


@pytest.fixture(scope='module')
def tfds_folder(tmp_path_factory):
  tfds = pytest.importorskip('tensorflow_datasets')
  import numpy as np

  class LmjaxTinyText(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'first'}

    def _info(self):
      features = tfds.features.FeaturesDict({'text': tfds.features.Text(), 'number': np.int64})
      return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples(100), 'test': self._generate_examples(3)}

    def _generate_examples(self, count=0):
      for number in range(count):
        yield number, {'text': f'número {number}' if number else b'caf\xe9', 'number': number}

  folder = tmp_path_factory.mktemp('tfds')
  LmjaxTinyText(data_dir=str(folder), file_format='array_record').download_and_prepare()
  return folder


@pytest.fixture
def tfds_read(tfds_folder, monkeypatch):
  import tensorflow_datasets as tfds

  # TFDS_DATA_DIR is read when TFDS is imported; a process that has it imported already must say so here.
  monkeypatch.setattr(tfds.core.constants, 'DATA_DIR', str(tfds_folder))
  builder = tfds.builder
  monkeypatch.setattr(tfds, 'builder', lambda name, **kw: builder(name, data_dir=str(tfds_folder), **kw))
  return read


def test_tfds_text_is_decoded_by_policy_without_tensorflow(tfds_read):
  with pytest.raises(DataError, match='example 0: byte 0xe9'):
    tfds_read('tfds:lmjax_tiny_text')
  found, counts = tfds_read('tfds:lmjax_tiny_text', 'replace')
  assert found == ['caf\ufffd', *(f'número {number}' for number in range(1, 100))]
  assert counts['replaced'] == 1
  found, counts = tfds_read('tfds:lmjax_tiny_text@test', 'skip')
  assert found == ['número 1', 'número 2'] and counts['skipped'] == 1
  assert 'tensorflow' not in sys.modules


def test_tfds_is_read_in_parts_that_hold_each_example_once(tfds_read):
  source, counts = SourceConfig('tfds:lmjax_tiny_text', 'text', 1.0), collections.Counter()
  for target in (1, 200, 1 << 30):
    works = list(documents.works_of(source, target))
    assert [text for work in works for text in documents.texts_of(work, 'replace', counts)][1:] == [
      f'número {number}' for number in range(1, 100)
    ]
    assert len(works) == {1: 100, 1 << 30: 1}.get(target, len(works)) and len({str(work.facts) for work in works})
    assert sum(work.size for work in works) > 100
  assert len(list(documents.works_of(source, 200))) > 5


def test_tfds_mistakes_are_named(tfds_read):
  for path, field, message in [
    ('tfds:lmjax_tiny_text', 'body', "no field 'body'.*number, text"),
    ('tfds:lmjax_tiny_text', 'number', 'must be text'),
    ('tfds:lmjax_tiny_text@valid', 'text', "no split 'valid'.*train, test"),
    ('tfds:squadd', 'text', 'did you mean.*squad'),
    ('tfds:', 'text', 'no data set named'),
  ]:
    with pytest.raises(DataError, match=message):
      tfds_read(path, field=field)


def test_tfds_identity_names_version_and_split(tfds_read):
  one, two = (documents.identity(f'tfds:lmjax_tiny_text{split}') for split in ('', '@test'))
  assert one['name'] == 'lmjax_tiny_text/1.0.0' and one['split'] == 'train' and one != two
  assert json.loads(json.dumps(one)) == one


def test_tfds_identity_is_the_same_on_another_machine(tfds_folder, tmp_path):
  """A copy has other times: a run that goes on on a new VM, or a second host, must know its data again."""
  code = "from lmjax.data.sources.documents import *;print(identity('tfds:lmjax_tiny_text'))"
  shutil.copytree(tfds_folder, tmp_path / 'copy', copy_function=shutil.copyfile)
  said = [
    subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | {'TFDS_DATA_DIR': str(folder)}
    ).stdout
    for folder in (tfds_folder, tmp_path / 'copy')
  ]
  assert said[0] == said[1] and 'array_record' in said[0]


def test_tfds_data_dir_is_honoured(tfds_folder):
  code = (
    'import collections; from lmjax.data.sources.documents import *; from tests.data.sources.reading import *;'
    "print(len(list(texts(SourceConfig('tfds:lmjax_tiny_text@test', 'text', 1.0), 'skip', collections.Counter()))))"
  )
  env = os.environ | {'TFDS_DATA_DIR': str(tfds_folder)}
  run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, check=True, cwd=ROOT)
  assert run.stdout.strip() == '2'


def test_tfds_offline_is_reported_within_five_seconds(tfds_read, monkeypatch):
  # Nothing listens at this proxy: what a machine without a network looks like.
  monkeypatch.delenv('no_proxy', raising=False)
  monkeypatch.delenv('NO_PROXY', raising=False)
  for name in ('https_proxy', 'HTTPS_PROXY'):
    monkeypatch.setenv(name, 'http://127.0.0.1:9')
  started = time.monotonic()
  with pytest.raises(DataError, match='not prepared under.*TFDS_DATA_DIR'):
    tfds_read('tfds:imdb_reviews')
  assert time.monotonic() - started < 5


def test_tfds_does_not_ask_the_hub_without_a_network(monkeypatch):
  pytest.importorskip('tensorflow_datasets')
  monkeypatch.setattr(tfds_source, 'network_reachable', lambda: False)
  with pytest.raises(DataError, match='tfds:huggingface:org__x/y: the Hub cannot be reached; .*write hf:org/x/y'):
    read('tfds:huggingface:org__x/y')


def test_tfds_data_is_prepared_where_there_is_a_network(tfds_folder, tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  builder = tfds.builder
  monkeypatch.setattr(tfds_source, 'network_reachable', lambda: True)
  monkeypatch.setattr(tfds, 'builder', lambda name, **kw: builder(name, data_dir=str(tmp_path), **kw))
  assert len(read('tfds:lmjax_tiny_text', 'replace')[0]) == 100


def test_tfds_builder_that_needs_tensorflow_names_the_extra(tfds_read, monkeypatch):
  import tensorflow_datasets as tfds

  def prepare(self, **_):
    raise ImportError("No module named 'tensorflow'")

  monkeypatch.setattr(tfds_source, 'network_reachable', lambda: True)
  monkeypatch.setattr(tfds.core.DatasetBuilder, 'download_and_prepare', prepare)
  with pytest.raises(DataError, match=r"pip install 'lmjax\[tfds\]'"):
    tfds_read('tfds:imdb_reviews')


@pytest.mark.parametrize('name', ['a.txt.xz', 'a.jsonl.gz'])
def test_a_corpus_is_never_held_in_memory(tmp_path, name):
  record = 'word ' * 400 + '\n'
  if name.startswith('a.jsonl'):
    record = json.dumps({'text': record}) + '\n'
  with (lzma.open if name.endswith('.xz') else gzip.open)(tmp_path / name, 'wt') as file:
    for _ in range(10_000):
      file.write(record)
  counts = collections.Counter()
  tracemalloc.start()
  try:
    for _ in texts(SourceConfig(str(tmp_path / name), default_field(name), 1.0), 'raise', counts):
      pass
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  # 8 MB of it are the dictionary that xz decompresses with.
  assert counts['bytes'] == 10_000 * 2_001 and peak < 10_000_000
