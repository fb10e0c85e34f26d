"""Pre-training that continues from a Hugging Face folder has the losses that transformers with torch has from there."""

import pytest

from lmjax import config as config_lib
from lmjax.data.batches.pipeline import valid_batches
from lmjax.tasks import prepare
from lmjax.training import initialize
from tests import runs
from tests.conftest import CONFIGS, config_dict

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from tests.against_torch import causal_batch, masked_batch, train_torch  # needs torch
from tests.hf import families, vocabularies  # needs both

pytestmark = [pytest.mark.slow, pytest.mark.parity]

SPLITS, STEPS = ('train', 'valid'), 20
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.mark.parametrize(
  'task, name, settings, made, as_torch',
  [
    ('masked_lm', 'bert', NO_DROPOUT, vocabularies.wordpiece, masked_batch),
    ('causal_lm', 'llama', {}, vocabularies.llama, causal_batch),
  ],
)
def test_losses_go_on_as_in_transformers(task, name, settings, made, as_torch, tmp_path):
  tokenizer, roles = made()
  model = families.make(name, tokenizer.get_vocab_size(), **settings)
  families.save(model, tmp_path / 'model')
  vocabularies.save(tmp_path / 'model', tokenizer, roles)
  (tmp_path / 'text.txt').write_text('\n\n'.join(vocabularies.texts()))
  raw = raw_config(task, tmp_path)
  runs.train(raw, tmp_path / 'run')
  ours = {split: {line['step']: line['loss'] for line in runs.metrics_of(tmp_path / 'run', split)} for split in SPLITS}

  config, source = config_lib.load(raw)
  config, task, stores = prepare.prepare(config, initialize.tokenizer_of(source, None))
  batches = task.pipeline(stores, config.seed, STEPS)
  before = evaluated(task, stores, model, as_torch)
  losses = train_torch(config.optim, model, [as_torch(batches.batch(step)) for step in range(STEPS)])
  after = evaluated(task, stores, model, as_torch)
  assert after < before - 0.5, 'nothing was learned, so the comparison says little'
  assert ours['valid'][0] == pytest.approx(before, abs=1e-4)
  assert [ours['train'][step] for step in range(1, STEPS + 1)] == pytest.approx(list(losses), abs=1e-3)
  assert ours['valid'][STEPS] == pytest.approx(after, abs=1e-3)


def raw_config(task, folder):
  leaves = {'init_from.path': f'hf:{folder / "model"}', 'data.length': 32, 'data.batch_size': 8}
  leaves |= {'data.cache_dir': folder / 'cache', 'data.valid_fraction': 0.2, 'objective.chunk': 16}
  leaves |= {'train.steps': STEPS, 'optim.warmup_steps': 4, 'optim.learning_rate': 0.01, 'eval.every': STEPS}
  leaves |= {'checkpoint.every': STEPS}
  return config_dict(CONFIGS[task], f'smoke,data={folder}/text.txt', leaves)


def evaluated(task, stores, model, as_torch) -> float:
  """The loss of the rows that an evaluation of a run sees."""
  [store] = stores.values()
  rows = valid_batches(
    task.data, store, task.row_spec(), task.eval_batch_of(stores, store), batch_size=task.data.batch_size
  )
  total = weight = 0.0
  with torch.no_grad():
    for batch in rows:
      total += model(**as_torch(batch)).loss.item() * batch['weights'].sum()
      weight += batch['weights'].sum()
  return total / weight
