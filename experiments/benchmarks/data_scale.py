"""Memory and start of training on corpora of any size: token shards that are written as `lmjax.prepare` would.

  python experiments/benchmarks/data_scale.py --documents=100000,10000000
  python experiments/benchmarks/data_scale.py --documents=50000000 --tokens=1000 --sparse

For each number of documents it makes shards of random ids (with --sparse holes, that read as zeros and take no disk)
and lets lmjax decide which of them stand; then a run of the smallest model trains on them, --steps=N steps (300 unless
given), and processes of their own make the first batch of a second start and of a resumed run. Printed are the largest
RssAnon of these, CPU seconds from the config to the first batch, with JAX imported, and the bytes of token shards that
were read for it. --tiny takes the smallest sizes, for a test.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
from contenders import CONFIGS

PER_SHARD = 250_000
WORK_BYTES = 32_000_000
UNITS = {'decide': 'MB', 'start': 'MB read', 'resume': 'MB read'}


def write_shard(folder: pathlib.Path, name: str, documents: int, tokens: int, sparse: bool, draw) -> None:
  """A token shard of documents of equal length."""
  from lmjax.data.corpus import shard

  arrays = {
    'tokens': np.zeros(documents * tokens, '<u2') if sparse else draw.integers(7, 263, documents * tokens, '<u2'),
    'lengths': np.full(documents, tokens, '<u4'),
    'n_bytes': np.full(documents, 4 * tokens, '<u4'),
    'digests': draw.integers(0, 2**63, documents, '<u8') * 2,
    'normalised': draw.integers(0, 2**63, documents, '<u8') * 2 + 1,
  }
  counts = dict.fromkeys(('empty', 'unknown_tokens', 'unknown_bytes'), 0)
  data = shard.as_bytes(name, arrays, counts)
  with open(folder / f'{name}{shard.ENDING}', 'wb') as file:
    if sparse:  # they are the last ones
      file.write(data[: -arrays['tokens'].nbytes])
      file.truncate(len(data))
    else:
      file.write(data)


def read(flags: list[str]) -> tuple:
  """(Config, workdir) of a command line."""
  from lmjax import config as config_lib
  from lmjax.schema import command_line, overrides

  given = command_line.parse_command_line(flags)
  raw = command_line.load_config_file(given.file, given.argument)
  values, problems = overrides.override(config_lib.Config, raw, given.assignments)
  return config_lib.load(values, problems)[0], given.workdir


def write_corpus(folder: pathlib.Path, documents: int, tokens: int, sparse: bool, flags: list[str]) -> None:
  """The cache of a source that is a sparse file: an entry and its shard for each of its parts."""
  from lmjax.data.corpus import build, unit
  from lmjax.data.corpus.cache import Cache
  from lmjax.data.sources.documents import works_of
  from lmjax.data.tokens.tokenizer import Tokenizer

  per_shard = min(PER_SHARD, WORK_BYTES // (4 * tokens))
  shards = -(-documents // per_shard)
  with open(folder / 'text.jsonl', 'wb') as file:
    file.write(b'{"text": "a"}\n')
    file.truncate(shards * WORK_BYTES)
  config, _ = read(flags)
  tokenizer, cache = Tokenizer.load(config.data.tokenizer.path), Cache(config.data.cache_dir)
  job = unit.Job(cache.folder, unit.Settings(tokenizer.hash, config.data.bad_text), '')
  (folder / 'cache/shards').mkdir(parents=True)
  draw = np.random.default_rng(0)
  for number, work in enumerate(works_of(config.data.sources['main'], build.WORK_BYTES)):
    count = min(per_shard, documents - number * per_shard)
    name = f'{number:032x}'
    write_shard(folder / 'cache/shards', name, count, tokens, sparse, draw)
    counts = dict.fromkeys(('empty', 'replaced', 'skipped', 'filtered'), 0)
    counts |= {'documents': count, 'bytes': 4 * count * tokens}
    cache.write_json(f'read/{job.key(work)}.json', unit.Entry([name], counts)._asdict())


def watched(run) -> float:
  """The largest RssAnon of this process while a function runs, in megabytes."""
  largest, ended = [0.0], threading.Event()

  def watch():
    while not ended.wait(0.05):
      for line in open('/proc/self/status'):
        if line.startswith('RssAnon'):
          largest.append(int(line.split()[1]) / 1e3)

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  run()
  ended.set()
  thread.join()
  return max(largest)


def decide(flags: list[str]) -> dict:
  """Which documents stand."""
  from lmjax import prepare

  began, codes = time.process_time(), []
  memory = watched(lambda: codes.append(prepare.main(flags)))
  assert codes == [0]
  return {'decide': time.process_time() - began, 'decide MB': memory}


def train(flags: list[str]) -> dict:
  """A run to its end."""
  from lmjax import main

  codes: list[int] = []
  memory = watched(lambda: codes.append(main.main(flags)))
  assert codes == [0]
  return {'train MB': memory}


def start(flags: list[str]) -> dict:
  """The first batch, of a run that has a checkpoint or none."""
  import jax

  jax.devices()
  from lmjax.data.corpus import shard
  from lmjax.tasks import prepare
  from lmjax.training import initialize

  config, workdir = read(flags)
  total, opened = [0], shard.opened

  def counted(path, name, check=True):
    found = opened(path, name, check)
    total[0] += sum(array.nbytes for array in found[:5]) if check else found.lengths.nbytes
    return found

  shard.opened = counted
  began = time.process_time()
  pin = None if workdir is None else initialize.pinned(workdir, config.data)
  config, task, data = prepare.prepare(config, pin=pin)
  batches = task.pipeline(data, config.seed, 1_000_000)
  batches.batch(500_000)
  key = 'start' if pin is None else 'resume'
  return {key: time.process_time() - began, f'{key} MB read': total[0] / 1e6}


def measured(step: str, flags: list[str]) -> dict:
  """What one of the functions above returns, in a process of its own."""
  command = [sys.executable, __file__, f'--only={step}', *flags]
  done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ | {'JAX_PLATFORMS': 'cpu'})
  assert done.returncode == 0, done.stdout
  return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
  """Prints a row for each corpus."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--documents', default='100000,10000000')
  parser.add_argument('--tokens', type=int, default=8)
  parser.add_argument('--sparse', action='store_true')
  parser.add_argument('--steps', type=int, default=300)
  parser.add_argument('--tiny', action='store_true')
  parser.add_argument('--only')
  own, flags = parser.parse_known_args()
  if own.only:
    print(json.dumps({'decide': decide, 'train': train, 'start': start}[own.only](flags)))
    return
  from lmjax.data.tokens.trainer import train_tokenizer

  print(
    '| documents | of tokens | deciding what stands, CPU s (MB) | training, MB | start, CPU s (MB read) | resumed |'
  )
  print('|---|---|---|---|---|---|')
  for documents in [2_000, 20_000] if own.tiny else map(int, own.documents.split(',')):
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      train_tokenizer(['some text of any kind'], 300, 1_000).save(f'{folder}/tokenizer.json')
      flags = [f'--config={CONFIGS}/pretrain_clm.py:smoke,data={folder}/text.jsonl']
      leaves = {'tokenizer.path': f'{folder}/tokenizer.json', 'cache_dir': f'{folder}/cache', 'valid_bytes': 100_000}
      leaves |= {'valid_fraction': 0.01, **dict.fromkeys(('tokenizer.vocab_size', 'tokenizer.sample_bytes'))}
      flags += [f'--config.data.{name}={value}' for name, value in (leaves | {'tokenizer.lowercase': None}).items()]
      write_corpus(folder, documents, own.tokens, own.sparse, flags)
      found = measured('decide', flags)
      found |= measured('start', flags)
      # all compile: what that takes stays with a process
      run = [
        '--compilation_cache=none',
        f'--workdir={folder}/run',
        f'--config.train.steps={2 if own.tiny else own.steps}',
      ]
      found |= measured('train', [*flags, *run]) | measured('start', [*flags, *run])
    shown = [f'{found[key]:.1f} ({found[f"{key} {unit}"]:,.0f})' for key, unit in UNITS.items()]
    print(f'| {documents:,} | {own.tokens} | {shown[0]} | {found["train MB"]:,.0f} | {shown[1]} | {shown[2]} |')


if __name__ == '__main__':
  main()
