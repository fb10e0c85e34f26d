"""What a run leaves for people."""

import json

import pytest

from lmjax.reports import curves
from lmjax.workdir import files, metric_writer
from lmjax.workdir.metric_writer import Writer, WriterConfig

CONFIG = WriterConfig(tensorboard=False, wandb_project=None)


def steps(folder):
  return [line['step'] for line in files.read_metrics(str(folder))]


@pytest.fixture
def run(tmp_path):
  w = Writer(str(tmp_path), CONFIG, 0, 'run')
  for step in range(1, 7):
    w.write(step, 'train', {'loss': 7.0 - step, 'tokens_per_second': 10.0, 'seconds': 0.1 * step})
    if step % 3 == 0:
      w.write(step, 'valid', {'loss': 7.1 - step, 'bits_per_byte': 3.0, 'gzip_bits_per_byte': 2.9})
      w.write_samples(step, f'text of {step}\n')
  w.sync()
  w.plot('bits_per_byte', 'gzip_bits_per_byte', at_end=True)
  w.close()
  return tmp_path


def test_lines_are_objects_with_step_and_split(run):
  lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
  assert len(lines) == 8
  assert lines[0] == {'step': 1, 'split': 'train', 'loss': 6.0, 'tokens_per_second': 10.0, 'seconds': 0.1}


def test_curves_are_drawn_every_few_seconds_and_at_the_end(tmp_path, monkeypatch):
  now, drawn = [100.0], []
  monkeypatch.setattr(metric_writer.time, 'monotonic', lambda: now[0])
  monkeypatch.setattr(metric_writer.curves, 'plot_curves', lambda *arguments: drawn.append(now[0]))
  w = Writer(str(tmp_path), CONFIG, 0, 'run')
  for seconds, at_end in [(1, False), (10, False), (19, False), (20, False), (21, True)]:
    now[0] = 100.0 + seconds
    w.plot('accuracy', None, at_end)
  w.close()
  assert drawn == [110.0, 120.0, 121.0]


def test_a_resumed_run_drops_later_lines_and_a_torn_tail(run):
  with open(run / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 7, "split": "tr')
  Writer(str(run), CONFIG, 4, 'run').close()
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
  Writer(str(run), CONFIG, 6, 'run').close()
  assert 'text of 6' in (run / 'samples.md').read_text()


def test_a_new_run_in_an_old_folder_starts_empty(run):
  Writer(str(run), CONFIG, 0, 'run').close()
  assert steps(run) == []
  assert (run / 'samples.md').read_text() == ''


def test_a_number_that_is_not_finite_is_null(tmp_path):
  w = Writer(str(tmp_path), CONFIG, 0, 'run')
  w.write(1, 'train', {'loss': float('nan')})
  w.close()
  assert json.loads((tmp_path / 'metrics.jsonl').read_text())['loss'] is None


def test_curves_are_drawn(run):
  data = (run / 'curves.png').read_bytes()
  assert data.startswith(b'\x89PNG') and len(data) > 10_000


def test_a_baseline_is_drawn_where_there_is_one(run):
  with_level = (run / 'curves.png').read_bytes()
  curves.plot_curves(str(run), 'bits_per_byte', None)
  assert (run / 'curves.png').read_bytes() != with_level


def test_no_points_no_picture(tmp_path):
  curves.plot_curves(str(tmp_path), 'accuracy', None)
  assert not (tmp_path / 'curves.png').exists()


def test_tensorboard_events_are_written(tmp_path):
  w = Writer(str(tmp_path), WriterConfig(tensorboard=True, wandb_project=None), 0, 'run')
  w.write(1, 'train', {'loss': 1.5})
  w.close()
  [file] = (tmp_path / 'tensorboard').iterdir()
  assert b'train/loss' in file.read_bytes()


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
  file = tmp_path / 'results.json'
  files.write_json(str(file), {'a': 1})
  monkeypatch.setattr(metric_writer.os, 'replace', lambda *_: (_ for _ in ()).throw(OSError('disk full')))
  with pytest.raises(OSError, match='disk full'):
    files.write_json(str(file), {'a': 2})
  assert json.loads(file.read_text()) == {'a': 1}
  assert [f.name for f in tmp_path.iterdir()] == ['results.json']


def test_a_run_that_goes_on_drops_its_test_line(run):
  w = Writer(str(run), CONFIG, 6, 'run')
  w.write(6, 'test', {'loss': 1.0})
  w.close()
  assert [line['split'] for line in files.read_metrics(str(run))].count('test') == 1
  Writer(str(run), CONFIG, 6, 'run').close()
  assert [line['split'] for line in files.read_metrics(str(run))].count('test') == 0
