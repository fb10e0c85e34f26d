"""Processes of one machine: the same files as one makes, whatever happens to them."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from lmjax.data.config import SourceConfig
from lmjax.data.corpus import build as build_lib
from lmjax.data.corpus import manifest, unit, worker
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.errors import DataError
from tests.conftest import ROOT
from tests.data.corpus.corpora import DOCUMENTS, build, config_of, content, write


@pytest.fixture(scope='module')
def tokenizer():
  return train_tokenizer(DOCUMENTS, 320, 20_000)


@pytest.fixture
def source(tmp_path):
  """Eight files, of which each is a work or two."""
  (tmp_path / 'texts').mkdir()
  for number in range(8):
    texts = [f'{text} of {number}' for text in DOCUMENTS]
    write(tmp_path / 'texts' / f'{number}.jsonl', texts)
  return SourceConfig(str(tmp_path / 'texts'), 'text', 1.0)


@pytest.fixture
def small_works(monkeypatch):
  monkeypatch.setattr(build_lib, 'WORK_BYTES', 10_000)


@pytest.fixture
def processes(monkeypatch, small_works):
  """Whatever the size, works are made by processes."""
  monkeypatch.setattr(build_lib, '_WORTH_PROCESSES', 0)


def test_processes_make_what_one_makes(tmp_path, tokenizer, source, small_works, monkeypatch):
  whole = build(tmp_path, tokenizer, source)
  (tmp_path / 'cache').rename(tmp_path / 'whole')
  monkeypatch.setattr(build_lib, '_WORTH_PROCESSES', 0)
  assert build(tmp_path, tokenizer, source).fingerprint == whole.fingerprint
  assert content(tmp_path / 'cache') == content(tmp_path / 'whole') and len(whole.row.shards) > 8


def test_of_two_tasks_the_one_that_ends_last_has_all_works(tmp_path, tokenizer, source, small_works, monkeypatch):
  config = config_of(tmp_path / 'cache', {'corpus': source})
  run = lambda task: manifest.find(config, tokenizer, build_lib.Share(task, 2, takes_over=False))
  make, other = unit.make, []

  def make_after_the_other_task(*arguments):
    if not other:
      other.append('it runs')
      other.append(run(1))
    return make(*arguments)

  monkeypatch.setattr(unit, 'make', make_after_the_other_task)
  assert run(0).sources['corpus'].counts['documents'] == 8 * len(DOCUMENTS)
  assert other[1] is None


def test_a_process_that_is_killed_costs_one_try(tmp_path, tokenizer, source, processes, monkeypatch):
  make, killed = worker.Worker.make, []

  def kill_the_first(self, job, work):
    if not killed:
      killed.append(self._process.pid)
      os.kill(self._process.pid, signal.SIGKILL)
    return make(self, job, work)

  monkeypatch.setattr(worker.Worker, 'make', kill_the_first)
  store = build(tmp_path, tokenizer, source)
  assert killed and store.counts['examples'] == 8 * len(DOCUMENTS)


def test_what_cannot_be_read_is_tried_twice_and_named_and_the_rest_is_kept(
  tmp_path, tokenizer, source, processes, monkeypatch
):
  started, begin = [], worker.Worker.__init__
  monkeypatch.setattr(worker.Worker, '__init__', lambda self: started.append(self) or begin(self))
  broken = pathlib.Path(source.path) / '3.jsonl'
  right = broken.read_text()
  broken.write_text(right + '{')
  with pytest.raises(DataError, match=r'3\.jsonl, line .*: broken JSON'):
    build(tmp_path, tokenizer, source)
  assert started and all(one._process.poll() is not None for one in started), 'none is left behind'
  made = content(tmp_path / 'cache')
  assert any(name.startswith('shards/') for name in made) and not any(name.startswith('corpora/') for name in made)
  broken.write_text(right)
  assert build(tmp_path, tokenizer, source).counts['examples'] == 8 * len(DOCUMENTS)
  assert made.items() <= content(tmp_path / 'cache').items()


def test_what_a_worker_prints_is_no_answer(tmp_path, source, processes, capfd):
  """Nor does it matter what kind of program builds: here one that reads its code from standard input."""
  code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from lmjax.data.corpus import build, store, unit
from lmjax.data.tokens.tokenizer import Tokenizer
from tests.data.corpus.corpora import config_of
from lmjax.data.config import SourceConfig
build.WORK_BYTES, build._WORTH_PROCESSES = 10_000, 0
config = config_of({str(tmp_path / 'cache')!r}, {{'corpus': SourceConfig({source.path!r}, 'text', 1.0)}})
tokenizer = Tokenizer.load({str(tmp_path / 'tokenizer.json')!r})
print(store.open_or_build(config, tokenizer, progress=True)['corpus'].counts['examples'])
"""
  train_tokenizer(DOCUMENTS, 320, 20_000).save(str(tmp_path / 'tokenizer.json'))
  done = subprocess.run([sys.executable, '-'], input=code, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines()[-1] == str(8 * len(DOCUMENTS)) and 'MB/s' in done.stdout


KILLED = """
import sys
from lmjax.data.corpus import build, unit
from lmjax.data.corpus.store import open_or_build
from lmjax.data.config import SourceConfig
from lmjax.data.tokens.tokenizer import Tokenizer
from tests.data.corpus.corpora import config_of
build.WORK_BYTES, unit._SHARD_BYTES, build._WORTH_PROCESSES = 10_000, 10_000, 0
config = config_of(sys.argv[1], {'corpus': SourceConfig(sys.argv[2], 'text', 1.0)})
print('ready', flush=True)
open_or_build(config, Tokenizer.load(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_kill_at_any_time_loses_nothing_that_is_finished(tmp_path, tokenizer, source, small_works):
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  whole = build(tmp_path, tokenizer, source)
  (tmp_path / 'cache').rename(tmp_path / 'whole')
  command = [sys.executable, '-c', KILLED, tmp_path / 'cache', source.path, tmp_path / 'tokenizer.json']
  kept: set[str] = set()
  for number in range(20):
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    process.stdout.readline()
    try:
      process.wait(timeout=0.02 * number)
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGKILL)
      process.wait()
    now = {name for name in content(tmp_path / 'cache') if not name.endswith('.tmp')} if kept or number else set()
    assert kept <= now
    kept = now
  assert build(tmp_path, tokenizer, source).fingerprint == whole.fingerprint
  made = {name: data for name, data in content(tmp_path / 'cache').items() if not name.endswith('.tmp')}
  assert made == content(tmp_path / 'whole')
