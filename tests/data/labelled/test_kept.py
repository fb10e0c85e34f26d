"""What is kept from one start to the next: taken where nothing has changed, made again where anything has."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from lmjax.data import records
from lmjax.data.labelled import kept
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import train_tokenizer
from tests.data.labelled import test_golden as golden


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """(folder of the golden's files, its tokenizers)."""
  made = tmp_path_factory.mktemp('kept')
  golden.write_files(made)
  return made, golden.made_tokenizers(made)


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv(kept.VARIABLE, str(tmp_path / 'features'))
  monkeypatch.setattr(kept, '_WORTH_KEEPING', 0)
  return tmp_path / 'features'


@pytest.fixture
def made(monkeypatch):
  """What was read and tokenised: 'records' and 'rows', a call each."""
  calls = []
  read = records._read_all
  monkeypatch.setattr(records, '_read_all', lambda *given: (calls.append('records'), read(*given))[1])
  for name in ('encode_each', 'encode_with_offsets'):
    encode = getattr(Tokenizer, name)
    monkeypatch.setattr(Tokenizer, name, lambda self, texts, e=encode: (calls.append('rows'), e(self, texts))[1])
  return calls


def prepared(files, case, name='bytes', **leaves):
  """(task, data) of a case of the golden."""
  folder, tokenizers = files
  config = golden.config_of(folder, case, leaves)
  return golden.prepare.prepare(config, tokenizers[name])[1:]


def same(one, two):
  """Whether two starts have given the same."""
  assert one.counts == two.counts and one.contents == two.contents and one.splits.keys() == two.splits.keys()
  for split, examples in one.splits.items():
    other = two.splits[split]
    assert list(examples.records) == list(other.records) and np.array_equal(examples.owners, other.owners)
    assert golden.digest(list(examples.rows)) == golden.digest(list(other.rows))
  return True


@pytest.mark.parametrize('case', golden.CASES)
def test_a_second_start_reads_and_tokenises_nothing_and_has_the_same(files, cache, made, case):
  expected = json.loads(golden.GOLDEN.read_text())[f'{case}, bytes']
  first = prepared(files, case)[1]
  assert len(list(cache.iterdir())) == 2
  made.clear()
  task, second = prepared(files, case)
  assert made == [] and same(first, second)
  assert json.loads(json.dumps(golden.measured(files[0], case, files[1]['bytes']))) == expected
  for examples in second.splits.values():
    example = task.example(examples.rows[-1])  # from arrays that cannot be written to
    assert all(isinstance(value, np.ndarray) for value in example.values())


@pytest.mark.parametrize(
  'case, leaves, again',
  [
    ('classes', {'data.length': 25}, 'rows'),
    ('classes', {'data.valid_fraction': 0.25}, 'both'),
    ('classes', {'data.batch_size': 4, 'optim.learning_rate': 1e-3}, 'nothing'),
    ('classes', {'seed': 1}, 'nothing'),
    ('classes', {'data.train_share': 0.5}, 'both'),
    ('questions', {'objective.stride': 21}, 'rows'),
    ('questions of two files', {'objective.max_answer': 9}, 'rows'),
    ('questions of two files', {'objective.n_best': 3}, 'nothing'),
    ('questions of two files', {'seed': 1}, 'both'),
    ('summaries', {'objective.max_summary': 9}, 'rows'),
    ('summaries', {'objective.long_documents': 'head'}, 'rows'),
  ],
)
def test_what_depends_on_a_setting_is_made_again(files, cache, made, monkeypatch, case, leaves, again):
  prepared(files, case)
  made.clear()
  found = prepared(files, case, **leaves)[1]
  assert set(made) == {'both': {'records', 'rows'}, 'rows': {'rows'}, 'nothing': set()}[again]
  monkeypatch.setenv(kept.VARIABLE, 'none')
  assert same(found, prepared(files, case, **leaves)[1])


def test_a_tokenizer_is_trained_once(files, cache, monkeypatch):
  config = golden.config_of(files[0], 'questions', {'data.tokenizer.vocab_size': 400})
  first, trained = golden.prepare.prepare(config)[1].tokenizer, []
  train = lambda texts, *given: (trained.append(given), train_tokenizer(texts, *given))[1]
  monkeypatch.setattr('lmjax.data.labelled.trained.train_tokenizer', train)
  task, data = golden.prepare.prepare(config)[1:]
  assert trained == [] and task.tokenizer.hash == first.hash and task.tokenizer.text == first.text
  assert task.tokenizer.encode('the snow, caf\u00e9') == first.encode('the snow, caf\u00e9')
  golden.prepare.prepare(golden.config_of(files[0], 'questions', {'data.tokenizer.vocab_size': 401}))
  golden.prepare.prepare(golden.config_of(files[0], 'questions of two files', {'data.tokenizer.vocab_size': 400}))
  assert [given[0] for given in trained] == [401, 400]


def test_another_tokenizer_or_file_is_another_start(files, cache, made, tmp_path):
  prepared(files, 'classes')
  made.clear()
  prepared(files, 'classes', 'words')
  assert set(made) == {'rows'}
  made.clear()
  more = train_tokenizer((golden.text(i, 60) for i in range(200)), 330, 100_000)  # the same special tokens
  prepared((files[0], {'bytes': more}), 'classes')
  assert set(made) == {'rows'}
  text = (files[0] / 'one.tsv').read_text()
  (tmp_path / 'one.tsv').write_text(text)
  made.clear()
  first = prepared((tmp_path, files[1]), 'classes')[1]
  assert made == [], 'the same content in another folder'
  (tmp_path / 'one.tsv').write_text(f'{text}one more\tcommon\n')
  second = prepared((tmp_path, files[1]), 'classes')[1]
  total = lambda data: sum(len(examples) for examples in data.splits.values())
  assert set(made) == {'records', 'rows'} and total(second) == total(first) + 1


def test_what_is_damaged_is_made_again_and_reported(files, cache, made, capfd):
  first = prepared(files, 'classes')[1]
  for number, damage in enumerate(
    (lambda data: data[:-1], lambda data: b'', lambda data: data[:40], lambda data: data[:-9] + b'\1' + data[-8:])
  ):
    for path in cache.iterdir():
      if not (number % 2 and path.stat().st_size == 0):
        path.write_bytes(damage(path.read_bytes()) + b'\2' * (number == 1))
    made.clear()
    kept.note.cache_clear()
    assert same(first, prepared(files, 'classes')[1]) and set(made) == {'records', 'rows'}
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and all('.features: is damaged (' in line and 'made again' in line for line in lines)
    made.clear()
    assert same(first, prepared(files, 'classes')[1]) and made == [], 'it was not repaired'


def test_any_byte_that_changes_is_noticed(cache):
  arrays = {'a': np.arange(5, dtype=np.int32), 'b': np.zeros((0, 2), np.int64), 'c': np.array([[1.5]])}
  kept.save('x', arrays, {'more': [1]})
  [path] = cache.iterdir()
  data = path.read_bytes()
  padding = set()
  for place in range(len(data)):
    path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    if kept.load('x') is not None:
      padding.add(data[place])
  assert padding <= {0}  # between arrays
  path.write_bytes(data)
  found, more = kept.load('x')
  assert more == {'more': [1]} and found.keys() == arrays.keys()
  assert all(np.array_equal(found[key], array) and found[key].dtype == array.dtype for key, array in arrays.items())
  assert found['b'].shape == (0, 2) and not found['a'].flags.writeable
  assert path.stat().st_mode & 0o777 == 0o600 and cache.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_is_one_line(files, tmp_path, monkeypatch, capfd):
  (tmp_path / 'file').write_text('')
  monkeypatch.setattr(kept, '_WORTH_KEEPING', 0)
  monkeypatch.setenv(kept.VARIABLE, str(tmp_path / 'file/features'))
  first, second = prepared(files, 'classes')[1], prepared(files, 'classes')[1]
  assert same(first, second)
  [line] = capfd.readouterr().err.splitlines()
  assert line.startswith(f'lmjax: {tmp_path}/file/features: cannot be written to (Not a directory); labelled files are')


def test_what_others_have_kept_is_taken(cache, monkeypatch):
  kept.save('x', {'a': np.arange(3)}, {})
  monkeypatch.setattr(kept.os, 'utime', lambda path: (_ for _ in ()).throw(PermissionError(1, 'not permitted')))
  assert kept.load('x')[0]['a'].tolist() == [0, 1, 2]


def test_little_is_not_kept_and_none_keeps_nothing(files, tmp_path, monkeypatch):
  monkeypatch.setenv(kept.VARIABLE, str(tmp_path / 'features'))
  prepared(files, 'classes')
  assert not (tmp_path / 'features').exists()
  monkeypatch.setattr(kept, '_WORTH_KEEPING', 0)
  monkeypatch.setenv(kept.VARIABLE, 'none')
  monkeypatch.chdir(tmp_path)
  prepared(files, 'classes')
  assert list(tmp_path.iterdir()) == []


def test_a_file_that_changes_while_it_is_read_is_not_kept(files, cache, monkeypatch, tmp_path):
  path, read = tmp_path / 'one.tsv', records._read_all
  path.write_text((files[0] / 'one.tsv').read_text())
  changed = lambda *given: (path.write_text(path.read_text() + 'more\tcommon\n'), read(*given))[1]
  monkeypatch.setattr(records, '_read_all', changed)
  prepared((tmp_path, files[1]), 'classes')
  assert not cache.exists()


def test_what_was_used_longest_ago_goes_and_nothing_else(cache, monkeypatch):
  cache.mkdir()
  for name in ('notes.txt', 'old.features.bak', '.new.features.tmp', '.left.features.tmp'):
    (cache / name).write_text('x' * 4_000)
  os.utime(cache / '.left.features.tmp', (0, 0))
  array = {'a': np.zeros(250, np.int32)}
  for number in range(4):
    kept.save(f'{number}', array, {})
    os.utime(cache / f'{number}.features', (number, number))
  kept.load('0')
  monkeypatch.setattr(kept, '_MOST', 4_000)
  kept.save('4', array, {})
  there = {path.name for path in cache.iterdir()}
  assert there == {'notes.txt', 'old.features.bak', '.new.features.tmp', '0.features', '3.features', '4.features'}


WRITER = """
import sys
import numpy as np
from lmjax.data.labelled import kept
kept._WORTH_KEEPING = 0
for i in range(40):
  array = np.full(50_000, i, np.int32)
  kept.save('x', {'a': array, 'b': array}, {'number': i})
  found, more = kept.load('x')
  assert (found['a'] == more['number']).all() and (found['b'] == more['number']).all()
"""


def test_two_processes_may_keep_the_same_at_once(cache):
  """What one reads is always whole: of the one or of the other."""
  started = [subprocess.Popen([sys.executable, '-c', WRITER], stderr=subprocess.PIPE, text=True) for _ in range(2)]
  ends = [(process.communicate()[1], process.returncode) for process in started]
  assert ends == [('', 0)] * 2
  assert [path.name for path in cache.iterdir()] == ['x.features']
