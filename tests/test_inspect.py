"""Looking at batches and at trained runs."""

import math
import types

import jax
import numpy as np
import pytest

from lmjax import inspect
from lmjax.errors import DataError
from lmjax.tasks import prepare
from lmjax.training import reopen
from tests.conftest import CONFIGS, ROOT, TASKS
from tests.runs import pre_trained, random_params


@pytest.fixture(scope='module')
def runs(raw_config, tmp_path_factory):
  """A short run of each objective."""
  folder = tmp_path_factory.mktemp('runs')
  for name in TASKS:
    (folder / name).symlink_to(pre_trained(name, raw_config, tmp_path_factory))
  return folder


@pytest.mark.parametrize('name', TASKS)
@pytest.mark.parametrize('rows', ['concat', 'packed', 'padded'])
def test_a_batch_as_text(name, rows, corpus, cache_dir, capsys):
  leaves = [
    'data.tokenizer.vocab_size=320',
    f'data.rows={rows}',
    f'data.cache_dir={cache_dir}',
    'data.valid_fraction=0.1',
  ]
  leaves += ['data.cls_sep=false'] if rows == 'packed' else []
  flags = [
    f'--config={ROOT / CONFIGS[name]}:smoke,data={corpus}',
    '--batch=3',
    *(f'--config.{leaf}' for leaf in leaves),
  ]
  assert inspect.main(flags) == 0
  out = capsys.readouterr().out
  assert out.count('\nrow ') == 8 and 'source main, epoch 0' in out and 'weight' in out
  assert ('[MASK]' in out) == (name == 'masked_lm')
  assert ('||' in out) == (rows == 'packed') or rows == 'padded'


def test_parameters_words_and_prompts(runs, capsys):
  assert inspect.main([f'--workdir={runs}/causal_lm', '--neighbors=snow,weather', '--prompt=the model reads']) == 0
  out = capsys.readouterr().out
  assert 'embeddings' in out and 'attention' in out and 'snow' in out and 'the model reads' in out
  assert inspect.main([f'--workdir={runs}/masked_lm', '--prompt=the [MASK] reads a [MASK] of text']) == 0
  out = capsys.readouterr().out
  assert 'mask 1:' in out and 'mask 2:' in out and 'mask 3:' not in out


@pytest.mark.parametrize('name', ['causal_lm', pytest.param('masked_lm', marks=pytest.mark.slow)])
def test_minimal_pairs(runs, name, tmp_path, capsys):
  pairs = tmp_path / 'pairs.tsv'
  pairs.write_text('the snow falls\tfalls the snow\n\nwords follow words\twords words words\n')
  assert inspect.main([f'--workdir={runs}/{name}', f'--minimal_pairs={pairs}']) == 0
  assert ' of 2 right' in capsys.readouterr().out


def test_log_likelihood_is_a_probability(runs):
  """Over all continuations by one token, the probabilities of the sentences sum to that of the beginning."""
  trained = reopen.load_run(f'{runs}/causal_lm')
  task, tok = trained.task, trained.tokenizer
  prefix = tok.encode('the snow')
  apply = jax.jit(lambda rows: task.model.logits(trained.params, task.model.backbone.apply(trained.params, rows)))
  log_p = jax.nn.log_softmax(apply(np.array([[*task.document_end(), *prefix]])))[0]
  by_hand = sum(float(log_p[i, t]) for i, t in enumerate(prefix))
  assert math.isclose(inspect.log_likelihood(trained, 'the snow'), by_hand, rel_tol=1e-5)


def test_pseudo_log_likelihood_hides_one_token_at_a_time(runs):
  trained = reopen.load_run(f'{runs}/masked_lm')
  task, spec, ids = trained.task, trained.task.row_spec(), trained.tokenizer.encode('the snow falls')
  apply = jax.jit(lambda rows: task.model.logits(trained.params, task.model.backbone.apply(trained.params, rows)))
  by_hand = 0.0
  for i, token in enumerate(ids):
    row = [*spec.prefix, *ids, *spec.suffix]
    row[len(spec.prefix) + i] = trained.tokenizer.mask
    by_hand += float(jax.nn.log_softmax(apply(np.array([row])))[0, len(spec.prefix) + i, token])
  assert len(ids) > 3 and math.isclose(inspect.log_likelihood(trained, 'the snow falls'), by_hand, rel_tol=1e-5)


def test_a_sentence_must_fit_the_position_table(make_config, tokenizer):
  learned = {'model.positions': 'learned', 'model.max_length': 40, 'model.rope_theta': None}
  task = prepare.build(make_config('causal_lm', **learned), tokenizer)
  params = random_params(task)
  config = types.SimpleNamespace(task='causal_lm')
  trained = types.SimpleNamespace(task=task, tokenizer=tokenizer, params=params, config=config)
  sentence = 'the' + ' the' * 35
  assert inspect.BUCKET < len(tokenizer.encode(sentence)) <= 40
  assert inspect.log_likelihood(trained, sentence) < 0
  with pytest.raises(DataError, match='tokens; the model has positions for 40; shorten it'):
    inspect.log_likelihood(trained, sentence * 2)


@pytest.mark.parametrize(
  'flags,code,message',
  [
    ([], 2, 'exactly one is needed'),
    (['--workdir=nowhere'], 4, 'no such file'),
    (['--config=configs/pretrain_clm.py'], 2, '--batch'),
    (['--workdir={runs}/causal_lm', '--step=1'], 4, 'choose one of [3, 6]'),
    (['--workdir={runs}/causal_lm', '--minimal_pairs=nowhere.tsv'], 3, 'nowhere.tsv'),
    (['--workdir={runs}/masked_lm', '--prompt=no mask'], 2, 'has no [MASK]'),
    (['--workdir={runs}/masked_lm', '--neigbors=a'], 2, 'did you mean --neighbors?'),
    (['--workdir={runs}/masked_lm', '--words=a'], 2, '--words = a: unknown flag; did you mean --neighbors?'),
    (['--workdir={runs}/masked_lm', '--pairs=a'], 2, '--pairs = a: unknown flag; did you mean --minimal_pairs?'),
  ],
)
def test_mistakes(runs, capsys, flags, code, message):
  assert inspect.main([flag.format(runs=runs) for flag in flags]) == code
  assert message in capsys.readouterr().err


def test_a_pair_that_is_none(runs, tmp_path, capsys):
  pairs = tmp_path / 'pairs.tsv'
  pairs.write_text('good sentence\tbad sentence\nonly one\n')
  assert inspect.main([f'--workdir={runs}/causal_lm', f'--minimal_pairs={pairs}']) == 3
  assert 'pairs.tsv:2' in capsys.readouterr().err
