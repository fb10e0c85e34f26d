"""A corpus of token files: the ids of the file, and the text that they stand for next to other sources."""

import numpy as np
import pytest

from lmjax.data.config import SourceConfig
from lmjax.data.corpus import build as build_lib
from lmjax.data.corpus import tokenizers as corpus_tokenizers
from lmjax.data.corpus import unit
from lmjax.data.corpus.store import open_or_build
from lmjax.data.corpus.tokenised import Tokens
from lmjax.data.digests import digest64, normalised_digest64
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.errors import DataError
from tests import runs
from tests.data.corpus.corpora import DOCUMENTS, build, config_of, ids_of, texts_of, train_of, write
from tests.data.sources.test_token_files import datatrove, megatron, rows, stream


@pytest.fixture(scope='module')
def tokenizer():
  return train_tokenizer(DOCUMENTS, 320, 20_000)


def all_ids(store):
  """Of all documents of a store, in the order of its shards."""
  found = []
  for number in range(len(store.row.shards)):
    one = store.open(number)
    found += [ids.tolist() for ids in np.split(np.asarray(one.tokens), np.cumsum(one.lengths)[:-1])]
  return found


WRITERS = {'megatron': megatron, 'datatrove': datatrove, 'stream': stream, 'rows': rows}


@pytest.mark.parametrize('kind', WRITERS)
@pytest.mark.parametrize('has_ends', [False, True])
def test_a_store_of_tokens_is_that_of_their_text(tmp_path, tokenizer, kind, has_ends):
  ids = tokenizer.encode_batch(DOCUMENTS)
  begin, end = ([tokenizer.bos], [tokenizer.eos] * (kind != 'stream')) if has_ends else ([], [])
  path = WRITERS[kind](tmp_path / 'a', [[*begin, *one, *end] for one in ids])
  store = build(tmp_path, tokenizer, SourceConfig(str(path), None, 1.0))
  text = build(tmp_path, tokenizer, write(tmp_path / 'b.jsonl', DOCUMENTS))
  assert all_ids(store) == ids == all_ids(text)
  assert store.counts == text.counts
  one, other = store.open(0), text.open(0)
  for column in ('lengths', 'n_bytes', 'digests', 'normalised'):
    assert np.array_equal(getattr(one, column), getattr(other, column)), column
  assert one.digests.tolist() == [digest64(document.encode()) for document in DOCUMENTS]
  assert one.normalised.tolist() == [normalised_digest64(document) for document in DOCUMENTS]
  assert ids_of(store.held_out.documents) == ids_of(text.held_out.documents)
  assert store.row.shards[0].name != text.row.shards[0].name


def test_ids_are_those_of_the_file_whatever_the_text_would_give(tmp_path, tokenizer):
  """Another segmentation of the same text, special tokens inside, and one more of those that are taken off."""
  letters = [tokenizer.encode(letter)[0] for letter in 'Document']
  documents = [
    letters,
    [*letters, tokenizer.sep, *letters],
    [tokenizer.bos, tokenizer.bos, *letters, tokenizer.eos] * 2,
  ]
  path = megatron(tmp_path / 'a', [*documents, *tokenizer.encode_batch(DOCUMENTS[:20])])
  store = build(tmp_path, tokenizer, SourceConfig(str(path), None, 1.0))
  middle = [tokenizer.bos, *letters, tokenizer.eos, tokenizer.bos, tokenizer.bos, *letters]
  assert len(letters) > len(tokenizer.encode('Document'))
  assert all_ids(store)[:3] == [letters, documents[1], middle]
  assert store.open(0).n_bytes[:3].tolist() == [8, 16, 16]


def test_duplicates_and_held_out_documents_agree_with_text(tmp_path, tokenizer):
  path = datatrove(tmp_path / 'a', tokenizer.encode_batch([*DOCUMENTS[:120], DOCUMENTS[3]]))
  upper = [text.upper() for text in DOCUMENTS]
  sources = {'tokens': SourceConfig(str(path), None, 1.0), 'text': write(tmp_path / 'b.jsonl', [*DOCUMENTS, *upper])}
  stores = open_or_build(config_of(tmp_path / 'cache', sources), tokenizer)
  assert [store.counts['duplicates'] for store in stores.values()] == [1, 120]
  sides = {}
  for store in stores.values():
    for side, documents in (('train', train_of(store)), ('held out', store.held_out.documents)):
      for text in texts_of(documents, tokenizer):
        sides.setdefault(text.lower(), set()).add(side)
  assert len(sides) == 200 and all(len(both) == 1 for both in sides.values())


def test_a_shard_of_tokens_is_none_of_text(tmp_path, tokenizer):
  """Whatever bytes either has."""
  ids = np.array([[tokenizer.encode(letter)[0]] for letter in 'abcdefghijkl'], np.int32)
  text = ['ids' + row.astype('<i4').tobytes().decode('utf-8') for row in ids]
  names = [
    unit._name([Tokens(row, 'x') for row in ids], unit.Settings('hash', 'raise')),
    unit._name([one.tobytes().decode('utf-8') for one in ids], unit.Settings('hash', 'raise')),
    unit._name(text, unit.Settings('hash', 'raise')),
  ]
  assert len(set(names)) == 3


def test_documents_without_text_are_empty(tmp_path, tokenizer):
  bare = [[], [tokenizer.eos], [tokenizer.bos, tokenizer.eos], [tokenizer.sep], tokenizer.encode(' \n')]
  path = megatron(tmp_path / 'a', [*bare, *tokenizer.encode_batch(DOCUMENTS)])
  store = build(tmp_path, tokenizer, SourceConfig(str(path), None, 1.0))
  assert store.counts['skipped'] == {'empty': 5} and store.counts['examples'] == 200
  with pytest.raises(DataError, match='holds no document with text .5 empty'):
    build(tmp_path, tokenizer, SourceConfig(str(megatron(tmp_path / 'b', bare)), None, 1.0))


def test_pieces_and_processes_make_the_same_corpus(tmp_path, tokenizer, monkeypatch):
  ids = tokenizer.encode_batch(DOCUMENTS)
  path = megatron(tmp_path / 'a', ids, dtype='<i4')
  source = SourceConfig(str(path), None, 1.0)
  whole = build(tmp_path, tokenizer, source)
  monkeypatch.setattr(build_lib, '_WORTH_PROCESSES', 0)
  (tmp_path / 'cache').rename(tmp_path / 'whole')
  assert build(tmp_path, tokenizer, source).fingerprint == whole.fingerprint
  monkeypatch.setattr(build_lib, 'WORK_BYTES', 3_000)
  (tmp_path / 'cache').rename(tmp_path / 'second')
  parted = build(tmp_path, tokenizer, source)
  assert all_ids(parted) == ids and len(parted.row.shards) > 5 and parted.counts == whole.counts
  before = parted.fingerprint
  megatron(tmp_path / 'a', [ids[0] + ids[1], *ids[2:]], dtype='<i4')  # the same .bin: one document where two were
  joined = build(tmp_path, tokenizer, source)
  assert joined.fingerprint != before and joined.counts['examples'] == 199


def test_ids_beyond_the_vocabulary_are_refused(tmp_path, tokenizer):
  source = SourceConfig(str(tmp_path / 'a.bin'), None, 1.0)
  for wrong, shown in ((320, '320'), (60_000, '60000')):
    megatron(tmp_path / 'a', [*tokenizer.encode_batch(DOCUMENTS[:5]), [9, wrong, 9]])
    with pytest.raises(
      DataError, match=rf'a.bin, document 6: token {shown}; the vocabulary has 320 ids, from 0, .*path'
    ):
      build(tmp_path, tokenizer, source)
  megatron(tmp_path / 'a', [[9, -100]], dtype='<i8')
  with pytest.raises(DataError, match='a.bin, document 1: token -100; .*name the tokenizer that they were made with'):
    build(tmp_path, tokenizer, source)
  megatron(tmp_path / 'a', [[9, 1 << 33]], dtype='<i8')
  with pytest.raises(DataError, match=f'document 1: token {1 << 33};'):
    build(tmp_path, tokenizer, source)


def test_gaps_of_a_vocabulary_are_no_ids(tmp_path):
  path = tmp_path / 'words.json'
  runs.save_words(path, ['the', 'snow'])
  content = path.read_text()
  words = Tokenizer.load(str(path))
  last = words.vocab_size - 1
  name = words.token(last)
  path.write_text(
    content.replace(f'"{name}": {last}', f'"{name}": {last + 5}').replace(f'"id": {last},', f'"id": {last + 5},')
  )
  gappy = Tokenizer.load(str(path))
  assert gappy.vocab_size == last + 6
  source = SourceConfig(str(megatron(tmp_path / 'a', [[last + 5], [last + 1]])), None, 1.0)
  with pytest.raises(DataError, match=f'document 2: token {last + 1};'):
    build(tmp_path, gappy, source)


def test_no_tokenizer_is_trained_on_tokens(tmp_path):
  rows(tmp_path / 'a', [[1, 3], [4]])
  config = config_of(tmp_path / 'cache', {'corpus': SourceConfig(str(tmp_path), 'text', 1.0)})
  with pytest.raises(
    DataError, match='a.npy: holds tokens; text is needed to train a tokenizer; name the one that made'
  ):
    corpus_tokenizers.prepare(config)


def test_tokens_have_no_fields(tmp_path, tokenizer):
  rows(tmp_path / 'a', tokenizer.encode_batch(DOCUMENTS))
  with pytest.raises(DataError, match='holds tokens, which have no fields; keep needs some; set it to'):
    build(tmp_path, tokenizer, SourceConfig(str(tmp_path), 'text', 1.0, keep=('a=1',)))


def test_unknown_tokens_are_counted(tmp_path):
  words = Tokenizer.load(runs.save_words(tmp_path / 'words.json', ['the', 'snow', 'falls']))
  ids = words.encode_batch(['the snow', 'the tree falls', 'snow falls', 'falls'])
  path = megatron(tmp_path / 'a', ids)
  store = build(tmp_path, words, SourceConfig(str(path), None, 1.0), valid_fraction=0.5)
  assert store.counts['unknown_tokens'] == 1 and store.counts['tokens'] == sum(map(len, ids))


def test_shards_of_tokens_are_made_once(tmp_path, tokenizer, monkeypatch):
  source, made, encoded = SourceConfig(str(tmp_path / 'a'), 'text', 1.0), [], unit._encoded
  megatron(tmp_path / 'a', tokenizer.encode_batch(DOCUMENTS))
  monkeypatch.setattr(unit, '_encoded', lambda part, tokenizer: made.append(len(part)) or encoded(part, tokenizer))
  first = build(tmp_path, tokenizer, source)
  megatron(tmp_path / 'a', tokenizer.encode_batch(DOCUMENTS))
  assert build(tmp_path, tokenizer, source).fingerprint == first.fingerprint and made == [200]
