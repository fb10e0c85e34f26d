"""What a start of fine-tuning costs on large files of labelled examples, the first and the second time.

  python experiments/benchmarks/data_records.py --data=squad_v1.1_dev_first24articles.json.xz --train=sst2_train.tsv

The questions of --data are repeated to 100,000 and the rows of --train to 1,000,000, each context and text with its own
number. Records are read; of questions all windows are made too, by a byte-level BPE and by a WordPiece of 8,192 entries
that are learned from the contexts. Each start is a process of its own: the first without what an earlier one kept, the
second with it. CPU seconds (user and system) after the imports, the highest resident memory of the process, and what
of that the imports had not taken. --tiny takes the smallest sizes, for a test.
"""

import argparse
import json
import lzma
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

import tokenizers
from contenders import CONFIGS

QUESTIONS, ROWS, VOCABULARY = 100_000, 1_000_000, 8_192


def write_questions(data: dict, count: int, path: pathlib.Path) -> list[str]:
  """A file in SQuAD's format with so many questions; returns the different contexts of the data."""
  articles, left, number = [], count, 0
  while left:
    for article in data['data']:
      paragraphs = []
      for paragraph in article['paragraphs']:
        asked = [question | {'id': f'{number}-{question["id"]}'} for question in paragraph['qas'][:left]]
        left -= len(asked)
        if asked:
          paragraphs.append({'context': f'{paragraph["context"]} {number}', 'qas': asked})
      articles.append({'title': article['title'], 'paragraphs': paragraphs})
    number += 1
  path.write_text(json.dumps({'data': articles, 'version': '1.1'}))
  return [paragraph['context'] for article in data['data'] for paragraph in article['paragraphs']]


def write_rows(lines: list[str], count: int, path: pathlib.Path) -> None:
  """A table of so many rows, whose texts begin with their number."""
  with path.open('w', encoding='utf-8') as file:
    file.write(lines[0] + '\n')
    file.writelines(f'{number} {lines[1 + number % (len(lines) - 1)]}\n' for number in range(count))


def save_tokenizers(texts: list[str], folder: pathlib.Path) -> None:
  """byte_level.json and wordpiece.json."""
  from lmjax.data.tokens.trainer import train_tokenizer

  train_tokenizer(texts, VOCABULARY, 2_000_000).save(str(folder / 'byte_level.json'))
  special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token='[UNK]'))
  backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
  backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
  backend.train_from_iterator(texts, trainer)
  backend.save(str(folder / 'wordpiece.json'))


def used() -> tuple[float, float]:
  """(CPU seconds, highest resident megabytes) of this process so far."""
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def start(file: str, tokenizer: str | None) -> dict[str, float]:
  """What a start on a file costs; of a table, without a tokenizer, its records alone."""
  from lmjax import config as config_lib
  from lmjax.data import records
  from lmjax.data.tokens.tokenizer import Tokenizer
  from lmjax.schema.command_line import load_config_file
  from lmjax.tasks import prepare

  task = 'sentiment' if tokenizer is None else 'qa'
  raw = load_config_file(CONFIGS / f'finetune_{task}.py', f'preset=mini_encoder,train={file}')
  raw.data.max_unknown = 1.0
  config = config_lib.build(raw)
  prepare.class_of(config.task, config.objective)  # imports it
  seconds, memory = used()
  if tokenizer is None:
    items = records.load(config.data, 'classification', config.seed).splits
  else:
    items = prepare.prepare(config, Tokenizer.load(tokenizer))[2].splits
  seconds, memory, before = used()[0] - seconds, used()[1], memory
  return {'seconds': seconds, 'peak': memory, 'added': memory - before, 'items': sum(map(len, items.values()))}


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--data', help="questions in SQuAD's format, .json.xz")
  parser.add_argument('--train', help='a .tsv of texts and labels')
  parser.add_argument('--tiny', action='store_true')
  parser.add_argument('--one', nargs='+', help=argparse.SUPPRESS)
  flags = parser.parse_args()
  if flags.one:
    print(json.dumps(start(flags.one[0], flags.one[1] if len(flags.one) > 1 else None)))
    return
  questions, rows = (160, 3_000) if flags.tiny else (QUESTIONS, ROWS)
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    with lzma.open(flags.data, 'rt', encoding='utf-8') as file:
      save_tokenizers(write_questions(json.load(file), questions, folder / 'squad.json'), folder)
    write_rows(pathlib.Path(flags.train).read_text(encoding='utf-8').splitlines(), rows, folder / 'rows.tsv')
    cases = {
      f'{rows:,} rows of .tsv: records': ['rows.tsv'],
      f'{questions:,} questions, byte-level: windows': ['squad.json', 'byte_level.json'],
      f'{questions:,} questions, WordPiece: windows': ['squad.json', 'wordpiece.json'],
    }
    print('| file | start | CPU seconds | peak, MB | above imports, MB | made |')
    print('|---|---|---|---|---|---|')
    for number, (name, files) in enumerate(cases.items()):
      environment = os.environ | {'LMJAX_CACHE': str(folder / f'cache {number}')}
      for which in ('first', 'second'):
        command = [sys.executable, __file__, '--one', *(str(folder / file) for file in files)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        one = json.loads(done.stdout.splitlines()[-1])
        costs = f'**{one["seconds"]:.2f}** | {one["peak"]:.0f} | {one["added"]:.0f}'
        print(f'| {name} | {which} | {costs} | {one["items"]:,} |', flush=True)


if __name__ == '__main__':
  main()
