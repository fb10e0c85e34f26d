"""Compiles one program for TPU v5e chips that are not here, in a process of its own; see tpu.py.

compile_step.py lmjax PRESET TARGET OUT [NAME=VALUE ...]    lmjax's step; leaves OUT.hlo and OUT.json
compile_step.py maxtext OUT NAME=VALUE ...                  MaxText's, with an interpreter that has it
compile_step.py kernels ATTENTION_AS_JSON FOLDER            splash attention alone; leaves FOLDER/blocks.json
"""

import dataclasses
import json
import math
import pathlib
import sys
import time

TARGET = 'v5e:2x4'
PRESETS = {'llama_1b': 'clm', 'gpt2_small': 'clm', 'bert_base': 'mlm', 'modernbert_base': 'mlm'}
CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'


@dataclasses.dataclass(frozen=True)
class Attention:
  """Splash kernels of some layers, on one device."""

  layers: int
  rows: int
  length: int
  heads: int
  kv_heads: int
  width: int
  causal: bool
  window: int | None = None
  blocks: dict | None = None  # jax's BlockSizes; None: as lmjax chooses them


def compile_lmjax(preset: str, target: str, out: str, words: list[str]) -> None:
  """Writes OUT.hlo and OUT.json of a preset's step, with settings changed: ['model.layers=1']."""
  from lmjax import config as config_lib
  from lmjax.dry_run import fit, topology
  from lmjax.schema.command_line import load_config_file
  from lmjax.schema.overrides import override
  from lmjax.training import progress

  raw = load_config_file(CONFIGS / f'pretrain_{PRESETS[preset]}.py', f'preset={preset}')
  raw, problems = override(config_lib.Config, raw, [tuple(word.split('=', 1)) for word in words])
  assert not problems, problems
  found, began = topology.find(target), time.process_time()
  compiled = fit.compile_for(config_lib.build(raw), found, log=print)
  seconds = time.process_time() - began
  about = dict(model_flops=progress.step_flops(compiled.task), moved_in_theory=moved_in_theory(compiled))
  _write(out, compiled.program, compiled.needed, seconds, **about)


def moved_in_theory(compiled) -> int:
  """Bytes of whole arrays that the collectives of a device move in a step, but for scalars.

  ZeRO-3 (https://arxiv.org/abs/1910.02054, section 7.2): kernels are gathered in both directions, the output's once;
  gradients are summed once within a group of `fsdp`, their shares once between groups. The input's table is looked up
  where it is: each device has its share of the width for all rows of its group, and shares are exchanged for rows.
  Kernels' gradients are summed in the compute dtype; those of tables that are looked up, and of vectors, in float32.
  """
  import jax.numpy as jnp

  from lmjax import paths

  c, d, mesh = compiled.config.model, compiled.config.data, compiled.mesh.shape
  sizes = {name: math.prod(a.shape) for name, a in paths.flatten(compiled.abstract.params).items()}
  output = sizes.pop('head/output/kernel', sizes['embeddings/token/embedding'])
  kernels = sum(size for name, size in sizes.items() if name.endswith('/kernel'))
  tables = sum(size for name, size in sizes.items() if name.endswith('/embedding'))
  vectors = sum(sizes.values()) - kernels - tables
  of = jnp.dtype(c.dtype).itemsize
  if mesh['fsdp'] == 1:
    return of * (kernels + output) + 4 * (tables + vectors)
  rows = d.batch_size // mesh['data']
  within = of * (3 * kernels + 2 * output) + 4 * vectors + 4 * rows * d.length
  exchanged = 2 * of * rows * d.length * c.width // mesh['fsdp']
  return within + exchanged + ((of * kernels + 4 * tables) // mesh['fsdp'] if mesh['data'] > 1 else 0)


def compile_maxtext(out: str, words: list[str]) -> None:
  """Writes OUT.hlo and OUT.json of MaxText's step, by the program with which it compiles ahead of time."""
  import maxtext
  from maxtext.trainers.pre_train import train_compile

  compile_step = train_compile.jit_and_compile

  def compile_and_write(*arguments, **named):
    began = time.process_time()
    program = compile_step(*arguments, **named)
    _write(out, program, program.memory_analysis().peak_memory_in_bytes, time.process_time() - began)
    return program

  train_compile.jit_and_compile = compile_and_write
  base = pathlib.Path(maxtext.__file__).parent / 'configs' / 'base.yml'
  try:
    train_compile.main(['train_compile', str(base), *words])
  except Exception:  # what it reports after compiling may need a TPU
    if not pathlib.Path(f'{out}.json').exists():
      raise


def compile_kernels(attention: Attention, folder: str) -> None:
  """Compiles the splash kernels of a layer, forward and backward, and writes their blocks."""
  import jax
  import jax.numpy as jnp
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

  from lmjax.dry_run import topology
  from lmjax.ops import attention as attention_lib

  a = attention
  if a.blocks is None:
    kernel = attention_lib._splash_kernel(a.heads, a.length, a.causal, a.window, softcap=None, interpret=False)
  else:
    many = masks.MultiHeadMask([masks.CausalMask((a.length, a.length))] * a.heads)
    sizes = kernels.BlockSizes(**a.blocks)
    kernel = kernels.make_splash_mha(many, block_sizes=sizes, head_shards=1, q_seq_shards=1)
  sizes = kernel.kwargs['block_sizes']
  pathlib.Path(folder, 'blocks.json').write_text(json.dumps(dataclasses.asdict(sizes), default=str))
  place = jax.sharding.SingleDeviceSharding(topology.find(TARGET).devices[0])

  def loss(q, k, v, segments):
    ids = kernels.SegmentIds(q=segments, kv=segments)
    return jax.vmap(kernel)(q, k, v, segment_ids=ids).astype(jnp.float32).sum()

  shapes = [(a.rows, heads, a.length, a.width) for heads in (a.heads, a.kv_heads)]
  queries, keys = (jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in shapes)
  segments = jax.ShapeDtypeStruct((a.rows, a.length), jnp.int32, sharding=place)
  traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(queries, keys, keys, segments)
  traced.lower(lowering_platforms=('tpu',)).compile()


def _write(out: str, program, peak_bytes: float, cpu_seconds: float, **more: float) -> None:
  pathlib.Path(f'{out}.hlo').write_text(program.as_text())
  about = {'peak_bytes': peak_bytes, 'cpu_seconds': cpu_seconds} | more
  pathlib.Path(f'{out}.json').write_text(json.dumps(about))


if __name__ == '__main__':
  kind, first, *rest = sys.argv[1:]
  if kind == 'lmjax':
    compile_lmjax(first, rest[0], rest[1], rest[2:])
  elif kind == 'maxtext':
    compile_maxtext(first, rest)
  else:
    compile_kernels(Attention(**json.loads(first)), rest[0])
