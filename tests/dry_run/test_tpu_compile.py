"""Dry runs on TPUs that are not here: every shipped config compiles for them, and verdicts are the compiler's.

In an environment of their own, with the extra `tpu`.
"""

import re

import pytest

from lmjax import compilation, main, sharding
from lmjax import config as config_lib
from lmjax.dry_run import fit, hlo, topology
from lmjax.models import presets
from lmjax.schema import command_line
from lmjax.training import progress
from tests import conftest, runs

pytestmark = [pytest.mark.slow, pytest.mark.tpu_compile]
pytest.importorskip('libtpu', reason="comes with pip install 'lmjax[tpu]'")

# Every config, every kind of chip, and two presets of full size.
PRE_TRAINING = [
  ('pretrain_clm.py', 'v5e:2x4'),
  ('pretrain_clm.py', 'v5p:2x2x2'),
  ('pretrain_mlm.py', 'v6e:2x4'),
  ('pretrain_clm.py:preset=gpt2_small', 'v5e:2x4'),
  ('pretrain_mlm.py:preset=bert_base', 'v5e:2x4'),
]
FINE_TUNING = [
  ('finetune_sentiment.py', 'v5e:2x4'),
  ('finetune_qa.py', 'v6e:2x4'),
  ('finetune_summarization.py', 'v5e:2x4'),
]


@pytest.fixture(autouse=True)
def compiled_with_little_effort():
  """The same kernels and collectives and nearly the same memory, for a quarter of the time (libtpu 0.0.42.1: tiles of
  products are not searched for). A program that was read from a cache would not have been compiled."""
  import jax

  before = jax.config.jax_exec_time_optimization_effort
  jax.config.update('jax_exec_time_optimization_effort', -1.0)
  with compilation.without_kept_programs():
    yield
  jax.config.update('jax_exec_time_optimization_effort', before)


def verdict(capsys, file, target, *flags) -> str:
  code = main.main([f'--config={conftest.ROOT}/configs/{file}', f'--dry_run={target}', *flags])
  out, err = capsys.readouterr()
  assert (code, err) == (0, ''), err
  return out


def gib(text) -> list[float]:
  return [float(found) for found in re.findall(r'([\d.]+) GiB', text)]


@pytest.mark.parametrize('file,target', PRE_TRAINING)
def test_pre_training_fits(capsys, file, target):
  out = verdict(capsys, file, target)
  assert out.splitlines()[-1] == 'verdict: fits'
  assert f'target  {target}: 8 x TPU v' in out and 'all-reduce' in out and 'if 40% of the peak' in out


@pytest.mark.parametrize('file,target', FINE_TUNING)
def test_fine_tuning_fits_from_the_metadata_of_a_run(capsys, raw_config, tmp_path_factory, file, target):
  source = runs.pre_trained('causal_lm', raw_config, tmp_path_factory)
  out = verdict(capsys, file, target, f'--config.init_from.path={source}')
  assert out.splitlines()[-1] == 'verdict: fits'


def test_a_small_model_fits_on_256_chips(capsys):
  out = verdict(capsys, 'pretrain_clm.py', 'v5e:16x16', '--config.data.batch_size=256')
  assert out.splitlines()[-1] == 'verdict: fits' and '256 x TPU v5' in out


@pytest.mark.parametrize('target,remat', [('v5e:2x4', 'attention_and_up'), ('2*v5e:4x4', 'none')])
def test_a_billion_parameters_fit(capsys, target, remat):
  out = verdict(capsys, 'pretrain_clm.py:preset=llama_1b', target)
  assert out.splitlines()[-1] == 'verdict: fits'
  assert '1,235,814,400' in out and f'; remat {remat}\n' in out
  assert re.search(r'program  [\d.]+e\+\d+ FLOPs of matrix products', out)


def test_what_does_not_fit_is_reported_with_the_compilers_figure_and_a_setting_that_does(capsys):
  flags = ['--config.data.batch_size=49152']
  out = verdict(capsys, 'pretrain_clm.py', 'v5e:2x4', *flags)
  needs, there = gib(out.splitlines()[-1])
  assert out.splitlines()[-1].startswith('verdict: does not fit (needs ') and there == 15.75 < needs
  [command] = [line for line in out.splitlines() if line.startswith('  python -m lmjax.main')]
  assert '--config.model.remat=full' in command
  words = [word for word in command.split() if word.startswith('--config.')]
  assert verdict(capsys, 'pretrain_clm.py', 'v5e:2x4', *words).splitlines()[-1] == 'verdict: fits'


@pytest.mark.parametrize(
  'target,mesh', [('v5e:4x4', (None, 1, 1)), ('v6e:4x4', (None, 8, 1)), ('2*v5e:4x4', (None, 16, 1))]
)
def test_each_host_holds_its_part_of_a_batch(target, mesh):
  """Also where JAX's own order of chips, which follows their rings, would mix the rows of hosts."""
  devices = topology.find(target).devices
  made = sharding.make_mesh(sharding.MeshConfig(*mesh), devices)
  assert len({device.process_index for device in devices}) > 1
  assert sharding.in_host_order(made.devices) and set(made.devices.flat) == set(devices)


def test_splash_attention_is_what_is_compiled(make_config):
  """A program of the kernel's calls; without it the scores of all heads would be in memory."""
  target = topology.find('v5e:2x4')
  leaves = {'data.length': 1024, 'model.width': 256, 'model.heads': 2, 'model.kv_heads': 2, 'data.batch_size': 8}
  leaves['model.attention_implementation'] = 'splash'
  compiled = fit.compile_for(make_config('causal_lm', **leaves), target)
  assert compiled.fits and 'tpu_custom_call' in compiled.program.as_text()


@pytest.mark.parametrize('preset', presets.PRESETS)
def test_products_and_traffic_are_those_of_theory(preset, monkeypatch):
  """Of every shape, by a few of its layers: what the counter reads from the program is what the model multiplies, and
  what its devices exchange."""
  monkeypatch.syspath_prepend(str(conftest.ROOT / 'experiments/benchmarks'))
  import compile_step

  model = presets.PRESETS[preset]['model']
  kind = 'clm' if model['attention'] == 'causal' else 'mlm'
  raw = command_line.load_config_file(f'{conftest.ROOT}/configs/pretrain_{kind}.py', f'preset={preset}')
  changes = {'model.layers': (model['global_every'] or 1) + 1, 'model.remat': 'none', 'data.batch_size': 8}
  adamw = dict(name='adamw', momentum=None, b1=0.9, b2=0.95, eps=1e-8)  # Muon multiplies, too
  changes |= {f'optim.{name}': value for name, value in adamw.items()}
  with raw.ignore_type():
    raw.update_from_flattened_dict(changes)
  compiled = fit.compile_for(config_lib.build(raw), topology.find('v5e:2x4'))
  text, c, d = compiled.program.as_text(), compiled.config.model, compiled.config.data
  expected = progress.step_flops(compiled.task)
  positions = 3 * c.layers * d.batch_size * d.length
  if 'tpu_custom_call' in text:
    expected -= positions * 4 * c.width * d.length  # kernels are no products
  if c.positions == 'rotary':  # forwards and backwards the halves change places in a product
    expected += positions * 2 / 3 * 2 * c.head_width * (c.width + c.kv_heads * c.head_width)
  assert hlo.dot_flops(text) * 8 == pytest.approx(expected, rel=0.01)
  moved = sum(kind.bytes for kind in hlo.collectives(text).values())
  assert moved == pytest.approx(compile_step.moved_in_theory(compiled), rel=0.01)


def test_tensor_parallelism_sums_activations_twice_a_layer_and_direction(make_config):
  """Megatron (arXiv:1909.08053, section 3), and once in each direction for the vocabulary."""
  layers, rows, length, width = 2, 32, 512, 512
  leaves = {'model.layers': layers, 'model.width': width, 'model.mlp_width': 4 * width, 'data.length': length}
  leaves |= {'model.heads': 8, 'model.kv_heads': 8, 'data.batch_size': rows, 'objective.chunk': 128}
  leaves |= {'data.tokenizer.vocab_size': 8192, 'mesh.data': 1, 'mesh.tensor': 8, 'model.dtype': 'float32'}
  leaves['model.attention_implementation'] = 'xla'
  compiled = fit.compile_for(make_config('causal_lm', **leaves), topology.find('v5e:2x4'))
  found = hlo.collectives(compiled.program.as_text())
  activations = 4 * rows * length * width
  positions, vectors_and_scalars = 3 * 4 * rows * length, 4096
  assert 0 <= found['all-reduce'].bytes - ((4 * layers + 2) * activations + positions) <= vectors_and_scalars


@pytest.mark.parametrize(
  'target,said',
  [('v5e:3x5', 'the nearest is v5e:4x4'), ('v5p:2x3x2', 'the nearest is v5p:2x2x4'), ('2*v5e:3x3', '2*v5e:2x4')],
)
def test_topologies_that_do_not_exist(capsys, target, said):
  code = main.main([f'--config={conftest.ROOT}/configs/pretrain_clm.py:smoke', f'--dry_run={target}'])
  out, err = capsys.readouterr()
  assert (code, out) == (2, '') and said in err and len(err.splitlines()) == 1


def test_every_topology_that_is_named_as_nearest_exists():
  for generation in topology.GENERATIONS:
    for shape in topology._shapes(generation):
      if max(shape) <= 8:
        name = f'{generation}:{topology._shown(shape)}'
        assert topology._describe(1, generation, shape) is not None, name
