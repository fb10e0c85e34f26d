"""What the data of a run holds and what was left out of it: in results.json, and in the line about the data."""

import json
import pathlib

import pytest

from lmjax import config as config_lib
from lmjax.tasks import prepare
from tests import runs
from tests.conftest import FINE_TUNING, config_dict


def results_of(workdir) -> dict:
  return json.loads((pathlib.Path(workdir) / 'results.json').read_text())


def test_of_pre_training(raw_config, tmp_path_factory):
  """300 documents, of which some are held out."""
  folder = pathlib.Path(runs.pre_trained('causal_lm', raw_config, tmp_path_factory))
  [(name, found)] = results_of(folder)['data'].items()
  assert name == 'main' and found['examples'] == 300 and found['duplicates'] == 0 and found['skipped'] == {}
  assert 0 < found['held_out'] < 300 and found['tokens'] > 300
  log = (folder.parent / 'log.txt').read_text()
  assert f'main: {300 - found["held_out"]} documents, ' in log and f' ({found["held_out"]} held out)\n' in log


def test_of_fine_tuning(raw_config, tmp_path_factory):
  found = results_of(runs.fine_tuned(raw_config, tmp_path_factory))['data']
  assert list(found) == ['train', 'valid', 'test']
  assert {split: one['examples'] for split, one in found.items()} == {'train': 24, 'valid': 10, 'test': 9}
  assert found['train']['classes'] == {'good': 12, 'bad': 12} and found['test']['classes'] == {'good': 5, 'bad': 4}
  assert found['train']['duplicates'] == 0 and 'duplicates' not in found['valid']
  assert all(one['tokens'] > 5 * one['examples'] and one['unknown_tokens'] == 0 for one in found.values())


def prepared(folder, train, valid=None):
  rows = {'train': train} | ({} if valid is None else {'valid': valid})
  tokenizer = {'path': None, 'vocab_size': 300, 'sample_bytes': 10_000, 'lowercase': False}
  leaves = {f'data.tokenizer.{name}': value for name, value in tokenizer.items()}
  raw = runs.classification_config(None, folder, 'preset=mini_encoder', rows=rows, **{'data.length': 12} | leaves)
  _, task, data = prepare.prepare(config_lib.build(raw))
  return task, data


def test_what_is_left_out_is_counted_and_told(tmp_path):
  rows = [
    *runs.texts(6),
    ('the model reads this line of text and that one too, and then once more', 'good'),
    ('', 'bad'),
  ]
  task, data = prepared(tmp_path, [*rows, runs.texts(1, seed=1)[0]])
  found = data.counts['train']
  assert found['examples'] == 7 and found['skipped'] == {'empty_text': 1} and found['duplicates'] == 1
  kept = sum(len(row['tokens']) - 2 for row in data.splits['train'].rows)
  assert found['tokens'] == kept + found['cut_tokens'] > kept
  said = (
    f'7 train (1 skipped (1 empty text); 1 duplicates dropped; {found["cut_tokens"]} of {found["tokens"]} tokens cut '
  )
  share = f'({found["cut_tokens"] / found["tokens"]:.1%}); '
  assert task.describe(data).startswith(said + share + 'classes: good 4, bad 3), 10 valid')


@pytest.mark.parametrize(
  'labels, question',
  [
    (['positive', 'positive ', 'Positive', 'no'], "are these one class: 'Positive', 'positive', 'positive '?"),
    (['b', 'b\u200b', 'c', 'd'], "are these one class: 'b', 'b\\u200b'?"),
    (['caf\u00e9', 'cafe\u0301', 'b', 'c'], "are these one class: 'cafe\u0301', 'caf\u00e9'?"),
    (['b', 'c d', 'c  d', 'e'], "are these one class: 'c  d', 'c d'?"),
    (['1', '1.0', '0', '0'], "are these one class: '1', '1.0'?"),
    (
      [str(i / 20) for i in range(20)],
      '20 classes for 20 examples: is a label a number (objective.target=number) or a text?',
    ),
  ],
)
def test_labels_that_look_wrong_are_asked_about(tmp_path, labels, question):
  rows = [(f'text {i} of them', label) for i, label in enumerate(labels)]
  task, data = prepared(tmp_path, rows, [('another text', labels[0])])
  assert question in task.describe(data)


def test_ordinary_labels_are_not_asked_about(tmp_path):
  task, data = prepared(tmp_path, runs.texts(12))
  assert '?' not in task.describe(data)


def test_each_class_is_held_out_alike(tmp_path):
  """A rare class is trained on and scored, whatever its digests; one of a single example cannot be both."""
  rows = [(f'text {i}', 'common') for i in range(40)] + [(f'other {i}', 'rare') for i in range(3)] + [('one', 'single')]
  file = runs.write_tsv(tmp_path / 'all.tsv', rows)
  raw = config_dict(FINE_TUNING['classification'], f'preset=mini_encoder,train={file}', {'data.valid_fraction': 0.2})
  _, task, data = prepare.prepare(config_lib.build(raw))
  assert data.counts['valid']['classes'] == {'common': 8, 'rare': 1}
  assert data.counts['train']['classes'] == {'common': 32, 'rare': 2, 'single': 1}
  assert task.describe(data).endswith('; valid has no single')
  raw.data.valid_fraction = 0.9
  _, _, data = prepare.prepare(config_lib.build(raw))
  assert data.counts['train']['classes'] == {'common': 4, 'rare': 1, 'single': 1}
