"""A tiny checkpoint that an earlier version wrote is opened, verified and continued: its schema is read forever."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from lmjax import verify
from lmjax.checkpoint import handoff, locate, manifest
from lmjax.schema import describe
from lmjax.training import initialize, reopen
from tests import runs

GOLDEN = pathlib.Path(__file__).parent / 'golden' / f'schema_{manifest.SCHEMA}'


def test_a_checkpoint_of_the_schema_is_read(tmp_path, capsys):
  workdir = tmp_path / 'run'
  shutil.copytree(GOLDEN, workdir)
  assert verify.main([f'--workdir={workdir}']) == 0, capsys.readouterr()
  assert 'verdict: intact' in capsys.readouterr().out
  trained = reopen.load_run(str(workdir))
  assert trained.step == 2 and trained.config.task == 'causal_lm' and trained.config.hosts.hang_seconds
  assert runs.manifest_of(workdir)['schema'] == manifest.SCHEMA
  assert all(np.isfinite(array).all() for array in jax.tree.leaves(trained.params))


def test_settings_of_the_model_that_are_newer_than_a_checkpoint_are_off():
  """It is no other run for them, and a run that starts from it may not set them."""
  found = manifest.read_manifest(epath.Path(GOLDEN / 'checkpoints'), 2)
  assert 'norm_offset' not in json.loads((GOLDEN / 'config.json').read_text())['model']
  assert found['model']['norm_offset'] == found['config']['model']['norm_offset'] == 0.0
  now = describe.to_dict(reopen.load_run(str(GOLDEN)).config)
  assert now['model'] == found['model']
  assert not [change for change in initialize.changes(found, {'config': now}) if change.startswith('model.')]
  _, problems = handoff.adapt_model(found['model'], {'norm_offset': 1.0, 'rope_scaling_type': 'yarn'}, None)
  assert [(path, value) for path, value, *_ in problems] == [('model.norm_offset', 1.0)]


@pytest.mark.slow
def test_a_run_of_the_schema_is_handed_over(tmp_path):
  raw = runs.classification_config(str(GOLDEN), tmp_path, **{'train.steps': 1, 'eval.every': 1, 'data.length': 8})
  results = runs.train(raw, tmp_path / 'run')
  assert results['hand_off']['step'] == 2 and 'layers/0/attention/query/kernel' in results['hand_off']['taken']


def test_its_manifest_is_whole():
  found = json.loads((GOLDEN / 'checkpoints/2/manifest/manifest.json').read_text())
  assert found['checksum'] == manifest.checksum(found) and found['config']['task'] == 'causal_lm'
  assert locate.saved_steps(GOLDEN / 'checkpoints') == [2]
