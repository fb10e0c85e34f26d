"""Pieces of a file hold each document once and in order, whatever their size."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmjax.data.config import SourceConfig
from lmjax.data.sources import documents
from lmjax.data.sources.files import documents_of
from lmjax.data.sources.listing import File, files_of
from lmjax.data.sources.pieces import Piece, pieces_of
from lmjax.errors import DataError
from tests.data.sources.reading import number_of_pieces, read

TEXTS = [f'{i} größer\u2028{"word " * (i % 7)}' for i in range(40)]


@pytest.mark.parametrize('name', ['a.jsonl', 'a.ndjson', 'a.json'])
@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_each_line_is_of_the_piece_in_which_it_begins(tmp_path, name, mark, end):
  path = tmp_path / name
  lines = [json.dumps({'text': text}, ensure_ascii=False) for text in TEXTS]
  path.write_bytes(mark + end.join(lines).encode())
  for target in (*range(1, 80), 500, 10_000):
    assert read(path, target=target) == (TEXTS, {}), target
  assert number_of_pieces(path, 100) == -(-path.stat().st_size // 100)


@pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
def test_plain_text_in_pieces_loses_nothing(tmp_path, mark):
  text = '\n'.join(f'line {i} größer {"word " * (i % 50)}' + '\n' * (i % 9 == 0) for i in range(1_000))
  path = tmp_path / 'a.txt'
  path.write_bytes(mark + text.encode())
  for target in (10, 1_000, 4_096, 50_000, 1 << 30):
    found, _ = read(path, None, target)
    # a piece of blank lines alone is an empty document
    assert [line for line in ''.join(found).split('\n') if line] == [line for line in text.split('\n') if line]
    assert ''.join(found) == text or target < 4_096
    assert found == read(path, None, target)[0]
  assert len(read(path, None, 50_000)[0]) > 20


def test_an_endless_line_is_of_one_piece(tmp_path):
  path = tmp_path / 'a.txt'
  text = 'start\n' + 'größer ' * 400_000 + '\nend\n'
  path.write_text(text)
  assert ''.join(read(path, None, 1_000_000)[0]) == text


@pytest.mark.parametrize(
  'name, data',
  [('a.jsonl.gz', gzip.compress(b'{"text": "a"}', mtime=0)), ('a.json', b'[{"text": "a"}]'), ('a.csv', b'text\na')],
)
def test_what_cannot_be_parted_is_one_piece(tmp_path, name, data):
  (tmp_path / name).write_bytes(data)
  [file] = files_of(str(tmp_path / name))
  assert pieces_of(file, 2) == [Piece(file, None)]
  assert read(tmp_path / name, target=2)[0] == ['a']


def test_a_broken_line_is_named_by_its_place(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'{"text": "a"}\n{"text": "b"}\n{"text"}\n')
  file = File(str(path), 37, '')
  with pytest.raises(DataError, match='a.jsonl, line 3: broken JSON'):
    list(documents_of(Piece(file, None), 'text', {}))
  with pytest.raises(DataError, match='a.jsonl, line at byte 28: broken JSON'):
    list(documents_of(Piece(file, (20, 37)), 'text', {}))


def test_works_tell_how_much_is_read_whatever_their_parts_are(tmp_path):
  # bytes, row groups, tokens: by their size a build decides how many processes it starts
  (tmp_path / 'a.jsonl').write_text('{"text": "a"}\n' * 500)
  pq.write_table(pa.table({'text': TEXTS * 20}), tmp_path / 'a.parquet', row_group_size=50)
  np.save(tmp_path / 'a.npy', np.arange(3_000))
  for name in ('a.jsonl', 'a.parquet', 'a.npy'):
    size = (tmp_path / name).stat().st_size
    for target in (size // 4, 2 * size):
      works = list(documents.works_of(SourceConfig(str(tmp_path / name), 'text', 1.0), target))
      assert abs(sum(work.size for work in works) - size) <= len(works) <= (8 if target < size else 1)
