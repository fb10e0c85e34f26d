"""Files of tokens, written by hand as their libraries write them: the same documents whole and in pieces."""

import os
import struct
import tracemalloc

import numpy as np
import pytest

from lmjax.data.config import DataConfig, SourceConfig, TokenizerConfig, default_field
from lmjax.data.sources import listing, token_files
from lmjax.data.sources.formats import check
from lmjax.data.sources.listing import files_of
from lmjax.data.sources.pieces import pieces_of
from lmjax.errors import DataError

EOS, PAD = 2, 0
DOCUMENTS = [[7, 8, 9], [5, 6], [], [300, 4, 4, 11], [12], *([20 + i, *range(3, 3 + i % 5)] for i in range(40))]
TYPES = {'u1': 1, 'i1': 2, '<i2': 3, '<i4': 4, '<i8': 5, '<u2': 8, '<u4': 9, '<u8': 10}


def megatron(path, sequences, bounds=None, dtype='<u2', code=None, places=None, lengths=None, more=b''):
  """Writes PATH.bin and PATH.idx; a sequence a document unless `bounds` says which begin one, and where all end."""
  bounds = list(range(len(sequences) + 1)) if bounds is None else bounds
  arrays = [np.array(sequence, dtype) for sequence in sequences]
  lengths = [len(array) for array in arrays] if lengths is None else lengths
  sizes = [array.nbytes for array in arrays]
  places = (np.cumsum(sizes, dtype=np.int64) - sizes).tolist() if places is None else places
  code = TYPES[dtype] if code is None else code
  header = b'MMIDIDX\x00\x00' + struct.pack('<QBQQ', 1, code, len(sequences), len(bounds))
  index = struct.pack(f'<{len(lengths)}i', *lengths) + struct.pack(f'<{len(places)}q', *places)
  path.with_suffix('.idx').write_bytes(header + index + struct.pack(f'<{len(bounds)}q', *bounds) + more)
  path.with_suffix('.bin').write_bytes(b''.join(array.tobytes() for array in arrays))
  return path.with_suffix('.bin')


def datatrove(path, documents, width=2, metadata=None):
  kind = {2: 'H', 4: 'I'}[width]
  ends = np.cumsum([len(ids) for ids in documents], dtype=np.uint64).tolist()
  path = path.with_suffix('.ds')
  path.write_bytes(b''.join(struct.pack(f'<{len(ids)}{kind}', *ids) for ids in documents))
  path.with_name(f'{path.name}.index').write_bytes(struct.pack(f'<{len(ends)}Q', *ends))
  if metadata is not None:
    path.with_name(f'{path.name}.metadata').write_text(metadata)
  return path


def stream(path, documents, dtype='<u2', eos=EOS):
  path = path.with_suffix('.npy')
  np.save(path, np.array([index for ids in documents for index in [*ids, eos]], dtype))
  return path


def rows(path, documents, dtype='<i8', pad=PAD):
  path, width = path.with_suffix('.npy'), max(map(len, documents))
  np.save(path, np.array([[*ids, *[pad] * (width - len(ids))] for ids in documents], dtype))
  return path


WRITERS = {
  'megatron': megatron,
  'megatron of int32': lambda path, documents: megatron(path, documents, dtype='<i4'),
  'megatron of uint32': lambda path, documents: megatron(path, documents, dtype='<u4'),
  'megatron of int64': lambda path, documents: megatron(path, documents, dtype='<i8'),
  'datatrove': datatrove,
  'datatrove of 4 bytes': lambda path, documents: datatrove(path, documents, 4, 'gpt2|4\n120\n120T'),
  'datatrove of before': lambda path, documents: datatrove(path, documents, 2, 'gpt2\n120\n120T'),
  'stream': stream,
  'stream of int32': lambda path, documents: stream(path, documents, '<i4'),
  'stream, big-endian': lambda path, documents: stream(path, documents, '>u2'),
  'rows': rows,
  'rows of uint16': lambda path, documents: rows(path, documents, '<u2'),
}


def read(path, target=1 << 40, eos=EOS, pad=PAD):
  """[(where, ids)] of a file, through pieces of `target` bytes."""
  found = []
  for file, part in (piece for one in files_of(str(path)) for piece in pieces_of(one, target)):
    found += [(w, ids.tolist()) for w, ids in token_files.documents(file.name, check(file.name).kind, part, eos, pad)]
  return found


@pytest.mark.parametrize('kind', WRITERS)
def test_every_kind_of_file_gives_the_same_documents(tmp_path, kind):
  path = WRITERS[kind](tmp_path / 'a', DOCUMENTS)
  whole = read(path)
  assert [ids for _, ids in whole] == DOCUMENTS
  for target in (*range(1, 40), 100, 5_000):
    assert read(path, target) == whole, target
  assert len(pieces_of(*files_of(str(path)), 20)) > 4


def test_places_are_those_of_the_file(tmp_path):
  assert [where for where, _ in read(megatron(tmp_path / 'a', DOCUMENTS))][3] == f'{tmp_path}/a.bin, document 4'
  assert [where for where, _ in read(rows(tmp_path / 'a', DOCUMENTS), 50)][3] == f'{tmp_path}/a.npy, row 4'
  assert [where for where, _ in read(stream(tmp_path / 'a', DOCUMENTS), 8)][3] == f'{tmp_path}/a.npy, token 9'


def test_a_document_of_several_sequences_is_one(tmp_path):
  sequences = [[1, 3], [4], [], [5, 6], [7]]
  path = megatron(tmp_path / 'a', sequences, bounds=[0, 2, 2, 4, 5])
  assert [ids for _, ids in read(path)] == [[1, 3, 4], [], [5, 6], [7]]
  for target in range(1, 16):
    assert [ids for _, ids in read(path, target)] == [[1, 3, 4], [], [5, 6], [7]]


def test_sequences_in_another_order_are_read_where_they_lie(tmp_path):
  path = megatron(tmp_path / 'a', [[1, 3], [4], [5, 6]], places=[2, 0, 6], lengths=[2, 1, 2])
  assert [ids for _, ids in read(path)] == [[3, 4], [1], [5, 6]]


def test_a_pair_is_named_by_either_file_or_by_what_both_begin_with(tmp_path):
  wanted = read(megatron(tmp_path / 'a', DOCUMENTS))
  for name in ('a', 'a.idx', 'a.{bin,idx}', 'a.*'):
    assert read(tmp_path / name) == wanted
  assert read(tmp_path) == wanted
  datatrove(tmp_path / 'b', DOCUMENTS, metadata='gpt2|2\n120\n120T')
  for name in ('b.ds.index', 'b.ds.metadata', 'b.*'):
    assert [ids for _, ids in read(tmp_path / name)] == DOCUMENTS
  assert len(files_of(str(tmp_path))) == 2


def test_a_stamp_changes_with_the_index(tmp_path):
  path = megatron(tmp_path / 'a', DOCUMENTS)
  [before] = files_of(str(path))
  assert before.size == os.path.getsize(path)
  os.utime(tmp_path / 'a.idx', ns=(1, 1))
  [after] = files_of(str(path))
  assert before[:2] == after[:2] and before.stamp != after.stamp


def test_streams_end_with_or_without_the_token_for_it(tmp_path):
  for ids, wanted in {
    (7, 8, 2, 9): [[7, 8], [9]],
    (7, 8, 2): [[7, 8]],
    (2, 2, 7): [[], [], [7]],
    (7,): [[7]],
    (2,): [[]],
    (): [],
  }.items():
    np.save(tmp_path / 'a.npy', np.array(ids, np.uint16))
    for target in (1, 2, 4, 100):
      assert [found for _, found in read(tmp_path / 'a.npy', target)] == wanted


def test_documents_longer_than_a_block(tmp_path, monkeypatch):
  monkeypatch.setattr(token_files, '_BLOCK', 4)
  monkeypatch.setattr(token_files, '_DOCUMENTS', 3)
  documents = [list(range(10, 10 + size)) for size in (3, 4, 5, 0, 9, 1, 13)]
  for kind in ('megatron', 'datatrove', 'stream'):
    path = WRITERS[kind](tmp_path / 'a', documents)
    for target in range(1, 80):
      assert [ids for _, ids in read(path, target)] == documents
  monkeypatch.setattr(token_files, '_LONGEST', 13)
  assert [ids for _, ids in read(path)] == documents
  monkeypatch.setattr(token_files, '_LONGEST', 12)
  for kind in ('megatron', 'datatrove', 'rows'):
    with pytest.raises(DataError, match='13 tokens; a document must have at most 12; cut it'):
      read(WRITERS[kind](tmp_path / 'a', documents))
  with pytest.raises(DataError, match='a.npy, token 29: a document of more than 12 tokens; the end-of.* 2, must stand'):
    read(stream(tmp_path / 'a', documents))


def test_padding_of_rows_is_that_of_the_tokenizer_alone(tmp_path):
  path = rows(tmp_path / 'a', [[7, 0, 8], [5], []])
  assert [ids for _, ids in read(path)] == [[7, 0, 8], [5], []]
  assert (
    [ids for _, ids in read(path, pad=1)] == [ids for _, ids in read(path, pad=None)] == [[7, 0, 8], [5, 0, 0], [0] * 3]
  )
  np.save(path, np.asfortranarray(np.array([[7, 8], [5, 6]])))
  assert [ids for _, ids in read(path)] == [[7, 8], [5, 6]]


def test_files_without_documents_give_none(tmp_path):
  for path in (megatron(tmp_path / 'a', []), datatrove(tmp_path / 'b', [])):
    assert read(path) == []
  np.save(tmp_path / 'c.npy', np.zeros((0, 4), np.uint16))
  assert read(tmp_path / 'c.npy') == []


def cut(path, size):
  path.write_bytes(path.read_bytes()[:size] if size < 0 else path.read_bytes() + bytes(size))


def test_what_is_wrong_with_a_pair_of_megatron(tmp_path):
  path, make = tmp_path / 'a', lambda **options: megatron(tmp_path / 'a', [[1, 3], [4]], **options)
  size = 34 + 2 * 12 + 3 * 8
  for change, message in [
    (lambda: make(code=6), 'a.idx: tokens of type 6; they must be whole numbers'),
    (lambda: make(code=99), 'a.idx: tokens of type 99'),
    (lambda: make(more=b'\0\0'), 'a.idx: has modes of a multimodal data set; these are not read; name one of text'),
    (lambda: make(more=b'\0'), rf'a.idx: has {size + 1} bytes, and its header tells of {size}; it must be whole'),
    (lambda: cut(make().with_suffix('.idx'), -1), rf'a.idx: has {size - 1} bytes, and its header tells of {size}'),
    (lambda: cut(make().with_suffix('.idx'), -70), 'a.idx: is no index of Megatron-LM, by its first bytes'),
    (lambda: cut(make(), -1), 'a.bin: has 5 bytes, and its .idx tells of 6; both must be whole and belong together'),
    (lambda: cut(make(), 2), 'a.bin: has 8 bytes, and its .idx tells of 6'),
    (lambda: make(bounds=[0, 1]), r'a.idx: its documents are sequences 0 to 1 of 2; an index must be whole'),
    (lambda: make(bounds=[]), 'a.idx: has 58 bytes, and its header tells of 58; it must be whole'),
    (lambda: make(bounds=[0, 3, 1, 2]), 'a.idx: documents 1 to 3 do not follow one another'),
    (lambda: make(bounds=[0, -1, 2]), 'a.idx: documents 1 to 2 do not follow one another'),
    (lambda: make(lengths=[9, 1]), 'a.idx: documents 1 to 2 lie outside of the .bin'),
    (lambda: make(lengths=[-2, 1]), 'a.idx: documents 1 to 2 lie outside of the .bin'),
    (lambda: make(places=[-2, 4]), 'a.idx: documents 1 to 2 lie outside of the .bin'),
    (lambda: path.with_suffix('.idx').write_bytes(b'version https://git-lfs.github.com/spec/v1\n'), 'is a Git LFS poi'),
    (lambda: path.with_suffix('.idx').write_bytes(b''), 'a.idx: is no index of Megatron-LM'),
    (lambda: path.with_suffix('.idx').unlink(), 'a.bin: has no a.idx next to it, which says where its documents are'),
  ]:
    change()
    for target in (1, 1 << 40):
      with pytest.raises(DataError, match=message) as refused:
        read(path.with_suffix('.bin'), target)
      assert len(str(refused.value).splitlines()) == 1


def test_what_is_wrong_with_files_of_datatrove(tmp_path):
  make = lambda **options: datatrove(tmp_path / 'a', [[1, 3], [4]], **options)
  index = tmp_path / 'a.ds.index'
  for change, message in [
    (
      lambda: cut(make(), -1),
      'a.ds: has 5 bytes, and its .index tells of 3 tokens of 2 or 4 bytes; both must be whole',
    ),
    (lambda: make() and cut(index, -1), 'a.ds.index: has 15 bytes; it must have 8 for each document; copy it again'),
    (lambda: make() and index.write_bytes(b''), 'a.ds: has 6 bytes, and its .index tells of 0 tokens'),
    (lambda: make() and index.write_bytes(struct.pack('<2Q', 5, 3)), 'a.ds.index: documents 1 to 2 do not follow'),
    (lambda: make() and index.write_bytes(struct.pack('<2Q', 1 << 63, 3)), 'documents 1 to 2 do not follow'),
    (lambda: make() and index.unlink(), 'a.ds: has no a.ds.index next to it'),
    (lambda: make(metadata='gpt2|4\n3\n3'), 'a.ds: has 6 bytes, and its .index tells of 3 tokens of 4 bytes'),
  ]:
    change()
    for target in (1, 1 << 40):
      with pytest.raises(DataError, match=message):
        read(tmp_path / 'a.ds', target)


def test_what_is_wrong_with_files_of_numpy(tmp_path):
  path = tmp_path / 'a.npy'

  def raw(content):
    path.write_bytes(content)

  for change, message in [
    (
      lambda: raw(np.arange(9, dtype=np.uint16).tobytes()),
      r'a.npy: has no header of numpy, as some .*; save it with one',
    ),
    (lambda: raw(b''), 'a.npy: has no header of numpy'),
    (lambda: raw(b'version https://git-lfs.github.com/spec/v1\n'), 'a.npy: is a Git LFS pointer.*git lfs pull'),
    (lambda: np.save(path, np.ones(3)), 'a.npy: holds float64; tokens must be whole numbers'),
    (lambda: np.save(path, np.array([True])), 'a.npy: holds bool'),
    (lambda: np.save(path, np.array([[1], [2, 3]], object)), 'a.npy: holds object; tokens must be whole numbers'),
    (lambda: np.save(path, np.ones((2, 2, 2), int)), 'a.npy: has 3 dimensions'),
    (lambda: np.save(path, np.int64(3)), 'a.npy: has 0 dimensions'),
    (
      lambda: cut(rows(tmp_path / 'a', DOCUMENTS), -1),
      'a.npy: has .* bytes, and its header tells of .*it must be whole',
    ),
    (lambda: cut(rows(tmp_path / 'a', DOCUMENTS), 1), 'a.npy: has .* bytes, and its header tells of'),
    (lambda: raw(b'\x93NUMPY\x01\x00\x06\x00{nope}'), 'a.npy: cannot be read .ValueError'),
    (lambda: raw(b'\x93NUMPY\x01'), 'a.npy: cannot be read'),
  ]:
    change()
    for target in (1, 1 << 40):
      with pytest.raises(DataError, match=message) as refused:
        read(path, target)
      assert len(str(refused.value).splitlines()) == 1
  with pytest.raises(
    DataError, match='documents must end at the end-of-document token .*, of which the tokenizer has no'
  ):
    read(stream(tmp_path / 'a', DOCUMENTS), eos=None)


def test_token_files_next_to_text_are_left_out_of_a_folder(tmp_path, capsys):
  megatron(tmp_path / 'a', DOCUMENTS)
  rows(tmp_path / 'b', DOCUMENTS)
  (tmp_path / 'c.jsonl').write_text('{"text": "a"}')
  listing.note.cache_clear()
  assert [os.path.basename(file.name) for file in files_of(str(tmp_path))] == ['c.jsonl']
  assert '1 files are read; 3 with other endings are left out (' in capsys.readouterr().err
  with pytest.raises(
    DataError, match=r'names files of tokens \(.*a.bin\) and text \(.*c.jsonl\); a source must be of one'
  ):
    files_of(f'{tmp_path}/*')
  (tmp_path / 'c.jsonl').unlink()
  assert [os.path.basename(file.name) for file in files_of(str(tmp_path))] == ['a.bin', 'b.npy']


def test_token_files_at_an_address_are_refused(tmp_path):
  import fsspec

  fsspec.filesystem('memory').pipe_file('/tokens/a.npy', b'x')
  with pytest.raises(
    DataError, match='memory://tokens/a.npy: is at an address; files of tokens must be on this machine'
  ):
    files_of('memory://tokens/a.npy')


def test_settings_know_files_of_tokens():
  for path in ('a.bin', 'a.idx', '*.ds', 'a.ds.index', 'b/{a,b}.npy'):
    assert default_field(path) is None and not list(SourceConfig(path, None, 1.0).problems())
    found = list(SourceConfig(path, 'text', 1.0, keep=('a=1',)).problems())
    assert [problem[:2] for problem in found] == [
      ('field', f'must be None, since {path} holds tokens'),
      ('keep', f'must be (), since {path} holds tokens'),
    ]
  source, rest = SourceConfig('a.bin', None, 1.0), dict(rows='concat', length=32, batch_size=8, cls_sep=False)
  rest |= dict(valid_fraction=0.1, valid_bytes=None, bad_text='raise', cache_dir='c')
  trained, loaded = TokenizerConfig(None, 320, 1000, False), TokenizerConfig('a.json', None, None, None)
  [problem] = DataConfig(sources={'main': source}, tokenizer=trained, **rest).problems()
  assert problem[0] == 'tokenizer.path' and problem[1].startswith('must name the tokenizer that a.bin was made with')
  for tokenizer in (loaded, None):
    assert not list(DataConfig(sources={'main': source}, tokenizer=tokenizer, **rest).problems())


def test_a_large_file_is_not_held_in_memory(tmp_path):
  documents = np.arange(4_000_000, dtype=np.uint16).reshape(-1, 1_000)
  path = megatron(tmp_path / 'a', list(documents))
  np.save(tmp_path / 'b.npy', np.where(documents == EOS, 3, documents).reshape(-1))
  for name in (path, tmp_path / 'b.npy'):
    [file] = files_of(str(name))
    tracemalloc.start()
    try:
      count = 0
      for piece in pieces_of(file, 500_000):
        for _, ids in token_files.documents(file.name, check(file.name).kind, piece.part, 999, None):
          count += len(ids)
      peak = tracemalloc.get_traced_memory()[1]
    finally:
      tracemalloc.stop()
    assert count > 3_900_000 and peak < 3_000_000  # of 8 MB


@pytest.mark.parametrize('width', [2, 4])
def test_what_datatrove_writes_is_read(tmp_path, width):
  tokenizer = pytest.importorskip('datatrove.pipeline.tokens.tokenizer')
  made = tokenizer.TokenizedFile(
    str(tmp_path), 'a.ds', tokenizer_name_or_path='gpt2', save_final_metadata=True, token_size=width
  )
  for ids in DOCUMENTS:
    made.write(ids, None)
  made.close()
  for target in (17, 1 << 40):
    assert [ids for _, ids in read(tmp_path, target)] == DOCUMENTS


@pytest.mark.parametrize('dtype', [np.uint16, np.int32, np.int64])
def test_what_megatron_writes_is_read(tmp_path, dtype):
  indexed = pytest.importorskip('megatron.core.datasets.indexed_dataset')
  made = indexed.IndexedDatasetBuilder(str(tmp_path / 'a.bin'), dtype=dtype)
  for ids in DOCUMENTS:
    made.add_document(np.array(ids, dtype), [len(ids) // 2, len(ids) - len(ids) // 2])
  made.finalize(str(tmp_path / 'a.idx'))
  for target in (17, 1 << 40):
    assert [ids for _, ids in read(tmp_path / 'a', target)] == DOCUMENTS
