"""A tiny checkpoint of every schema that was ever written is opened, verified and gone on from, for ever."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from lmjax import verify
from lmjax.checkpoint import locate, manifest
from lmjax.training import reopen
from tests import runs

GOLDEN = pathlib.Path(__file__).parent / 'golden'
SCHEMAS = range(1, manifest.SCHEMA + 1)


@pytest.mark.parametrize('schema', SCHEMAS)
def test_checkpoints_of_every_schema_are_read(schema, tmp_path, capsys):
  workdir = tmp_path / 'run'
  shutil.copytree(GOLDEN / f'schema_{schema}', workdir)
  assert verify.main([f'--workdir={workdir}']) == 0, capsys.readouterr()
  assert 'verdict: intact' in capsys.readouterr().out
  trained = reopen.open_run(str(workdir))
  assert trained.step == 2 and trained.config.task == 'causal_lm' and trained.config.hosts.hang_seconds
  assert runs.manifest_of(workdir)['schema'] == schema
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.params))


@pytest.mark.slow
@pytest.mark.parametrize('schema', SCHEMAS)
def test_runs_of_every_schema_are_handed_over(schema, tmp_path):
  source = str(GOLDEN / f'schema_{schema}')
  raw = runs.classification_config(source, tmp_path, **{'train.steps': 1, 'eval.every': 1, 'data.length': 8})
  results = runs.train(raw, tmp_path / 'run')
  assert results['hand_off']['step'] == 2 and 'layers/0/attention/query/kernel' in results['hand_off']['taken']


def test_the_newest_schema_has_its_checkpoint():
  found = json.loads((GOLDEN / f'schema_{manifest.SCHEMA}' / 'checkpoints/2/manifest/manifest.json').read_text())
  assert found['checksum'] == manifest.checksum(found) and found['config']['task'] == 'causal_lm'
  assert locate.saved_steps(GOLDEN / f'schema_{manifest.SCHEMA}' / 'checkpoints') == [2]
