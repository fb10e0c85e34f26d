"""Texts from texts: rows, prefixes, long documents, generation, scores."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import config as config_lib
from lmjax import sharding
from lmjax import train as train_lib
from lmjax.data.counts import remarks
from lmjax.errors import ConfigError
from lmjax.scoring import generation
from lmjax.tasks import prepare
from lmjax.training import evaluator
from tests import runs
from tests.conftest import config_dict, text

WORDS = 'tree river snow number line year north weather'.split()


def pair(i: int) -> dict:
  """The summary repeats the first word of the document."""
  word = WORDS[i % len(WORDS)]
  return {'document': f'{word} {text(i, 6 + 3 * (i % 7))}', 'summary': f'about the {word}'}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('summaries')
  for name, numbers in {'train': range(64), 'valid': range(100, 112)}.items():
    (folder / f'{name}.jsonl').write_text(''.join(json.dumps(pair(i)) + '\n' for i in numbers), encoding='utf-8')
  return folder


def raw(files, **leaves):
  arguments = f'preset=mini,length=48,train={files / "train.jsonl"},valid={files / "valid.jsonl"}'
  small = {
    'data.tokenizer.vocab_size': 320,
    'data.batch_size': 8,
    'model.width': 32,
    'model.mlp_width': 64,
    'objective.max_summary': 8,
    'objective.chunk': 9,
    'objective.lead': 1,
    'train.epochs': None,
    'train.steps': 4,
    'writer.tensorboard': False,
  }
  return config_dict('configs/finetune_summarization.py', arguments, small | leaves)


def prepared(files, **leaves):
  return prepare.prepare(config_lib.build(raw(files, **leaves)))


@pytest.fixture(scope='module')
def runner():
  mesh = sharding.one_device_mesh()
  with jax.set_mesh(mesh):
    yield evaluator.Runner(mesh)


def test_a_row_is_document_separator_summary_end(files):
  _, task, data = prepared(files)
  tok, row = task.tokenizer, data.splits['train'].rows[0]
  example = task.example(row)
  record = data.splits['train'].records[0]
  document, summary = tok.encode(record['document'])[: task.max_document_tokens], tok.encode(record['summary'])[:8]
  whole = [tok.eos, *document, tok.sep, *summary, tok.eos]
  assert example['inputs'][: len(whole) - 1].tolist() == whole[:-1]
  used = example['weights'] > 0
  assert example['targets'][used].tolist() == [*summary, tok.eos]
  assert example['inputs'][example['slots'][used]].tolist() == [tok.sep, *summary]
  assert example['prefix'].sum() == len(document) + 2
  assert example['segments'].sum() == len(whole) - 1


def test_no_end_is_taught_where_a_summary_was_cut(files):
  """A model that has learned it there ends in the middle of its sentences."""
  _, task, data = prepared(files)
  tok, long = (
    task.tokenizer,
    {'id': '0', 'document': 'the snow', 'summary': 'the river and the snow and the north ' * 9},
  )
  short = {'id': '1', 'document': 'the snow', 'summary': 'snow'}
  examples, ids = task.rows_of([long, short]), tok.encode(long['summary'])
  example = task.example(examples.rows[0])
  assert example['targets'][example['weights'] > 0].tolist() == ids[:8]
  whole = task.example(examples.rows[1])
  assert whole['targets'][whole['weights'] > 0].tolist() == [*tok.encode('snow'), tok.eos]
  counts = task.counts_of(examples)
  assert counts['summary_tokens'] == len(ids) + len(tok.encode('snow'))
  assert counts['cut_summary_tokens'] == counts['cut_tokens'] == len(ids) - 8
  assert f'{len(ids) - 8} of {counts["summary_tokens"]} tokens of summaries cut (' in remarks(counts)


@pytest.mark.parametrize('prefix', [False, True])
def test_no_position_sees_the_summary_ahead(files, prefix):
  """By gradient: an output of the summary depends on no later token; one of the document on later ones of the document
  alone, and only with prefix attention."""
  _, task, data = prepared(files, **{'objective.prefix': prefix, 'model.init_std': 0.3})
  row = data.splits['train'].rows[3]
  batch = {name: jnp.asarray(a)[None] for name, a in task.example(row).items()}
  params = runs.random_params(task)
  prompt, size = row['prompt'], len(row['tokens']) - 1
  table = params['embeddings']['token']['embedding']

  @jax.jit
  def output(inputs, place):
    # each place has a token id of its own, so that its gradient shows in a row of its own of the table
    def of(table):
      changed = {**params, 'embeddings': {**params['embeddings'], 'token': {'embedding': table}}}
      shown = batch['prefix'] > 0 if prefix else None
      x = task.backbone.apply(changed, inputs, segments_BT=batch['segments'], prefix_BT=shown)
      return x[0, place].sum()

    return jnp.abs(jax.grad(of)(table)).sum(axis=1)

  inputs = batch['inputs'].at[0, :size].set(jnp.arange(10, 10 + size))
  for place in (2, prompt - 1, prompt, size - 1):
    seen = np.flatnonzero(np.asarray(output(inputs, place))[10 : 10 + size] > 0)
    last = prompt - 1 if prefix and place < prompt else place
    assert seen.tolist() == list(range(last + 1)), place


@pytest.mark.parametrize('long_documents', ['head', 'head_tail', 'chunks'])
def test_what_is_read_of_a_long_document(files, runner, long_documents):
  _, task, _ = prepared(files, **{'objective.long_documents': long_documents})
  document = list(range(10, 10 + 3 * task.max_document_tokens))
  part = task.prompt(document)[1:-1]
  assert len(part) == task.max_document_tokens
  if long_documents == 'head_tail':
    assert part[0] == document[0] and part[-1] == document[-1]
  else:
    assert part == document[: task.max_document_tokens]
  items = [{'id': '0', 'document': text(1, 100), 'summary': 'a b'}]
  share = task.scores(items, ['a b'])['read_share']
  assert share == 1.0 if long_documents == 'chunks' else 0 < share < 1


def test_chunks_read_every_token_once(files, runner):
  _, task, _ = prepared(files, **{'objective.long_documents': 'chunks'})
  seen = []

  def generate(params, prompts, run):
    seen.append([prompt[1:-1] for prompt in prompts])
    return [[7, 7] for _ in prompts]

  task.generate = generate
  document = np.arange(20, 20 + 5 * task.max_document_tokens + 3)
  examples = types.SimpleNamespace(rows=[{'document': document}])
  task.predict(None, examples, runner)
  assert sum(seen[0], []) == document.tolist()
  assert seen[-1] == [[7, 7] * 6]


def test_beam_search_and_greedy_write_what_the_model_says(files, runner):
  """Width 1 equals greedy; a batch equals one document at a time, whatever its bucket."""
  _, task, data = prepared(files, **{'model.init_std': 0.3})
  params = runs.random_params(task)
  examples = data.splits['valid']
  together = task.predict(params, examples, runner)
  alone = [task.predict(params, task.rows_of([record]), runner)[0] for record in examples.records[:3]]
  assert together[:3] == alone and any(together)
  _, wide, _ = prepared(
    files,
    **{'model.init_std': 0.3, 'objective.decoding.beams': 4, 'objective.decoding.length_penalty': 1.0},
  )
  assert wide.predict(params, examples, runner) != together


def test_no_repeated_ngram_in_what_is_written(files, runner):
  leaves = {'model.init_std': 0.3, 'objective.decoding.no_repeat_ngram': 2}
  _, task, data = prepared(files, **leaves)
  params = runs.random_params(task)
  begin, between, _ = task.frame
  prompts = [[*begin, *row['document'][:20], *between] for row in data.splits['valid'].rows]
  for made in task.generate(params, prompts, runner):
    pairs = list(zip(made, made[1:]))
    assert len(pairs) == len(set(pairs))


def test_scores_are_those_of_the_library(files):
  _, task, data = prepared(files)
  items = data.splits['valid'].records
  predictions = [record['summary'] + ' and more' for record in items]
  found = task.scores(items, predictions)
  references = [record['summary'] for record in items]
  assert found['rougeL'] == generation.rouge(predictions, references)['rougeL']
  leads = [generation.lead(record['document'], 1) for record in items]
  assert found['lead_rougeL'] == generation.rouge(leads, references)['rougeL']
  each = task.per_example(items, predictions)
  assert np.mean(each) == pytest.approx(found['rougeL'])


@pytest.mark.slow
def test_it_learns_to_write(files, tmp_path):
  leaves = {'train.steps': 120, 'optim.learning_rate': 5e-3, 'eval.every': 120, 'model.residual_dropout': 0.0}
  leaves |= {'objective.prefix': True}
  results = train_lib.train(raw(files, **leaves), str(tmp_path), log=lambda line: None, devices=jax.devices()[:1])
  assert results['metrics']['valid/rougeL'] > 0.6 > results['metrics']['valid/lead_rougeL']
  page = (tmp_path / 'summaries_valid.md').read_text()
  assert '| words of the document |' in page and 'about the' in page
  lines = [json.loads(line) for line in (tmp_path / 'predictions_valid.jsonl').read_text().splitlines()]
  assert np.mean([line['score'] for line in lines]) == pytest.approx(results['metrics']['valid/rougeL'])
  assert 'about the' in (tmp_path / 'samples.md').read_text()


@pytest.mark.parametrize(
  'leaves,message',
  [
    ({'objective.max_summary': 20}, 'objective.max_summary = 20: must be at most a third of data.length = 48'),
    ({'objective.best': 'bleu'}, "objective.best = 'bleu': must be loss or among objective.scores"),
    ({'objective.decoding.beams': 3}, 'length_penalty = None: is needed with beams above 1'),
    ({'model.attention': 'bidirectional'}, "model.attention = 'bidirectional': must be causal for summarization"),
  ],
  ids=str,
)
def test_refused(files, leaves, message):
  with pytest.raises(ConfigError, match=message):
    config_lib.build(raw(files, **leaves))
