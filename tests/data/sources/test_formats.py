"""Every kind of file that is read, packed in every way, gives the same documents; all others say what to do."""

import bz2
import collections
import gzip
import io
import json
import lzma
import tarfile

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from lmjax.data.config import SourceConfig
from lmjax.data.sources import formats
from lmjax.errors import DataError
from tests.data.sources.reading import read, texts

# As web dumps have them: a separator of lines inside one, a quote, no ASCII, only white space at the ends.
TEXTS = [
  'one\u2028line',
  'a "quoted", text\r\nof two lines',
  'größer 語',
  ' spaces ',
  *(f'text {i}' for i in range(50)),
]


def zstd(data: bytes) -> bytes:
  return zstandard.ZstdCompressor().compress(data)


PACKERS = {'.gz': gzip.compress, '.xz': lzma.compress, '.bz2': bz2.compress, '.zst': zstd}


def rows(texts=TEXTS, **more):
  return [{'id': i, 'text': text, **more} for i, text in enumerate(texts)]


def lines(texts=TEXTS, end='\n', **options) -> bytes:
  return ''.join(json.dumps(row, **options) + end for row in rows(texts)).encode()


def table(texts=TEXTS) -> bytes:
  quoted = ('"' + text.replace('"', '""') + '"' for text in texts)
  return ('id,text\n' + ''.join(f'{i},{text}\n' for i, text in enumerate(quoted))).encode()


def tar(members: dict[str, bytes]) -> bytes:
  file = io.BytesIO()
  with tarfile.open(fileobj=file, mode='w') as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return file.getvalue()


def parquet(texts=TEXTS, **options) -> bytes:
  file = io.BytesIO()
  pyarrow.parquet.write_table(pa.table({'id': list(range(len(texts))), 'text': texts}), file, **options)
  return file.getvalue()


def arrow(texts=TEXTS, new=pa.ipc.new_stream) -> bytes:
  data, file = pa.table({'id': list(range(len(texts))), 'text': texts}), io.BytesIO()
  with new(file, data.schema) as writer:
    writer.write_table(data, max_chunksize=7)
  return file.getvalue()


SAMPLES = tar({f'{i:06}.json': json.dumps(row).encode() for i, row in enumerate(rows())})
CONTENTS = {
  '.jsonl': lines(ensure_ascii=False),
  '.ndjson': lines(end='\r\n'),
  '.json': json.dumps(rows(), indent=1).encode(),
  '.csv': table(),
  '.tar': SAMPLES,
}
CASES = {
  **{f'a{ending}': data for ending, data in CONTENTS.items()},
  **{f'a{end}{packed}': pack(data) for end, data in CONTENTS.items() for packed, pack in PACKERS.items()},
  'lines.json': lines(ensure_ascii=False),
  'one line.json': json.dumps(rows(), separators=(',', ':')).encode(),
  'begins with spaces.json': b'\n \n' + lines(),
  'lines.json.gz': gzip.compress(lines()),
  'strings.jsonl': ''.join(json.dumps(text) + '\n' for text in TEXTS).encode(),
  'strings.json': json.dumps(TEXTS).encode(),
  'mark.jsonl': b'\xef\xbb\xbf' + lines(),
  'mark.csv': b'\xef\xbb\xbf' + table(),
  'mark.json.zst': zstd(b'\xef\xbb\xbf' + json.dumps(rows()).encode()),
  'no end.jsonl': lines()[:-1],
  'blank lines.jsonl': lines(end='\n\n\r\n'),
  'two frames.jsonl.zst': zstd(lines()[:999]) + zstd(b'') + zstd(lines()[999:]),
  'skippable frame.jsonl.zst': zstd(lines()[:9]) + b'\x50\x2a\x4d\x18\x04\0\0\0skip' + zstd(lines()[9:]),
  'two members.jsonl.gz': gzip.compress(lines()[:999]) + gzip.compress(lines()[999:]),
  'two streams.jsonl.bz2': bz2.compress(lines()[:999]) + bz2.compress(lines()[999:]),
  'two streams.jsonl.xz': lzma.compress(lines()[:999]) + lzma.compress(lines()[999:]),
  'a.tgz': gzip.compress(SAMPLES),
  'A.JSONL.GZ': gzip.compress(lines()),
  'a.parquet': parquet(),
  'groups.parquet': parquet(row_group_size=3),
  'stream.arrow': arrow(),
  'file.arrow': arrow(new=pa.ipc.new_file),
  'a.feather': arrow(new=pa.ipc.new_file),
}


@pytest.mark.parametrize('name', CASES)
def test_every_kind_of_file_gives_the_same_documents(tmp_path, name):
  (tmp_path / name).write_bytes(CASES[name])
  assert read(tmp_path / name) == (TEXTS, {})
  counts = collections.Counter()
  assert list(texts(SourceConfig(str(tmp_path / name), 'text', 1.0), 'raise', counts)) == TEXTS
  assert counts == {'documents': len(TEXTS), 'bytes': sum(len(text.encode()) for text in TEXTS)}


@pytest.mark.parametrize('ending', ['.txt', '.md', '.tokens'])
@pytest.mark.parametrize('packed', ['', *PACKERS])
def test_plain_text_needs_no_field(tmp_path, ending, packed):
  text = 'Größe\n\n' * 10
  (tmp_path / f'a{ending}{packed}').write_bytes(PACKERS.get(packed, bytes)(text.encode()))
  assert read(tmp_path / f'a{ending}{packed}', None) == ([text], {})


def test_quotes_of_a_tsv_are_text(tmp_path):
  (tmp_path / 'a.tsv').write_text('id\ttext\r\n1\tsaid "no\r\n2\tone, two\r\n')
  assert read(tmp_path / 'a.tsv')[0] == ['said "no', 'one, two']


NULLS = ['a', None, '', ' \n', 'b']


@pytest.mark.parametrize(
  'name, data',
  [
    ('a.jsonl', lines(NULLS)),
    ('a.json', json.dumps(rows(NULLS)).encode()),
    ('a.parquet', parquet(NULLS)),
    ('a.arrow', arrow(NULLS)),
    ('a.csv', b'text,id\na,1\n,2\n,3\n" ",4\nb,5\n'),
    ('a.tar', tar({f'{i}.json': json.dumps(row).encode() for i, row in enumerate(rows(NULLS))})),
  ],
)
def test_null_and_empty_texts_are_counted(tmp_path, name, data):
  (tmp_path / name).write_bytes(data)
  assert read(tmp_path / name) == (['a', 'b'], {'empty': 3})
  counts = collections.Counter()
  assert list(texts(SourceConfig(str(tmp_path / name), 'text', 1.0), 'raise', counts)) == ['a', 'b']
  assert counts['empty'] == 3


@pytest.mark.parametrize('name', ['a.txt', 'a.jsonl', 'a.json.gz', 'a.parquet', 'a.tar', 'a.arrow', 'a.jsonl.zst'])
def test_a_file_without_bytes_is_named_and_counted(tmp_path, name, capsys):
  (tmp_path / name).write_bytes(b'')
  assert read(tmp_path / name) == ([], {'empty': 1})
  assert capsys.readouterr().err == f'lmjax: {tmp_path / name}: has no bytes; it counts as an empty document\n'


HTML = b'<!DOCTYPE html>\n<html><body>404</body></html>' * 3
POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
BROKEN = [
  *((f'a.jsonl{packed}', lines(), 'a compressed file must be whole') for packed in PACKERS),
  *((f'a.jsonl{packed}', pack(lines())[:-20], 'a compressed file must be whole') for packed, pack in PACKERS.items()),
  *((f'a.{end}', HTML, 'is a web page') for end in ('parquet', 'jsonl', 'json', 'csv', 'arrow', 'jsonl.gz', 'tar')),
  *((f'a.{end}', POINTER, 'is a Git LFS pointer.*git lfs pull') for end in ('parquet', 'jsonl.zst', 'txt', 'csv')),
  ('a.jsonl', 'x'.encode('utf-16'), 'is UTF-16, by its first bytes; text must be UTF-8'),
  ('a.csv.gz', gzip.compress('x'.encode('utf-16'), mtime=0), 'is UTF-16'),
  *(('a.jsonl', pack(lines()), f'is compressed.*must end in \\{packed}') for packed, pack in PACKERS.items()),
  ('a.csv', b'PK\x03\x04' + bytes(99), 'is a .zip archive, by its first bytes'),
  ('a.txt', b'%PDF-1.7 \x00', 'is a PDF, by its first bytes'),
  ('a.parquet', parquet()[:-99], 'cannot be read .*; a .parquet file must be whole'),
  ('a.parquet', lines(), 'Parquet magic bytes not found'),
  ('a.arrow', arrow()[:300], 'a .arrow file must be whole'),
  ('a.arrow', lines(), 'a .arrow file must be whole'),
  ('a.tar', SAMPLES[:1300], 'a .tar must be whole'),
  ('a.tar', lines(), 'a .tar must be whole'),
  ('a.json', json.dumps({'data': rows()}).encode(), "one object, with a list in 'data'.*write the list alone"),
  ('a.json', json.dumps({'data': rows()}, indent=1).encode(), 'line 1: broken JSON.*must hold a list of objects'),
  ('a.json', json.dumps(rows()).encode()[:-9], r'item 54: broken JSON \(Unterminated'),
  ('a.json', b'[{"text": "a"} {"text": "b"}]', r"item 1: broken JSON \(after it, '{' where a comma is due\)"),
  ('a.json', b'[{"text": "a"}', r'item 1: broken JSON \(after it, it ends where a bracket is due\)'),
  ('a.json', b'[{"text": "a"},]', 'item 2: broken JSON'),
  ('a.json', b'[{"text": "a"}, nul]', 'item 2: broken JSON'),
  ('a.json', b'[{"text": "a"}]\n[{"text": "b"}]', "has '\\[' after the end of its list"),
  ('a.json', b'[{"text": "a"}, 12]', 'item 2: a JSON int; each line must be one object'),
  ('a.json', b'[{"text": "a", "text": "b"}]', "item 1: broken JSON .key 'text' stands there twice"),
  ('a.csv', b'id,body\n1,a\n', "line 2: no field 'text'.*body, id"),
]


@pytest.mark.parametrize('name, data, message', BROKEN)
def test_a_broken_file_is_one_line_with_its_name(tmp_path, name, data, message):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(DataError, match=message) as refused:
    read(tmp_path / name)
  assert str(refused.value).startswith(f'{tmp_path / name}') and '\n' not in str(refused.value)


@pytest.mark.parametrize(
  'name, remedy',
  [
    ('a.pdf', 'convert it to text'),
    ('a.docx', 'convert it to text'),
    ('a.doc', 'convert it to text'),
    ('a.html', 'take the text out of its markup'),
    ('a.zip', 'unpack it'),
    ('a.xlsx', 'save it as .csv with a header'),
    ('a.pkl', 'may run code when it is opened; convert it'),
    ('a.pt', 'may run code when it is opened; convert it'),
    ('a.warc.gz', '.warc.gz is not read as text; extract its text into .jsonl, with datatrove or trafilatura'),
    ('a.tfrecord', 'tfds:NAME'),
    ('a.bin', r'has no a.idx next to it, .*; copy that too, or save bare numbers as a .npy'),
    ('a.idx', 'has no a.bin next to it, which holds the tokens'),
    ('a.ds', 'has no a.ds.index next to it'),
    ('a.npy', 'holds tokens; text is needed to train a tokenizer; name the one that made them'),
    ('a.npz', 'save the array of tokens that it holds as .npy'),
    ('a.ds.loss', 'holds a mask of the loss; name the .ds'),
    ('a.parquet.gz', 'unknown ending; a source must end in one of .txt, .md'),
    ('a.xyz', 'unknown ending'),
    ('a', 'unknown ending'),
  ],
)
def test_other_endings_say_what_to_do(tmp_path, name, remedy):
  (tmp_path / name).write_bytes(b'x')
  with pytest.raises(DataError, match=f'{name}: .*{remedy}'):
    read(tmp_path / name)


def test_fields_need_a_name(tmp_path):
  (tmp_path / 'a.csv').write_bytes(table())
  with pytest.raises(DataError, match='a.csv: no field is named'):
    read(tmp_path / 'a.csv', None)


def test_every_ending_has_one_meaning():
  assert not set(formats.KINDS) & set(formats.REMEDIES)
