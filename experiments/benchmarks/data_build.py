"""Tokenising a corpus: `lmjax.prepare` against Hugging Face datasets' map, with the same tokenizer, in turns.

  python experiments/benchmarks/data_build.py

Writes --megabytes=N (1,000 unless given) of documents of log-normal length, paragraphs of Python's documentation in
random order, in 8 files of JSON lines; trains a byte-level BPE of 32,000 on them; then both sides tokenise them from
nothing, --rounds=N times (1 unless given), each as processes of its own, one a core. CPU seconds of all of these,
start included, and the largest resident memory of one. The ids of both must be equal. --tiny takes the smallest sizes,
for a test.
"""

import argparse
import json
import pathlib
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile

from contenders import CONFIGS

THEIRS = """
import os, sys
import datasets, tokenizers
folder, cache, processes = sys.argv[1:]
os.environ['TOKENIZERS_PARALLELISM'] = 'false'
backend = tokenizers.Tokenizer.from_file(f'{folder}/tokenizer.json')


def encode(batch):
  return {'ids': [one.ids for one in backend.encode_batch_fast(batch['text'], add_special_tokens=False)]}


texts = datasets.load_dataset('json', data_files=f'{folder}/*.jsonl', split='train', cache_dir=cache)
texts.map(encode, batched=True, num_proc=int(processes), remove_columns=['text']).save_to_disk(f'{cache}/out')
"""


def write_corpus(folder: pathlib.Path, megabytes: float) -> None:
  """Eight files, and a tokenizer."""
  from lmjax.data.sources import pydoc
  from lmjax.data.tokens.trainer import train_tokenizer

  draw = random.Random(0)
  paragraphs = [part for _, text in pydoc.documents() for part in text.split('\n\n') if len(part) > 80]
  for number in range(8):
    written = 0
    with open(folder / f'{number}.jsonl', 'w', encoding='utf-8') as file:
      while written < megabytes * 1e6 / 8:
        size, parts = draw.lognormvariate(7.9, 1.05), []
        while sum(map(len, parts)) < size:
          parts.append(draw.choice(paragraphs))
        line = json.dumps({'text': '\n\n'.join(parts)}) + '\n'
        written += file.write(line)
  train_tokenizer(paragraphs, 32_000, 10_000_000).save(str(folder / 'tokenizer.json'))


def measured(command: list) -> tuple[float, float]:
  """(CPU seconds, megabytes of the largest process so far) of a command and all that it starts."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  return seconds, after.ru_maxrss / 1e3


def ids_of(folder: pathlib.Path):
  """Documents as both sides have them, in order."""
  import datasets

  from lmjax.data.corpus import shard

  theirs = datasets.load_from_disk(str(folder / 'hf/out'))['ids']
  entries = [json.loads(file.read_bytes())['value'] for file in (folder / 'ours/read').glob('*.json')]
  ours = {}
  for entry in entries:
    for name in entry['shards']:
      one = shard.opened(str(folder / f'ours/shards/{name}.safetensors'), name)
      ends = one.lengths.cumsum()
      for digest, end, length in zip(one.digests.tolist(), ends.tolist(), one.lengths.tolist()):
        ours[digest] = one.tokens[end - length : end].tolist()
  return ours, theirs


def check(folder: pathlib.Path) -> int:
  """Compares the ids of all documents; returns how many there are."""
  from lmjax.data.digests import digest64

  ours, theirs = ids_of(folder)
  texts = [json.loads(line)['text'] for file in sorted(folder.glob('*.jsonl')) for line in open(file, encoding='utf-8')]
  assert len(texts) == len(theirs)
  for text, ids in zip(texts, theirs):
    assert ours[digest64(text.encode('utf-8'))] == ids
  return len(texts)


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--megabytes', type=float, default=1_000)
  parser.add_argument('--rounds', type=int, default=1)
  parser.add_argument('--processes', type=int, default=2)
  parser.add_argument('--tiny', action='store_true')
  flags = parser.parse_args()
  megabytes = 0.5 if flags.tiny else flags.megabytes
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_corpus(folder, megabytes)
    settings = [f'--config.data.tokenizer.path={folder}/tokenizer.json', '--config.data.tokenizer.vocab_size=None']
    settings += ['--config.data.tokenizer.sample_bytes=None', '--config.data.tokenizer.lowercase=None']
    ours = [sys.executable, '-m', 'lmjax.prepare', f'--config={CONFIGS}/pretrain_clm.py:data={folder}/*.jsonl']
    ours += [f'--config.data.cache_dir={folder}/ours', *settings]
    theirs = [sys.executable, '-c', THEIRS, folder, f'{folder}/hf', str(flags.processes)]
    found = []
    for _ in range(flags.rounds):
      for left in ('ours', 'hf'):
        shutil.rmtree(folder / left, ignore_errors=True)
      found.append((*measured(ours), *measured(theirs)))
    documents = check(folder)
  print('| megabytes | lmjax, CPU s (largest process) | datasets, CPU s (largest process so far) | ratio |')
  print('|---|---|---|---|')
  for one, memory, other, more in found:
    shown = f'| {megabytes:,.0f} | {one:.1f} ({memory:,.0f} MB) | {other:.1f} ({more:,.0f} MB) | {other / one:.2f} |'
    print(shown)
  ratio = statistics.median(other / one for one, _, other, _ in found)
  print(f'the same ids in all of {documents:,} documents; datasets takes {ratio:.2f} times the CPU seconds')


if __name__ == '__main__':
  main()
