"""Parquet and Arrow: every type of text, pieces by row groups and record batches, little memory."""

import collections

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmjax.data.config import SourceConfig
from lmjax.data.sources import columns
from lmjax.data.sources.listing import files_of
from lmjax.data.sources.pieces import pieces_of
from lmjax.errors import DataError
from tests.data.sources.reading import number_of_pieces, read, texts

TEXTS = ['größer', None, 'b', 'b', '', 'c\u2028d']
WANTED = [text for text in TEXTS if text]


@pytest.mark.parametrize(
  'kind',
  [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.list_(pa.string()),
    pa.large_list(pa.large_string()),
    pa.list_(pa.string(), 1),
    pa.null(),
  ],
  ids=str,
)
@pytest.mark.parametrize('ending', ['parquet', 'arrow'])
def test_every_type_of_text(tmp_path, kind, ending):
  if pa.types.is_null(kind):
    values, wanted = pa.nulls(6), []
  elif pa.types.is_dictionary(kind):
    values, wanted = pa.array(TEXTS).dictionary_encode(), WANTED
  elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
    values, wanted = pa.array([text if text is None else [text] for text in TEXTS], kind), WANTED
  else:
    values, wanted = pa.array(TEXTS, pa.string()).cast(kind), WANTED
  data = pa.table({'other': range(6), 'text': values})
  path = tmp_path / f'a.{ending}'
  if ending == 'parquet':
    pq.write_table(data, path, row_group_size=2)
  else:
    with pa.ipc.new_stream(path, data.schema) as writer:
      writer.write_table(data, max_chunksize=2)
  assert read(path) == (wanted, {'empty': 6 - len(wanted)})


def test_bytes_that_are_not_utf_8_are_judged_by_policy(tmp_path):
  # a string column may hold them too: who writes it need not look
  bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b'caf\xe9']).buffers())
  for name, column in {'strings': bad, 'bytes': pa.array([b'caf\xe9'])}.items():
    path = str(tmp_path / f'{name}.parquet')
    pq.write_table(pa.table({'text': column}), path)
    source = SourceConfig(path, 'text', 1.0)
    with pytest.raises(DataError, match=f'{name}.parquet, row 1: byte 0xe9 at offset 3 is not UTF-8'):
      list(texts(source, 'raise', collections.Counter()))
    assert list(texts(source, 'replace', collections.Counter())) == ['caf\ufffd']


def test_row_groups_are_read_together_up_to_the_size_of_a_piece(tmp_path):
  path = tmp_path / 'a.parquet'
  texts = [f'{i:05}' * 20 for i in range(1_000)]
  pq.write_table(pa.table({'text': texts}), path, row_group_size=100, compression='none', use_dictionary=False)
  [file] = files_of(str(path))
  assert [piece.part for piece in pieces_of(file, file.size)] == [None]
  assert [piece.part for piece in pieces_of(file, file.size * 2 // 5)] == [(0, 4), (4, 8), (8, 10)]
  for target in (1, 5_000, 12_000, 40_000, 70_000):
    assert read(path, target=target)[0] == texts
  assert number_of_pieces(path, 1) == 10


def test_rows_have_their_number_in_the_file(tmp_path):
  path = tmp_path / 'a.parquet'
  pq.write_table(pa.table({'text': pa.array([[b'a']] * 25)}), path, row_group_size=10)
  [file] = files_of(str(path))
  places = [where for piece in pieces_of(file, 1) for where, _ in columns.parquet_texts(file.name, 'text', piece.part)]
  assert places == [f'{path}, row {number}' for number in range(1, 26)]


@pytest.mark.parametrize('new', [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize('options', [None, pa.ipc.IpcWriteOptions(compression='zstd')])
def test_record_batches_are_read_in_pieces(tmp_path, new, options):
  texts = [f'text {i}' for i in range(100)]
  # a dictionary that grows from batch to batch comes as messages of its own
  data = pa.table({'text': texts, 'kind': pa.array([f'k{i % 3}' for i in range(100)]).dictionary_encode()})
  path = tmp_path / 'a.arrow'
  with new(path, data.schema, options=options) as writer:
    writer.write_table(data, max_chunksize=7)
  assert number_of_pieces(path, 1) == 15
  for target in (1, 200, 500, 1_000, 10_000):
    assert read(path, target=target) == (texts, {})


def test_a_row_group_is_not_held_in_memory(tmp_path):
  path = str(tmp_path / 'a.parquet')
  pq.write_table(
    pa.table({'text': [f'{i}' + 'x' * 20_000 for i in range(3_000)]}), path, compression='none', use_dictionary=False
  )
  before, most = pa.total_allocated_bytes(), 0
  for _ in columns.parquet_texts(path, 'text', None):
    most = max(most, pa.total_allocated_bytes() - before)
  assert most < 30e6  # of 60; 22 of them were measured, whatever the size of the row group
