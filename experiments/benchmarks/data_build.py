"""Tokenising a corpus: `lmjax.prepare` against Hugging Face datasets' map, with the same tokenizer, in turns.

  python experiments/benchmarks/data_build.py

Writes --megabytes=N (1,000 unless given) of documents of log-normal length, paragraphs in random order, in 8 files of
JSON lines. The paragraphs are those of the sources that --text=PATHS names (field text), with commas between them, or
of Python's documentation: that is small, so words come again more often than in a corpus, which tokenizers remembers.
It trains a byte-level BPE of 32,000 on them; then both sides tokenise them from nothing, --rounds=N times (1 unless
given), each as processes of its own, one a core. CPU seconds of all of these, start included, and the largest resident
memory of one. The ids of both must be equal.

  python experiments/benchmarks/data_build.py --megabytes=200 --tasks=1,2,4

builds the same corpus with so many processes of `lmjax.prepare --task=I --tasks=N` at once, each with one worker on one
core (several on a core where there are fewer), and prints the CPU seconds of all of them, without those that their
start takes: imports, the tokenizer, and the check whether tiktoken gives its ids. The files must be the same, byte for
byte. --tiny takes the smallest sizes, for a test.
"""

import argparse
import collections
import functools
import hashlib
import json
import os
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
datasets.disable_progress_bars()
backend = tokenizers.Tokenizer.from_file(f'{folder}/tokenizer.json')


def encode(batch):
  return {'ids': [one.ids for one in backend.encode_batch_fast(batch['text'], add_special_tokens=False)]}


texts = datasets.load_dataset('json', data_files=f'{folder}/*.jsonl', split='train', cache_dir=cache)
texts.map(encode, batched=True, num_proc=int(processes), remove_columns=['text']).save_to_disk(f'{cache}/out')
"""


def write_corpus(folder: pathlib.Path, megabytes: float, paths: list[str]) -> None:
  """Eight files, and a tokenizer."""
  from lmjax.data.config import SourceConfig, default_field
  from lmjax.data.sources import documents
  from lmjax.data.tokens.trainer import train_tokenizer

  draw = random.Random(0)
  works = [work for path in paths for work in documents.works_of(SourceConfig(path, default_field(path), 1.0), 1 << 40)]
  texts = (text for work in works for text in documents.texts_of(work, 'replace', collections.Counter()))
  paragraphs = [part for text in texts for part in text.split('\n\n') if 80 < len(part) < 20_000]
  for number in range(8):
    written = 0
    with open(folder / f'{number}.jsonl', 'w', encoding='utf-8') as file:
      while written < megabytes * 1e6 / 8:
        size, parts = draw.lognormvariate(7.9, 1.05), []
        while sum(map(len, parts)) < size:
          parts.append(draw.choice(paragraphs))
        line = json.dumps({'text': '\n\n'.join(parts)}) + '\n'
        written += file.write(line)
  train_tokenizer(draw.sample(paragraphs, len(paragraphs)), 32_000, 10_000_000).save(str(folder / 'tokenizer.json'))


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


def together(command: list, tasks: int) -> float:
  """CPU seconds of so many processes that share a build."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  parts = [[*command, f'--task={task}', f'--tasks={tasks}'] for task in range(tasks)]
  cores = sorted(os.sched_getaffinity(0))
  processes = []
  for task, part in enumerate(parts):
    on_one = functools.partial(os.sched_setaffinity, 0, {cores[task % len(cores)]})
    processes.append(subprocess.Popen(part, stdout=subprocess.DEVNULL, preexec_fn=on_one))
  assert [process.wait() for process in processes] == [0] * tasks
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start_of_a_worker(folder: pathlib.Path) -> float:
  """CPU seconds of a worker whose only work is one short document of one word."""
  from lmjax.data.config import SourceConfig
  from lmjax.data.corpus import build, unit
  from lmjax.data.corpus.worker import Worker
  from lmjax.data.sources.documents import works_of
  from lmjax.data.tokens.tokenizer import Tokenizer

  tokenizer = Tokenizer.load(f'{folder}/tokenizer.json')
  (folder / 'short').mkdir(exist_ok=True)
  # long enough for the check whether tiktoken gives the same ids, which each process makes
  (folder / 'short/a.jsonl').write_text(json.dumps({'text': 'a word ' * 80_000}))
  job = unit.Job(tempfile.mkdtemp(dir=folder), unit.Settings(tokenizer.hash, 'raise'), f'{folder}/tokenizer.json')
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  worker = Worker()
  worker.make(job, next(works_of(SourceConfig(f'{folder}/short', 'text', 1.0), build.WORK_BYTES)))
  worker.close()
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare_tasks(folder: pathlib.Path, command: list, numbers: list[int], rounds: int) -> None:
  """Prints a row for each number of processes, in turns."""
  print('| processes | CPU s | of that their start | without it | the same files |')
  print('|---|---|---|---|---|')
  net, wanted = collections.defaultdict(list), None
  for tasks in numbers * rounds:
    shutil.rmtree(folder / 'ours', ignore_errors=True)
    total = together(command, tasks)
    start = together(command, tasks) + tasks * start_of_a_worker(folder)
    files = (file for file in (folder / 'ours').rglob('*') if file.is_file() and file.suffix != '.lock')
    found = {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    net[tasks].append(total - start)
    wanted = wanted or found
    print(f'| {tasks} | {total:.1f} | {start:.1f} | {total - start:.1f} | {found == wanted} |')
  first = statistics.median(net[numbers[0]])
  ratios = ', '.join(f'{tasks}: {statistics.median(found) / first:.2f}' for tasks, found in net.items())
  print(f'medians without their start, to the first: {ratios}')


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--megabytes', type=float, default=1_000)
  parser.add_argument('--rounds', type=int, default=1)
  parser.add_argument('--processes', type=int, default=2)
  parser.add_argument('--text', default='pydoc')
  parser.add_argument('--tasks')
  parser.add_argument('--tiny', action='store_true')
  flags = parser.parse_args()
  megabytes = 0.5 if flags.tiny else flags.megabytes
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    write_corpus(folder, megabytes, flags.text.split(','))
    settings = [f'--config.data.tokenizer.path={folder}/tokenizer.json', '--config.data.tokenizer.vocab_size=None']
    settings += ['--config.data.tokenizer.sample_bytes=None', '--config.data.tokenizer.lowercase=None']
    ours = [sys.executable, '-m', 'lmjax.prepare', f'--config={CONFIGS}/pretrain_clm.py:data={folder}/*.jsonl']
    ours += [f'--config.data.cache_dir={folder}/ours', *settings]
    if flags.tasks:
      compare_tasks(folder, ours, list(map(int, flags.tasks.split(','))), flags.rounds)
      return
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
