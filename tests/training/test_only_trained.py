"""Checkpoints that hold only what was trained: the rest is read again from what the run started from."""

import jax
import numpy as np
import pytest

from lmjax import paths, predict
from lmjax.errors import CheckpointError, ConfigError
from lmjax.training import reopen
from tests import runs


@pytest.fixture(scope='module')
def source(raw_config, tmp_path_factory):
  return runs.pre_trained('causal_lm', raw_config, tmp_path_factory)


@pytest.fixture(scope='module')
def made(source, tmp_path_factory):
  """The same run twice: whole checkpoints, and adapters with the head alone."""
  folder = tmp_path_factory.mktemp('only_trained')
  for name in ('whole', 'part'):
    config = runs.classification_config(source, folder, lora=2, **{'checkpoint.only_trained': name == 'part'})
    runs.train(config, folder / name)
  return folder


@pytest.mark.slow
def test_only_adapters_and_head_are_saved(made):
  saved = {path for path in runs.manifest_of(made / 'part')['arrays'] if path.startswith('params/')}
  assert saved and all('lora_' in path or path.startswith('params/classifier/') for path in saved)
  assert len(saved) < len(runs.manifest_of(made / 'whole')['arrays'])


@pytest.mark.slow
def test_the_run_is_whole_when_it_is_opened(made):
  whole, part = (reopen.open_run(str(made / name)) for name in ('whole', 'part'))
  jax.tree.map(np.testing.assert_array_equal, part.params, whole.params)
  items = predict.read(part.config, ('a fine line of text',), None, None)
  assert predict.predict(part, items) == predict.predict(whole, items)


@pytest.mark.slow
def test_it_resumes_bit_for_bit(made, source, tmp_path):
  class Stopped(Exception):
    pass

  def stop(line):
    if line.startswith('step 4/'):
      raise Stopped

  config = runs.classification_config(source, tmp_path, lora=2, **{'checkpoint.only_trained': True})
  with pytest.raises(Stopped):
    runs.train(config, tmp_path / 'run', log=stop)
  said = []
  runs.train(config, tmp_path / 'run', log=said.append)
  assert any(line.startswith('resuming from step 3') for line in said)
  expected, found = (paths.flatten(reopen.open_run(str(f), 'latest').params) for f in (made / 'part', tmp_path / 'run'))
  for path in expected:
    np.testing.assert_array_equal(found[path], expected[path], err_msg=path)
  config.checkpoint.only_trained = False
  with pytest.raises(CheckpointError, match='checkpoint.only_trained = False: .* were made with True; use the same'):
    runs.train(config, tmp_path / 'run')


@pytest.mark.slow
def test_it_is_refused_as_a_source_and_where_its_own_is_gone(made, source, tmp_path, raw_config):
  config = runs.classification_config(str(made / 'part'), tmp_path)
  with pytest.raises(CheckpointError, match='holds only what was trained'):
    runs.train(config, tmp_path / 'next')
  moved = runs.classification_config(source, tmp_path, lora=2, **{'checkpoint.only_trained': True})
  own = tmp_path / 'source'
  runs.train(raw_config('causal_lm', **{'model.layers': 2, 'train.steps': 3, 'seed': 0}), own)
  moved.init_from.path = str(own)
  runs.train(moved, tmp_path / 'run')
  (own / 'checkpoints').rename(tmp_path / 'elsewhere')
  with pytest.raises(CheckpointError, match='no checkpoint there'):
    reopen.open_run(str(tmp_path / 'run'))
  # another run in its place: found by digest
  runs.train(raw_config('causal_lm', **{'model.layers': 2, 'train.steps': 3, 'seed': 1}), own)
  with pytest.raises(CheckpointError, match='is not what the run started from'):
    reopen.open_run(str(tmp_path / 'run'))


def test_it_needs_a_source(tmp_path):
  config = runs.classification_config(
    None, tmp_path, 'preset=mini', **{'checkpoint.only_trained': True, 'data.tokenizer.vocab_size': 300}
  )
  with pytest.raises(ConfigError, match='checkpoint.only_trained = True: needs init_from.path'):
    runs.train(config, tmp_path / 'run')
