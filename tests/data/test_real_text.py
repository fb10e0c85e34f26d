"""Real text beside the checkout, where there is some: novels, and a mixture of two corpora."""

import os

import jax
import pytest

from lmjax import config as config_lib
from lmjax import train as train_lib
from lmjax.workdir import files
from tests.conftest import CONFIGS, REAL_DATA, TASKS, config_dict

NOVELS, SPEECHES = (str(REAL_DATA / 'pretrain' / f'{name}.jsonl.xz') for name in ('gutenberg', 'us_speeches'))

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(not os.path.exists(NOVELS), reason=f'no {NOVELS}'),
]


def config(task, argument, **leaves):
  return config_lib.build(config_dict(CONFIGS[task], argument, leaves))


@pytest.fixture(scope='module')
def novels_cache(tmp_path_factory):
  return tmp_path_factory.mktemp('novels')


@pytest.mark.parametrize('task', TASKS)
def test_novels(task, novels_cache, tmp_path):
  """15.6 MB, with a vocabulary that is worth its tokenizer; the second objective uses the same store."""
  vocabulary = {'data.tokenizer.vocab_size': 4096, 'data.cache_dir': novels_cache}
  c = config(task, f'smoke,data={NOVELS}', **vocabulary)
  results = train_lib.train(c, str(tmp_path), log=lambda line: None, devices=jax.devices()[:1])
  assert results['step'] == 20
  lines = files.read_metrics(str(tmp_path))
  losses = [line['loss'] for line in lines if line['split'] == 'train']
  assert losses[-1] < losses[0] - 0.3


def test_a_mixture_of_novels_and_speeches(novels_cache, tmp_path):
  c = config('causal_lm', f'smoke,data={NOVELS},mix={SPEECHES}', **{'data.cache_dir': novels_cache})
  results = train_lib.train(c, str(tmp_path), log=lambda line: None, devices=jax.devices()[:1])
  found = results['metrics']
  for source in ('main', 'mix'):
    assert found[f'valid/{source}/bits_per_byte'] > 0 and found[f'valid/{source}/gzip_bits_per_byte'] > 0
