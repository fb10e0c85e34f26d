"""Train steps of presets compiled for TPUs that are not here, and MaxText's of the same shapes.

Nothing runs. Seconds are bounds of one kind for both programs, good for ratios and not for promises: the compiler's
estimate of its fusions with the trips of their loops, the static instruction bundles of the Pallas kernels, and the
bytes of collectives next to which nothing else runs at the links' bandwidth.
"""

import dataclasses
import glob
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
from compile_step import TARGET, Attention

CYCLES_PER_SECOND = 1.5e9  # 4 units of 128 x 128 products, 2 FLOPs each: 197 TFLOP/s
DEVICES = 8
TOPOLOGIES = {DEVICES: TARGET, 64: 'v5e:8x8', 256: 'v5e:16x16'}
PEAK_FLOPS = 197e12  # of a chip, bfloat16
LINK_BYTES_PER_SECOND = 90e9  # of a chip: two directions of 45 GB/s
ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'JAX_ENABLE_COMPILATION_CACHE': 'false',
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_MIN_LOG_LEVEL': '3',
}
# MaxText's own settings for the shapes that it is compared in, which are those of the presets.
_OF_ALL = """
compile_topology=v5e-8 compile_topology_num_slices=1 run_name=step steps=1000 enable_checkpointing=False head_dim=64
logits_via_embedding=True normalize_embedding_logits=False enable_dropout=False
"""
MAXTEXT = {
  'llama_1b': f"""{_OF_ALL}
decoder_block=llama2 base_num_decoder_layers=16 base_emb_dim=2048 base_num_query_heads=32 base_num_kv_heads=8
base_mlp_dim=8192 vocab_size=128256 max_target_length=2048 per_device_batch_size=8 rope_max_timescale=500000
mlp_activations=['silu','linear'] normalization_layer_epsilon=1.0e-5
""",
  'gpt2_small': f"""{_OF_ALL}
decoder_block=gpt3 base_num_decoder_layers=12 base_emb_dim=768 base_num_query_heads=12 base_num_kv_heads=12
base_mlp_dim=3072 vocab_size=50304 max_target_length=1024 per_device_batch_size=32 trainable_position_size=1024
mlp_activations=['gelu'] fused_qkv=True ici_data_parallelism=8 ici_fsdp_parallelism=1
""",
}
COMPILE = str(pathlib.Path(__file__).with_name('compile_step.py'))
PLAIN_GATHERS = 'compile_xla_flags=--xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000'


@dataclasses.dataclass(frozen=True)
class Program:
  """What one device does in a step, and what compiling it took."""

  fusions: float  # seconds, as are the next two
  kernels: float
  collectives: float
  products: float  # FLOPs of matrix products outside the kernels
  peak_bytes: float
  cpu_seconds: float  # of the compiler
  model_flops: float = 0.0  # of the whole step on all devices, nothing counted that is computed again; 0: not known
  moved: int = 0  # bytes of whole arrays, by all collectives of a device
  moved_in_theory: int = 0  # 0: not known

  @property
  def seconds(self) -> float:
    """Of a step, at the least."""
    return self.fusions + self.kernels + self.collectives

  def described(self) -> str:
    """For people."""
    parts = f'fusions {self.fusions:.3g} s, kernels {self.kernels:.3g} s, collectives {self.collectives:.3g} s'
    return f'{parts}; {self.products:.4g} FLOPs of products; {self.peak_bytes / 2**30:.2f} GiB'


# MaxText 0.2.5 with jax 0.12.0.1 and libtpu 0.0.50.1, compiled on 2026-11-28 with --maxtext on an Intel Xeon.
RECORDED = {
  'llama_1b': {
    'MaxText': Program(1.7258, 0.2150, 0.0077, 1.4457e14, 12_369_567_744, 61.7),
    'MaxText, plain gathers': Program(1.1984, 0.2150, 0.0355, 1.4457e14, 8_492_153_344, 61.5),
  },
  'gpt2_small': {'MaxText': Program(0.3563, 0.0794, 0.0036, 2.8005e13, 5_771_527_680, 49.4)},
}
RECORDED_VERSIONS = 'MaxText 0.2.5, jax 0.12.0.1, libtpu 0.0.50.1'


def peers(maxtext: str | None) -> tuple[str, dict[str, dict[str, Program]]]:
  """Versions, and {preset: {peer: its program}}: compiled by MaxText's interpreter, or as recorded."""
  if maxtext is None:
    return f'{RECORDED_VERSIONS}, recorded', RECORDED
  about = 'from importlib.metadata import version as v; print(*(f"{n} {v(n)}" for n in ("maxtext", "jax", "libtpu")))'
  versions = subprocess.run([maxtext, '-c', about], check=True, capture_output=True, text=True).stdout.strip()
  found: dict[str, dict[str, Program]] = {}
  for preset, settings in MAXTEXT.items():
    attention = [dataclasses.replace(one, blocks=_MAXTEXT_BLOCKS) for one in attention_of(preset)]
    asked = {'MaxText': []} | ({'MaxText, plain gathers': [PLAIN_GATHERS]} if preset == 'llama_1b' else {})
    found[preset] = {
      peer: measure([maxtext, COMPILE, 'maxtext'], [*settings.split(), *more], attention)
      for peer, more in asked.items()
    }
  return versions, found


# All of its blocks, for scores and for keys and values: 512.
_MAXTEXT_BLOCKS = {f'block_{side}{kernel}': 512 for kernel in ('', '_dkv', '_dq') for side in ('q', 'kv')}
_MAXTEXT_BLOCKS |= dict(block_kv_compute=512, block_kv_dkv_compute=512)


def ours(preset: str, tiny: bool, chips: int = DEVICES, layers: int | None = None) -> Program:
  """lmjax's step of a preset, as its config file gives it for eight chips, with as many rows a chip on more of them.

  tiny: a row a chip and one layer, or as many as are asked for, compiled with little effort.
  """
  from lmjax.models import presets

  rows = 1 if tiny else presets.PRESETS[preset]['recipe']['batch_size'] // DEVICES
  layers = layers or (1 if tiny else presets.PRESETS[preset]['model']['layers'])
  words = [f'model.layers={layers}', f'data.batch_size={rows * chips}']
  effort = {'JAX_EXEC_TIME_OPTIMIZATION_EFFORT': '-1'} if tiny else {}
  command = [sys.executable, COMPILE, 'lmjax', preset, TOPOLOGIES[chips]]
  return measure(command, words, attention_of(preset, layers, rows), effort)


def attention_of(preset: str, layers: int | None = None, rows: int | None = None) -> list[Attention]:
  """The kernels of a preset, one for each window that its layers have, of other sizes where they are given."""
  from lmjax.models import presets

  model, recipe = (presets.PRESETS[preset][part] for part in ('model', 'recipe'))
  layers, rows = layers or model['layers'], rows or recipe['batch_size'] // DEVICES
  windows = [model['window'] if model['window'] and i % model['global_every'] else None for i in range(layers)]
  sizes = dict(rows=rows, length=recipe['length'], heads=model['heads'], kv_heads=model['kv_heads'])
  sizes |= dict(width=model['width'] // model['heads'], causal=model['attention'] == 'causal')
  return [Attention(windows.count(window), window=window, **sizes) for window in dict.fromkeys(windows)]


def measure(command: list[str], words: list[str], attention: list[Attention], more: dict | None = None) -> Program:
  """Compiles a step in a process of its own and counts what it does."""
  from lmjax.dry_run import hlo

  with tempfile.TemporaryDirectory() as folder:
    out = f'{folder}/step'
    environment = os.environ | ENVIRONMENT | (more or {})
    done = subprocess.run([*command, out, *words], env=environment, capture_output=True, text=True)
    if done.returncode:
      raise SystemExit(f'{" ".join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}')
    text = pathlib.Path(f'{out}.hlo').read_text()
    about = json.loads(pathlib.Path(f'{out}.json').read_text())
  calls = {name: _calls(text, name) for name in KERNELS}
  layers = sum(a.layers for a in attention)
  kernels = 0.0
  for one in attention if any(calls.values()) else ():
    seconds = kernel_seconds(one)
    kernels += sum(seconds[name] * calls[name] / layers * one.layers for name in seconds)
  traffic = hlo.collectives(text).values()
  return Program(
    hlo.estimated_cycles(text) / CYCLES_PER_SECOND,
    kernels,
    sum(kind.waited for kind in traffic) / LINK_BYTES_PER_SECOND,
    hlo.dot_flops(text),
    moved=sum(kind.bytes for kind in traffic),
    **about,
  )


KERNELS = ('splash_mha_fwd', 'splash_mha_dkv', 'splash_mha_dq')


def _calls(text: str, kernel: str) -> int:
  """How often a step runs a kernel."""
  from lmjax.dry_run import hlo

  # what the kernel says of itself stands on lines of its own
  joined = re.sub(r'\n("xprof_metadata":.*)\n', r'\1', text)
  found = [(one, times) for one, _, times in hlo.instructions(joined) if 'tpu_custom_call' in one.rest]
  return sum(times for one, times in found if f'/{kernel}' in one.attribute(r'op_name="([^"]*)"'))


def kernel_seconds(attention: Attention) -> dict[str, float]:
  """Seconds of each kernel of one layer, by its static bundles: {'splash_mha_fwd': ...}.

  Compiled alone. A step of the grid takes its bundles, of which the longest part that it may jump over, the scores of
  a block, counts for the blocks that are not hidden, and the other long parts, what begins and ends a row of blocks,
  once a row. Waiting for memory is left out.
  """
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, COMPILE, 'kernels', json.dumps(dataclasses.asdict(attention)), folder]
    environment = os.environ | ENVIRONMENT | {'LIBTPU_INIT_ARGS': f'--xla_jf_dump_to={folder}'}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
      raise SystemExit(f'{" ".join(command)} failed:\n{done.stderr[-4000:]}')
    sizes = json.loads(pathlib.Path(folder, 'blocks.json').read_text())
    found = {}
    for name in KERNELS:
      for file in glob.glob(f'{folder}/*{name}*-final_bundles.txt'):
        if 'schedule-analysis' not in file:
          suffix = name.removeprefix('splash_mha').replace('_fwd', '')
          block_q, block_kv = (sizes[f'block_{side}{suffix}'] for side in ('q', 'kv'))
          bundles = step_bundles(pathlib.Path(file).read_text())
          found[name] = _grid_bundles(attention, block_q, block_kv, bundles, name) / CYCLES_PER_SECOND
  return found


def step_bundles(text: str) -> tuple[int, int, int]:
  """Bundles of a step of a kernel's grid: of all parts that always run, of the scores, of what begins and ends a row.

  A part is what a forward jump goes over; the first one, the step itself, is not counted as one.
  """
  place = re.compile(r'^\s*(0x[0-9a-f]+|\d+)\s*(?:[A-Z]{2})?\s*:')
  here, regions, jumps = 0, {}, []
  for line in text.splitlines():
    if found := place.match(line):
      here = int(found[1], 0)
    for number in re.findall(r'(?:empty region|Start region) (\d+)', line):
      regions.setdefault(number, here)
    jumps += [(here, number) for number in re.findall(r'sbr\.rel \(\S+\) target = \$region(\d+)', line)]
  lengths = [regions[number] - at for at, number in jumps if regions.get(number, 0) > at]
  *rest, scores = sorted(length for length in lengths[1:] if length > _LONG)
  return here - scores - sum(rest), scores, sum(rest)


_LONG = 64  # bundles; shorter parts start copies, which most steps do


def _grid_bundles(attention: Attention, block_q: int, block_kv: int, bundles: tuple[int, int, int], name: str) -> float:
  """Bundles of the whole grid: hidden blocks at the sides of a window are no steps, others are empty ones."""
  T, always, scores, row = attention.length, *bundles
  place = np.arange(T)
  distance = place[:, None] - place[None, :]
  seen = distance >= 0 if attention.causal else np.ones((T, T), bool)
  if attention.window is not None:
    w = attention.window
    seen &= distance < w if attention.causal else abs(distance) <= w // 2
  blocks = seen.reshape(T // block_q, block_q, T // block_kv, block_kv).any(axis=(1, 3))
  if name == 'splash_mha_dkv':  # goes through the queries of a block of keys
    blocks = blocks.T
  rows, columns = len(blocks), max(blocks.sum(axis=1))
  each = rows * columns * always + blocks.sum() * scores + rows * row
  return float(attention.rows * attention.heads * each)
