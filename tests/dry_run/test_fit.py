"""Dry runs on CPU devices: sizes against real arrays, shapes against real batches, verdicts, and what is refused."""

import os
import shutil

import jax
import pytest

from lmjax import config as config_lib
from lmjax import main, optim, sharding
from lmjax.dry_run import fit, topology
from lmjax.models import flops, presets
from lmjax.tasks import prepare
from lmjax.training import state as state_lib
from tests import conftest

ALL_TASKS = (*conftest.TASKS, *conftest.FINE_TUNING)


@pytest.fixture
def cpu8():
  return topology.find('cpu:8')


@pytest.mark.parametrize('task', ALL_TASKS)
def test_batches_have_the_shapes_that_are_known_without_data(make_config, task):
  config, real, data = prepare.prepare(make_config(task))
  batch = real.pipeline(data, config.seed, config.train.steps).batch(0)
  found = {name: (a.shape, jax.dtypes.canonicalize_dtype(a.dtype)) for name, a in batch.items()}
  _, sketched = prepare.without_data(make_config(task))
  for one in (real, sketched):
    told = {name: (a.shape, jax.dtypes.canonicalize_dtype(a.dtype)) for name, a in one.batch_shapes().items()}
    assert told == found


@pytest.mark.parametrize(
  'mesh', [*(pytest.param(m, marks=pytest.mark.slow) for m in ((8, 1, 1), (1, 8, 1))), (2, 2, 2)]
)
def test_bytes_a_device_are_those_of_real_arrays(make_config, cpu8, mesh):
  """Of parameters and optimizer, to the byte."""
  leaves = dict(zip(('mesh.data', 'mesh.fsdp', 'mesh.tensor'), mesh))
  config = make_config('causal_lm', **leaves)
  table = fit.memory_table(fit.compile_for(config, cpu8))
  config, task, _ = prepare.prepare(config)
  on = sharding.make_mesh(config.mesh)
  with jax.set_mesh(on):
    tx = optim.make(config.optim, task.shapes())
    state = state_lib.init_state(task, tx, on, state_lib.init_params(task, on, 0))
  for name, tree in (('parameters', state.params), ('optimizer', state.opt_state)):
    sizes = {sum(a.addressable_shards[i].data.nbytes for a in jax.tree.leaves(tree)) for i in range(8)}
    [size] = sizes
    assert f'{name}: {fit._size(size)} a device' in table
    assert sum(map(fit.share, jax.tree.leaves(tree))) == size


@pytest.mark.slow
def test_activations_are_counted(make_config, cpu8):
  """CPU compilers leave them out of their peak: a batch of eight times the rows must need about so many times more."""
  small, large = (fit.compile_for(make_config('causal_lm', **{'data.batch_size': n}), cpu8) for n in (32, 256))
  held = sum(map(fit.share, jax.tree.leaves((small.abstract.params, small.abstract.opt_state))))
  assert 4 < (large.needed - held) / (small.needed - held) <= 8


def test_flops_are_the_written_out_count():
  """A causal model of 2 layers, width 8, 2 heads of which 1 has keys, feed-forward width 16 (plain), 32 rows of
  vocabulary, 3 rows of 4 tokens."""
  sizes = dict(layers=2, width=8, heads=2, kv_heads=1, mlp_width=16, activation='gelu')
  model = config_lib.ModelConfig(**presets.get('mini')['model'] | sizes)
  token_layer = 8 * 8 + 8 * 4 + 8 * 4 + 8 * 8 + 8 * 16 + 16 * 8  # query, key, value, output, up, down
  scores_and_mix = 2 * 4 * 8 * 2  # queries x keys and weights x values: 2 FLOPs each, over 4 keys and width 8
  token = 2 * (2 * token_layer + scores_and_mix) + 2 * 8 * 32
  assert flops.train_flops(model, 32, 3, 4, 4) == 3 * 12 * token


def run(capsys, *argv):
  code = main.main(list(argv))
  out, err = capsys.readouterr()
  return code, out, err


def test_a_dry_run_reads_no_data_and_makes_no_folder(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  config = f'--config={conftest.ROOT}/configs/pretrain_clm.py:smoke,data={tmp_path}/not_there.jsonl'
  code, out, err = run(capsys, config, '--dry_run=cpu:8', f'--config.data.cache_dir={tmp_path}/cache')
  assert (code, err) == (0, '')
  assert out.splitlines()[-1] == 'verdict: fits'
  assert os.listdir(tmp_path) == []
  for said in (
    'parameters  119,168',
    '10,240 tokens',
    'embeddings/token/embedding [768, 64]',
    'all-reduce',
    'checkpoint',
  ):
    assert said in out


@pytest.mark.slow
def test_what_does_not_fit_gets_a_setting_that_was_compiled_and_does(make_config, cpu8):
  """The memory of a device is set between what the step needs, and what it needs in parts."""
  config = make_config('causal_lm', **{'data.batch_size': 64, 'model.layers': 4})
  needed = fit.compile_for(config, cpu8).needed
  lines = []
  small = topology.Target('cpu:8', cpu8.devices, needed * 0.6)
  assert not fit.dry_run(config, None, small, 'python -m lmjax.main --config=x', lines.append)
  assert lines[-1].startswith('verdict: does not fit (needs ')
  said = next(line for line in lines if 'nearest that fits' in line)
  command = said.splitlines()[-1]
  flags = [word.removeprefix('--config.').split('=') for word in command.split() if word.startswith('--config.')]
  changed = make_config('causal_lm', **{'data.batch_size': 64, 'model.layers': 4} | dict(flags))
  assert fit.compile_for(changed, small).fits


@pytest.mark.parametrize(
  'target,said',
  [
    ('cpu:0', 'the nearest is cpu:1'),
    ('v9:2x2', 'the nearest is tpu7x:2x2x1 '),
    ('v5litepod:2x4', 'the nearest is v5e:2x4 '),
    ('v5:3x5', 'the nearest is v5e:4x4 '),
    ('v5e', 'try v5e:2x4'),
    ('gpu:8', 'there, give --dry_run alone'),
    ('v5e:0x4', 'the nearest is v5e:2x2'),
    ('0*v5e:4x4', 'the nearest is v5e:4x4'),
  ],
)
def test_targets_that_do_not_exist(capsys, target, said):
  config = f'--config={conftest.ROOT}/configs/pretrain_clm.py:smoke'
  code, out, err = run(capsys, config, f'--dry_run={target}')
  assert (code, out) == (2, '')
  assert len(err.splitlines()) == 1 and f'--dry_run = {target}' in err and said in err


def test_a_mesh_that_does_not_divide_the_devices(capsys):
  config = f'--config={conftest.ROOT}/configs/pretrain_clm.py:smoke'
  code, _, err = run(capsys, config, '--dry_run=cpu:8', '--config.mesh.fsdp=3')
  assert (
    code == 2
    and 'must make 8 devices' in err
    and 'nearest mesh is data=2, fsdp=4, tensor=1' in err
    and len(err.splitlines()) == 1
  )


@pytest.mark.slow
def test_what_only_the_data_could_say_is_named(capsys):
  for file, said in (('finetune_sentiment.py', True), ('finetune_qa.py', False)):
    config = f'--config={conftest.ROOT}/configs/{file}:smoke,preset=mini_encoder'
    code, out, err = run(capsys, config, '--dry_run=cpu:8')
    assert (code, err) == (0, '') and ('two labels' in out) == said and out.splitlines()[-1] == 'verdict: fits'


@pytest.mark.slow
@pytest.mark.parametrize('has_weights', [True, False])
def test_a_public_model_needs_no_weights(capsys, tmp_path, has_weights):
  """Its config.json and tokenizer.json say all; where weights are there, their headers are looked at."""
  ignored = shutil.ignore_patterns(*([] if has_weights else ['*.safetensors']))
  folder = shutil.copytree(conftest.ROOT / 'tests/hf/golden/bert', tmp_path / 'model', ignore=ignored)
  flags = [f'--config={conftest.ROOT}/configs/legal_mlm.py:smoke', f'--config.init_from.path=hf:{folder}']
  code, out, err = run(capsys, *flags, '--dry_run=cpu:8')
  assert (code, err) == (0, '') and out.splitlines()[-1] == 'verdict: fits'
  assert (f'weights  none in {folder}: shapes are those of its config.json' in out) is not has_weights
  code, _, err = run(capsys, *flags, '--dry_run=cpu:8', '--config.init_from.fresh=head/*')
  assert (code == 4 and 'matches both init_from.take and init_from.fresh' in err) if has_weights else code == 0
