"""Saved on four devices, resumed on other meshes and by two processes: the same batches, digests and losses."""

import jax
import numpy as np
import pytest

from lmjax import optim, sharding
from lmjax.checkpoint import checkpoints as checkpoint
from lmjax.data.batches import pipeline
from lmjax.tasks import prepare
from lmjax.training import state as state_lib
from tests import runs
from tests.hosts.test_hosts import free_port, losses
from tests.reliability import commands

LEAVES = {
  'train.steps': 4,
  'optim.schedule': 'constant',
  'optim.final_rate': None,
  'eval.every': 4,
  'checkpoint.every': 4,
  'data.batch_size': 8,
  'mesh.data': None,
}
MESHES = {(1, 1): 1, (2, 2): 4}


@pytest.fixture(scope='module')
def saved(raw_config, tmp_path_factory):
  """4 steps on mesh 4 x 1 x 1, and the 8 of a run that was not stopped."""
  folder = tmp_path_factory.mktemp('saved')
  runs.train(raw_config('causal_lm', **LEAVES), folder / 'run', devices=4)
  runs.train(raw_config('causal_lm', **(LEAVES | {'train.steps': 8})), folder / 'whole', devices=4)
  return folder


@pytest.mark.slow
@pytest.mark.parametrize('data,fsdp', MESHES)
def test_resumed_on_another_mesh(saved, raw_config, make_config, tmp_path, data, fsdp):
  import shutil

  shutil.copytree(saved / 'run', tmp_path / 'run')
  leaves = LEAVES | {'train.steps': 8, 'mesh.data': data, 'mesh.fsdp': fsdp}
  devices = jax.devices()[: data * fsdp]
  config, task, _ = prepare.prepare(make_config('causal_lm', **leaves))
  with jax.set_mesh(mesh := sharding.make_mesh(config.mesh, devices)):
    abstract = state_lib.abstract_state(task, optim.make(config.optim, task.shapes()), mesh)
    checkpoints = checkpoint.Checkpoints(tmp_path / 'run', config.checkpoint, 'loss')
    state, manifest = checkpoints.restore_latest(abstract)
    checkpoints.close()
    assert checkpoint.describe_arrays(state._asdict()) == manifest['arrays'] and manifest['step'] == 4
  said = []
  runs.train(raw_config('causal_lm', **leaves), tmp_path / 'run', said.append, devices=data * fsdp)
  assert any(line.startswith('resuming from step 4') and 'mesh.fsdp' in line for line in said) == (fsdp > 1)
  after = losses(tmp_path / 'run')
  assert after == pytest.approx(losses(saved / 'whole'), rel=1e-5) and ('valid', 8) in after


@pytest.mark.slow
def test_resumed_by_two_processes(corpus, cache_dir, tmp_path):
  words = {
    name: commands.arguments('causal_lm', corpus, cache_dir, tmp_path / name, **(LEAVES | {'train.steps': steps}))
    for name, steps in (('run', 4), ('whole', 8))
  }
  for each in words.values():
    code, said = commands.run(each, devices=4)
    assert code == 0, said
  more = [word.replace('train.steps=4', 'train.steps=8') for word in words['run']]
  hosts = [f'--coordinator=localhost:{free_port()}', '--num_processes=2']
  started = [commands.start([*more, *hosts, f'--process_id={i}'], devices=2) for i in range(2)]
  said = commands.outputs_of(started)
  assert [one.returncode for one in started] == [0, 0], said
  assert 'resuming from step 4' in said[0] and 'rejected' not in said[0], said[0]  # every digest was right
  assert losses(tmp_path / 'run') == pytest.approx(losses(tmp_path / 'whole'), rel=1e-5)


def test_batches_are_the_same_for_any_number_of_hosts(make_config):
  config, task, stores = prepare.prepare(make_config('masked_lm', **LEAVES))
  whole: pipeline.Pipeline = task.pipeline(stores, config.seed, config.train.steps)
  for hosts in (2, 4):
    parts = [task.pipeline(stores, config.seed, config.train.steps, hosts, host) for host in range(hosts)]
    for step in (0, 3):
      joined = [part.batch(step) for part in parts]
      for name, rows in whole.batch(step).items():
        np.testing.assert_array_equal(rows, np.concatenate([part[name] for part in joined]))
