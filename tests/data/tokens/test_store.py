"""The token store: what is in it, when it is built again, and that two builders make one."""

import json
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from lmjax.data.config import DataConfig, SourceConfig, TokenizerConfig
from lmjax.data.digests import digest64
from lmjax.data.tokens import store as store_module
from lmjax.data.tokens.store import open_or_build, prepare_tokenizer
from lmjax.data.tokens.store_writer import DigestSet, SplitWriter
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.errors import DataError
from tests import runs

DOCUMENTS = [f'Document {number} tells of {number * number} things.\n' * (1 + number % 4) for number in range(200)]


def config_of(cache_dir, sources, tokenizer=None, valid_fraction=0.2, bad_text='raise', max_unknown=0.01):
  rows = dict(rows='concat', length=32, batch_size=8, cls_sep=False, valid_bytes=None)
  tokenizer = tokenizer or TokenizerConfig(None, 320, 200_000, False)
  settings = dict(valid_fraction=valid_fraction, bad_text=bad_text, cache_dir=str(cache_dir), max_unknown=max_unknown)
  return DataConfig(sources=sources, tokenizer=tokenizer, **rows, **settings)


@pytest.fixture(scope='module')
def tokenizer():
  return train_tokenizer(DOCUMENTS, 320, 20_000)


def write(path, documents):
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in documents))
  return SourceConfig(str(path), 'text', 1.0)


def build(tmp_path, tokenizer, source, **settings):
  progress = settings.pop('progress', False)
  return open_or_build('corpus', config_of(tmp_path / 'cache', {'corpus': source}, **settings), tokenizer, progress)


def ids_of(split):
  return [split.tokens[start : start + length].tolist() for start, length in zip(split.starts, split.lengths)]


def texts_of(split, tokenizer):
  return [tokenizer.decode(ids) for ids in ids_of(split)]


def folders(tmp_path):
  return sorted(name for name in os.listdir(tmp_path / 'cache') if not name.endswith('.lock'))


def test_a_store_holds_every_document_once(tmp_path, tokenizer):
  store = build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', [*DOCUMENTS, *DOCUMENTS[:30], '', ' ']))
  train, valid = texts_of(store.train, tokenizer), texts_of(store.valid, tokenizer)
  assert sorted(train + valid) == sorted(DOCUMENTS)
  assert 20 < len(valid) < 60
  counts = store.meta['counts']
  assert (counts['documents'], counts['duplicates'], counts['empty']) == (230, 30, 2)
  assert (counts['train'], counts['valid']) == (len(train), len(valid))
  for split, texts in ((store.train, train), (store.valid, valid)):
    assert split.n_bytes.tolist() == [len(text.encode()) for text in texts]
    assert split.digests.tolist() == [digest64(text.encode()) for text in texts]
  assert [store.valid.text(index).decode() for index in range(len(valid))] == valid
  assert store.train.tokens.dtype == np.dtype('<u2')


def test_split_is_stable_under_shuffling_and_adding(tmp_path, tokenizer):
  shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
  added = [f'new {number}' for number in range(100)] + shuffled
  found = []
  for name, documents in [('a', DOCUMENTS), ('b', shuffled), ('c', added)]:
    valid = build(tmp_path, tokenizer, write(tmp_path / f'{name}.jsonl', documents)).valid
    found.append({text for text in texts_of(valid, tokenizer) if not text.startswith('new')})
  assert found[0] == found[1] == found[2]


def test_store_is_reused_and_built_again_when_something_changed(tmp_path, tokenizer, capsys):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  first = build(tmp_path, tokenizer, source)
  written = os.stat(os.path.join(first.train.folder, 'tokens.bin')).st_mtime_ns
  again = build(tmp_path, tokenizer, source, bad_text='raise')
  assert again.fingerprint == first.fingerprint
  assert os.stat(os.path.join(again.train.folder, 'tokens.bin')).st_mtime_ns == written
  write(tmp_path / 'a.jsonl', [*DOCUMENTS[:-1], 'edited'])
  others = [
    build(tmp_path, tokenizer, source),
    build(tmp_path, tokenizer, source, valid_fraction=0.3),
    build(tmp_path, tokenizer, source, bad_text='skip'),
    build(tmp_path, train_tokenizer(DOCUMENTS, 300, 20_000), source),
  ]
  assert len({store.fingerprint for store in [first, *others]}) == 5 == len(folders(tmp_path))
  assert 'edited' in texts_of(others[0].train, tokenizer) + texts_of(others[0].valid, tokenizer)
  assert capsys.readouterr().out == ''


@pytest.mark.parametrize('name', ['train/tokens.bin', 'train/lengths.npy', 'valid/text.bin', 'meta.json'])
@pytest.mark.parametrize('damage', ['flip', 'cut', 'delete'])
def test_a_corrupt_store_is_reported_and_built_again(tmp_path, tokenizer, capsys, name, damage):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS[:60])
  first = build(tmp_path, tokenizer, source)
  wanted = ids_of(first.train)
  path = os.path.join(os.path.dirname(first.train.folder), name)
  with open(path, 'rb') as file:
    data = bytearray(file.read())
  data[len(data) // 2] ^= 1
  os.remove(path)
  if damage != 'delete':
    with open(path, 'wb') as file:
      file.write(data if damage == 'flip' else data[:-1])
  assert ids_of(build(tmp_path, tokenizer, source).train) == wanted
  assert 'is corrupt' in capsys.readouterr().err
  build(tmp_path, tokenizer, source)
  assert 'is corrupt' not in capsys.readouterr().err


def test_a_corrupt_store_without_its_source_is_an_error(tmp_path, tokenizer):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  shutil.rmtree(build(tmp_path, tokenizer, source).train.folder)
  os.remove(source.path)
  with pytest.raises(DataError, match='no such file'):
    build(tmp_path, tokenizer, source)


def test_ids_beyond_sixteen_bits_are_not_wrapped(tmp_path):
  words = {f'w{number}': number for number in range(70_001)}
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token='w0'))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  source = write(tmp_path / 'a.jsonl', [f'w70000 w{number} w65535 w65536' for number in range(50)])
  store = build(tmp_path, Tokenizer(backend), source)
  assert store.train.tokens.dtype == np.dtype('<u4')
  assert {(ids[0], *ids[2:]) for ids in ids_of(store.train)} == {(70_000, 65_535, 65_536)}
  with pytest.raises(AssertionError), SplitWriter(str(tmp_path / 'split'), '<u2', False) as writer:
    writer.add(1, b'x', [([70_000], 1)])


def test_a_document_without_tokens_counts_as_empty(tmp_path):
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({'a': 0, 'b': 1}, unk_token='a'))
  backend.normalizer = tokenizers.normalizers.Replace('x', '')
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  source = write(tmp_path / 'a.jsonl', ['xx', *(f'b {number}' for number in range(50))])
  store = build(tmp_path, Tokenizer(backend), source, max_unknown=0.5)
  assert store.meta['counts']['empty'] == 1
  assert store.train.lengths.min() > 0


def test_a_corpus_of_few_documents_still_holds_one_out(tmp_path, tokenizer):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS[:5])
  store = build(tmp_path, tokenizer, source, valid_fraction=1e-9)
  assert (len(store.train.lengths), len(store.valid.lengths)) == (4, 1)
  assert store.valid.digests[0] < store.train.digests.min()


def test_a_split_cannot_be_empty(tmp_path, tokenizer):
  with pytest.raises(DataError, match='add documents'):
    build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', DOCUMENTS[:1] * 3))
  with pytest.raises(DataError, match='lower data.valid_fraction'):
    build(tmp_path, tokenizer, write(tmp_path / 'b.jsonl', DOCUMENTS[:3]), valid_fraction=1 - 1e-12)
  assert folders(tmp_path) == []


def test_an_error_in_the_source_leaves_nothing_behind(tmp_path, tokenizer):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  with open(source.path, 'a') as file:
    file.write('{')
  with pytest.raises(DataError, match='line 201'):
    build(tmp_path, tokenizer, source)
  assert folders(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, tokenizer):
  (tmp_path / 'cache').write_text('a file')
  with pytest.raises(DataError, match='data.cache_dir'):
    build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', DOCUMENTS))


def test_what_a_killed_run_left_is_removed(tmp_path, tokenizer):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  folder = os.path.dirname(build(tmp_path, tokenizer, source).train.folder)
  shutil.copytree(folder, f'{folder}.0123abcd.tmp')
  build(tmp_path, tokenizer, source)
  assert folders(tmp_path) == [os.path.basename(folder)]


RACE = """
import sys
from lmjax.data.tokens import store
from lmjax.data.config import DataConfig, SourceConfig, TokenizerConfig
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.workdir import lock
if sys.argv[4] == 'no locks':
  lock.acquire = lambda file, wait: None
sources, trained = {'corpus': SourceConfig(sys.argv[1], 'text', 1.0)}, TokenizerConfig(None, 320, 1, False)
config = DataConfig(sources, trained, 'concat', 32, 8, False, 0.2, None, 'raise', sys.argv[3])
made = store.open_or_build('corpus', config, Tokenizer.load(sys.argv[2]))
print(made.fingerprint, int(made.train.tokens.astype('int64').sum()))
"""


@pytest.mark.parametrize('locks', ['locks', pytest.param('no locks', marks=pytest.mark.slow)])
def test_two_runs_at_once_make_one_store(tmp_path, tokenizer, locks):
  source = write(tmp_path / 'a.jsonl', [f'{text} {number}' for number in range(20) for text in DOCUMENTS])
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  command = [sys.executable, '-c', RACE, source.path, tmp_path / 'tokenizer.json', tmp_path / 'cache', locks]
  runs = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
  outputs = [run.communicate() for run in runs]
  assert [run.returncode for run in runs] == [0, 0, 0], outputs
  assert len({out for out, _ in outputs}) == 1 and not any(err for _, err in outputs)
  assert len(folders(tmp_path)) == 1


def test_a_finished_store_in_a_read_only_folder_is_used(tmp_path, tokenizer):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  folder = os.path.dirname(build(tmp_path, tokenizer, source).train.folder)
  os.remove(folder + '.lock')
  os.mkdir(folder + '.lock')  # so that the lock cannot be opened, even by root
  assert len(build(tmp_path, tokenizer, source).train.lengths)
  shutil.rmtree(folder)
  with pytest.raises(DataError, match='data.cache_dir'):
    build(tmp_path, tokenizer, source)


def test_progress_reports_bytes_per_second_and_counts(tmp_path, tokenizer, capsys):
  build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', [*DOCUMENTS, DOCUMENTS[0], ' ']), progress=True)
  out = capsys.readouterr().out
  assert 'MB/s' in out and '1 duplicates dropped, 1 empty' in out


def test_digest_set_finds_first_occurrences():
  rng = np.random.default_rng(0)
  digests = rng.integers(0, 5_000, 20_000).astype(np.uint64)
  seen, known = DigestSet(), set()
  for start in range(0, len(digests), 777):
    chunk = digests[start : start + 777]
    wanted = []
    for digest in chunk.tolist():
      wanted.append(digest not in known)
      known.add(digest)
    assert seen.add(chunk).tolist() == wanted
  assert sum(map(len, seen._levels)) == len(known)


def test_tokenizer_is_trained_on_training_documents_and_kept(tmp_path, monkeypatch):
  sources = {'a': write(tmp_path / 'a.jsonl', DOCUMENTS), 'b': write(tmp_path / 'b.jsonl', ['zzqzzq ' * 40, *'bcdef'])}
  seen = []
  train = store_module.train_tokenizer
  monkeypatch.setattr(
    store_module, 'train_tokenizer', lambda texts, *args: seen.append(list(texts)) or train(texts, *args)
  )
  cache = tmp_path / 'cache'
  config = config_of(cache, sources)
  first, again = prepare_tokenizer(config), prepare_tokenizer(config)
  assert first.hash == again.hash and len(seen) == 1
  held_out = {text for text in DOCUMENTS if digest64(text.encode()) < 0.2 * 2**64}
  assert held_out and not held_out & set(seen[0]) and set(DOCUMENTS) - held_out <= set(seen[0])

  path = next(name for name in os.listdir(cache) if name.endswith('.json'))
  with open(os.path.join(cache, path), 'r+') as file:
    text = file.read().replace('"[MASK]"', '"[XXXX]"')
    file.seek(0)
    file.write(text)
  assert prepare_tokenizer(config).hash == first.hash and len(seen) == 2
  first.save(str(tmp_path / 'mine.json'))
  mine = prepare_tokenizer(config_of(cache, {}, TokenizerConfig(str(tmp_path / 'mine.json'), None, None, None)))
  assert mine.hash == first.hash


def test_sources_share_the_sample_by_weight(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)

  def corpus(name, letters, weight):
    texts = [' '.join(''.join(rng.choice(list(letters), 6)) for _ in range(50)) for _ in range(300)]
    return SourceConfig(write(tmp_path / name, texts).path, 'text', weight)

  seen = []
  train = store_module.train_tokenizer
  monkeypatch.setattr(store_module, 'train_tokenizer', lambda texts, *args: seen.extend(texts) or train(texts, *args))
  sources = {'a': corpus('a.jsonl', 'abc', 3.0), 'b': corpus('b.jsonl', 'xyz', 1.0)}
  prepare_tokenizer(config_of(tmp_path / 'cache', sources, TokenizerConfig(None, 300, 40_000, False)))
  sizes = [sum(len(text) for text in seen if text[0] in letters) for letters in ('abc', 'xyz')]
  assert abs(sizes[0] - 30_000) < 1_000 and abs(sizes[1] - 10_000) < 1_000


def test_text_that_the_tokenizer_does_not_know_is_counted_and_refused(tmp_path):
  tokenizer = Tokenizer.load(runs.save_words(tmp_path / 'words.json', DOCUMENTS[0].split()))
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  unknown = [word for text in dict.fromkeys(DOCUMENTS) for word in text.split() if word not in DOCUMENTS[0].split()]
  n_bytes = sum(len(text) for text in dict.fromkeys(DOCUMENTS))
  found, share = f'{sum(map(len, unknown)):,} of {n_bytes:,} bytes', sum(map(len, unknown)) / n_bytes
  for _ in ('built', 'found in the cache'):
    said = rf'corpus \(.*a.jsonl\): no known token stands for {found} \({share:.1%}\); data.max_unknown = 0.01 '
    with pytest.raises(DataError, match=said + 'is the largest share; train a tokenizer on this text'):
      build(tmp_path, tokenizer, source)
  store = build(tmp_path, tokenizer, source, max_unknown=share + 1e-6)
  counts = store_module.counts_of(store)
  assert len(folders(tmp_path)) == 1
  assert counts['unknown_tokens'] == len(unknown) and counts['unknown_bytes'] == sum(map(len, unknown))
  assert counts['bytes'] == n_bytes and counts['tokens'] == sum(len(text.split()) for text in dict.fromkeys(DOCUMENTS))


def test_a_tokenizer_that_knows_every_byte_keeps_its_store(tmp_path, tokenizer):
  """Those that were built before unknown bytes were counted hold none."""
  store = build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', DOCUMENTS))
  assert 'counted' not in store.meta and 'unknown_bytes' not in store.meta['counts']
  assert store_module.counts_of(store)['unknown_bytes'] == 0
