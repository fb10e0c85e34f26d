"""The metrics of a run as it goes on."""

import contextlib
import json

import pytest

from lmjax.workdir import files
from lmjax.workdir.run_files import RunFiles


@contextlib.contextmanager
def writing(folder, last_step=0, tensorboard=False):
  with RunFiles(str(folder)) as run_files:
    run_files.begin(last_step, tensorboard=tensorboard, wandb_project=None)
    yield run_files


def steps(folder):
  return [line['step'] for line in files.read_metrics(str(folder))]


@pytest.fixture
def run(tmp_path):
  with writing(tmp_path) as w:
    for step in range(1, 7):
      w.add_metrics(step, 'train', {'loss': 7.0 - step, 'tokens_per_second': 10.0, 'seconds': 0.1 * step})
      if step % 3 == 0:
        w.add_metrics(step, 'valid', {'loss': 7.1 - step, 'bits_per_byte': 3.0, 'gzip_bits_per_byte': 2.9})
        w.add_samples(step, f'text of {step}\n')
    w.sync()
  return tmp_path


def test_lines_are_objects_with_step_and_split(run):
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  assert len(lines) == 8
  assert lines[0] == {'step': 1, 'split': 'train', 'loss': 6.0, 'tokens_per_second': 10.0, 'seconds': 0.1}


def test_a_resumed_run_drops_later_lines_and_a_torn_tail(run):
  with open(run / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 7, "split": "tr')
  with writing(run, 4):
    pass
  assert steps(run) == [1, 2, 3, 3, 4]
  text = (run / 'samples.md').read_text()
  assert '## step 3' in text and '## step 6' not in text


def test_a_damaged_line_costs_no_other(run):
  lines = (run / 'metrics.jsonl').read_bytes().split(b'\n')
  (run / 'metrics.jsonl').write_bytes(b'\n'.join([lines[0], lines[1][:9] + b'\xff' + lines[1][10:20], *lines[2:]]))
  assert steps(run) == [1, 3, 3, 4, 5, 6, 6]


def test_samples_that_were_cut_within_a_character_are_no_obstacle(run):
  with open(run / 'samples.md', 'ab') as file:
    file.write('## step 6\n\n…'.encode()[:-1])
  with writing(run, 6):
    pass
  assert 'text of 6' in (run / 'samples.md').read_text()


def test_a_new_run_in_an_old_folder_starts_empty(run):
  with writing(run):
    pass
  assert steps(run) == []
  assert (run / 'samples.md').read_text() == ''


def test_a_number_that_is_not_finite_is_null(tmp_path):
  with writing(tmp_path) as w:
    w.add_metrics(1, 'train', {'loss': float('nan')})
  assert json.loads((tmp_path / 'metrics.jsonl').read_text())['loss'] is None


def test_tensorboard_events_are_written(tmp_path):
  with writing(tmp_path, tensorboard=True) as w:
    w.add_metrics(1, 'train', {'loss': 1.5})
  [file] = (tmp_path / 'tensorboard').iterdir()
  assert b'train/loss' in file.read_bytes()


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
  file = tmp_path / 'results.json'
  files.write_json(str(file), {'a': 1})
  monkeypatch.setattr(files.os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
  with pytest.raises(OSError, match='disk full'):
    files.write_json(str(file), {'a': 2})
  assert json.loads(file.read_text()) == {'a': 1}
  assert [f.name for f in tmp_path.iterdir()] == ['results.json']


def test_a_run_that_continues_drops_its_test_line(run):
  with writing(run, 6) as w:
    w.add_metrics(6, 'test', {'loss': 1.0})
  assert [line['split'] for line in files.read_metrics(str(run))].count('test') == 1
  with writing(run, 6):
    pass
  assert [line['split'] for line in files.read_metrics(str(run))].count('test') == 0
