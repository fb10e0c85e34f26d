"""A run that was trained is read by as many devices as there are, as it was laid out in training."""

import pathlib

import jax
import numpy as np
import pytest

from lmjax import config as config_lib
from lmjax import evaluate, inspect, predict, sharding
from lmjax.schema.slices import MeshConfig
from lmjax.training import reopen
from tests import runs


@pytest.fixture(scope='module')
def sharded(raw_config, tmp_path_factory) -> str:
  """A pre-training run whose config splits parameters over four devices."""
  workdir = str(tmp_path_factory.mktemp('sharded') / 'run')
  leaves = {'mesh.data': 'None', 'mesh.fsdp': 4, 'mesh.tensor': 2, 'train.steps': 2, 'eval.every': 2}
  runs.train(raw_config('causal_lm', **leaves, **{'checkpoint.every': 2}), workdir, devices=8)
  return workdir


def test_parameters_lie_as_in_training(sharded):
  trained = reopen.load_run(sharded)
  assert dict(trained.mesh.shape) == {'data': 1, 'fsdp': 4, 'tensor': 2}
  kernel = trained.params['layers']['0']['mlp']['up']['kernel']
  assert kernel.sharding.spec == jax.sharding.PartitionSpec('fsdp', 'tensor') and len(kernel.sharding.device_set) == 8
  alone = reopen.load_run(sharded, devices=1)
  assert alone.mesh.size == 1
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), trained.params, alone.params)


def test_eight_devices_evaluate_as_one(sharded):
  values = [evaluate.evaluate(reopen.load_run(sharded, devices=count)) for count in (8, 1)]
  assert values[0].keys() == values[1].keys() and values[0]
  for name, value in values[0].items():
    assert value == pytest.approx(values[1][name], rel=1e-5, abs=1e-5), name


@pytest.mark.slow
def test_eight_devices_show_as_one(sharded, tmp_path, capsys):
  """Prompts and sentences of any number, which the devices cannot share."""
  pairs = tmp_path / 'pairs.tsv'
  pairs.write_text('the model reads\treads the model\n')
  shown = []
  for mesh in ([], ['--mesh=1']):
    flags = ['--neighbors=model', '--prompt=the model', f'--minimal_pairs={pairs}']
    assert inspect.main([f'--workdir={sharded}', *flags, *mesh]) == 0, capsys.readouterr()
    shown.append(capsys.readouterr().out)
  assert 'right' in shown[0] and shown[0] == shown[1]


@pytest.mark.slow
def test_eight_devices_predict_as_one(raw_config, tmp_path_factory, tmp_path):
  source = runs.pre_trained('masked_lm', raw_config, tmp_path_factory)
  raw = runs.classification_config(source, tmp_path, **{'train.steps': 2, 'eval.every': 2, 'mesh.fsdp': 2})
  runs.train(raw, tmp_path / 'run', devices=2)
  items = [{'id': str(i), 'text': text, 'text_pair': None} for i, (text, _) in enumerate(runs.texts(11))]
  eight, one = (
    predict.predict(trained, trained.task.rows_of(items))
    for trained in (reopen.load_run(str(tmp_path / 'run'), devices=count) for count in (8, 1))
  )
  assert len(eight) == len(one) == 11
  for a, b in zip(eight, one):
    assert a == pytest.approx(b, abs=1e-5)


@pytest.mark.parametrize(
  'mesh,devices,expected',
  [
    (MeshConfig(data=None, fsdp=2, tensor=1), 8, (4, 2, 1)),
    (MeshConfig(data=1, fsdp=8, tensor=1), 8, (1, 8, 1)),
    (MeshConfig(data=1, fsdp=8, tensor=1), 4, (1, 4, 1)),  # trained on more devices than there are
    (MeshConfig(data=1, fsdp=8, tensor=1), 1, (1, 1, 1)),
    (MeshConfig(data=None, fsdp=1, tensor=1), 3, (2, 1, 1)),  # eight rows: three devices cannot share them
  ],
)
def test_a_mesh_for_other_devices(make_config, mesh, devices, expected):
  config = config_lib.dataclasses.replace(make_config('causal_lm'), mesh=mesh)
  found, chosen = config.mesh_on(jax.devices()[:devices])
  assert sharding.mesh_shape(found, len(chosen)) == expected


def test_the_flag_takes_a_number(sharded, capsys):
  assert inspect.main([f'--workdir={sharded}', '--mesh=0']) == 2
  assert '--mesh = 0: must be 1 or more' in capsys.readouterr().err
  assert pathlib.Path(sharded).exists()
