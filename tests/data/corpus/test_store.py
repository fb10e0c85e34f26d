"""The corpus as shards: what is in it, when it is made again, and that several makers make one."""

import contextlib
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from lmjax.data.config import SourceConfig, TokenizerConfig
from lmjax.data.corpus import inventory, shard, unit
from lmjax.data.corpus import tokenizers as corpus_tokenizers
from lmjax.data.corpus.cache import Cache
from lmjax.data.digests import digest64, normalised_digest64
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.errors import DataError
from tests import runs
from tests.data.corpus.corpora import DOCUMENTS, build, config_of, content, ids_of, texts_of, train_of, write


@pytest.fixture(scope='module')
def tokenizer():
  return train_tokenizer(DOCUMENTS, 320, 20_000)


def test_a_store_holds_every_document_once(tmp_path, tokenizer):
  store = build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', [*DOCUMENTS, *DOCUMENTS[:30], '', ' ']))
  train, valid = texts_of(train_of(store), tokenizer), texts_of(store.held_out.documents, tokenizer)
  assert sorted(train + valid) == sorted(DOCUMENTS)
  assert 20 < len(valid) < 60
  counts = store.counts
  assert (counts['examples'], counts['duplicates'], counts['skipped']['empty']) == (230, 30, 2)
  assert (store.train_documents, counts['held_out']) == (len(train), len(valid))
  assert counts['bytes'] == sum(len(text.encode()) for text in DOCUMENTS)
  assert store.held_out.n_bytes.tolist() == [len(text.encode()) for text in valid]
  digests = [normalised_digest64(text) for text in valid]
  assert digests == sorted(digests) and max(digests) <= 0.2 * 2**64
  one = store.open(0)
  assert one.digests.tolist() == [digest64(text.encode()) for text in [*DOCUMENTS, *DOCUMENTS[:30]]]
  assert one.tokens.dtype == np.dtype('<u2')


def test_copies_in_other_case_and_spacing_are_on_the_same_side(tmp_path, tokenizer):
  other = [text.upper().replace(' ', '  ') for text in DOCUMENTS] + [f' {text}' for text in DOCUMENTS[:100]]
  sources = {'a': write(tmp_path / 'a.jsonl', DOCUMENTS), 'b': write(tmp_path / 'b.jsonl', [*other, *DOCUMENTS[:5]])}
  stores = build_all(tmp_path, tokenizer, sources)
  assert stores['b'].counts['duplicates'] == 5, 'the first stands, in the order of the sources'
  sides = {}
  for store in stores.values():
    for side, documents in (('train', train_of(store)), ('held out', store.held_out.documents)):
      for text in texts_of(documents, tokenizer):
        sides.setdefault(' '.join(text.lower().split()), set()).add(side)
  assert len(sides) == 200 and all(len(both) == 1 for both in sides.values())


def test_split_is_stable_under_shuffling_and_adding(tmp_path, tokenizer):
  shuffled = random.Random(0).sample(DOCUMENTS, len(DOCUMENTS))
  added = [f'new {number}' for number in range(100)] + shuffled
  found = []
  for name, documents in [('a', DOCUMENTS), ('b', shuffled), ('c', added)]:
    valid = build(tmp_path, tokenizer, write(tmp_path / f'{name}.jsonl', documents)).held_out.documents
    found.append({text for text in texts_of(valid, tokenizer) if not text.startswith('new')})
  assert found[0] == found[1] == found[2]


def build_all(tmp_path, tokenizer, sources, cache='cache', **settings):
  from lmjax.data.corpus.store import open_or_build

  return open_or_build(config_of(tmp_path / cache, sources, **settings), tokenizer)


def test_a_corpus_is_reused_and_made_again_where_something_changed(tmp_path, tokenizer, monkeypatch):
  source, made = write(tmp_path / 'a.jsonl', DOCUMENTS), []
  encoded = unit._encoded
  monkeypatch.setattr(unit, '_encoded', lambda texts, tokenizer: made.append(len(texts)) or encoded(texts, tokenizer))
  first = build(tmp_path, tokenizer, source)
  before = content(tmp_path / 'cache')
  assert build(tmp_path, tokenizer, source).fingerprint == first.fingerprint and made == [200]
  os.utime(source.path)  # touched: read again, and the same
  assert build(tmp_path, tokenizer, source).fingerprint == first.fingerprint and made == [200]
  assert before.items() <= content(tmp_path / 'cache').items()
  assert build(tmp_path, tokenizer, source, valid_fraction=0.3).fingerprint != first.fingerprint and made == [200]
  write(tmp_path / 'a.jsonl', [*DOCUMENTS[:-1], 'edited'])
  others = [
    build(tmp_path, tokenizer, source),
    build(tmp_path, tokenizer, source, bad_text='skip'),
    build(tmp_path, train_tokenizer(DOCUMENTS, 300, 20_000), source),
  ]
  assert len({store.fingerprint for store in [first, *others]}) == 4 and made == [200] * 4
  assert 'edited' in texts_of(train_of(others[0]), tokenizer) + texts_of(others[0].held_out.documents, tokenizer)


def test_a_file_that_is_added_is_one_more_shard(tmp_path, tokenizer, monkeypatch):
  monkeypatch.setattr(unit, '_SHARD_BYTES', 3_000)
  monkeypatch.setattr('lmjax.data.corpus.build.WORK_BYTES', 3_000)
  (tmp_path / 'texts').mkdir()
  for number in range(6):
    write(tmp_path / 'texts' / f'{number}.jsonl', DOCUMENTS[30 * number : 30 * number + 30])
  source, made = SourceConfig(str(tmp_path / 'texts'), 'text', 1.0), []
  encoded = unit._encoded
  monkeypatch.setattr(unit, '_encoded', lambda texts, tokenizer: made.append(texts) or encoded(texts, tokenizer))
  first = build(tmp_path, tokenizer, source)
  assert len(first.row.shards) == len(made) > 4
  del made[:]
  write(tmp_path / 'texts' / '9.jsonl', DOCUMENTS[180:])
  second = build(tmp_path, tokenizer, source)
  assert sum(made, []) == DOCUMENTS[180:]
  assert {row.name for row in first.row.shards} <= {row.name for row in second.row.shards}
  kept = texts_of(train_of(second), tokenizer) + texts_of(second.held_out.documents, tokenizer)
  assert sorted(kept) == sorted(DOCUMENTS)


def test_how_a_path_is_written_and_where_it_lies_makes_no_other_corpus(tmp_path, tokenizer, monkeypatch):
  write(tmp_path / 'a.jsonl', DOCUMENTS)
  monkeypatch.chdir(tmp_path)
  paths = ['a.jsonl', './a.jsonl', str(tmp_path / 'a.jsonl'), '*.jsonl']
  found = {build(tmp_path, tokenizer, SourceConfig(path, 'text', 1.0)).fingerprint for path in paths}
  (tmp_path / 'moved').mkdir()
  shutil.move(tmp_path / 'a.jsonl', tmp_path / 'moved')
  found.add(build(tmp_path, tokenizer, SourceConfig('moved', 'text', 1.0)).fingerprint)
  assert len(found) == 1


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, tokenizer, monkeypatch):
  source, encoded = write(tmp_path / 'a.jsonl', DOCUMENTS), unit._encoded

  def while_it_changes(part, tokenizer):
    write(tmp_path / 'a.jsonl', [*DOCUMENTS, 'more'])
    return encoded(part, tokenizer)

  monkeypatch.setattr(unit, '_encoded', while_it_changes)
  with pytest.raises(DataError, match='a.jsonl: has changed while it was read; .* run the command again'):
    build(tmp_path, tokenizer, source)
  monkeypatch.undo()
  assert build(tmp_path, tokenizer, source).counts['examples'] == len(DOCUMENTS) + 1


def test_a_source_that_lies_in_another_is_named(tmp_path, tokenizer):
  sources = {name: write(tmp_path / f'{name}.jsonl', DOCUMENTS) for name in 'ab'}
  with pytest.raises(DataError, match='b.jsonl: holds no document with text .*200 duplicates, of earlier sources too'):
    build_all(tmp_path, tokenizer, sources)


def test_the_sample_of_training_text_has_no_other(tmp_path, tokenizer):
  store = build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', [*DOCUMENTS, *DOCUMENTS]))
  train = train_of(store)
  wanted = np.concatenate([train.ids(i) for i in range(len(train.lengths))])
  assert np.array_equal(store.sample(10**6), wanted) and np.array_equal(store.sample(99), wanted[:99])


def test_any_header_is_refused_in_a_line(tmp_path, tokenizer):
  build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', DOCUMENTS[:30]))
  [path] = (tmp_path / 'cache' / 'shards').iterdir()
  whole = path.read_bytes()
  for place in range(8 + int.from_bytes(whole[:8], 'little')):
    for byte in (whole[place] ^ 1, ord('0'), ord(','), 255):
      path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
      shard.is_whole(str(path))
      for read in (
        lambda: shard.opened(str(path), path.stem),
        lambda: shard.columns(lambda start, stop: path.read_bytes()[start:stop], str(path), path.stem),
      ):
        with contextlib.suppress(DataError):
          assert read().lengths.tolist() == shard.opened(str(path), path.stem).lengths.tolist()


def test_what_nobody_uses_is_removed(tmp_path, tokenizer):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  build(tmp_path, tokenizer, source)
  before = set(content(tmp_path / 'cache'))
  write(tmp_path / 'a.jsonl', [*DOCUMENTS, 'more'])
  build(tmp_path, tokenizer, source)
  cache = Cache(str(tmp_path / 'cache'))
  assert inventory.remove_unused(cache, 1)[0] == 0
  (tmp_path / 'cache' / 'corpora' / f'{"ab" * 16}.roles').write_bytes(b'of a build that was killed')
  for name in (*before, f'corpora/{"ab" * 16}.roles'):
    os.utime(tmp_path / 'cache' / name, (1_000, 1_000))
  removed = inventory.remove_unused(cache, 1)[0]
  left = {name for name in before if (tmp_path / 'cache' / name).exists()}
  assert removed == len(before) and all(name.startswith('tokenizers/') for name in left)
  assert 'a.jsonl' in next(inventory.lines(cache)) and build(tmp_path, tokenizer, source)


def test_files_that_are_alike_but_for_their_folder_are_others(tmp_path, tokenizer):
  """The same name, size and time, as archives unpack them; alone, and in one source."""
  texts = {folder: [f'{folder} {number}' for number in range(10)] for folder in 'ab'}
  for folder, documents in texts.items():
    (tmp_path / 'all' / folder).mkdir(parents=True)
    write(tmp_path / 'all' / folder / '0.jsonl', documents)
    os.utime(tmp_path / 'all' / folder / '0.jsonl', (1_000, 1_000))
  for path, wanted in {'all/a': texts['a'], 'all/b': texts['b'], 'all': sum(texts.values(), [])}.items():
    store = build(tmp_path, tokenizer, SourceConfig(str(tmp_path / path), 'text', 1.0))
    kept = texts_of(train_of(store), tokenizer) + texts_of(store.held_out.documents, tokenizer)
    assert sorted(kept) == sorted(wanted), path


@pytest.mark.parametrize('name', ['shards', 'corpora'])
@pytest.mark.parametrize('damage', ['flip', 'cut', 'delete'])
def test_a_damaged_shard_is_never_read(tmp_path, tokenizer, name, damage):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS[:60])
  first = build(tmp_path, tokenizer, source)
  wanted = content(tmp_path / 'cache')
  [path] = (tmp_path / 'cache' / name).glob('*.safetensors')
  data = bytearray(path.read_bytes())
  data[-3] ^= 1
  path.unlink()
  if damage != 'delete':
    path.write_bytes(data if damage == 'flip' else data[:-1])
  if damage == 'flip':  # is found when it is read, not before
    with pytest.raises(DataError, match='do not match their checksum; .* remove the file'):
      again = build(tmp_path, tokenizer, source)
      train_of(again), again.held_out
    path.unlink()
  assert ids_of(train_of(build(tmp_path, tokenizer, source))) == ids_of(train_of(first))
  assert content(tmp_path / 'cache') == wanted


def test_ids_beyond_sixteen_bits_are_not_wrapped(tmp_path):
  words = {f'w{number}': number for number in range(70_001)}
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token='w0'))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  source = write(tmp_path / 'a.jsonl', [f'w70000 w{number} w65535 w65536' for number in range(50)])
  store = build(tmp_path, Tokenizer(backend), source)
  assert store.open(0).tokens.dtype == np.dtype('<u4')
  assert {(ids[0], *ids[2:]) for ids in ids_of(train_of(store))} == {(70_000, 65_535, 65_536)}


def test_a_document_without_tokens_counts_as_empty(tmp_path):
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({'a': 0, 'b': 1}, unk_token='a'))
  backend.normalizer = tokenizers.normalizers.Replace('x', '')
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  source = write(tmp_path / 'a.jsonl', ['xx', *(f'b {number}' for number in range(50))])
  store = build(tmp_path, Tokenizer(backend), source, max_unknown=0.5)
  assert store.counts['skipped']['empty'] == 1
  assert train_of(store).lengths.min() > 0


def test_a_corpus_of_few_documents_still_holds_one_out(tmp_path, tokenizer):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS[:5])
  store = build(tmp_path, tokenizer, source, valid_fraction=1e-9)
  assert (store.train_documents, len(store.held_out.documents.lengths)) == (4, 1)
  [held_out] = texts_of(store.held_out.documents, tokenizer)
  assert held_out == min(DOCUMENTS[:5], key=normalised_digest64)


def test_what_a_small_source_holds_out_no_other_trains_on(tmp_path, tokenizer):
  small, large = write(tmp_path / 'a.jsonl', DOCUMENTS[:5]), write(tmp_path / 'b.jsonl', [t + ' ' for t in DOCUMENTS])
  stores = build_all(tmp_path, tokenizer, {'small': small, 'large': large}, valid_fraction=0.01)
  [held_out] = texts_of(stores['small'].held_out.documents, tokenizer)
  assert held_out + ' ' in texts_of(stores['large'].held_out.documents, tokenizer)


def test_a_split_cannot_be_empty(tmp_path, tokenizer):
  with pytest.raises(DataError, match='add documents'):
    build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', DOCUMENTS[:1] * 3))
  with pytest.raises(DataError, match='lower data.valid_fraction'):
    build(tmp_path, tokenizer, write(tmp_path / 'b.jsonl', DOCUMENTS[:3]), valid_fraction=1 - 1e-12)
  assert not list((tmp_path / 'cache').glob('corpora/*'))


def test_an_error_in_the_source_leaves_nothing_behind(tmp_path, tokenizer):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  with open(source.path, 'a') as file:
    file.write('{')
  with pytest.raises(DataError, match='line 201'):
    build(tmp_path, tokenizer, source)
  assert not [name for name in content(tmp_path / 'cache') if not name.startswith('tokenizers/')]


@pytest.mark.parametrize(
  'source, cache, is_refused',
  [
    ('text', 'text/cache', True),
    ('text/', 'text', True),
    ('.', 'cache', True),
    ('~', '~/caches', True),
    ('gs://b/text', 'gs://b/text/c', True),
    ('gs://b/', 'gs://b', True),
    ('text', 'texts/cache', False),
    ('text', 'cache', False),
    ('.', '.cache/lmjax', False),
    ('~', '~/.cache/lmjax', False),
    ('.', 'gs://b/cache', False),
    ('gs://b/text', 'gs://b/cache', False),
    ('text/*.txt', 'text/cache', False),
    ('text.jsonl', 'text.jsonl', False),
    ('pydoc', 'pydoc/cache', False),
    ('hf:a/b', 'hf:a/b/c', False),
  ],
)
def test_a_cache_among_the_files_of_a_source_is_refused(source, cache, is_refused):
  field = None if source in ('pydoc', 'text/*.txt') else 'text'
  problems = list(config_of(cache, {'main': SourceConfig(source, field, 1.0)}).problems())
  rule = f'must not lie in {source}, all of whose files are text to read'
  assert problems == ([('cache_dir', rule, 'name another folder')] if is_refused else [])


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, tokenizer):
  (tmp_path / 'cache').write_text('a file')
  with pytest.raises(DataError, match='data.cache_dir'):
    build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', DOCUMENTS))


RACE = """
import sys
from lmjax.data.corpus import build, unit
from lmjax.data.corpus.store import open_or_build
from lmjax.data.config import DataConfig, SourceConfig, TokenizerConfig
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.workdir import lock
if sys.argv[4] == 'no locks':
  lock.acquire = lambda file, wait: None
unit._SHARD_BYTES = build.WORK_BYTES = 30_000
sources, trained = {'corpus': SourceConfig(sys.argv[1], 'text', 1.0)}, TokenizerConfig(None, 320, 1, False)
config = DataConfig(sources, trained, 'concat', 32, 8, False, 0.2, None, 'raise', sys.argv[3])
share = build.Share(int(sys.argv[5]), int(sys.argv[6]))
print(open_or_build(config, Tokenizer.load(sys.argv[2]), share=share)['corpus'].fingerprint)
"""


@pytest.mark.parametrize('locks', ['locks', pytest.param('no locks', marks=pytest.mark.slow)])
def test_several_processes_make_one_corpus(tmp_path, tokenizer, locks):
  source = write(tmp_path / 'a.jsonl', [f'{text} {number}' for number in range(20) for text in DOCUMENTS])
  tokenizer.save(str(tmp_path / 'tokenizer.json'))

  def make(cache, task, tasks):
    arguments = [source.path, tmp_path / 'tokenizer.json', tmp_path / cache, locks, str(task), str(tasks)]
    return subprocess.Popen(
      [sys.executable, '-c', RACE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

  whole = make('whole', 0, 1).communicate()
  processes = [make('shared', task, 3) for task in (0, 1, 2)] + [make('shared', 0, 1)]
  outputs = [process.communicate() for process in processes]
  assert [process.returncode for process in processes] == [0] * 4, outputs
  ends = {(out.splitlines()[-1], error) for out, error in outputs}  # before it, that it waits for another, perhaps
  assert ends == {(whole[0].strip(), '')}
  assert content(tmp_path / 'whole') == content(tmp_path / 'shared')


def test_a_finished_corpus_in_a_read_only_folder_is_used(tmp_path, tokenizer):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  build(tmp_path, tokenizer, source)
  shutil.rmtree(tmp_path / 'cache' / 'tokenizers')
  (tmp_path / 'cache' / 'tokenizers').write_text('so that nothing can be written there')
  assert build(tmp_path, tokenizer, source).train_documents
  shutil.rmtree(tmp_path / 'cache' / 'shards')
  with pytest.raises(DataError, match='data.cache_dir'):
    build(tmp_path, tokenizer, source)


def test_progress_reports_bytes_per_second_and_counts(tmp_path, tokenizer, capsys):
  build(tmp_path, tokenizer, write(tmp_path / 'a.jsonl', [*DOCUMENTS, DOCUMENTS[0], ' ']), progress=True)
  out = capsys.readouterr().out
  assert 'MB/s' in out and '1 duplicates left out, 1 empty' in out


def test_tokenizer_is_trained_on_training_documents_and_kept(tmp_path, monkeypatch):
  sources = {'a': write(tmp_path / 'a.jsonl', DOCUMENTS), 'b': write(tmp_path / 'b.jsonl', ['zzqzzq ' * 40, *'bcdef'])}
  seen = []
  train = corpus_tokenizers.train_tokenizer
  monkeypatch.setattr(
    corpus_tokenizers, 'train_tokenizer', lambda texts, *args: seen.append(list(texts)) or train(texts, *args)
  )
  cache = tmp_path / 'cache'
  config = config_of(cache, sources)
  first, again = corpus_tokenizers.prepare(config), corpus_tokenizers.prepare(config)
  assert first.hash == again.hash and len(seen) == 1
  held_out = {text for text in DOCUMENTS if normalised_digest64(text) <= 0.2 * 2**64}
  assert held_out and not held_out & set(seen[0]) and set(DOCUMENTS) - held_out <= set(seen[0])

  path = next(name for name in os.listdir(cache) if name.endswith('.json'))
  with open(os.path.join(cache, path), 'r+') as file:
    text = file.read().replace('"[MASK]"', '"[XXXX]"')
    file.seek(0)
    file.write(text)
  assert corpus_tokenizers.prepare(config).hash == first.hash and len(seen) == 2
  first.save(str(tmp_path / 'mine.json'))
  mine = corpus_tokenizers.prepare(config_of(cache, {}, TokenizerConfig(str(tmp_path / 'mine.json'), None, None, None)))
  assert mine.hash == first.hash


def test_sources_share_the_sample_by_weight(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)

  def corpus(name, letters, weight):
    texts = [' '.join(''.join(rng.choice(list(letters), 6)) for _ in range(50)) for _ in range(300)]
    return SourceConfig(write(tmp_path / name, texts).path, 'text', weight)

  seen = []
  train = corpus_tokenizers.train_tokenizer
  noted = lambda texts, *args: seen.extend(texts) or train(texts, *args)
  monkeypatch.setattr(corpus_tokenizers, 'train_tokenizer', noted)
  sources = {'a': corpus('a.jsonl', 'abc', 3.0), 'b': corpus('b.jsonl', 'xyz', 1.0)}
  corpus_tokenizers.prepare(config_of(tmp_path / 'cache', sources, TokenizerConfig(None, 300, 40_000, False)))
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
  counts = store.counts
  assert len(list((tmp_path / 'cache' / 'shards').iterdir())) == 1
  assert counts['unknown_tokens'] == len(unknown) and counts['unknown_bytes'] == sum(map(len, unknown))
  assert counts['bytes'] == n_bytes and counts['tokens'] == sum(len(text.split()) for text in dict.fromkeys(DOCUMENTS))
