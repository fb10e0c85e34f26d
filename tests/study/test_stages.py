"""Experiments: order, resuming, problems told together, and verdicts that follow from the numbers."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from lmjax import experiment
from lmjax.errors import ConfigError, NonFiniteError
from lmjax.schema import command_line, describe
from lmjax.scoring.bootstrap import bootstrap
from lmjax.study import comparison, stages
from lmjax.workdir.files import write_json
from tests.conftest import QUICK, ROOT

PRETRAIN, FINETUNE = f'{ROOT}/configs/pretrain_mlm.py:smoke', f'{ROOT}/configs/finetune_sentiment.py:demo'
# `base` runs first, though it is the last by name
STAGES = {
  'a_tuned': dict(config=FINETUNE, overrides=(), init_from='base'),
  'a_random': dict(config=FINETUNE, overrides=('init_from.take=()',), init_from='base'),
  'base': dict(config=PRETRAIN, overrides=(), init_from=None),
}
LEGAL = 'data=laws/*.jsonl,train=a.jsonl,test=b.jsonl'
BARS = dict(
  title='Sentiment',
  claim='Pre-training helps.',
  metric='test/accuracy',
  candidate='tuned',
  arms={'tuned': dict(stages=('a_tuned',)), 'random': dict(stages=('a_random',))},
  x=None,
  x_name=None,
)


def write_experiment(folder, stages=None, **comparisons):
  """An experiment's file; returns the arguments of its command."""
  text = repr(dict(stages=STAGES if stages is None else stages, comparisons=comparisons or {'bars': BARS}))
  (folder / 'study.py').write_text(
    f'from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict({text})\n'
  )
  return [f'--config={folder / "study.py"}', f'--workdir={folder / "work"}']


def write_run(folder, scores: dict[str, float], task='classification'):
  """What a run leaves: its mean score is the accuracy."""
  os.makedirs(folder, exist_ok=True)
  metrics = {'valid/accuracy': 0.5, 'valid/majority_accuracy': 0.25, 'test/loss': 1.5}
  if scores:
    metrics |= {'test/accuracy': sum(scores.values()) / len(scores), 'test/majority_accuracy': 0.5}
    lines = [json.dumps({'id': key, 'score': score}) for key, score in scores.items()]
    (folder / 'predictions_test.jsonl').write_text('\n'.join(lines) + '\n')
  results = {'status': 'done', 'step': 20, 'metrics': metrics, 'hand_off': None, 'seconds': 3.0}
  write_json(str(folder / 'results.json'), results)
  sources = {'main': {'path': 'pydoc'}}
  write_json(str(folder / 'config.json'), {'task': task, 'data': {'sources': sources, 'batch_size': 8, 'length': 64}})
  return results


class FakeTrain:
  """Stands for `train.run`: notes which stages ran, and leaves what a run leaves."""

  def __init__(self, scores=None):
    self.ran, self.failing, self.configs, self.scores = [], set(), {}, scores or {}

  def __call__(self, config, source, workdir, log):
    name = os.path.basename(workdir)
    self.ran.append(name)
    self.configs[name] = config
    log('resuming from step 3')
    log('step 4/20 | train | loss 1.0')
    if name in self.failing:
      raise NonFiniteError('lost')
    task = 'masked_lm' if name == 'base' else 'classification'
    scores = {} if name == 'base' else self.scores.get(name, {str(i): i % 2 for i in range(40)})
    return write_run(pathlib.Path(workdir), scores, task)


@pytest.fixture
def fake_train(monkeypatch):
  fake = FakeTrain()
  monkeypatch.setattr(stages.train_lib, 'run', fake)
  monkeypatch.setattr(stages, 'open_source', lambda init_from: None)  # it leaves no checkpoint
  return fake


def test_runs_sources_first_and_nothing_twice(fake_train, tmp_path, capsys):
  argv = write_experiment(tmp_path)
  assert experiment.main(argv) == 0
  assert fake_train.ran[0] == 'base' and sorted(fake_train.ran) == sorted(STAGES)
  assert fake_train.configs['a_random'].init_from.path == str(tmp_path / 'work' / 'base')
  assert fake_train.configs['a_random'].init_from.take == ()
  out = capsys.readouterr().out
  assert 'stage 1 of 3: base: done in 0 s' in out and 'resuming from step 3' in out and '| train |' not in out
  assert '| train |' in (tmp_path / 'work' / 'base' / 'log.txt').read_text()
  report = tmp_path / 'work' / 'report.md'
  first = report.read_text()
  report.unlink()
  assert experiment.main(argv) == 0
  assert len(fake_train.ran) == 3 and report.read_text() == first
  assert capsys.readouterr().out.count('was done before') == 3


def test_a_failure_is_named_and_the_same_command_continues(fake_train, tmp_path, capsys):
  argv = write_experiment(tmp_path)
  fake_train.failing = {'a_random'}
  assert experiment.main(argv) == NonFiniteError.exit_code
  error = capsys.readouterr().err
  assert 'lmjax: lost' in error and 'stage a_random failed' in error and 'the same command continues' in error
  assert not (tmp_path / 'work' / 'report.md').exists()
  before, fake_train.failing = list(fake_train.ran), set()
  assert experiment.main(argv) == 0
  assert set(fake_train.ran[len(before) :]) == set(STAGES) - (set(before) - {'a_random'})
  assert (tmp_path / 'work' / 'report.md').exists()


def test_a_metric_that_a_stage_lacks_is_reported_as_soon_as_it_ended(fake_train, tmp_path, capsys):
  argv = write_experiment(tmp_path, bars=BARS | dict(metric='test/acuracy'))
  assert experiment.main(argv) == 2
  assert fake_train.ran == ['base', (first := fake_train.ran[1])]
  error = capsys.readouterr().err
  assert f'metric = test/acuracy: stage {first} has no such number; it has test/accuracy, test/loss' in error
  assert experiment.main(write_experiment(tmp_path)) == 0 and fake_train.ran.count(first) == 1


def test_all_problems_are_reported_before_the_first_stage(fake_train, tmp_path, capsys):
  stages = STAGES | {
    'circle': dict(config=FINETUNE, overrides=(), init_from='circle_too'),
    'circle_too': dict(config=FINETUNE, overrides=(), init_from='circle'),
    'lost': dict(config=FINETUNE, overrides=(), init_from='bass'),
    'no_file': dict(config='configs/pretrain_mlmm.py', overrides=(), init_from=None),
    'typo': dict(config=PRETRAIN, overrides=('train.stepz=3', 'data.batch_size=0'), init_from=None),
    'no_value': dict(config=PRETRAIN, overrides=('train.steps',), init_from=None),
    'convert': dict(config=FINETUNE, overrides=('init_from.convert=decoder_to_encoder',), init_from='base'),
    'seeds': dict(config=FINETUNE, overrides=('train.seeds=2',), init_from='base'),
    'from_seeds': dict(config=FINETUNE, overrides=(), init_from='seeds'),
    'no_data': dict(config=FINETUNE, overrides=('data.train=nothing.tsv', 'data.test=None'), init_from='base'),
  }
  arms = {'tuned': dict(stages=('no_data',)), 'random': dict(stages=('random',))}
  argv = write_experiment(tmp_path, stages, bars=BARS | dict(arms=arms), more=BARS | dict(candidate='tune', x=(1.0,)))
  assert experiment.main(argv) == 2 and not fake_train.ran
  error = capsys.readouterr().err
  for expected in (
    'stages: a circle of init_from: circle, which is from circle_too, which is from circle',
    'stages.lost.init_from = bass: no such stage; did you mean base?',
    'stage no_file: configs/pretrain_mlmm.py: no such file; did you mean configs/pretrain_mlm.py?',
    'stage typo: train.stepz = 3: unknown key; did you mean train.steps?',
    'stage typo: data.batch_size = 0: must be 1 or more',
    "stages.no_value.overrides = ['train.steps']: 'train.steps' is not path=value",
    "stage convert: init_from.convert = 'decoder_to_encoder': needs a causal checkpoint",
    'stage from_seeds: init_from = seeds: has train.seeds = 2',
    'stage no_data: nothing.tsv: there is no such file',
    'comparisons.bars.arms.random.stages = random: no such stage; did you mean a_random?',
    'comparisons.bars.arms.tuned.stages = no_data: has no test set',
    "comparisons.more.candidate = 'tune': must be one of two or more arms",
    'comparisons.more.x_name = None: must be given where x is',
  ):
    assert f'lmjax: {expected}' in error, (expected, error)
  assert len(error.splitlines()) == 13


def test_missing_data_is_reported_before_the_first_stage(fake_train, tmp_path, capsys):
  tuned = STAGES['a_tuned'] | dict(overrides=('data.train=nothing.tsv', 'data.valid=/no/such/file.tsv'))
  assert experiment.main(write_experiment(tmp_path, STAGES | {'a_tuned': tuned})) == 3 and not fake_train.ran
  assert capsys.readouterr().err.count('stage a_tuned: ') == 2
  named = STAGES['a_tuned'] | dict(overrides=('data.train=demo_of_mine.tsv', 'data.valid=pydoc.tsv'))
  assert experiment.main(write_experiment(tmp_path, STAGES | {'a_tuned': named})) == 3 and not fake_train.ran
  assert capsys.readouterr().err.count('stage a_tuned: ') == 2


@pytest.mark.parametrize('name, text', [('stage.json', ''), ('results.json', '[]')])
def test_a_damaged_file_of_a_stage_is_named(name, text, fake_train, tmp_path, capsys):
  argv = write_experiment(tmp_path)
  assert experiment.main(argv) == 0
  (tmp_path / 'work/a_tuned' / name).write_text(text)
  assert experiment.main(argv) == 3
  assert f'a_tuned/{name}: cannot be read' in capsys.readouterr().err


def test_a_changed_stage_is_not_taken_for_done(fake_train, tmp_path, capsys):
  assert experiment.main(write_experiment(tmp_path)) == 0
  changed = STAGES | {'base': STAGES['base'] | dict(overrides=('train.steps=30',))}
  assert experiment.main(write_experiment(tmp_path, changed)) == 2 and len(fake_train.ran) == 3
  error = capsys.readouterr().err
  rule = 'it, or a stage that it builds on, is not what it was when it ran; remove its folder'
  assert f'stage base, a_random, a_tuned: {rule}' in error or f'stage base, a_tuned, a_random: {rule}' in error, error


SCORES = {
  'confirmed': ({str(i): 1.0 for i in range(40)}, {str(i): i % 2 for i in range(40)}),
  'contradicted': ({str(i): i % 2 for i in range(40)}, {str(i): 1.0 for i in range(40)}),
  'not decided: the interval includes 0': (
    {str(i): i % 2 for i in range(40)},
    {str(i): (i + 1) % 2 for i in range(40)},
  ),
}


@pytest.mark.parametrize('verdict', SCORES)
def test_verdicts(verdict, fake_train, tmp_path):
  fake_train.scores = dict(zip(('a_tuned', 'a_random'), SCORES[verdict]))
  assert experiment.main(write_experiment(tmp_path)) == 0
  report = (tmp_path / 'work' / 'report.md').read_text()
  assert report.count(f'- Against random: **{verdict}**; test/accuracy ') == 1
  assert all(f'**{other}**' not in report for other in SCORES if other != verdict)
  results = json.loads((tmp_path / 'work' / 'results.json').read_text())
  first, other = results['comparisons']['bars']['rows']
  assert other['difference']['value'] == pytest.approx(first['mean'] - other['mean'])
  assert results['seconds'] == 9.0 and 'over 40 examples' in report
  facts = '| base | masked_lm | random weights | pydoc | 20 | 10,240 | 3 | accuracy 0.5000, majority accuracy 0.2500 |'
  assert facts in report


def test_pairs_examples_by_id_over_seeds(tmp_path):
  """The lines of predictions may come in any order; each example counts once, with its mean over seeds."""
  seeds = [{'a': 1.0, 'b': 0.0, 'c': 1.0}, {'c': 1.0, 'b': 1.0, 'a': 1.0}]
  for i, scores in enumerate(seeds):
    results = write_run(tmp_path / 'first' / f'seed{i}', scores)
  results['metrics']['test/accuracy'] = 5 / 6
  write_json(str(tmp_path / 'first' / 'results.json'), results | {'seeds': [0, 1]})
  write_run(tmp_path / 'other', {'b': 0.0, 'c': 1.0, 'a': 0.0})
  first, other = (comparison.Stage.read(str(tmp_path), name) for name in ('first', 'other'))
  assert first.scores('test') == {'a': 1.0, 'b': 0.5, 'c': 1.0} and first.seconds == 6.0
  found = comparison.difference(first, other, 'test/accuracy')
  expected = bootstrap([1.0, 0.5, 1.0], [0.0, 0.0, 1.0])
  assert (found['value'], found['low'], found['high']) == pytest.approx(expected) and found['examples'] == 3
  assert first.values('test/accuracy') == pytest.approx([2 / 3, 1.0])


def test_no_interval_where_there_is_none(tmp_path):
  """Other examples, another measure than the scores', or no scores: the difference alone, and why."""
  write_run(tmp_path / 'one', {'a': 1.0, 'b': 0.0})
  write_run(tmp_path / 'two', {'a': 1.0, 'x': 0.0})
  write_run(tmp_path / 'base', {}, 'masked_lm')
  one, two, base = (comparison.Stage.read(str(tmp_path), name) for name in ('one', 'two', 'base'))
  for pair, metric, reason in (
    ((one, two), 'test/accuracy', 'the two were scored on different examples'),
    ((one, one), 'test/loss', 'test/loss is not the mean of the scores by example'),
    ((base, base), 'valid/accuracy', 'there are no scores by example'),
  ):
    found = comparison.difference(*pair, metric)
    assert found['value'] == 0 and found['low'] is None and found['verdict'] == f'not decided: {reason}'


def test_learning_curve(fake_train, tmp_path, capsys):
  stages = STAGES | {
    f'{name}_few': STAGES[name] | dict(overrides=(*STAGES[name]['overrides'], 'data.train_share=0.1'))
    for name in ('a_tuned', 'a_random')
  }
  arms = {label: dict(stages=(f'a_{label}_few', f'a_{label}')) for label in ('tuned', 'random')}
  curve = BARS | dict(arms=arms, x=(0.1, 1.0), x_name='share of the labels')
  assert experiment.main(write_experiment(tmp_path, stages, curve=curve)) == 0
  assert (tmp_path / 'work' / 'curve.png').read_bytes().startswith(b'\x89PNG')
  report = (tmp_path / 'work' / 'report.md').read_text()
  assert 'Against random at share of the labels 0.1: **' in report and '![Sentiment](curve.png)' in report


@pytest.mark.parametrize('argument', [None, 'smoke', 'tasks=sentiment,sentiment_train=a.tsv'])
def test_shipped_experiment_is_valid(argument, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(stages, 'missing_files', lambda ready: [])
  raw = command_line.load_config_file('experiments/pretraining_helps.py', argument)
  config, ready = stages.prepare(raw, str(tmp_path))
  assert describe.settings(config) and len(ready) == len(config.stages)


def test_files_without_training_data_are_refused_and_one_objective_is_enough(monkeypatch):
  monkeypatch.chdir(ROOT)
  load = lambda argument: command_line.load_config_file('experiments/pretraining_helps.py', argument)
  with pytest.raises(ConfigError, match='argument sentiment_test: has no effect without the training file'):
    load('tasks=sentiment,sentiment_test=a.tsv')
  found = load('smoke,objectives=causal,tasks=sentiment')
  assert 'sentiment_causal' in found.comparisons and list(found.stages)[0] == 'pretrain_causal'


@pytest.mark.parametrize('argument', ['smoke', LEGAL, f'preset=gpt2_small,{LEGAL}'])
def test_shipped_legal_experiment_is_valid(argument, tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  monkeypatch.setattr(stages, 'missing_files', lambda ready: [])
  raw = command_line.load_config_file('experiments/legal_summarization.py', argument)
  config, ready = stages.prepare(raw, str(tmp_path))
  sources = {stage.name: config.stages[stage.name].init_from for stage in ready}
  assert sources['legal'] == 'pretrain_legal' and sources['pretrain_legal'] == 'pretrain_general'
  assert len(ready) == len(config.stages) and all(stage.config is not None for stage in ready)


def test_a_file_is_split_by_whole_articles(tmp_path):
  articles = [
    {'title': f't{i}', 'paragraphs': [{'context': f'c{i}.{j}', 'qas': []} for j in range(3)]} for i in range(20)
  ]
  (tmp_path / 'a.json').write_text(json.dumps({'data': articles}))
  (tmp_path / 'few.jsonl').write_text('{"document": "d", "summary": "s"}\n' * 9)
  command = [sys.executable, f'{ROOT}/experiments/split.py']
  env = os.environ | {'PYTHONPATH': str(ROOT)}
  run = lambda *names: subprocess.run([*command, *names], cwd=tmp_path, env=env, capture_output=True, text=True)
  done = run('a.json', 'out')
  assert done.stdout == '14 train, 2 valid, 4 test\n', done.stderr
  found = [json.loads((tmp_path / f'out/{split}.json').read_text())['data'] for split in ('train', 'valid', 'test')]
  assert sorted(article['title'] for part in found for article in part) == sorted(a['title'] for a in articles)
  assert len((tmp_path / 'out/text.jsonl').read_text().splitlines()) == 60
  for names, message in [(['a.json'], 'must be FILE and FOLDER'), (['b.json', 'x'], 'no such file')]:
    done = run(*names)
    assert done.returncode and message in done.stderr and 'Traceback' not in done.stderr
  (tmp_path / 'odd.json').write_text('{"data": [{"paragraphs": []}]}')
  assert "not in SQuAD's format (KeyError: 'title')" in run('odd.json', 'x').stderr
  assert 'a.json: cannot be made' in run('a.json', 'a.json').stderr
  assert 'must have 10' in run('few.jsonl', 'x').stderr and not (tmp_path / 'x').exists()


@pytest.mark.slow
def test_end_to_end(tmp_path):
  """Both pre-trainings, every hand-off and the report, with real training; again, nothing is trained."""
  argv = ['--config=experiments/pretraining_helps.py:smoke', f'--workdir={tmp_path}']
  code = 'import sys; from lmjax.experiment import main; sys.exit(main(sys.argv[1:]))'
  env = os.environ | {'XLA_FLAGS': QUICK}  # on one device
  for _ in range(2):
    done = subprocess.run([sys.executable, '-c', code, *argv], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
  results = json.loads((tmp_path / 'results.json').read_text())
  assert done.stdout.count('was done before') == len(results['stages'])
  for name, compared in results['comparisons'].items():
    assert (tmp_path / f'{name}.png').exists()
    for row in compared['rows']:
      assert row['difference'] is None or row['difference']['low'] is not None, (name, row)
