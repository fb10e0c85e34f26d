"""Numbers, and many labels a text: what is learned, scored, predicted, and what is refused."""

import itertools
import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import config as config_lib
from lmjax import evaluate, inspect, predict
from lmjax.errors import ConfigError, DataError
from lmjax.models.heads import HeadedModel
from lmjax.objectives import classification as objective_lib
from lmjax.scoring import multi_label, regression
from lmjax.tasks import prepare
from lmjax.training import reopen
from tests import runs

RATINGS = {'awful': 10.0, 'poor': 20.0, 'fair': 30.0, 'fine': 40.0, 'superb': 50.0}
TOPICS = {'river': 'water', 'tree': 'plants', 'snow': 'winter'}
FILLER = 'the model reads this line of text and that one'.split()


def rated(count, seed=0):
  """(text, number): one word says which."""
  draw = random.Random(seed)
  rows = []
  for i in range(count):
    word = draw.choice(list(RATINGS))
    rows.append((' '.join([*draw.choices(FILLER, k=2), word, str(i)]), f'{RATINGS[word]:g}'))
  return rows


def tagged(count, seed=0, separator=';'):
  """(text, labels): a label for each of three words that it has; some have none."""
  draw = random.Random(seed)
  rows = []
  for i in range(count):
    words = [word for word in TOPICS if draw.random() < 0.4]
    rows.append((' '.join([*draw.choices(FILLER, k=2), *words, str(i)]), separator.join(TOPICS[w] for w in words)))
  return rows


def raw(folder, arguments, train, valid, **leaves):
  tokenizer = {'path': None, 'vocab_size': 320, 'sample_bytes': 20_000, 'lowercase': False}
  small = {f'data.tokenizer.{name}': value for name, value in tokenizer.items()}
  small |= {'model.layers': 1, 'model.width': 32, 'model.mlp_width': 64, 'optim.learning_rate': 3e-3}
  rows = {'train': train, 'valid': valid}
  return runs.classification_config(None, folder, f'preset=mini_encoder,{arguments}', rows=rows, **small | leaves)


def prepared(*arguments, **leaves):
  return prepare.prepare(config_lib.build(raw(*arguments, **leaves)))


# ---- scores


def test_correlations_are_those_of_their_definitions():
  draw = np.random.default_rng(0)
  gold = draw.integers(0, 4, 30).astype(float)  # with ties
  predicted = np.round(gold + draw.normal(0, 1, 30), 1)
  found = regression.scores(gold, predicted)
  rank = lambda x: np.array([(x < v).sum() + ((x == v).sum() + 1) / 2 for v in x])
  assert found['pearson'] == pytest.approx(np.corrcoef(gold, predicted)[0, 1])
  assert found['spearman'] == pytest.approx(np.corrcoef(rank(gold), rank(predicted))[0, 1])
  assert found['rmse'] == pytest.approx(np.sqrt(np.mean((gold - predicted) ** 2)))
  assert found['mean_rmse'] == pytest.approx(regression.scores(gold, np.full(30, gold.mean()))['rmse'])


@pytest.mark.parametrize('gold, predicted', [([3.0, 3.0], [1.0, 2.0]), ([1.0, 2.0], [3.0, 3.0]), ([1.0], [1.0])])
def test_a_correlation_with_a_constant_is_undefined(gold, predicted):
  found = regression.scores(gold, predicted)
  assert np.isnan(found['pearson']) and np.isnan(found['spearman']) and np.isfinite(found['rmse'])
  with pytest.raises(ValueError, match='must be as many'):
    regression.scores(gold, [*predicted, 1.0])


def f1_by_counting(gold, predicted):
  right = sum(g and p for g, p in zip(gold, predicted))
  return 2 * right / (sum(gold) + sum(predicted)) if sum(gold) + sum(predicted) else 0.0


def test_f1_of_many_labels_is_that_of_counting():
  draw = np.random.default_rng(1)
  gold, predicted = draw.random((20, 4)) < 0.3, draw.random((20, 4)) < 0.4
  gold[:, 3] = predicted[:, 3] = False  # a label that nobody has does not count in the mean
  found = multi_label.scores(gold, predicted)
  assert found['micro_f1'] == pytest.approx(f1_by_counting(gold.ravel(), predicted.ravel()))
  assert found['macro_f1'] == pytest.approx(np.mean([f1_by_counting(*pair) for pair in zip(gold.T[:3], predicted.T)]))
  same = [np.tile(given, (20, 1)) for given in itertools.product([False, True], repeat=4)]
  best = max(f1_by_counting(gold.ravel(), given.ravel()) for given in same)
  assert found['constant_micro_f1'] == pytest.approx(best) and 0 < best < 1
  each = [f1_by_counting(g, p) if g.any() or p.any() else 1.0 for g, p in zip(gold, predicted)]
  assert multi_label.f1_each(gold, predicted).tolist() == pytest.approx(each) and 1.0 in each


def test_the_threshold_is_the_best_there_is():
  draw = np.random.default_rng(2)
  for _ in range(20):
    gold = draw.random((9, 3)) < 0.4
    p = np.round(np.clip(gold * 0.3 + draw.random((9, 3)) * 0.7, 0, 1), 1)  # with ties
    best = max(f1_by_counting(gold.ravel(), (p > threshold).ravel()) for threshold in [-1.0, *np.unique(p)])
    found = multi_label.best_threshold(gold, p)
    assert f1_by_counting(gold.ravel(), (p > found).ravel()) == pytest.approx(best)
  with pytest.raises(ValueError, match='no example has a label'):
    multi_label.best_threshold(np.zeros((2, 2)), np.full((2, 2), 0.7))


# ---- losses


@pytest.mark.parametrize('target', ['number', 'many'])
def test_the_loss_is_its_definition(tmp_path, target):
  """A row of weight 0 does not count; numbers are learned in units of their deviation."""
  rows, argument = (rated, 'target=number') if target == 'number' else (tagged, 'target=many,separator=;')
  _, task, data = prepared(tmp_path, argument, rows(24), rows(8, 1), **{'objective.dropout': 0.0})
  examples, params = data.splits['valid'], runs.random_params(task)
  batch = next(iter(task.batches(examples)))
  batch['weights'][-1] = 0
  logits = np.asarray(objective_lib.make_logits(task.model, task.objective)(params, batch, None), np.float64)
  labels = [record['label'] for record in examples.records]
  if target == 'number':
    train = np.array([record['label'] for record in data.splits['train'].records])
    assert task.objective.scale == pytest.approx((train.mean(), train.std()))
    wanted = (np.array(labels) - train.mean()) / train.std()
    losses = (logits[:, 0] - wanted) ** 2
  else:
    names = task.objective.labels
    assert names == ('plants', 'water', 'winter')
    has = np.array([[name in label for name in names] for label in labels])
    p = 1 / (1 + np.exp(-logits))
    losses = -np.where(has, np.log(p), np.log1p(-p)).mean(axis=1)
  total, weight, metrics = task.loss(params, batch, None)
  assert float(weight) == 7 and float(total) == pytest.approx(losses[:7].sum(), rel=1e-4)
  assert [float(x) for x in metrics['loss']] == pytest.approx([losses[:7].sum(), 7], rel=1e-4)


# ---- whole runs


@pytest.fixture(scope='module')
def number_run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('numbers')
  steps = {'train.steps': 60, 'eval.every': 30, 'objective.dropout': 0.0, 'model.residual_dropout': 0.0}
  config, test = raw(folder, 'target=number', rated(160), rated(40, 1), **steps), folder / 'test.tsv'
  config.data.test = runs.write_tsv(test, rated(30, 2))
  return runs.train(config, folder / 'run'), folder


@pytest.fixture(scope='module')
def many_run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('many')
  steps = {'train.steps': 60, 'eval.every': 30, 'objective.dropout': 0.0, 'model.residual_dropout': 0.0}
  config = raw(folder, 'target=many,separator=;', tagged(160), tagged(40, 1), **steps)
  config.data.test = runs.write_tsv(folder / 'test.tsv', tagged(30, 2))
  return runs.train(config, folder / 'run'), folder


def test_numbers_are_learned_in_their_own_units(number_run, capsys):
  results, folder = number_run
  found = results['metrics']
  assert results['main_metric'] == 'rmse' and found['test/rmse'] < 0.5 * found['test/mean_rmse'] < 15
  assert found['test/pearson'] > 0.85 and found['test/spearman'] > 0.8
  lines = [json.loads(line) for line in (folder / 'run/predictions_test.jsonl').read_text().splitlines()]
  assert all(abs(line['prediction'] - line['label']) < 15 for line in lines)
  np.testing.assert_allclose(found['test/rmse'], np.sqrt(-np.mean([line['score'] for line in lines])), rtol=1e-6)
  assert (folder / 'run/errors_test.md').read_text().count('Label: ') == 30
  capsys.readouterr()
  assert predict.main([f'--workdir={folder / "run"}', '--json', 'the model superb', 'the model awful']) == 0
  high, low = (json.loads(line)['number'] for line in capsys.readouterr().out.splitlines())
  assert 35 < high < 60 and 0 < low < 25
  assert predict.main([f'--workdir={folder / "run"}', 'the model superb']) == 0
  assert capsys.readouterr().out == f'{high:.4g}\tthe model superb\n'
  assert evaluate.main([f'--workdir={folder / "run"}', '--json', f'--data={folder / "test.tsv"}']) == 0
  again = json.loads(capsys.readouterr().out)['metrics']
  for name in ('rmse', 'pearson', 'spearman'):
    assert again[f'test/{name}'] == pytest.approx(found[f'test/{name}'], rel=1e-4)


def test_a_score_that_is_undefined_is_said(number_run, tmp_path, capsys):
  """And is null in JSON, which has no NaN."""
  file = runs.write_tsv(tmp_path / 'same.tsv', [('the model superb', '50'), ('that line superb', '50')])
  assert evaluate.main([f'--workdir={number_run[1] / "run"}', f'--data={file}', '--json']) == 0
  out, err = capsys.readouterr()
  assert 'NaN' not in out and json.loads(out)['metrics']['test/pearson'] is None
  assert 'lmjax: undefined, since all is the same or there is nothing to count: test/pearson, test/spearman' in err


def test_many_labels_are_learned_with_a_threshold(many_run, capsys):
  results, folder = many_run
  found, data = results['metrics'], results['data']
  assert results['main_metric'] == 'micro_f1' and found['test/micro_f1'] > 0.8 > found['test/constant_micro_f1'] > 0.3
  assert 0 < results['settings']['threshold'] < 1
  labels = [label for _, label in tagged(160)]
  assert data['train']['no_label'] == sum(not label for label in labels) > 10
  assert data['train']['classes'] == {t: sum(t in label for label in labels) for t in TOPICS.values()}
  lines = [json.loads(line) for line in (folder / 'run/predictions_test.jsonl').read_text().splitlines()]
  threshold, names = results['settings']['threshold'], sorted(TOPICS.values())
  assert [line['label'] for line in lines] == [label.split(';') if label else [] for _, label in tagged(30, 2)]
  gold = np.array([[name in line['label'] for name in names] for line in lines])
  given = np.array([[line['prediction'][name] > threshold for name in names] for line in lines])
  assert found['test/micro_f1'] == pytest.approx(f1_by_counting(gold.ravel(), given.ravel()))
  page = (folder / 'run/labels_test.md').read_text().splitlines()
  assert page[2].startswith(f'| plants | {gold[:, 0].sum()} | {given[:, 0].sum()} | ')
  capsys.readouterr()
  assert predict.main([f'--workdir={folder / "run"}', '--json', 'the river and the snow', 'this model']) == 0
  both, none = map(json.loads, capsys.readouterr().out.splitlines())
  assert both['labels'] == ['water', 'winter'] and none['labels'] == [] and set(none['probabilities']) == set(names)
  assert predict.main([f'--workdir={folder / "run"}', 'this model']) == 0
  assert capsys.readouterr().out.startswith('(none)\t')
  assert evaluate.main([f'--workdir={folder / "run"}', '--json', f'--data={folder / "test.tsv"}']) == 0
  assert json.loads(capsys.readouterr().out)['metrics']['test/micro_f1'] == pytest.approx(found['test/micro_f1'])


def test_each_checkpoint_has_its_own_threshold(many_run, tmp_path, capsys):
  """With --step=N, and of a run that was stopped and has no results.json; where none was fitted it is said."""
  _, folder = many_run
  lines = [json.loads(line) for line in (folder / 'run/metrics.jsonl').read_text().splitlines()]
  fitted = {line['step']: line for line in lines if line['split'] == 'valid' and line['step']}
  shutil.copytree(folder / 'run', tmp_path / 'run')
  (tmp_path / 'run/results.json').unlink()
  for step, line in fitted.items():
    trained = reopen.load_run(str(tmp_path / 'run'), step)
    assert trained.task.threshold == line['threshold']
    found = evaluate.evaluate(trained, str(folder / 'valid.tsv'))
    assert found['test/micro_f1'] == pytest.approx(line['micro_f1'])
  assert not capsys.readouterr().err
  (tmp_path / 'run/metrics.jsonl').unlink()
  assert reopen.load_run(str(tmp_path / 'run'), 60).task.threshold == 0.5
  assert 'no evaluation of step 60 with threshold: threshold = 0.5 is not fitted' in capsys.readouterr().err


def test_a_run_that_starts_from_another_target_has_a_head_of_its_own(number_run, tmp_path):
  """The backbone is handed over; the head of one number is no head of three classes."""
  _, folder = number_run
  rows = {'train': tagged(24), 'valid': tagged(8, 1)}
  config = runs.classification_config(str(folder / 'run'), tmp_path, 'target=many,separator=;', rows=rows)
  config.init_from.drop = ('classifier/*',)
  results = runs.train(config, tmp_path / 'run')
  assert results['status'] == 'done'
  before, found = runs.params_of(folder / 'run'), runs.params_of(tmp_path / 'run')
  assert before['classifier/kernel'].shape[1] == 1 and found['classifier/kernel'].shape[1] == 3


LISTS = [['b', 'a'], [], [''], ['a', 'a ', ' '], [1, 'b'], "['b', 'c']", '[]']


def test_lists_and_usual_names_are_read(tmp_path):
  rows = [{'text': f'line {i}', 'labels': labels} for i, labels in enumerate(LISTS)]
  (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  config = raw(tmp_path, 'target=many', tagged(4), tagged(4))
  config.data.update(train=str(tmp_path / 'rows.jsonl'), valid=str(tmp_path / 'rows.jsonl'), fields=None)
  config.data.valid, config.data.valid_fraction = None, 0.3
  _, task, data = prepare.prepare(config_lib.build(config))
  read = data.splits['train'].records + data.splits['valid'].records
  assert sorted(record['label'] for record in read) == [[], [], [], ['1', 'b'], ['a'], ['b', 'a'], ['b', 'c']]
  assert task.objective.labels == ('1', 'a', 'b', 'c')
  assert sum(counts['no_label'] for counts in task.counts(data).values()) == 3


def test_a_threshold_needs_labels_to_be_fitted(tmp_path):
  """Of a validation set without any, every threshold is as good as another: 1, say, which gives no text a label."""
  _, task, data = prepared(tmp_path, 'target=many,separator=;', tagged(24), [('a text', ''), ('another', '')])
  assert task.describe(data).endswith('no validation text has a label, so the threshold stays 0.5')
  records = data.splits['valid'].records
  task.fit_threshold(records, [{'plants': 0.9, 'water': 0.7, 'winter': 0.1}] * 2)
  assert task.threshold == 0.5


def test_the_line_about_the_data_says_what_numbers_there_are(tmp_path):
  _, task, data = prepared(tmp_path, 'target=number', rated(24), [('a', '3'), ('b', '3.0')])
  said = task.describe(data)
  assert 'train: from 10 to 50, mean ' in said
  assert 'valid: all numbers are 3, so Pearson and Spearman are undefined (nan)' in said


def test_ranking_by_another_score(tmp_path):
  ranked = {}
  for argument, rows in (('target=number', rated), ('target=many,separator=;', tagged), ('target=class', runs.texts)):
    for metric in (None, 'pearson', 'macro_f1', 'loss'):
      config = raw(tmp_path, argument, rows(24), rows(8, seed=1))
      config.objective.ranking_metric = metric
      try:
        task = prepare.prepare(config_lib.build(config))[1]
        ranked[argument[7:11], metric] = task.RANKING_METRIC, task.HIGHER_IS_BETTER
      except ConfigError as error:
        assert f'objective.ranking_metric = {metric!r}: must be one of ' in str(error)
  assert ranked == {
    ('numb', None): ('rmse', False),
    ('numb', 'pearson'): ('pearson', True),
    ('numb', 'loss'): ('loss', False),
    ('many', None): ('micro_f1', True),
    ('many', 'macro_f1'): ('macro_f1', True),
    ('many', 'loss'): ('loss', False),
    ('clas', None): ('accuracy', True),
    ('clas', 'macro_f1'): ('macro_f1', True),
    ('clas', 'loss'): ('loss', False),
  }


@pytest.mark.parametrize(
  'arguments, labels, said',
  [
    ('target=number', ['1', 'two'], r"train.tsv, line 3: label 'two'; must be a number such as 3.5, and finite"),
    ('target=number', ['1', '3,5'], r"train.tsv, line 3: label '3,5'; must be a number"),
    ('target=number', ['1', '1_0'], r"train.tsv, line 3: label '1_0'; must be a number"),
    ('target=number', ['1', 'nan'], r"train.tsv, line 3: label 'nan'; must be a number"),
    ('target=number', ['inf', '1'], r"train.tsv, line 2: label 'inf'; must be a number"),
    ('target=number', ['3', '3.0'], 'data.train: all 2 examples have the number 3; there is nothing to learn'),
    ('target=many', ['a', 'b'], r"train.tsv, line 2: label 'a' is a text; .* must be a list; set data.separator"),
    ('target=many,separator=;', ['a|b', 'b'], r"data.separator = ';': stands in none of 2 labels, such as 'a\|b'"),
    ('target=many,separator=;', ['', ''], r"data.separator = ';': stands in none of 2 labels"),
  ],
)
def test_bad_labels_are_refused(tmp_path, arguments, labels, said):
  rows = [(f'text {i}', label) for i, label in enumerate(labels)]
  with pytest.raises(DataError, match=said):
    prepared(tmp_path, arguments, rows, [('another', labels[0])])


@pytest.mark.parametrize(
  'arguments, label, said',
  [
    ('target=class', 3.5, 'is of type float; the label must be a string; .* or set objective.target to number'),
    ('target=class', ['a'], 'is of type list; the label must be a string; .* or set objective.target to many'),
    ('target=number', ['a'], 'is of type list; the label must be a number; .* or set objective.target to many'),
    ('target=number', None, 'is of type NoneType; the label must be a number'),
    ('target=number', True, 'is of type bool; the label must be a number'),
    ('target=many', 3.5, 'is of type float; the label must be a list of strings'),
    ('target=many', [['a']], 'is of type list; the label must be a string'),
    ('target=many', [None], 'is of type NoneType; the label must be a string'),
  ],
)
def test_labels_of_other_types_are_refused(tmp_path, arguments, label, said):
  (tmp_path / 'rows.jsonl').write_text(json.dumps({'text': 'a', 'label': label}) + '\n')
  config = raw(tmp_path, arguments, rated(4), rated(4))
  config.data.train = str(tmp_path / 'rows.jsonl')
  with pytest.raises(DataError, match=said):
    prepare.prepare(config_lib.build(config))


@pytest.mark.parametrize(
  'leaves, said',
  [
    ({'objective.target': 'number', 'objective.labels': "('a', 'b')"}, 'objective.labels .* has no effect with'),
    ({'objective.target': 'many', 'objective.class_weights': 'balanced'}, 'objective.class_weights .* has no effect'),
    ({'objective.scale': '(0.0, 1.0)'}, 'objective.scale .* has no effect with objective.target = class'),
    ({'objective.target': 'number', 'objective.scale': '(0.0, 0.0)'}, 'must be a mean and a deviation above 0'),
    ({'data.separator': ';'}, 'data.separator .* has no effect with objective.target = class'),
    ({'objective.target': 'many', 'data.separator': ''}, 'data.separator .* must be a character or more'),
  ],
)
def test_settings_without_effect_are_refused(tmp_path, leaves, said):
  with pytest.raises(ConfigError, match=said):
    config_lib.build(raw(tmp_path, 'target=class', runs.texts(4), runs.texts(4), **leaves))


def test_labels_are_shown_as_they_are_learned(tmp_path):
  _, task, data = prepared(tmp_path, 'target=number', rated(24), rated(8, 1))
  row, [mean, deviation] = data.splits['train'].rows[0], task.objective.scale
  learned = (data.splits['train'].records[0]['label'] - mean) / deviation
  assert f'\n  labels   {learned:g}'[:18] in inspect.row_as_text(task, task.example(row))
  _, task, data = prepared(tmp_path, 'target=many,separator=;', tagged(24), tagged(8, 1))
  for record, row in zip(data.splits['train'].records, data.splits['train'].rows):
    shown = inspect.row_as_text(task, task.example(row))
    assert f'\n  labels   {", ".join(sorted(record["label"]))}\n' in shown


def test_shapes_are_known_without_data(tmp_path):
  """A dry run reads none: of a number there is one output, of many labels there are two."""
  for argument, size in (('target=number', 1), ('target=many', 2)):
    config = config_lib.build(raw(tmp_path, argument, rated(4), rated(4)))
    _, task = prepare.without_data(config)
    assert isinstance(task.model, HeadedModel) and task.shapes()['classifier']['kernel'].shape[1] == size
    label = task.batch_shapes()['labels']
    assert label.dtype == jnp.float32 and label.shape[1:] == (() if size == 1 else (2,))
    assert jax.eval_shape(task.loss, task.shapes(), task.batch_shapes(), jax.random.key(0))[0].shape == ()
