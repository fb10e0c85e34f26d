"""Fine-tuning as a whole, on classification: what moves, what is kept, what is counted, and that it learns."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import config as config_lib
from lmjax import optim, paths, profile, sharding
from lmjax.checkpoint import locate
from lmjax.checkpoint.locate import open_source
from lmjax.data.records import Records
from lmjax.errors import CheckpointError, ConfigError, DataError
from lmjax.objectives import classification
from lmjax.objectives.config import ClassificationConfig
from lmjax.tasks import prepare
from lmjax.tasks.classification import Classification, longest_first
from lmjax.training import initialize, reopen
from lmjax.training import state as state_lib
from tests import runs

LABELS = {'objective.labels': "('bad', 'good')"}


@pytest.fixture(scope='module')
def mlm(raw_config, tmp_path_factory):
  return runs.pre_trained('masked_lm', raw_config, tmp_path_factory)


def prepared(raw):
  """(Config, task, data, TrainState of the first step, its step function), on one device."""
  config = config_lib.build(raw)
  source, tokenizer = runs.source_of(config)
  config, task, data = prepare.prepare(config, tokenizer)
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with jax.set_mesh(mesh):
    tx = optim.make(config.optim, task.shapes())
    plan = initialize.plan_of(task, source, config.init_from)
    state = state_lib.init_state(task, tx, mesh, initialize.initial_params(task, mesh, config.seed, source, plan))
  return config, task, data, state, jax.jit(runs.train_step(task, tx, config))


def after(raw, steps=1):
  """(parameters before, after so many steps, the Config) by path."""
  config, task, data, state, step = prepared(raw)
  first, batches = state.params, task.pipeline(data, config.seed, config.train.steps)
  for i in range(steps):
    state, _ = step(state, batches.batch(i))
  return paths.flatten(jax.device_get(first)), paths.flatten(jax.device_get(state.params)), config


# ---- what moves


@pytest.mark.parametrize('arguments, frozen', [('', ('embeddings/*', 'layers/0/*', '*/scale')), ('head_only', ())])
def test_a_frozen_weight_stays_bit_for_bit(mlm, tmp_path, arguments, frozen):
  raw = runs.classification_config(mlm, tmp_path, arguments, **{'optim.weight_decay': 0.1, 'train.steps': 3})
  raw.optim.frozen = frozen
  raw.optim.no_decay = ()  # decay moves a weight even where its gradient is 0
  before, found, config = after(raw, 3)
  for path, leaf in found.items():
    moves = path.startswith('classifier/') if arguments else not paths.matches(path, frozen)
    assert config.optim.is_trainable(path) == moves
    if path == 'classifier/bias' and moves:
      assert leaf.any()
    elif moves:
      assert (leaf != before[path]).mean() > 0.5, f'{path} did not move'
    else:
      np.testing.assert_array_equal(leaf, before[path], err_msg=path)


def test_layer_decay_and_the_head_s_rate_scale_each_update(mlm, tmp_path):
  """One step of AdamW, whose updates do not depend on the scale of the rate: they are compared one by one.

  The frozen layer counts: what lies below it is as far from the top as before.
  """
  raw = runs.classification_config(mlm, tmp_path, **{'optim.learning_rate': 0.01, 'train.steps': 4})
  raw.optim.frozen = ('layers/1/*',)
  before, plain, _ = after(raw)
  raw.optim.layer_decay, raw.optim.head_learning_rate = 0.5, 0.03
  _, scaled, config = after(raw)
  shares = {'embeddings': 0.25, 'layers/0': 0.5, 'layers/1': 1.0, 'final_norm': 1.0, 'classifier': 3.0}
  for path, given in paths.flatten(optim.learning_rate_multipliers(config.optim, paths.unflatten(before))).items():
    [share] = [value for start, value in shares.items() if path.startswith(f'{start}/')]
    assert given == share, path
    expected = share * (np.float64(plain[path]) - before[path])
    np.testing.assert_allclose(np.float64(scaled[path]) - before[path], expected, rtol=1e-3, atol=1e-7, err_msg=path)
  assert max(np.abs(plain[path] - before[path]).max() for path in before) > 5e-3


# ---- whole runs


@pytest.fixture(scope='module')
def whole(raw_config, tmp_path_factory):
  """(workdir, results) of a run that nothing stopped."""
  workdir = runs.fine_tuned(raw_config, tmp_path_factory)
  return workdir, json.loads((workdir / 'results.json').read_text())


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(mlm, whole, tmp_path):
  raw = runs.six_steps(mlm, tmp_path)
  assert raw.model.residual_dropout and raw.objective.dropout

  def killed(line):
    if line.startswith('step 5/'):
      raise KeyboardInterrupt(line)

  with pytest.raises(KeyboardInterrupt):
    runs.train(raw, tmp_path / 'run', killed)
  assert not (tmp_path / 'run/results.json').exists()
  said = []
  results = runs.train(raw, tmp_path / 'run', said.append)
  assert 'resuming from step 3' in said
  expected = runs.params_of(whole[0])
  for path, leaf in runs.params_of(tmp_path / 'run').items():
    np.testing.assert_array_equal(leaf, expected[path], err_msg=path)
  timed = {'train/seconds', 'train/tokens_per_second', 'train/mfu', 'valid/seconds'}
  for name, value in whole[1]['metrics'].items():
    assert name in timed or results['metrics'][name] == value, name
  assert results['hand_off'] == whole[1]['hand_off']
  for split in ('train', 'valid', 'test'):
    losses, expected_losses = (
      [(line['step'], line['loss']) for line in runs.metrics_of(workdir, split)]
      for workdir in (tmp_path / 'run', whole[0])
    )
    assert losses == expected_losses


def test_the_test_split_is_looked_at_once(whole):
  workdir, results = whole
  [line] = runs.metrics_of(workdir, 'test')
  assert line['step'] == results['best_step'] in (3, 6)
  assert {'test/accuracy', 'test/majority_accuracy', 'test/macro_f1', 'test/loss'} <= results['metrics'].keys()
  assert results['metrics']['test/accuracy'] == line['accuracy']
  assert results['metrics']['test/majority_accuracy'] == pytest.approx(5 / 9)
  predictions = [json.loads(p) for p in (workdir / 'predictions_test.jsonl').read_text().splitlines()]
  assert [p['label'] for p in predictions] == [label for _, label in runs.texts(9, seed=2)]
  assert np.mean([p['score'] for p in predictions]) == pytest.approx(line['accuracy'])


def test_no_steps_evaluate_the_start(mlm, whole, tmp_path):
  results = runs.train(runs.six_steps(mlm, tmp_path, **{'train.steps': 0}), tmp_path / 'run')
  start = runs.metrics_of(whole[0], 'valid')[0]
  assert start['step'] == results['step'] == results['best_step'] == 0
  assert results['metrics']['valid/loss'] == start['loss'] and results['metrics']['valid/accuracy'] == start['accuracy']
  assert {'test/accuracy', 'test/loss'} <= results['metrics'].keys()
  assert results['hand_off'] == whole[1]['hand_off']
  assert all(distance == 0.0 for distance in results['moved'].values()) and results['moved']
  assert not runs.metrics_of(tmp_path / 'run', 'train')
  # it can be opened, and is not evaluated again
  assert reopen.load_run(str(tmp_path / 'run')).step == 0
  before = content(tmp_path / 'run')
  assert runs.train(runs.six_steps(mlm, tmp_path, **{'train.steps': 0}), tmp_path / 'run') == results
  assert content(tmp_path / 'run') == before


def content(workdir) -> dict[str, bytes]:
  return {str(p.relative_to(workdir)): p.read_bytes() for p in pathlib.Path(workdir).rglob('*') if p.is_file()}


def test_the_best_checkpoint_gives_the_results_and_patience_ends_the_run(mlm, tmp_path, monkeypatch):
  """Evaluations are told that step 1 was the best of 3; the loss, which is real, must be that of step 1 then.

  Started again, the run, which had ended, changes nothing.
  """
  scripted, sizes, real = [0.1, 0.9, 0.5, 0.2], [], Classification.scores

  def scores(self, items, predictions):
    sizes.append(len(items))
    found = real(self, items, predictions)
    return found | {'accuracy': scripted.pop(0)} if scripted else found

  monkeypatch.setattr(Classification, 'scores', scores)
  workdir, said = tmp_path / 'run', []
  raw = runs.six_steps(mlm, tmp_path, **{'eval.every': 1, 'eval.patience': 2})
  results = runs.train(raw, workdir, said.append)
  by_step = {line['step']: line['loss'] for line in runs.metrics_of(workdir, 'valid')}
  assert list(by_step) == [0, 1, 2, 3] and len(set(by_step.values())) == 4
  assert 'step 3: no better accuracy in 2 evaluations; training ends' in said
  assert (results['status'], results['step'], results['best_step']) == ('done', 3, 1)
  assert results['metrics']['valid/loss'] == pytest.approx(by_step[1], rel=1e-6)
  assert sizes == [10, 10, 10, 10, 10, 9], 'the test split was looked at before the end'
  assert {1, 3} <= set(locate.saved_steps(locate.directory_of(workdir)))
  # what opens the run later takes the best as well
  default, best, last = (runs.params_of(workdir, step)['classifier/kernel'] for step in (None, 1, 3))
  assert np.array_equal(default, best) and not np.array_equal(default, last)

  before = content(workdir)
  said.clear()
  assert runs.train(raw, workdir, said.append) == results
  assert not any('compiling' in line for line in said)
  again = content(workdir)
  assert before.keys() == again.keys()
  assert [name for name in before if before[name] != again[name]] == []

  # damaged by now, the best is skipped, and logged
  (workdir / 'results.json').unlink()
  for file in (workdir / 'checkpoints/1/state').rglob('d/*'):
    file.write_bytes(bytes(file.stat().st_size))
  later = runs.train(raw, workdir, said.append)
  assert later['best_step'] == min(set(locate.saved_steps(locate.directory_of(workdir))) - {1})
  assert any(line.startswith('checkpoint 1, the best by accuracy, is skipped: ') for line in said)


def test_another_start_or_optimizer_is_refused_in_the_same_workdir(mlm, whole):
  """Else the scores of the run before would be told as those of the new one."""
  workdir, results = whole
  before = content(workdir)
  for leaves, message in [
    ({'init_from.take': '()'}, r'init_from.take = \[\]: .*were made with'),
    ({'init_from.step': '3'}, 'init_from.step = 3: .*were made with latest'),
    ({'optim.trainable': 'classifier/*'}, r'optim.trainable = \[.classifier/\*.\]: .*were made with'),
    ({'optim.weight_decay': '0.5'}, 'optim.weight_decay = 0.5: .*were made with 0.01'),
    ({'optim.learning_rate': '0.123'}, 'optim.learning_rate = 0.123: this run has ended, with .*new --workdir'),
  ]:
    with pytest.raises(CheckpointError, match=message):
      runs.train(runs.six_steps(mlm, workdir.parent, **leaves), workdir)
  with pytest.raises(ConfigError, match='train.seeds = 2: .* holds one run; choose a new --workdir'):
    runs.train(runs.six_steps(mlm, workdir.parent, **{'train.seeds': 2}), workdir)
  assert content(workdir) == before


def test_damaged_results_are_made_again(mlm, whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / 'run')
  (tmp_path / 'run/results.json').write_text('')
  again = runs.train(runs.six_steps(mlm, whole[0].parent), tmp_path / 'run')
  names = [name for name in again['metrics'] if not name.startswith('train/') and not name.endswith('seconds')]
  assert {name: again['metrics'][name] for name in names} == {name: whole[1]['metrics'][name] for name in names}


def test_how_far_it_moved_counts_from_where_it_began(mlm, tmp_path):
  """The run that it started from goes on meanwhile: its latest checkpoint is no longer that of the start."""
  config, task, _, state, _ = prepared(runs.six_steps(mlm, tmp_path))
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  begun = {'source': mlm, 'step': 3}
  assert runs.source_of(config)[0].step == 6
  moved = functools.partial(initialize.moved, task, config.optim, mesh, config.seed, config.init_from)
  source = open_source(dataclasses.replace(config.init_from, step=3))
  with jax.set_mesh(mesh):
    plan = initialize.plan_of(task, source, config.init_from)
    there = initialize.initial_params(task, mesh, config.seed, source, plan)
    distances = moved(begun, there)
    assert distances and all(distance == 0.0 for distance in distances.values())
    assert moved(begun, state.params)['attention'] > 0
    assert moved(begun | {'step': 2}, state.params) is None, 'it is gone'


@pytest.mark.parametrize(
  'leaf, value, message',
  [
    ('data.length', 3, 'data.length = 3: must be 4 or more'),
    ('train.epochs', 1e17, 'train.epochs = 1e.17: must be at most 1,000,000'),
    ('train.steps', 3_000_000_000, 'train.steps = 3000000000: must be at most 2,147,483,647'),
    ('model.lora.rank', 1000, 'model.lora.rank = 1000: must be at most model.width = 32'),
  ],
)
def test_sizes_that_no_run_can_have_are_refused(mlm, tmp_path, leaf, value, message):
  raw = runs.classification_config(mlm, tmp_path, lora=2)
  raw.update_from_flattened_dict({leaf: value})
  with pytest.raises(ConfigError, match=message):
    config_lib.build(raw)


def test_the_first_token_tells_nothing_with_causal_attention(raw_config, tmp_path_factory, tmp_path):
  source = runs.pre_trained('causal_lm', raw_config, tmp_path_factory)
  raw = runs.classification_config(source, tmp_path, **{'objective.pooling': 'cls'})
  with pytest.raises(ConfigError, match='objective.pooling = .*cls.*: sees nothing but the first token'):
    config_lib.build(raw)
  raw.objective.pooling = None
  assert prepared(raw)[1].objective.pooling == 'last'


def test_a_workdir_whose_checkpoints_are_a_file_is_refused(mlm, tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/checkpoints').write_text('')
  with pytest.raises(ConfigError, match='--workdir = .*run: its checkpoints is a file; choose another'):
    runs.train(runs.six_steps(mlm, tmp_path), tmp_path / 'run')


def test_several_seeds_make_a_run_each_and_a_summary(mlm, tmp_path):
  """Runs of no steps, which differ by the random head alone."""
  said, compiled = [], []

  def log(line):
    said.append(line)
    compiled.append(profile.compilations())

  raw = runs.six_steps(mlm, tmp_path, **{'train.steps': 0, 'train.seeds': 2, 'seed': 5})
  results = runs.train(raw, tmp_path / 'run', log)
  assert compiled[said.index('seed 2 of 2: 6')] == compiled[-1], 'the second seed shares the programs of the first'
  assert json.loads((tmp_path / 'run/results.json').read_text()) == results
  assert results['seeds'] == [5, 6]
  with pytest.raises(ConfigError, match='train.seeds = 1: .* holds the runs of several seeds'):
    runs.train(runs.six_steps(mlm, tmp_path, **{'train.steps': 0}), tmp_path / 'run')
  one, two = (json.loads((tmp_path / f'run/seed{i}/results.json').read_text()) for i in (0, 1))
  for name in ('valid/accuracy', 'valid/loss', 'test/accuracy', 'test/loss'):
    a, b = one['metrics'][name], two['metrics'][name]
    assert results['metrics'][name] == pytest.approx((a + b) / 2)
    assert results['standard_deviation'][name] == pytest.approx(abs(a - b) / 2**0.5)
  assert one['metrics']['valid/loss'] != two['metrics']['valid/loss'], 'both seeds began with the same head'
  assert [json.loads((tmp_path / f'run/seed{i}/config.json').read_text())['seed'] for i in (0, 1)] == [5, 6]
  assert any('2 seeds: test accuracy' in line for line in said)
  (tmp_path / 'run/results.json').unlink()
  (tmp_path / 'run/results.json').mkdir()  # what cannot be written is told, here too
  with pytest.raises(CheckpointError, match=r'results\.json\..*: cannot be written or read'):
    runs.train(raw, tmp_path / 'run')


@pytest.mark.parametrize('kind', ['masked_lm', pytest.param('causal_lm', marks=pytest.mark.slow)])
def test_it_learns_what_one_word_tells(raw_config, tmp_path_factory, tmp_path, kind):
  source = runs.pre_trained(kind, raw_config, tmp_path_factory)
  rows = {'train': runs.texts(160), 'valid': runs.texts(20, seed=1), 'test': runs.texts(40, seed=2)}
  leaves = {'train.steps': 100, 'eval.every': 50, 'optim.learning_rate': 0.01, 'optim.warmup_steps': 6}
  results = runs.train(runs.classification_config(source, tmp_path, rows=rows, **leaves), tmp_path / 'run')
  assert results['metrics']['test/majority_accuracy'] == 0.5
  assert results['metrics']['test/accuracy'] >= 0.95
  assert results['moved']['classifier'] > 0.1


# ---- data


def test_epochs_and_shares_become_steps(mlm, tmp_path):
  """24 examples in batches of 8; a half of them, three times, are 36 rows: 5 batches."""
  leaves = {'train.steps': None, 'train.epochs': 3, 'eval.every': None, 'optim.warmup_steps': None}
  raw = runs.classification_config(mlm, tmp_path, **leaves)
  config, _, data, _, _ = prepared(raw)
  assert (config.train.steps, config.train.epochs, config.eval.every, config.checkpoint.every) == (9, None, 3, 3)
  ids = {record['id'] for record in data.splits['train'].records}
  raw.data.train_share = 0.5
  config, _, data, _, _ = prepared(raw)
  assert (config.train.steps, config.optim.warmup_steps, len(data.splits['train'])) == (5, 0, 12)
  half = {record['id'] for record in data.splits['train'].records}
  raw.data.train_share = 0.25
  quarter = {record['id'] for record in prepared(raw)[2].splits['train'].records}
  assert quarter < half < ids


def test_examples_in_two_splits_are_dropped_from_training_and_reported(mlm, tmp_path):
  train = runs.texts(24)
  raw = runs.classification_config(mlm, tmp_path, rows={'train': train, 'valid': train[:4]})
  _, task, data, _, _ = prepared(raw)
  said = '20 train (4 duplicates dropped'
  assert task.describe(data).startswith(said)
  assert len(data.splits['train']) == 20 and len(data.splits['valid']) == 4


def test_an_unknown_label_is_named_with_those_known(mlm, tmp_path):
  raw = runs.classification_config(mlm, tmp_path, rows={'valid': [('a text', 'good'), ('b text', 'meh')]})
  with pytest.raises(
    DataError, match=r"data.valid, example 1 \(the first is 0\): label 'meh'; must be one of bad, good; correct it"
  ):
    runs.train(raw, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()
  raw.objective.labels = ('good', 'bad', 'meh')  # an order of one's own, and a label without a training example
  _, task, data, state, _ = prepared(raw)
  assert task.objective.labels == ('good', 'bad', 'meh') and state.params['classifier']['bias'].shape == (3,)
  assert [row['label'] for row in data.splits['valid'].rows] == [0, 2]


def test_one_label_alone_is_refused(mlm, tmp_path):
  rows = [(text, 'good') for text, _ in runs.texts(12)]
  raw = runs.classification_config(mlm, tmp_path, rows={'train': rows, 'valid': rows})
  with pytest.raises(DataError, match='each example stands in another split as well'):
    prepared(raw)
  raw = runs.classification_config(mlm, tmp_path, rows={'train': rows, 'valid': [('new', 'good')]})
  with pytest.raises(DataError, match="data.train: all 12 examples have the label 'good'; two are needed"):
    prepared(raw)


def objective(**changes) -> ClassificationConfig:
  rest = dict(labels=None, pooling='mean', dropout=0.0, label_smoothing=None, class_weights=None)
  return ClassificationConfig(**rest | changes)


def test_balanced_weights_make_the_classes_count_alike():
  items = [{'id': str(i), 'label': label} for i, label in enumerate('aaaaaab' + 'c' * 5)]
  found = Classification.resolve(objective(class_weights='balanced'), Records({'train': items}, {}, {}))
  assert found.labels == ('a', 'b', 'c')
  assert found.class_weights == pytest.approx((12 / 18, 12 / 3, 12 / 15))
  assert [weight * count for weight, count in zip(found.class_weights, (6, 1, 5))] == pytest.approx([4, 4, 4])
  given = objective(class_weights=(1.0, 2.0, 3.0), labels=('c', 'b', 'a'))
  assert Classification.resolve(given, Records({'train': items}, {}, {})) == given


# ---- the model's side: a small encoder with segment types, and random weights


@pytest.fixture(scope='module')
def encoder(tokenizer, tmp_path_factory):
  """`encoder(**leaves of the objective)` -> (task, params) of a tiny BERT."""
  small = {'model.layers': 1, 'model.width': 32, 'model.heads': 4, 'model.kv_heads': 4, 'model.mlp_width': 64}
  small |= {
    'model.max_length': 24,
    'model.dtype': 'float32',
    'model.init_std': 0.3,
    'model.remat': 'none',
    'data.length': 16,
  }
  folder = tmp_path_factory.mktemp('encoder')
  raw = runs.classification_config(None, folder, 'preset=bert_base', **small, **LABELS)
  raw.objective.dropout = 0.0
  params = []

  def make(**leaves):
    raw.objective.update({'label_smoothing': None, 'class_weights': None, 'pooling': 'mean'} | leaves)
    task = prepare.build(config_lib.build(raw), tokenizer)
    if not params:
      params.append(runs.random_params(task, 3))
    return task, params[0]

  return make


def batch_of(task, records):
  examples = [task.example(row) for row in task.rows_of(records).rows]
  return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


RECORDS = [
  {'id': '0', 'text': 'the model reads', 'label': 'good'},
  {'id': '1', 'text': 'snow', 'text_pair': 'it falls early', 'label': 'bad'},
  {'id': '2', 'text': 'a line of text', 'text_pair': None, 'label': 'bad'},
]


def test_rows_have_their_frame_and_segment_types(encoder):
  task, _ = encoder()
  tok, batch = task.tokenizer, batch_of(task, RECORDS)
  first, second, third = ([tok.cls, *tok.encode_batch([r['text']])[0], tok.sep] for r in RECORDS)
  pair = [*tok.encode_batch(['it falls early'])[0], tok.sep]
  for row, (tokens, types) in enumerate([(first, 0), (second, len(pair)), (third, 0)]):
    whole = tokens + (pair if types else [])
    assert batch['inputs'][row].tolist() == whole + [tok.pad] * (16 - len(whole))
    assert batch['segments'][row].tolist() == [1] * len(whole) + [0] * (16 - len(whole))
    assert batch['segment_types'][row].tolist() == [0] * len(tokens) + [1] * types + [0] * (16 - len(whole))
  assert batch['labels'].tolist() == [1, 0, 0]


def test_the_longer_text_of_a_pair_is_cut_first(encoder):
  task, _ = encoder()
  tok, long, short = task.tokenizer, ' '.join(['snow'] * 40), 'it falls'
  a, b = tok.encode_batch([long])[0], tok.encode_batch([short])[0]
  rows = task.rows_of(
    [
      {'id': '0', 'text': long, 'text_pair': short, 'label': 'bad'},
      {'id': '1', 'text': short, 'text_pair': long, 'label': 'bad'},
      {'id': '2', 'text': long, 'text_pair': long, 'label': 'bad'},
      {'id': '3', 'text': long, 'label': 'bad'},
      {'id': '4', 'text': short, 'text_pair': short, 'label': 'bad'},
    ]
  ).rows
  room = 16 - 3 - len(b)
  assert rows[0]['tokens'].tolist() == [tok.cls, *a[:room], tok.sep, *b, tok.sep]
  assert rows[1]['tokens'].tolist() == [tok.cls, *b, tok.sep, *a[:room], tok.sep]
  assert rows[2]['tokens'].tolist() == [tok.cls, *a[:6], tok.sep, *a[:7], tok.sep]  # as in `tokenizers`
  assert rows[3]['tokens'].tolist() == [tok.cls, *a[:14], tok.sep]
  assert [row['second'] for row in rows[:3]] == [room + 2, len(b) + 2, 8]
  assert [bool(row['counts']['cut_tokens']) for row in rows] == [True] * 4 + [False]


def test_longest_first_fills_the_room_and_cuts_no_text_that_is_shorter_than_the_other():
  for first in range(14):
    for second in range(14):
      for room in range(14):
        a, b = longest_first(first, second, room)
        assert 0 <= a <= first and 0 <= b <= second and a + b == min(room, first + second)
        if a < first and b < second:
          assert abs(a - b) <= 1
        elif a < first:
          assert a >= b - 1
        elif b < second:
          assert b >= a


def test_a_second_text_differs_by_its_type(encoder):
  task, params = encoder()
  batch = batch_of(task, RECORDS[1:2])
  without = batch | {'segment_types': np.zeros_like(batch['segment_types'])}
  logits = jax.jit(classification.make_logits(task.model, task.objective))
  assert np.abs(logits(params, batch, None) - logits(params, without, None)).max() > 1e-3


def test_no_pooling_reads_padding(encoder):
  """Rows padded to 16, with any ids there, come out as they do in a row of just their length."""
  found = {}
  for pooling in ('cls', 'last', 'mean'):
    task, params = encoder(pooling=pooling)
    batch = batch_of(task, RECORDS)
    logits = jax.jit(classification.make_logits(task.model, task.objective))
    found[pooling] = np.asarray(logits(params, batch, None))
    other = batch | {'inputs': np.where(batch['segments'] > 0, batch['inputs'], 77)}
    np.testing.assert_allclose(logits(params, other, None), found[pooling], atol=1e-5)
    n = int(batch['segments'][0].sum())
    short = {name: a[:1, :n] if a.ndim == 2 else a[:1] for name, a in batch.items()}
    np.testing.assert_allclose(logits(params, short, None), found[pooling][:1], atol=1e-4)
  assert min(np.abs(found[a] - found[b]).max() for a, b in [('cls', 'last'), ('cls', 'mean'), ('last', 'mean')]) > 1e-2


def test_pool_equals_its_definition():
  x = jax.random.normal(jax.random.key(0), (2, 5, 3))
  segments = jnp.array([[1, 1, 1, 0, 0], [1] * 5])
  for pooling, expected in {
    'cls': [x[0, 0], x[1, 0]],
    'last': [x[0, 2], x[1, 4]],
    'mean': [x[0, :3].mean(0), x[1].mean(0)],
  }.items():
    np.testing.assert_allclose(classification.pool(x, segments, pooling), np.stack(expected), atol=1e-6)


@pytest.mark.parametrize('smoothing, weights', [(None, None), (0.2, None), (None, (3.0, 0.5)), (0.1, (3.0, 0.5))])
def test_the_loss_equals_its_definition(encoder, smoothing, weights):
  """A row of weight 0 counts nowhere; metrics are neither smoothed nor weighted by class."""
  task, params = encoder(label_smoothing=smoothing, class_weights=weights)
  batch = batch_of(task, RECORDS) | {'weights': np.float32([1, 0, 1])}
  loss_sum, weight_sum, pairs = task.loss(params, batch, None)
  logits = np.float64(jax.jit(classification.make_logits(task.model, task.objective))(params, batch, None))
  log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
  expected, counted, plain = 0.0, 0.0, 0.0
  for row in (0, 2):
    label = int(batch['labels'][row])
    target = np.full(2, (smoothing or 0.0) / 2)
    target[label] += 1.0 - (smoothing or 0.0)
    count = 1.0 if weights is None else weights[label]
    expected -= count * (target * log_p[row]).sum()
    counted += count
    plain -= log_p[row, label]
  np.testing.assert_allclose(loss_sum, expected, rtol=1e-5)
  np.testing.assert_allclose(weight_sum, counted, rtol=1e-6)
  np.testing.assert_allclose(pairs['loss'], (plain, 2.0), rtol=1e-5)
  right = (log_p.argmax(axis=1) == batch['labels'])[[0, 2]].sum()
  np.testing.assert_allclose(pairs['accuracy'], (right, 2.0))


def test_predictions_are_of_their_records(mlm, tmp_path):
  """More records than a batch holds, not a multiple of it: one prediction each, in order, as one by one."""
  raw = runs.classification_config(mlm, tmp_path, rows={'valid': runs.texts(11, seed=1)})
  _, task, data, state, _ = prepared(raw)
  compiled = functools.cache(jax.jit)
  run = lambda function, params, batch: jax.device_get(compiled(function)(params, batch))
  predictions = task.predict(state.params, data.splits['valid'], run)
  assert len(predictions) == 11
  for number in (0, 7, 8, 10):
    alone = task.predict(state.params, task.rows_of(data.splits['valid'].records[number : number + 1]), run)
    assert predictions[number] == pytest.approx(alone[0], abs=1e-5)
    assert sum(predictions[number].values()) == pytest.approx(1.0)
