"""What the same files give does not change: splits and their order, rows of tokens, labels, counts.

golden.json holds digests of them as they were when each record was a dict; `python -m tests.data.labelled.test_golden`
writes it.
"""

import csv
import hashlib
import json
import pathlib
import random
import tempfile

import numpy as np
import pytest

from lmjax import config as config_lib
from lmjax.data import records
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.tasks import prepare
from tests import runs
from tests.conftest import FINE_TUNING, config_dict, text

GOLDEN = pathlib.Path(__file__).parent / 'golden.json'
ODD = ['caf\u00e9', 'long\u2028line', 'one\x85two', '5" pipe', '\U0001f642 \u6587\u5b57', '\u00a0', '', 'a\\b', "it's"]


def texts(count: int) -> list[str]:
  """Of 1 to 20 words, some of them odd or empty; every 17th stands there twice."""
  found = [text(i, 1 + i % 20) if i % 5 else f'{text(i, i % 7)} {ODD[i // 5 % len(ODD)]}' for i in range(count)]
  found = [found[i - 1] if i % 17 == 16 else one for i, one in enumerate(found)]
  return ['\u00a0 ' if i % 40 == 7 else one for i, one in enumerate(found)]


def write_table(path, header, rows) -> None:
  """A .tsv as it is, a .csv with quotes where they are needed."""
  with open(path, 'w', encoding='utf-8', newline='') as file:
    if path.suffix == '.csv':
      csv.writer(file).writerows([header, *rows])
    else:
      file.write(''.join('\t'.join(row) + '\n' for row in [header, *rows]))


def write_files(folder: pathlib.Path) -> None:
  """Some hundred rows of each kind of record."""
  draw = random.Random(0)
  found = texts(400)
  labels = [draw.choice(['common'] * 20 + ['other'] * 4 + ['rare']) for _ in found]
  write_table(folder / 'one.tsv', ['text', 'label'], zip(found, labels))
  write_table(folder / 'two.tsv', ['text', 'label'], zip(found[::9] + texts(430)[400:], labels[::9] + ['other'] * 30))
  write_table(folder / 'one.csv', ['label', 'more', 'sentence'], zip(labels, reversed(found), found))
  write_table(folder / 'pairs.csv', ['a', 'b', 'gold'], zip(found, [f'{one}\n{one}' for one in found[::-1]], labels))
  write_table(folder / 'numbers.tsv', ['score', 'text'], [(f'{draw.gauss(3, 2):.3g}', one) for one in found])
  names = [draw.sample(['a', 'b b', 'caf\u00e9', 'd'], draw.randrange(4)) for _ in found]
  write_table(folder / 'many.tsv', ['text', 'labels'], [(one, '; '.join(some)) for one, some in zip(found, names)])
  with open(folder / 'many.jsonl', 'w', encoding='utf-8') as file:
    file.writelines(json.dumps({'text': one, 'labels': some}) + '\n' for one, some in zip(found[::3], names[::3]))
  with open(folder / 'summaries.jsonl', 'w', encoding='utf-8') as file:
    file.writelines(
      json.dumps({'article': text(i, 5 + i % 90), 'summary': text(-i, 1 + i % 12)}) + '\n' for i in range(200)
    )
  (folder / 'bad.tsv').write_bytes(
    b'text\tlabel\n' + b''.join(b'caf\xe9 %d\t%d\nb %d\t0\n' % (i, i % 2, i) for i in range(40))
  )
  (folder / 'squad.json').write_text(json.dumps(squad(60)), encoding='utf-8')
  (folder / 'squad2.json').write_text(json.dumps(squad(20, first=55)), encoding='utf-8')


def squad(count: int, first: int = 0) -> dict:
  """Articles of contexts of 5 to 150 words with four questions each, some without an answer, some misplaced."""
  draw, articles = random.Random(first), []
  for i in range(first, first + count):
    context = f'{text(i, 5 + 29 * i % 150)} {ODD[i % len(ODD)]} {text(-i, 9)}'
    questions = []
    for j in range(4):
      words = context.split(' ')
      at = draw.randrange(len(words))
      answer = ' '.join(words[at : at + draw.choice([1, 1, 2, 3, 30])])
      start = len(' '.join(words[:at])) + (at > 0) + 3 * (j == 1 and i % 5 == 0)
      answers = [] if (i + j) % 7 == 0 else [{'text': answer, 'answer_start': start}] * (1 + j % 2)
      questions.append({'id': f'{i}-{j}', 'question': f'{text(7 * i + j, 3 + j * i % 30)}?', 'answers': answers})
    articles.append({'title': str(i), 'paragraphs': [{'context': context, 'qas': questions}]})
  return {'version': '2.0', 'data': [*articles, {'title': 'none', 'paragraphs': []}]}


SHARED = {'data.valid_fraction': 0.2, 'data.length': 24}
PAIRS = {'data.fields': 'a,b,gold', 'data.train_share': 0.6}
BAD = {'data.bad_text': 'replace', 'data.train_share': 0.3}
WINDOWS = {'data.length': 64, 'objective.max_question': 12, 'objective.stride': 20, 'objective.max_answer': 8}
SUMMARY = {'data.length': 64, 'objective.max_summary': 10, 'objective.long_documents': 'head_tail'}
MANY = {'data.separator': ';', 'data.valid_fraction': None}
# name: (task, arguments of the config file, changes)
CASES = {
  'classes': ('classification', 'train=one.tsv', SHARED),
  'classes of a .csv': ('classification', 'train=one.csv', SHARED | {'data.valid_examples': 20}),
  'pairs': ('classification', 'train=pairs.csv', SHARED | PAIRS),
  'a file for each split': ('classification', 'train=one.tsv,valid=two.tsv,test=bad.tsv', BAD | {'data.length': 12}),
  'numbers': ('classification', 'train=numbers.tsv,target=number', SHARED),
  'many labels': ('classification', 'train=many.jsonl,target=many', SHARED),
  'many labels in a field': ('classification', 'train=many.tsv,valid=many.jsonl,target=many', SHARED | MANY),
  'questions': ('extractive_qa', 'train=squad.json', SHARED | WINDOWS),
  'questions of two files': (
    'extractive_qa',
    'train=squad.json,valid=squad2.json',
    WINDOWS | {'data.train_share': 0.5},
  ),
  'summaries': ('summarization', 'train=summaries.jsonl', SHARED | SUMMARY),
}


def digest(value) -> str:
  """Of anything that rows and records hold."""
  as_json = lambda one: one.tolist() if isinstance(one, np.ndarray | np.generic) else dict(one)
  return hashlib.sha256(json.dumps(value, sort_keys=True, default=as_json).encode()).hexdigest()[:16]


def config_of(folder, case: str, leaves: dict):
  """The Config of a case, with leaves changed."""
  task, argument, usual = CASES[case]
  named = [part.split('=') for part in argument.split(',')]
  argument = ','.join(f'{key}={folder}/{value}' if '.' in value else f'{key}={value}' for key, value in named)
  preset = 'mini' if task == 'summarization' else 'mini_encoder'
  changes = usual | {'data.max_unknown': 1.0} | leaves
  raw = config_dict(FINE_TUNING[task], f'preset={preset},{argument}', changes)
  if 'two.tsv' in argument:
    raw.objective.labels = ('common', 'other', 'rare', '0', '1')
  return config_lib.build(raw)


def measured(folder, case: str, tokenizer: Tokenizer) -> dict:
  """{name: digest or figure} of what a case gives."""
  config = config_of(folder, case, {})
  kind = prepare.class_of(config.task, config.objective)
  read = kind.read(config.data, tokenizer, 0, False)[1]
  found: dict = {f'records of {split}': digest([dict(one) for one in items]) for split, items in read.splits.items()}
  found |= {'contents': digest(read.contents), 'counts as read': read.counts}
  config, made, data = prepare.prepare(config, tokenizer)
  found |= {'counts': json.loads(json.dumps(data.counts)), 'line': made.describe(data)}
  for split, examples in data.splits.items():
    rows = examples.take(np.arange(len(examples)))
    batch = made.batch_of(rows, np.zeros(len(rows), np.uint64))
    found |= {f'batch of {split}': digest(batch), f'owners of {split}': digest(examples.owners)}
    found |= {f'read of {split}': digest(made.read_of(examples)), f'unread of {split}': made.unread(examples)}
  items = records.read_alone(config.data.train, config.data, kind.RECORDS or config.task, None, True)
  return found | {'read alone': digest([dict(one) for one in items[0]]), 'skipped': items[1]}


def made_tokenizers(folder) -> dict[str, Tokenizer]:
  """A byte-level one, and one that does not know all words."""
  words = runs.save_words(folder / 'words.json', 'the model reads a line of text rivers snow , .'.split())
  return {'bytes': train_tokenizer((text(i, 60) for i in range(200)), 320, 100_000), 'words': Tokenizer.load(words)}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  made = tmp_path_factory.mktemp('golden')
  write_files(made)
  return made


@pytest.fixture(scope='module')
def tokenizers_(folder):
  return made_tokenizers(folder)


@pytest.mark.parametrize('name', ['bytes', 'words'])
@pytest.mark.parametrize('case', CASES)
def test_the_same_files_give_the_same(folder, tokenizers_, case, name):
  expected = json.loads(GOLDEN.read_text())[f'{case}, {name}']
  assert json.loads(json.dumps(measured(folder, case, tokenizers_[name]))) == expected


if __name__ == '__main__':
  with tempfile.TemporaryDirectory() as place:
    write_files(pathlib.Path(place))
    made = made_tokenizers(pathlib.Path(place))
    golden = {f'{case}, {name}': measured(place, case, made[name]) for case in CASES for name in made}
  GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + '\n')
