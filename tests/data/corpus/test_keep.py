"""A corpus of the documents that a source keeps: what is counted, and what another condition changes."""

import collections
import dataclasses
import json

import pytest

from lmjax.data.config import SourceConfig
from lmjax.data.corpus import build as build_lib
from lmjax.data.corpus import tokenizers as corpus_tokenizers
from lmjax.data.counts import remarks
from lmjax.data.sources import documents
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.errors import DataError
from lmjax.training.initialize import _decides
from tests.data.corpus.corpora import DOCUMENTS, build, config_of, texts_of, train_of


@pytest.fixture(scope='module')
def tokenizer():
  return train_tokenizer(DOCUMENTS, 320, 20_000)


@pytest.fixture
def source(tmp_path):
  """Of its 200 documents every second one is English; the others' text has letters of its own."""
  with open(tmp_path / 'a.jsonl', 'w') as out:
    for number, text in enumerate(DOCUMENTS):
      row = {'text': text + 'äöü' * (number % 2), 'language': ('en', 'de')[number % 2], 'number': number}
      out.write(json.dumps(row) + '\n')
  return SourceConfig(str(tmp_path / 'a.jsonl'), 'text', 1.0, keep=('language=en',))


def test_a_store_holds_what_is_kept_and_counts_the_rest(tmp_path, tokenizer, source, capsys):
  store = build(tmp_path, tokenizer, source, progress=True)
  texts = texts_of(train_of(store), tokenizer) + texts_of(store.held_out.documents, tokenizer)
  assert sorted(texts) == sorted(DOCUMENTS[::2])
  assert (store.counts['examples'], store.counts['filtered'], store.counts['skipped']) == (100, 100, {})
  assert '0 skipped, 100 filtered out' in capsys.readouterr().out
  assert '100 filtered out' in remarks(store.counts)


def test_another_condition_is_another_corpus(tmp_path, tokenizer, source):
  found = [build(tmp_path, tokenizer, source)]
  for keep in (('language=de',), ('language=en', 'number>=100'), ('number>=100',), ()):
    found.append(build(tmp_path, tokenizer, dataclasses.replace(source, keep=keep)))
  assert len({store.fingerprint for store in found}) == 5
  assert [store.counts['filtered'] for store in found] == [100, 100, 150, 100, 0]
  assert build(tmp_path, tokenizer, source).fingerprint == found[0].fingerprint


def test_processes_keep_the_same(tmp_path, tokenizer, source, monkeypatch):
  whole = build(tmp_path, tokenizer, source)
  (tmp_path / 'cache').rename(tmp_path / 'whole')
  monkeypatch.setattr(build_lib, '_WORTH_PROCESSES', 0)
  assert build(tmp_path, tokenizer, source).fingerprint == whole.fingerprint
  monkeypatch.setattr(build_lib, 'WORK_BYTES', 2_000)
  (tmp_path / 'cache').rename(tmp_path / 'second')
  assert build(tmp_path, tokenizer, source).counts == whole.counts


def test_a_tokenizer_is_trained_on_what_is_kept(tmp_path, source):
  english, all_of_it = (
    corpus_tokenizers.prepare(config_of(tmp_path / 'cache', {'corpus': dataclasses.replace(source, keep=keep)}))
    for keep in (source.keep, ())
  )
  umlauts = english.encode('äöü')
  assert len(umlauts) == 6 and len(all_of_it.encode('äöü')) < 6


def test_nothing_that_is_kept_is_an_error(tmp_path, tokenizer, source):
  with pytest.raises(DataError, match=r'a.jsonl: holds no document with text \(0 empty, .* 200 filtered out\).*, keep'):
    build(tmp_path, tokenizer, dataclasses.replace(source, keep=('language=EN',)))


def test_conditions_decide_what_a_store_holds_and_shares_do_not():
  decides = {name: _decides(f'sources.main.{name}') for name in ('path', 'field', 'keep', 'weight', 'max_epochs')}
  assert decides == {'path': True, 'field': True, 'keep': True, 'weight': False, 'max_epochs': False}


def test_examples_of_tfds_are_kept_by_their_features(tmp_path, monkeypatch):
  tfds = pytest.importorskip('tensorflow_datasets')
  import numpy as np

  class LmjaxTinyKept(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      inside = {'year': np.int64, 'good': np.bool_}
      features = {'text': tfds.features.Text(), 'language': tfds.features.Text(), 'meta': inside, 'list': np.ones(2)}
      features['list'] = tfds.features.Tensor(shape=(2,), dtype=np.float32)
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for number in range(6):
        meta = {'year': 2000 + number, 'good': number > 1}
        language = ('en', 'de')[number % 2]
        yield number, {'text': str(number), 'language': language, 'meta': meta, 'list': np.ones(2, np.float32)}

  LmjaxTinyKept(data_dir=str(tmp_path), file_format='array_record').download_and_prepare()
  builder = tfds.builder
  monkeypatch.setattr(tfds, 'builder', lambda name, **kw: builder(name, data_dir=str(tmp_path), **kw))

  def read(*keep):
    counts = collections.Counter()
    works = list(documents.works_of(SourceConfig('tfds:lmjax_tiny_kept', 'text', 1.0, keep=keep), 1))
    assert len(works) == 6, 'each is a work of its own'
    return ''.join(text for work in works for text in documents.texts_of(work, 'raise', counts)), counts['filtered']

  assert read('language=en', 'meta.year>2000') == ('24', 4)
  assert read('meta.good=true', 'meta.year!=2004|2005') == ('23', 4)
  with pytest.raises(DataError, match="example 0: field 'list' is of type list; it must be text"):
    read('list=1')
  with pytest.raises(DataError, match="example 0: no field 'meta.lang'; .*fields there: meta.good, meta.year"):
    read('meta.lang=en')
