"""What it costs to start from a Hugging Face folder: memory of an import onto a mesh, and CPU time of a dry run.

  python experiments/benchmarks/import_memory.py

Writes a Llama of 0.98 GB in bfloat16 in shards (random numbers), then measures, each in a process of its own:
memory: what importing it onto 8 virtual CPU devices, split over mesh.fsdp, adds to the resident memory at its peak, in
  bytes of its parameters in float32; and what random parameters of the same model would add.
start: CPU seconds of a dry run, all imports done, up to the first array that is traced: config.json, tokenizer.json and
  the headers are read, and the hand-off is planned. The weights are holes there: no byte of them is read.
--folder=DIR keeps the folder, or takes one that is there; --tiny takes the smallest sizes, for a test.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import ml_dtypes
import numpy as np
from contenders import CONFIGS
from safetensors.numpy import save_file

DEVICES = 8
SIZES = dict(layers=7, width=2048, mlp_width=5632, vocab=32000)
TINY = dict(layers=1, width=64, mlp_width=96, vocab=512)


def write_folder(folder: pathlib.Path, layers: int, width: int, mlp_width: int, vocab: int) -> None:
  """A Llama in shards, one of a layer and two of the rest, with a tokenizer of bytes."""
  from lmjax.data.tokens.trainer import untrained

  config = dict(model_type='llama', dtype='bfloat16', vocab_size=vocab, hidden_size=width, num_hidden_layers=layers)
  config |= dict(intermediate_size=mlp_width, num_attention_heads=width // 32, num_key_value_heads=width // 32)
  config |= dict(max_position_embeddings=2048, hidden_act='silu', rms_norm_eps=1e-6, tie_word_embeddings=False)
  (folder / 'config.json').write_text(json.dumps(config))
  untrained(320).save(str(folder / 'tokenizer.json'))
  shards = [{'model.embed_tokens': (vocab, width)}, {'model.norm': (width,), 'lm_head': (vocab, width)}]
  for i in range(layers):
    shard = {f'self_attn.{name}_proj': (width, width) for name in 'qkvo'}
    shard |= {f'mlp.{name}_proj': (mlp_width, width) for name in ('gate', 'up')} | {'mlp.down_proj': (width, mlp_width)}
    shard |= dict.fromkeys(('input_layernorm', 'post_attention_layernorm'), (width,))
    shards.append({f'model.layers.{i}.{name}': shape for name, shape in shard.items()})
  rng, places = np.random.default_rng(0), {}
  for i, shard in enumerate(shards):
    file = f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors'
    draw = {f'{name}.weight': rng.standard_normal(shape, np.float32) for name, shape in shard.items()}
    save_file({name: (0.02 * array).astype(ml_dtypes.bfloat16) for name, array in draw.items()}, folder / file)
    places |= dict.fromkeys(draw, file)
  (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': places}))


def copy_headers(folder: pathlib.Path, target: pathlib.Path) -> None:
  """The folder without its numbers: files of the same size, with holes after the headers."""
  for file in folder.iterdir():
    with file.open('rb') as source, (target / file.name).open('wb') as copy:
      copy.write(length := source.read(8))
      copy.write(source.read(int.from_bytes(length, 'little') if file.suffix == '.safetensors' else -1))
      copy.truncate(file.stat().st_size)


def config_of(folder: str):
  """(the Config of pre-training that starts there, its source)."""
  from lmjax import config as config_lib
  from lmjax.schema import command_line, overrides

  raw = command_line.load_config_file(CONFIGS / 'pretrain_clm.py', 'smoke')
  settings = {'init_from.path': f'hf:{folder}', 'mesh.data': 1, 'mesh.fsdp': DEVICES}
  raw, problems = overrides.override(config_lib.Config, raw, [(path, str(v)) for path, v in settings.items()])
  return config_lib.load(raw, problems)


def memory(folder: str, is_random: bool) -> dict:
  """Bytes: of the parameters in float32, and added at the peak by the import, or by random ones."""
  import jax

  from lmjax import metrics, sharding
  from lmjax.tasks import prepare
  from lmjax.training import initialize

  config, source = config_of(folder)
  config, task = prepare.without_data(config, initialize.tokenizer_of(source, None))
  plan, mesh = initialize.plan_of(task, source, config.init_from), sharding.make_mesh(config.mesh, jax.devices())
  with jax.set_mesh(mesh):
    before = _status('VmRSS')
    pathlib.Path('/proc/self/clear_refs').write_text('5')  # the high-water mark begins anew
    begin = [None, None] if is_random else [source, plan]
    params = jax.block_until_ready(initialize.initial_params(task, mesh, config.seed, *begin))
  return {'float32': 4 * metrics.count(params), 'added': _status('VmHWM') - before}


def _status(name: str) -> int:
  return 1024 * int(re.search(rf'{name}:\s+(\d+)', pathlib.Path('/proc/self/status').read_text())[1])


def start(folder: str) -> dict:
  """CPU seconds until a dry run begins to trace its step."""
  from lmjax.dry_run import fit, topology

  class Begins(Exception):
    pass

  def stop(*arguments):
    raise Begins

  target, fit.compile_for = topology.find(f'cpu:{DEVICES}'), stop
  began = time.process_time()
  try:
    fit.dry_run(*config_of(folder), target, 'python -m lmjax.main', print)
  except Begins:
    return {'cpu_seconds': time.process_time() - began}
  raise SystemExit('the dry run has ended without a compilation')


def ask(what: str, folder: pathlib.Path) -> dict:
  """Runs `import`, `random` or `start` in a process of its own."""
  environment = os.environ | {'XLA_FLAGS': f'--xla_force_host_platform_device_count={DEVICES}', 'JAX_PLATFORMS': 'cpu'}
  command = [sys.executable, __file__, what, str(folder)]
  done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
  """Writes the folder, and measures."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--folder', type=pathlib.Path)
  parser.add_argument('--tiny', action='store_true')
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder, headers = flags.folder or pathlib.Path(temporary, 'model'), pathlib.Path(temporary, 'headers')
    headers.mkdir()
    if not folder.exists():
      folder.mkdir(parents=True)
      write_folder(folder, **(TINY if flags.tiny else SIZES))
    copy_headers(folder, headers)
    found = {name: ask(name, folder) for name in ('import', 'random')}
    shares = {name: one['added'] / one['float32'] for name, one in found.items()}
    print(f'float32 parameters: {found["import"]["float32"] / 1e9:.3f} GB')
    print(f'peak of the import: {shares["import"]:.2f} of that; of random parameters: {shares["random"]:.2f}')
    print(f'dry run: {ask("start", headers)["cpu_seconds"]:.2f} s of CPU time until it traces')


if __name__ == '__main__':
  if sys.argv[1:2] in (['import'], ['random']):
    print(json.dumps(memory(sys.argv[2], is_random=sys.argv[1] == 'random')))
  elif sys.argv[1:2] == ['start']:
    print(json.dumps(start(sys.argv[2])))
  else:
    main()
