"""Checkpoints: verified, kept by policy, never silently wrong."""

import functools
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import sharding
from lmjax.checkpoint import checkpoints as checkpoint
from lmjax.checkpoint import locate
from lmjax.checkpoint.checkpoints import Checkpoints
from lmjax.checkpoint.config import CheckpointConfig
from lmjax.errors import CheckpointError, NonFiniteError
from lmjax.schema.slices import MeshConfig
from lmjax.training.state import TrainState

KEEP = CheckpointConfig(every=1, keep_last=2, keep_best=0)


@functools.cache
def state_of(step: int) -> TrainState:
  kernel = jax.random.normal(jax.random.key(step), (64, 48))
  params = {'layers': {'0': {'kernel': kernel}}, 'bias': jnp.arange(5, dtype=jnp.bfloat16)}
  return TrainState(jnp.int32(step), params, {'mu': kernel * 2}, jnp.int32(0))


def abstract():
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state_of(1))


def save(workdir, steps, config=KEEP, metrics=lambda step: None):
  checkpoints = Checkpoints(workdir, config, 'loss')
  for step in steps:
    checkpoints.save(step, state_of(step), {'task': 'x'}, metrics(step))
  checkpoints.close()


def restore(workdir, **arguments):
  checkpoints, said = Checkpoints(workdir, KEEP, 'loss'), []
  try:
    return checkpoints.restore_latest(abstract(), log=said.append, **arguments), said
  finally:
    checkpoints.close()


def assert_is_step(restored, step):
  jax.tree.map(np.testing.assert_array_equal, tuple(restored[0]), tuple(state_of(step)))


def test_round_trip_and_manifest(tmp_path):
  save(tmp_path, [1, 2])
  restored, said = restore(tmp_path)
  assert_is_step(restored, 2)
  assert not said
  [file] = (tmp_path / 'checkpoints' / '2').rglob('manifest.json')
  manifest = json.loads(file.read_text())
  assert manifest['arrays']['params/layers/0/kernel'].keys() == {'shape', 'dtype', 'digest'}
  assert manifest['arrays']['params/bias']['dtype'] == 'bfloat16'
  assert {'schema', 'versions', 'git_commit', 'devices', 'task', 'step'} <= manifest.keys()


def test_digest_sees_every_change_and_no_mesh(tmp_path):
  x = jax.random.normal(jax.random.key(0), (16, 8))
  digest = lambda a: checkpoint.describe_arrays({'x': a})['x']['digest']
  plain = digest(x)
  assert digest(x.at[3, 4].add(1e-6)) != plain
  assert digest(x.T) != plain and digest(x[::-1]) != plain
  assert digest(x.at[0].set(x[1]).at[1].set(x[0])) != plain
  for shape in ((8, 1, 1), (2, 2, 2), (1, 4, 2)):
    mesh = sharding.make_mesh(MeshConfig(*shape))
    placed = jax.device_put(x, sharding.shardings({'x': ('embed', 'mlp')}, mesh)['x'])
    assert digest(placed) == plain
  assert digest(jnp.array([0.0])) != digest(jnp.array([-0.0]))


def test_keeps_the_last_and_the_best(tmp_path):
  config = CheckpointConfig(every=1, keep_last=1, keep_best=1)
  losses = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0}
  save(tmp_path, losses, config, lambda step: {'loss': losses[step]})
  assert locate.saved_steps(tmp_path / 'checkpoints') == [2, 5]


def array_files(step_dir: pathlib.Path):
  return [f for f in step_dir.rglob('*') if f.is_file() and '/d/' in str(f) and f.stat().st_size > 1000]


def test_a_flipped_byte_is_found_and_the_step_before_is_used(tmp_path):
  """Orbax alone restores it without a word."""
  save(tmp_path, [1, 2])
  for file in array_files(tmp_path / 'checkpoints' / '2'):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)
  restored, said = restore(tmp_path)
  assert_is_step(restored, 1)
  assert len(said) == 1 and 'checkpoint 2 rejected' in said[0]
  save(tmp_path, [2])  # the broken one is out of the way
  assert_is_step(restore(tmp_path)[0], 2)


@pytest.mark.parametrize('damage', ['empty directory', 'no manifest', 'broken manifest', 'truncated'])
def test_a_broken_newest_step_is_skipped(tmp_path, damage):
  save(tmp_path, [1, 2])
  folder = tmp_path / 'checkpoints' / '2'
  if damage == 'empty directory':
    (tmp_path / 'checkpoints' / '9').mkdir()
  elif damage == 'truncated':
    for file in array_files(folder):
      os.truncate(file, 100)
  else:
    manifest = folder / 'manifest' / 'manifest.json'
    manifest.unlink() if damage == 'no manifest' else manifest.write_text('{"schema"')
  restored, said = restore(tmp_path)
  assert_is_step(restored, 2 if damage == 'empty directory' else 1)
  assert len(said) == 1 and 'rejected' in said[0]


def test_refuses_when_none_is_intact(tmp_path):
  save(tmp_path, [1, 2])
  for step in (1, 2):
    (tmp_path / 'checkpoints' / str(step) / 'manifest' / 'manifest.json').unlink()
  with pytest.raises(CheckpointError, match='none of 2 checkpoints is intact'):
    restore(tmp_path)
  assert locate.saved_steps(tmp_path / 'checkpoints') == [1, 2], 'nothing may be moved then'


def test_nothing_saved_is_a_new_run(tmp_path):
  assert restore(tmp_path)[0] is None


@pytest.mark.parametrize('schema,remedy', [(99, 'install the newer lmjax'), (1, 'use the lmjax that wrote it')])
def test_another_schema_is_refused_and_not_skipped(tmp_path, schema, remedy):
  """The checkpoint before it is intact; yet nothing is wrong with this one, so it must not be moved aside."""
  save(tmp_path, [1, 2])
  file = tmp_path / 'checkpoints' / '2' / 'manifest' / 'manifest.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | {'schema': schema}))
  with pytest.raises(CheckpointError, match=f'schema {schema}, this lmjax reads schema 2 alone; {remedy}'):
    restore(tmp_path)
  assert locate.saved_steps(tmp_path / 'checkpoints') == [1, 2]


def test_a_manifest_that_was_changed_is_found(tmp_path):
  """Its checksum is its own: a number that no digest covers is seen too."""
  save(tmp_path, [1, 2])
  file = tmp_path / 'checkpoints' / '2' / 'manifest' / 'manifest.json'
  file.write_text(file.read_text().replace('"task": "x"', '"task": "y"'))
  restored, said = restore(tmp_path)
  assert_is_step(restored, 1)
  assert 'differs from its checksum' in said[0]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, value):
  """It would push the good ones out."""
  save(tmp_path, [1])
  state = state_of(2)
  bad = state._replace(params=state.params | {'bias': state.params['bias'].at[3].set(value)})
  checkpoints = Checkpoints(tmp_path, KEEP, 'loss')
  with pytest.raises(NonFiniteError, match='step 2: 1 arrays hold NaN or infinity, such as params/bias; not saved'):
    checkpoints.save(2, bad, {})
  checkpoints.close()
  assert locate.saved_steps(tmp_path / 'checkpoints') == [1]


def test_what_a_killed_save_left_is_cleared(tmp_path):
  save(tmp_path, [1])
  left = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
  left.mkdir()
  (left / 'data').write_bytes(bytes(100))
  save(tmp_path, [3])
  assert not left.exists() and locate.saved_steps(tmp_path / 'checkpoints') == [1, 3]


def test_a_step_that_is_not_above_the_last_is_an_error(tmp_path):
  """Orbax returns False and says nothing: a new run in an old workdir would lose its checkpoints."""
  save(tmp_path, [5])
  checkpoints = Checkpoints(tmp_path, KEEP, 'loss')
  with pytest.raises(CheckpointError, match='step 3'):
    checkpoints.save(3, state_of(3), {})
  checkpoints.close()


def test_parameters_alone_are_verified_too(tmp_path):
  save(tmp_path, [1])
  params = abstract().params
  found = checkpoint.restore_params(tmp_path, 1, params)
  jax.tree.map(np.testing.assert_array_equal, found, state_of(1).params)
  other = {**params, 'bias': jax.ShapeDtypeStruct((6,), jnp.bfloat16)}
  with pytest.raises(CheckpointError, match=r'params/bias: the model needs \[6\], step 1 of .* has \[5\]'):
    checkpoint.restore_params(tmp_path, 1, other)
  for file in array_files(tmp_path / 'checkpoints' / '1'):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)
  with pytest.raises(CheckpointError):
    checkpoint.restore_params(tmp_path, 1, params)
