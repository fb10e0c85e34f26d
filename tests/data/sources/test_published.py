"""Files as large corpora publish them, with their columns and packing."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.data.sources.reading import number_of_pieces, read

PAGES = [
  f'Page {i} of the web.\n\nA second paragraph, größer\u2028than before. {"word " * (i % 40)}end' for i in range(300)
]


def test_a_shard_of_fineweb(tmp_path):
  """Its columns, row groups of some hundred rows, zstd."""
  rows = {
    'text': PAGES,
    'id': [f'<urn:uuid:{i:08}>' for i in range(300)],
    'dump': pa.array(['CC-MAIN-2024-10'] * 300).dictionary_encode(),
    'url': [f'https://example.org/{i}' for i in range(300)],
    'date': ['2024-02-21T03:30:11Z'] * 300,
    'file_path': ['s3://commoncrawl/crawl-data/CC-MAIN-2024-10/segments/warc.gz'] * 300,
    'language': ['en'] * 300,
    'language_score': [0.95] * 300,
    'token_count': pa.array(range(300), pa.int64()),
  }
  path = tmp_path / '000_00000.parquet'
  pq.write_table(pa.table(rows), path, row_group_size=70, compression='zstd')
  assert read(path) == (PAGES, {})
  assert read(path, target=1) == (PAGES, {}) and number_of_pieces(path, 1) == 5
  assert read(path, 'dump')[0] == ['CC-MAIN-2024-10'] * 300


def test_a_shard_of_the_pile(tmp_path):
  """Two frames of one file, of which many readers give the first alone; one of them with a window of 128 MB."""
  lines = [json.dumps({'text': page, 'meta': {'pile_set_name': 'Pile-CC'}}) + '\n' for page in PAGES]
  # the first frame ends in the middle of a line
  data, cut = ''.join(lines).encode(), len(''.join(lines[:150])) - 20
  long = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
  frames = [zstandard.ZstdCompressor(level=3), zstandard.ZstdCompressor(compression_params=long)]
  path = tmp_path / '00.jsonl.zst'
  # a stream, which does not say how long it is, keeps its window
  stream = frames[1].compressobj()
  path.write_bytes(frames[0].compress(data[:cut]) + stream.compress(data[cut:]) + stream.flush())
  assert read(path) == (PAGES, {})
  assert read(path, 'meta.pile_set_name')[0] == ['Pile-CC'] * 300


def test_a_shard_of_c4(tmp_path):
  """One object a line, in a file that is called .json.gz."""
  rows = [
    {'text': page, 'timestamp': '2019-04-25T12:57:54Z', 'url': f'https://example.org/{i}'}
    for i, page in enumerate(PAGES)
  ]
  path = tmp_path / 'c4-train.00000-of-01024.json.gz'
  with gzip.open(path, 'wt', encoding='utf-8') as file:
    file.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
  assert read(path) == (PAGES, {})
  assert read(tmp_path / 'c4-train.{00000..00000}-of-01024.json.gz')[0] == PAGES
