"""Every leaf of the fine-tuning configs has an effect that can be observed, without training.

As in test_knobs.py, whose cases cover the leaves that pre-training has too.
"""

import functools
import hashlib
import json

import jax
import numpy as np
import pytest

from lmjax import config as config_lib
from lmjax import sharding
from lmjax.errors import DataError
from lmjax.schema import describe
from lmjax.tasks import prepare
from lmjax.training import evaluator
from tests import runs
from tests.conftest import FINE_TUNING, config_dict, text
from tests.schema import test_knobs

SHARE = {'data.valid': None, 'data.valid_fraction': 0.2}
BEAMS = {'objective.decoding.beams': 3, 'objective.decoding.length_penalty': 1.0}
SAMPLING = {'objective.decoding.temperature': 1.0}

NUMBERS = {'objective.target': 'number', 'data.fields': 'text,stars'}

# (leaf, another value, changes that both are compared under, changes that the value needs besides)
COMMON = [
  ('data.train', 'OTHER', {}),
  ('data.valid', 'OTHER', {}),
  ('data.valid_fraction', 0.4, SHARE),
  ('data.test', 'OTHER', {}),
  ('data.train_share', 0.5, {}),
  ('data.valid_examples', 3, {}),
  ('data.tokenizer.vocab_size', 300, {}),
  ('data.tokenizer.sample_bytes', 300, {}),
  ('data.tokenizer.lowercase', True, {}),
  ('data.tokenizer.path', 'TOKENIZER', {}, test_knobs.LOADED),
  ('data.length', 40, {}),
  ('data.batch_size', 4, {}),
  ('data.bad_text', 'skip', {}),
  ('samples.count', 2, {}),
  ('train.epochs', 2.0, {'train.steps': None, 'train.epochs': 1.0}),
  ('seed', 3, {}),
]
CASES = {
  'classification': [
    ('data.fields', 'title,label', {}),
    ('objective.labels', 'good,bad', {}),
    ('objective.pooling', 'last', {}),
    ('objective.head', 'tanh', {}),
    ('objective.dropout', 0.4, {}),
    ('objective.label_smoothing', 0.2, {}),
    ('objective.class_weights', 'balanced', {}),
    ('objective.target', 'number', NUMBERS | {'objective.target': 'class'}),
    ('objective.scale', '0.0,2.0', NUMBERS),
    ('objective.ranking_metric', 'macro_f1', {}),
    ('data.separator', '|', {'objective.target': 'many', 'data.fields': 'text,tags', 'data.separator': ';'}),
  ],
  'extractive_qa': [
    ('objective.max_question', 2, {}),
    ('objective.stride', 3, {}),
    ('objective.max_answer', 1, {}),
    ('objective.n_best', 2, {}),
    ('objective.no_answer', True, {}),
    ('objective.head', 'relu', {}),
  ],
  'summarization': [
    ('data.fields', 'title,summary', {}),
    ('objective.max_summary', 6, {}),
    ('objective.long_documents', 'head_tail', {}),
    ('objective.prefix', True, {}),
    ('objective.label_smoothing', 0.2, {}),
    ('objective.chunk', 5, {}),
    ('objective.scores', 'rouge,chrf', {}),
    ('objective.best', 'rouge1', {}),
    ('objective.lead', 2, {}),
    ('objective.decoding.beams', 2, BEAMS),
    ('objective.decoding.length_penalty', 0.0, BEAMS),
    ('objective.decoding.no_repeat_ngram', 1, {}),
    ('objective.decoding.temperature', 0.5, SAMPLING),
    ('objective.decoding.top_k', 1, SAMPLING),
    ('objective.decoding.top_p', 0.01, SAMPLING),
  ],
}
# `data.fields` of SQuAD's format is refused.
REFUSED = [('extractive_qa', 'data.fields', 'a,b')]
REFUSED += [(task, 'data.separator', ';') for task in ('extractive_qa', 'summarization')]


def record(task: str, i: int) -> dict:
  words = text(i, 8 + 4 * (i % 5)).capitalize()
  if task == 'classification':
    label = {'label': 'good' if i % 3 else 'bad', 'stars': i % 4, 'tags': f'a;b|{"cd"[i % 2]}'}
    return {'text': words, 'title': text(900 + i, 5), **label}
  if task == 'summarization':
    sentences = ' '.join(f'{text(i + n, 4)} so.'.capitalize() for n in (50, 60, 70, 80))
    return {'document': f'{words} {sentences}', 'title': text(900 + i, 25), 'summary': text(i + 70, 6)}
  answer = words.split()[2]
  start = words.index(answer) + (3 if i % 4 == 0 else 0)  # some do not stand where they should
  return {
    'id': str(i),
    'question': f'which word is it, of those {i}?',
    'context': words,
    'answers': [{'text': answer, 'answer_start': start}],
  }


@pytest.fixture(scope='module')
def files(tmp_path_factory, tokenizer):
  folder = tmp_path_factory.mktemp('labelled')
  for task in FINE_TUNING:
    for name, first, count in (('train', 0, 24), ('valid', 100, 8), ('other', 200, 12)):
      lines = [json.dumps(record(task, i)) for i in range(first, first + count)]
      # half a surrogate pair, which `data.bad_text` decides about
      lines.append(json.dumps(record(task, first + 99)).replace('the', 'the \\ud800', 1))
      (folder / f'{task}_{name}.jsonl').write_text('\n'.join(lines) + '\n', encoding='utf-8')
  tokenizer.save(str(folder / 'tokenizer.json'))
  return folder


def configured(task, files, changes):
  preset = 'mini' if task == 'summarization' else 'mini_encoder'
  sources = ','.join(f'{name}={files / f"{task}_{name}.jsonl"}' for name in ('train', 'valid'))
  small = {
    'data.bad_text': 'replace',
    'data.batch_size': 8,
    'data.tokenizer.vocab_size': 320,
    'data.tokenizer.sample_bytes': 20000,
    'model.layers': 1,
    'model.width': 32,
    'model.mlp_width': 64,
    'model.init_std': 0.2,
    'train.epochs': None,
    'train.steps': 4,
    'writer.tensorboard': False,
  }
  if task == 'extractive_qa':
    small |= {'objective.max_question': 10, 'objective.stride': 8, 'objective.max_answer': 6}
  words = {'OTHER': str(files / f'{task}_other.jsonl'), 'TOKENIZER': str(files / 'tokenizer.json')}
  leaves = {path: words.get(value, value) for path, value in (small | changes).items()}
  argument = f'preset={preset},length=32,{sources}'
  return config_lib.build(config_dict(FINE_TUNING[task], argument, leaves))


def rows(config, task, data):
  """Digests of training and evaluation batches; how long the run is, and what is ranked by what."""
  digest, batches = hashlib.sha256(), task.pipeline(data, config.seed, config.train.steps)
  for batch in [
    batches.batch(0),
    batches.batch(1),
    *(b for _, e in sorted(data.splits.items()) for b in task.batches(e)),
  ]:
    for name in sorted(batch):
      digest.update(name.encode() + np.ascontiguousarray(batch[name]).tobytes())
  plan = [describe.to_dict(config.train), describe.to_dict(config.eval), describe.to_dict(config.checkpoint)]
  return [digest.hexdigest(), plan, task.RANKING_METRIC, task.HIGHER_IS_BETTER, sorted(data.splits)]


def programs(config, task, data):
  """Loss and gradient, and how text is generated, as they are traced."""
  shapes, batches = task.shapes(), task.pipeline(data, config.seed, config.train.steps)
  gradient = jax.make_jaxpr(jax.grad(lambda p, b, k: task.loss(p, b, k)[0]))
  traced = [str(gradient(shapes, batches.batch(0), jax.random.key(1)))]
  if task.NAME == 'summarization':
    ids = np.zeros((2, 8), np.int32)
    prompts = {'inputs': ids, 'segments': ids + 1, 'number': ids[:, 0]}
    traced.append(str(jax.make_jaxpr(task._generate)(shapes, prompts)))
  return traced


def outcome(config, task, data):
  """What an untrained model answers, what that scores, and how it is shown."""
  params, mesh = runs.random_params(task), sharding.one_device_mesh()
  with jax.set_mesh(mesh):
    values, predictions = evaluator.make(task, data, evaluator.Runner(mesh))(params)
  shown = task.samples(data.splits['valid'].records, predictions)
  return json.dumps([values, predictions, shown, task.calibration], default=str)


@pytest.fixture(scope='module')
def observe(files):
  """`observe(stage, task, changes)`: what a run would do, the cheapest to find out first."""
  prepared = functools.cache(lambda task, changes: prepare.prepare(configured(task, files, dict(changes))))
  of = functools.cache(lambda stage, task, changes: stage(*prepared(task, changes)))
  return lambda stage, task, changes: of(stage, task, tuple(sorted(changes.items(), key=str)))


@pytest.mark.parametrize('task,case', [(t, c) for t in FINE_TUNING for c in CASES[t] + COMMON], ids=str)
def test_leaf(observe, task, case):
  leaf, value, under, *besides = case
  changed = under | {leaf: value} | dict(*besides)
  differs = (observe(stage, task, under) != observe(stage, task, changed) for stage in (rows, programs, outcome))
  assert any(differs), f'{leaf} has no effect'


def test_bad_text_is_an_error_unless_allowed(files):
  with pytest.raises(DataError, match='lone surrogate'):
    prepare.prepare(configured('classification', files, {'data.bad_text': 'raise'}))


@pytest.mark.parametrize('task', FINE_TUNING)
def test_max_unknown(files, tmp_path, task):
  words = test_knobs.LOADED | {'data.tokenizer.path': runs.save_words(tmp_path / 'words.json', ['the', 'snow'])}
  with pytest.raises(DataError, match=r'data.train: no known token stands for .*; data.max_unknown = 0.5 is the'):
    prepare.prepare(configured(task, files, words | {'data.max_unknown': 0.5}))
  _, task, data = prepare.prepare(configured(task, files, words | {'data.max_unknown': 1.0}))
  for counts in task.counts(data).values():
    assert counts['unknown_tokens'] > 0.8 * counts['tokens'] and counts['unknown_bytes'] > 0.6 * counts['bytes']
    assert 'bytes that no known token stands for (' in task.describe(data)


@pytest.mark.parametrize('task,leaf,value', REFUSED)
def test_refused(files, task, leaf, value):
  with pytest.raises(config_lib.ConfigError, match=leaf):
    configured(task, files, {leaf: value})


@pytest.mark.parametrize('task', FINE_TUNING)
def test_every_leaf_has_a_case(files, task):
  tables = test_knobs.PROGRAM + test_knobs.PLAN + test_knobs.START + test_knobs.TOLD
  shared = {case[0] for case in tables} | {'init_from.convert', 'train.seeds'}
  shared |= {leaf for _, leaf, _ in test_knobs.REFUSED if leaf.startswith('model.')} | {
    'task',
    'model.lora',
    'data.max_unknown',
  }
  cases = shared | {case[0] for case in CASES[task] + COMMON} | {leaf for _, leaf, _ in REFUSED}
  config = configured(task, files, {})
  leaves = set(describe.settings(config))
  assert not leaves - cases, f'leaves without a case: {sorted(leaves - cases)}'
