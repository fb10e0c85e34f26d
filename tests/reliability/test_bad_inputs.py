"""Bad inputs of every kind: each gives its exit code and lines with value, rule and remedy, and changes no file."""

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import pathlib
import re
import shutil
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from lmjax import config as config_lib
from lmjax import evaluate, experiment, inspect, main, predict
from lmjax.checkpoint import checkpoints as checkpoint
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.schema import describe
from lmjax.tasks import prepare
from tests import runs
from tests.conftest import ROOT, text

CLM = f'--config={ROOT}/configs/pretrain_clm.py:smoke'
MLM = f'--config={ROOT}/configs/pretrain_mlm.py:smoke'
# A config that is that of a run, whatever made it: the run goes on.
AGAIN = """import json
from ml_collections import ConfigDict
def get_config():
  with open('run/config.json') as file:
    return ConfigDict(json.load(file))
"""
MEMORY = '/proc/self/mem'
LFS = 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
DOCUMENTS = ''.join(json.dumps({'text': text(i, 60)}) + '\n' for i in range(40))
LABELLED = 'text\tlabel\n' + ''.join(f'a text, number {i}\t{"ab"[i % 2]}\n' for i in range(8))
TOKENIZER = """{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
"pre_tokenizer": null, "post_processor": null, "decoder": null,
"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}}"""


class Case(NamedTuple):
  """What is typed, and what must come of it.

  Attributes:
    code: the exit code.
    flags: the command line.
    says: what the message holds: value, rule, remedy.
    files: what lies in the current folder.
    damage: called with the workdir of a pre-trained run, which then lies there as `run`; None: it does not.
    tuned: whether it is a fine-tuned run instead.
    links: what lies there elsewhere.
    command: the module that is run.
  """

  code: int
  flags: list[str]
  says: tuple[str, ...]
  files: dict[str, str | bytes] = {}
  damage: Callable[[pathlib.Path], object] | None = None
  tuned: bool = False
  links: dict[str, str] = {}
  command: ModuleType = main


def case(name: str, code: int, flags: list[str], *says: str, **more):
  return pytest.param(Case(code, flags, says, **more), id=name)


def intact(run):
  """A run as it was left."""


def leaf(name: str, assignment: str, *says: str, base: str = CLM, **more):
  """A config in which one leaf is wrong."""
  return case(name, 2, [base, *(f'--config.{one}' for one in assignment.split())], *says, **more)


def python(name: str, code: str, *says: str, argument: str = ''):
  """A config file that is wrong."""
  return case(name, 2, [f'--config=c.py{argument}'], *says, files={'c.py': code})


CONFIG = 'from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict(dict({}))\n'
COMMAND_LINES = [
  case('no config', 2, [], '--config: missing', 'name a config file', 'configs/pretrain_clm.py'),
  case('unknown flag', 2, [CLM, '--workdri=a'], '--workdri = a', 'unknown flag', 'did you mean --workdir?'),
  case('flag without a value', 2, [CLM, '--workdir'], '--workdir', 'has no value', 'give --workdir=VALUE'),
  case('config file without its flag', 2, ['c.py'], 'c.py', 'not a flag', 'did you mean --config=c.py?'),
  case('bare word', 2, [CLM, 'please'], 'please', 'unknown flag', 'the flags are --config, --workdir'),
  case('leaf without a value', 2, [CLM, '--config.train.steps'], 'train.steps', 'has no value', 'steps=VALUE'),
  leaf('leaf with an empty value', 'train.steps=', 'train.steps', 'has no value', 'give --config.train.steps=VALUE'),
  leaf('leaf of another type', 'train.steps=often', 'train.steps = often', 'must be an int', 'give a value such as'),
  leaf('unknown leaf', 'optim.learnin_rate=1', 'learnin_rate = 1', 'unknown key', 'did you mean optim.learning_rate?'),
  leaf(
    'section in place of a leaf',
    'model=big',
    'model = big',
    'is a section',
    'set one of its settings, --config.model.NAME',
  ),
  case('control characters', 2, [CLM, '--config.train.steps=\n\x1b'], r'train.steps = \n\x1b', 'an int', 'such as 300'),
  case(
    'several at once',
    2,
    [CLM, '--workdri=a', '--config.optim.b3=1', '--config.train.steps=x', '--config.model.heads=5'],
    *('--workdri = a', 'unknown flag', 'did you mean --workdir?'),
    *('optim.b3 = 1', 'unknown key', 'remove it; optim has name'),
    *('train.steps = x', 'must be an int or None', 'give a value such as'),
    *('model.heads = 5', 'must divide model.width = 64', 'choose one of [1, 2,'),
  ),
  case('config file that is not there', 2, ['--config=no.py'], 'no.py', 'no such file', 'give --config=FILE.py'),
  case(
    'config file of another kind', 2, ['--config=c.yaml'], 'c.yaml', 'must be a .py', 'FILE.py', files={'c.yaml': ''}
  ),
  case('config file is a folder', 2, ['--config=c.py'], 'c.py', 'must be a .py file', 'FILE.py', files={'c.py/a': ''}),
  python(
    'config file that raises', 'def get_config():\n  return {}["a"]\n', 'c.py:2', "KeyError: 'a'", 'fix the config'
  ),
  python('config file that exits', 'raise SystemExit("no")\n', 'c.py:1', 'SystemExit: no', 'fix the config file'),
  python('config file with a syntax error', 'def f(:\n', 'c.py:1', 'SyntaxError', 'fix the config file'),
  python('config file of bytes', b'\xff\x00', 'c.py', 'SyntaxError', 'fix the config file'),
  python('config file without get_config', 'a = 1\n', 'c.py', 'has no get_config', 'define get_config(argument)'),
  python('config of a wrong type', 'def get_config():\n  return 3\n', 'c.py', 'returned a int', 'return an ml_coll'),
  python('argument that is not taken', CONFIG.format(''), 'c.py', "no argument, but got 'a'", 'give', argument=':a'),
  case('unknown argument', 2, [f'{CLM},dta=x'], 'argument dta = x', 'unknown argument', 'did you mean data?'),
  case(
    'argument of another type',
    2,
    [CLM + ',smoke=x'],
    'argument smoke = x',
    'must be a bool',
    'give a value such as True',
  ),
  case('unknown preset', 2, [CLM.replace('smoke', 'preset=gpt2_big')], 'gpt2_big', 'no such preset', 'did you mean'),
  case(
    'preset of the other kind', 2, [CLM.replace('smoke', 'preset=bert_base')], 'bert_base', 'bidirectional', 'choose'
  ),
  case('impossible dry run', 2, [CLM, '--dry_run=cpu:0'], '--dry_run = cpu:0', 'a number of CPU', 'nearest is cpu:1'),
  case('dry run of nothing', 2, [CLM, '--dry_run=mine'], '--dry_run = mine', 'must be as v5e:2x4', 'try v5e:2x4'),
  case('predict without a run', 2, ['text'], '--workdir: missing', 'name the folder of a run', command=predict),
  case('predict with a config', 2, ['--workdir=a', CLM], CLM[9:], 'has no effect', 'leave it out', command=predict),
  case(
    'predict texts and a file',
    2,
    ['--workdir=a', '--file=b', 'c'],
    '--file = b',
    'not with texts',
    'leave one',
    command=predict,
  ),
  case(
    'inspect a step that is none', 2, [CLM, '--batch=-1'], '--batch = -1', '0 or more', '--batch=0', command=inspect
  ),
  case('inspect of nothing', 2, [], '--config, --workdir', 'exactly one is needed', '--workdir=DIR', command=inspect),
  case('evaluate a word', 2, ['--workdir=a', 'b'], 'b: unknown flag', 'the flags are', '--data', command=evaluate),
  case(
    'evaluate with leaves', 2, ['--workdir=a', '--config.seed=1'], 'seed = 1', 'no effect', 'leave', command=evaluate
  ),
]

CONFIGS = [
  leaf('negative', 'train.steps=-5', 'train.steps = -5', 'must be 0 or more', 'give a value such as'),
  leaf('huge', 'train.steps=1e99', 'train.steps = 1e99', 'must fit into 64 bits', 'give a value such as'),
  leaf('huge seed', 'seed=1e30', 'seed = 1e30', 'must fit into 64 bits', 'give a value such as 300'),
  leaf('not a number', 'optim.learning_rate=nan', 'learning_rate = nan', 'must be a finite number', 'such as 0.1'),
  leaf('infinite', 'optim.learning_rate=1e400', 'learning_rate = 1e400', 'must be a finite number', 'such as 0.1'),
  leaf('zero', 'eval.every=0', 'eval.every = 0', 'must be 1 or more', 'give a value such as'),
  leaf('not one of the choices', 'model.dtype=float64', 'dtype = float64', "'float32' or 'bfloat16'", 'did you mean'),
  leaf('share beyond one', 'samples.top_p=2', 'samples.top_p = 2', 'must be below 1', 'set it to None'),
  leaf('heads that do not divide', 'model.heads=5', 'model.heads = 5', 'must divide model.width = 64', 'choose one of'),
  leaf('odd heads', 'model.width=12', 'heads = 4', 'odd width 3, rotary positions need', 'change it, or model.width'),
  leaf(
    'nothing to do', 'train.steps=None', 'train.steps = None', 'must be given when pre-tr', 'give a number of batches'
  ),
  leaf('leaf without effect', 'optim.momentum=0.9', 'momentum = 0.9', 'has no effect with adamw', 'set it to None'),
  leaf(
    'leaf that is needed', 'optim.schedule=wsd', 'decay_steps = None', 'is needed with wsd', 'give a number of batches'
  ),
  leaf('warm-up too long', 'optim.warmup_steps=99', 'warmup_steps = 99', 'fit into train.steps = 20', 'shorten'),
  leaf(
    'rows longer than the model',
    'model.positions=learned model.rope_theta=None model.max_length=8',
    'data.length = 64',
    'model.max_length = 8',
    'shorten it, or lengthen the table',
  ),
  leaf(
    'batch for other devices', 'data.batch_size=9', 'batch_size = 9', 'divisible by mesh.data x mesh.fsdp = 8', 'change'
  ),
  leaf('mesh too small', 'mesh.data=3', 'mesh.data = 3', 'must make 8 devices', 'the nearest mesh is data='),
  leaf('mesh too large', 'mesh.fsdp=16', 'mesh.fsdp = 16', 'must make 8 devices', 'the nearest mesh is data=1, fsdp=8'),
  leaf('tiny vocabulary', 'data.tokenizer.vocab_size=10', 'vocab_size = 10', '263 or more: 256 bytes', 'set it to 263'),
  leaf(
    'huge vocabulary', 'data.tokenizer.vocab_size=1e18', f'vocab_size = {10**18}', 'at most 16,777,216', 'set it to'
  ),
  leaf('all held out', 'data.valid_fraction=1.0', 'valid_fraction = 1.0', 'must be below 1', 'set it to 0.1'),
  case(
    'cache at an address that nothing reads',
    3,
    [CLM, '--config.data.cache_dir=nowhere://a'],
    'nowhere://a/',
    'nothing reads nowhere://',
    'copy the files to one of these',
  ),
  leaf(
    'named corpus in part', 'data.sources.new.path=a.txt', 'data.sources.new', 'no such entry', 'a new one needs path'
  ),
  leaf('another task', 'task=gpt', 'task = gpt', "must be 'causal_lm' or", 'give one of these'),
  leaf('attention of the other objective', 'model.attention=causal', "'causal'", 'bidirectional', 'preset', base=MLM),
  leaf('adapter without its leaves', 'model.lora.rank=8', 'model.lora.alpha', 'missing', 'add it to the config'),
  python('empty config', CONFIG.format(''), 'task: missing', 'add it to the config', 'model: missing'),
  python(
    'values of any type',
    CONFIG.format('task=[], seed=float("nan"), model=object(), data={1: 2}'),
    *(
      'task = []',
      'give one of these',
      'seed = nan',
      'must be an int',
      'model = <object',
      'must be a section',
    ),
  ),
]


def corpus(name: str, file: str, content: str | bytes | None, *says: str, leaves: str = '', **more):
  """Pre-training on a file that is wrong."""
  flags = [f'{CLM},data={file}', *(f'--config.{one}' for one in leaves.split())]
  return case(name, 3, flags, *says, files={} if content is None else {file: content}, **more)


FILES = [
  # found after the workdir was made, which goes again
  corpus(
    'too little text for a row',
    'a.jsonl',
    ''.join(f'{{"text": "{i} a"}}\n' for i in range(12)),
    'tokens of training text',
    'one row takes 65',
    'lower data.length',
    leaves='data.valid_fraction=0.3',
  ),
  case(
    'a pattern that matches nothing',
    2,
    [CLM + ',data=a.jsonl', '--config.optim.frozen=no/such'],
    "optim.frozen = 'no/such'",
    'matches no parameter',
    'correct it',
    files={'a.jsonl': DOCUMENTS},
  ),
  corpus('missing file', 'no.txt', None, 'no.txt', 'there is no such file', 'check the path (relative to'),
  corpus('glob without a match', 'no/*.txt', None, 'no/*.txt', 'the glob matches no file', 'check the path'),
  corpus('empty file', 'a.txt', '', 'a.txt', 'holds no document with text (1 empty', 'check the path'),
  corpus('white space', 'a.txt', ' \n\n', 'a.txt', 'holds no document with text (1 empty', 'check the path'),
  corpus('empty archive', 'a.jsonl.gz', b'', 'a.jsonl.gz', 'holds no document', 'check the path'),
  case(
    'folder without text',
    3,
    [CLM + ',data=a'],
    'a: a folder without a file that is read (.pdf 1)',
    'its files must end in one of .txt',
    'check the path',
    files={'a/b.pdf': ''},
  ),
  case(
    'splits in a folder',
    3,
    [CLM + ',data=a'],
    'a: holds the splits test, train',
    'a source must be one of them',
    'write a/train',
    files=dict.fromkeys(('a/dataset_dict.json', 'a/train/data-0-of-1.arrow', 'a/test/data-0-of-1.arrow'), '{}'),
  ),
  corpus('binary file', 'a.txt', bytes(range(256)), 'a.txt, document 1', '0x80 at offset 128 is not UTF-8', 'fix it'),
  corpus('UTF-16', 'a.txt', 'ab'.encode('utf-16'), 'a.txt: is UTF-16', 'must be UTF-8', 'save it as that'),
  corpus(
    'Latin-1 in JSON',
    'a.jsonl',
    b'{"text": "caf\xe9"}',
    'a.jsonl, line 1',
    'character 3 is the byte 0xe9',
    'data.bad_text',
  ),
  corpus(
    'all of it skipped',
    'a.jsonl',
    b'{"text": "\xe9"}',
    'a.jsonl',
    '1 skipped for bad',
    'check',
    leaves='data.bad_text=skip',
  ),
  corpus('not gzip', 'a.jsonl.gz', DOCUMENTS, 'a.jsonl.gz', 'Not a gzipped file', 'download or compress it again'),
  corpus(
    'gzip cut short', 'a.txt.gz', gzip.compress(DOCUMENTS.encode())[:-99], 'a.txt.gz', 'must be whole', 'download'
  ),
  corpus('not xz', 'a.jsonl.xz', DOCUMENTS, 'a.jsonl.xz', 'a compressed file must be whole', 'download or compress'),
  corpus('xz cut short', 'a.txt.xz', lzma.compress(DOCUMENTS.encode())[:-99], 'a.txt.xz', 'must be whole', 'download'),
  corpus(
    'bzip2 cut short', 'a.jsonl.bz2', bz2.compress(DOCUMENTS.encode())[:-9], 'a.jsonl.bz2', 'must be whole', 'load'
  ),
  corpus('not zstd', 'a.jsonl.zst', DOCUMENTS, 'a.jsonl.zst', 'a compressed file must be whole', 'download'),
  corpus('pointer of Git LFS', 'a.parquet', LFS, 'a.parquet: is a Git LFS pointer', 'must be there', '`git lfs pull`'),
  corpus(
    'page instead of a file', 'a.parquet', '<!doctype html><p>404', 'a.parquet: is a web page', 'download the file'
  ),
  corpus('parquet cut short', 'a.parquet', b'PAR1' + bytes(99), 'a.parquet: cannot be read', 'must be whole', 'again'),
  corpus('ending of something else', 'a.pdf', DOCUMENTS, 'a.pdf: .pdf is not read', 'convert it to text'),
  corpus('unknown ending', 'a.xyz', DOCUMENTS, 'a.xyz', 'unknown ending', '.jsonl', 'rename or convert the file'),
  corpus('no ending', 'a', DOCUMENTS, 'a: unknown ending', 'must end in one of', 'rename or convert the file'),
  # root may open every file; this one fails when it is read
  corpus(
    'unreadable file', 'a.txt', None, 'a.txt: Input/output error', 'must be readable', 'check', links={'a.txt': MEMORY}
  ),
  corpus('one document', 'a.txt', 'a text', 'a.txt', 'every document is held out', 'add documents'),
  corpus('address that nothing reads', 'x://a/b.txt', None, 'x://a/b.txt', 'nothing reads x://', 'copy the files'),
  corpus(
    'cache is a file',
    'a.jsonl',
    DOCUMENTS,
    'a.jsonl: File exists',
    'data.cache_dir must be a folder',
    'name another',
    leaves='data.cache_dir=a.jsonl',
  ),
  case('workdir is a file', 2, [CLM, '--workdir=a'], '--workdir = a', 'is a file', 'name a folder', files={'a': ''}),
  case(
    'checkpoints are a file',
    2,
    [CLM, '--workdir=a'],
    '--workdir = a',
    'its checkpoints is a file',
    'choose another',
    files={'a/checkpoints': ''},
  ),
]


def examples(
  name: str, content: str | bytes, *says: str, ending: str = 'tsv', valid: str | None = None, task='sentiment'
):
  """Fine-tuning on examples that are wrong."""
  config = {'sentiment': 'preset=mini', 'summarization': 'preset=mini', 'qa': 'preset=mini_encoder'}[task]
  flags = [f'--config={ROOT}/configs/finetune_{task}.py:{config},train=t.{ending},valid=v.{ending}']
  return case(name, 3, flags, *says, files={f't.{ending}': content, f'v.{ending}': content if valid is None else valid})


def squad(context='The cat sat.', **changes) -> str:
  """A file in SQuAD's format with one question; a change of None leaves the field out."""
  question = {'id': '1', 'question': 'Who sat?', 'answers': [{'text': 'cat', 'answer_start': 4}]} | changes
  question = {name: value for name, value in question.items() if value is not None}
  return json.dumps({'data': [{'paragraphs': [{'context': context, 'qas': [question]}]}]})


def question(name: str, content: str, *says: str, valid=squad('A dog ran.', id='2', answers=[])):  # noqa: B008
  return examples(name, content, *says, ending='json', valid=valid, task='qa')


RECORDS = [
  corpus('line that is a list', 'a.jsonl', '[1]\n', 'a.jsonl, line 1', 'a JSON list', 'write {"text": ...}'),
  corpus('line that is broken', 'a.jsonl', DOCUMENTS + '{"text"\n', 'a.jsonl, line 41', 'broken JSON', 'fix or drop'),
  corpus('line without end of brackets', 'a.jsonl', '[' * 99_999, 'a.jsonl, line 1', 'broken JSON', 'fix or drop'),
  corpus(
    'line without the field', 'a.jsonl', '{"body": "a"}', "line 1: no field 'text'", 'must hold', 'fields there: body'
  ),
  corpus(
    'text that is a number', 'a.jsonl', '{"text": 3}', "'text' is of type int", 'be a string', 'name another field'
  ),
  corpus('half a character', 'a.jsonl', '{"text": "\\ud800"}', 'a.jsonl, line 1', 'surrogate U+D800', 'data.bad_text'),
  examples('short row', LABELLED + 'a\n', 't.tsv, line 10', '1 fields', 'each row must have as many', 'fix the row'),
  examples('long row', LABELLED + 'a\tb\tc\n', 't.tsv, line 10: 3 fields', 'each row must have as many', 'fix the row'),
  examples('no header', LABELLED[11:], "t.tsv, line 2: no field 'text'", 'is to hold the text', 'set data.fields'),
  examples('header alone', 'text\tlabel\n', 'data.train = t.tsv', 'no example', 'add examples, or name another file'),
  examples('empty split', LABELLED, 'data.valid = v.tsv', 'no example', 'add examples', valid='text\tlabel\n'),
  examples(
    'quote that does not end', 'text,label\n"a,b\nc,d\n', 't.csv, line 2', 'a quote that opens', 'fix it', ending='csv'
  ),
  examples(
    'table that is not UTF-8', LABELLED.encode() + b'\xe9\ta\n', 't.tsv, line 10', 'is the byte 0xe9', 'data.bad_text'
  ),
  examples(
    'label that is a list', '{"text": "a", "label": []}', 'line 1', 'of type list', 'name another', ending='jsonl'
  ),
  examples(
    'label that is a fraction', '{"text": "a", "label": 0.5}', 'line 1', 'of type float', 'name', ending='jsonl'
  ),
  examples(
    'unknown label',
    LABELLED,
    'data.valid, example 0',
    "label 'c'",
    'must be one of a, b',
    'correct it',
    valid='text\tlabel\nz\tc\n',
  ),
  examples(
    'one label',
    'text\tlabel\na\tx\nb\tx\n',
    "have the label 'x'",
    'two are needed',
    'add examples of another',
    valid='text\tlabel\nz\tx\n',
  ),
  examples(
    'examples of the other split', LABELLED, 't.tsv', 'each example stands in another split', 'name another file'
  ),
  examples('examples in a text file', 'a', 't.txt', 'unknown ending', 'rename or convert the file', ending='txt'),
  examples(
    'no summary',
    '{"document": "a"}',
    "line 1: no field 'summary'",
    'hold the summary',
    'set data.fields',
    ending='jsonl',
    task='summarization',
  ),
  question('numbers in a list', '[1]', 't.json, item 1', 'a JSON int; each item must be one object', 'write [{...}'),
  question('questions cut short', squad()[:-9], 't.json', 'broken JSON', 'the file must be one object', 'fix it'),
  question('articles without paragraphs', '{"data": [{}]}', 't.json', "KeyError: 'paragraphs'", 'see rajpurkar'),
  question('no id', squad(id=None), 't.json', "not in SQuAD's format (KeyError: 'id')", 'see rajpurkar'),
  question(
    'no question', squad(question=None), "t.json, question 1: no field 'question'", 'is to hold', 'fix the record'
  ),
  question(
    'context that is a number', squad(3), "field 'context' is of type int", 'must be a string', 'fix the record'
  ),
  question(
    'answer without its start',
    squad(answers=[{'text': 'cat'}]),
    "question 1: answers: KeyError: 'answer_start'",
    'each must have text and answer_start',
    'fix the record',
  ),
  question('answer in a word', squad(answers='cat'), 'question 1: answers: TypeError', 'each must have text', 'fix'),
  question(
    'answer at infinity', squad().replace(': 4', ': 1e999'), 'question 1: answers: OverflowError', 'each', 'fix'
  ),
  question(
    'answer not in the context',
    squad(answers=[{'text': 'dog', 'answer_start': 4}]),
    'data.train',
    'no question has an answer that stands in its context',
    'check answers and answer_start',
  ),
  question(
    'two of the same id',
    squad(),
    'data.valid: 2 questions',
    "have the id '2'",
    'give each its own',
    valid=json.dumps({'data': json.loads(squad('A dog.', id='2'))['data'] * 2}),
  ),
]


def tokenizer(name: str, content: str | bytes | None, *says: str, base: str = f'{CLM},data=a.jsonl'):
  """A tokenizer.json that is wrong, whatever it knows."""
  flags = [f'--config.data.tokenizer.{one}=None' for one in ('vocab_size', 'sample_bytes', 'lowercase')]
  flags += ['--config.data.max_unknown=1']
  files = {'a.jsonl': DOCUMENTS} | ({} if content is None else {'t.json': content})
  return case(name, 3, [base, '--config.data.tokenizer.path=t.json', *flags], *says, files=files)


TOKENIZERS = [
  tokenizer('tokenizer that is not there', None, 't.json: cannot be read', 'must exist', 'check the path'),
  tokenizer(
    'tokenizer that is not JSON',
    '{',
    't.json: not a tokenizer (EOF',
    'Hugging Face format',
    'download it, or save it with',
  ),
  tokenizer(
    'tokenizer of other JSON',
    '{"a": 1}',
    't.json: not a tokenizer',
    'Hugging Face format',
    'download it, or save it with',
  ),
  tokenizer(
    'tokenizer that is empty', '', 't.json: not a tokenizer', 'Hugging Face format', 'download it, or save it with'
  ),
  tokenizer('tokenizer of bytes', b'\xff\xfe', 't.json: cannot be read', "'utf-8' codec", 'check the path'),
  tokenizer(
    'tokenizer without a mask',
    TOKENIZER,
    't.json: has no mask token',
    'needs one',
    'add it with',
    base=MLM + ',data=a.jsonl',
  ),
  tokenizer(
    'tokenizer without tokens',
    TOKENIZER.replace('"a": 0, "b": 1', ''),
    't.json: not a tokenizer',
    'download it, or save it with',
  ),
  leaf(
    'tokenizer to load and to train', 'data.tokenizer.path=t.json', 'vocab_size = 768', 'must be None', 'set it to None'
  ),
  tokenizer(
    'tokenizer of a task without its end',
    TOKENIZER,
    *('t.json: has no eos token', 'this objective needs one', 'add it with'),
    base=f'--config={ROOT}/configs/finetune_sentiment.py:demo,preset=mini',
  ),
]


def steps(run) -> list[pathlib.Path]:
  return sorted((run / 'checkpoints').iterdir())


def manifests(**changes):
  """A damage: other entries in all manifests, whose checksums are right."""

  def damage(run):
    for step in steps(run):
      runs.edit_manifest(run, int(step.name), edit)

  def edit(found):
    for name, change in changes.items():
      found[name] = change(found[name]) if callable(change) else change

  return damage


def array(path: str, **facts):
  """A damage: other facts of one array."""
  return manifests(arrays=lambda arrays: arrays | {path: arrays[path] | facts})


def no_manifests(run):
  for step in steps(run):
    (step / 'manifest' / 'manifest.json').unlink()


def cut_arrays(run):
  for file in (run / 'checkpoints').rglob('d/*'):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_manifests(run):
  for step in steps(run):
    file = step / 'manifest' / 'manifest.json'
    file.write_text(file.read_text()[:99])


def no_arrays(run):
  for step in steps(run):
    shutil.rmtree(step / 'state')


def no_checkpoints(run):
  for step in steps(run):
    shutil.rmtree(step)


def written(name: str, content: str | bytes):
  """A damage: one file has another content."""
  return lambda run: (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def wrong_digests(run):
  manifests(arrays=lambda arrays: {path: facts | {'digest': '0' * 64} for path, facts in arrays.items()})(run)


def resumed(name: str, damage, *says: str, leaves: str = '', code: int = 4):
  """The same command again, in a workdir that is damaged, or of another run."""
  flags = ['--config=again.py', '--workdir=run', *(f'--config.{one}' for one in leaves.split())]
  return case(name, code, flags, *says, files={'again.py': AGAIN}, damage=damage)


def opened(name: str, command, damage, *says: str, flags: tuple[str, ...] = (), code: int = 4, **more):
  """A run that is looked at."""
  return case(name, code, ['--workdir=run', *flags], *says, damage=damage, command=command, **more)


CHECKPOINTS = [
  resumed(
    'no manifest', no_manifests, 'none of 2 checkpoints is intact', 'no readable manifest', 'choose a new --workdir'
  ),
  resumed(
    'manifests cut short', cut_manifests, 'run/checkpoints', 'none of 2 checkpoints is intact', 'restore them from'
  ),
  resumed(
    'newer schema', manifests(schema=99), 'manifest.json: schema 99', 'reads schema 2 alone', 'install the newer'
  ),
  resumed(
    'older schema', manifests(schema=1), 'manifest.json: schema 1', 'reads schema 2 alone', 'use the lmjax that wrote'
  ),
  resumed('arrays cut short', cut_arrays, 'run/checkpoints', 'none of 2 checkpoints is intact', 'restore them from'),
  resumed('no arrays', no_arrays, 'run/checkpoints', 'none of 2 checkpoints is intact', 'restore them from a copy'),
  resumed(
    'arrays that are others', wrong_digests, 'none of 2 checkpoints is intact', 'differ from their digests', 'restore'
  ),
  resumed(
    'fewer steps than it has', intact, 'train.steps = 2', 'is at step 6 already', 'raise it', leaves='train.steps=2'
  ),
  resumed(
    'another model', intact, 'mlp_width = 128', 'were made with 64', 'use the same', leaves='model.mlp_width=128'
  ),
  resumed(
    'another optimizer',
    intact,
    'optim.name = lion',
    'were made with adamw',
    'choose a new --workdir',
    leaves='optim.name=lion optim.eps=None',
  ),
  case(
    'workdir of another task',
    4,
    [f'{MLM},data=a.jsonl', '--workdir=run'],
    'task = masked_lm',
    'made with causal_lm',
    'choose a new --workdir',
    files={'a.jsonl': DOCUMENTS},
    damage=intact,
  ),
  resumed(
    'several seeds in it',
    intact,
    'train.seeds = 2',
    'run holds one run',
    'choose a new',
    leaves='train.seeds=2',
    code=2,
  ),
  case(
    'predict with no run', 4, ['--workdir=a', 'b'], 'a/config.json', 'no such file', 'that lmjax.main', command=predict
  ),
  case(
    'predict with a file',
    4,
    ['--workdir=a', 'b'],
    'a/config.json',
    'Not a directory',
    'give --workdir',
    command=predict,
    files={'a': ''},
  ),
  opened(
    'predict with no checkpoint',
    predict,
    no_checkpoints,
    '--workdir = run',
    'no checkpoint',
    'let that run reach',
    flags=('text',),
  ),
  opened(
    'predict after pre-training',
    predict,
    intact,
    'causal_lm is pre-training',
    'try python -m lmjax.inspect',
    flags=('text',),
    code=2,
  ),
  opened(
    'step that is not there',
    inspect,
    intact,
    '--step = 4',
    'not among the checkpoints',
    'choose one of [3, 6]',
    flags=('--step=4',),
  ),
  opened(
    'inspect a newer schema', inspect, manifests(schema=99), 'schema 99', 'reads schema 2 alone', 'install the newer'
  ),
  opened(
    'evaluate without a manifest', evaluate, no_manifests, '6/manifest/manifest.json', 'no readable', 'choose another'
  ),
  opened(
    'inspect arrays that are others', inspect, wrong_digests, 'checkpoints/6', 'differ from', 'choose another step'
  ),
  opened('inspect arrays cut short', inspect, cut_arrays, 'checkpoints/6', 'cannot be read', 'choose another step'),
  opened('inspect no arrays', inspect, no_arrays, 'run/checkpoints/6', 'cannot be read', 'choose another step'),
  opened('config.json cut short', inspect, written('config.json', '{'), 'config.json', 'not JSON', 'folder is damaged'),
  opened(
    'config.json of another kind', inspect, written('config.json', '[]'), 'config.json', 'holds no object', 'damaged'
  ),
  opened(
    'tokenizer.json cut short',
    inspect,
    written('tokenizer.json', '{'),
    'run/tokenizer.json',
    'not a tokenizer',
    'save',
    code=3,
  ),
  opened(
    'evaluate on a missing file',
    evaluate,
    intact,
    'no.txt',
    'there is no such file',
    'check the path',
    flags=('--data=no.txt',),
    code=3,
  ),
  opened(
    'evaluate fields of text',
    evaluate,
    intact,
    '--fields = a,b',
    'has no effect',
    'leave it out',
    flags=('--fields=a,b',),
    code=2,
  ),
  opened(
    'pairs that are not there',
    inspect,
    intact,
    '--minimal_pairs = no.tsv',
    'No such file',
    'give a readable file',
    flags=('--minimal_pairs=no.tsv',),
    code=3,
  ),
  opened(
    'pairs of one sentence',
    inspect,
    intact,
    'a.tsv:1',
    "'one sentence': must be a good and a bad",
    'fix it',
    flags=('--minimal_pairs=a.tsv',),
    code=3,
    files={'a.tsv': 'one sentence\n'},
  ),
  opened(
    'word that is none',
    inspect,
    intact,
    "--neighbors = ' '",
    'is empty',
    'give words',
    flags=('--neighbors= ',),
    code=2,
  ),
  opened(
    'file to predict that is not there',
    predict,
    intact,
    'no.tsv',
    'there is no such file',
    'check the path',
    flags=('--file=no.tsv',),
    code=3,
    tuned=True,
  ),
  opened(
    'text to predict that is empty',
    predict,
    intact,
    'a.txt',
    'holds no text',
    'give some',
    flags=('--file=a.txt',),
    code=3,
    tuned=True,
    files={'a.txt': '\n'},
  ),
  opened(
    'question to a classifier',
    predict,
    intact,
    '--question = a',
    'no meaning for classification',
    'leave it out',
    flags=('--question=a', 'b'),
    code=2,
    tuned=True,
  ),
  opened(
    'evaluate unknown labels',
    evaluate,
    intact,
    "example 0 (the first is 0): label 'c'",
    'must be one of bad, good',
    'correct it',
    flags=('--data=a.tsv',),
    code=3,
    tuned=True,
    files={'a.tsv': 'text\tlabel\na\tc\n'},
  ),
]


def handed(name: str, damage, *says: str, leaves: str = '', path: str = 'run', code: int = 4):
  """Fine-tuning from a checkpoint that does not fit."""
  flags = [f'--config={ROOT}/configs/finetune_sentiment.py:demo', f'--config.init_from.path={path}']
  return case(name, code, [*flags, *(f'--config.{one}' for one in leaves.split())], *says, damage=damage)


def another_tokenizer(run):
  file = run / 'tokenizer.json'
  facts = json.loads(file.read_text())
  facts['model']['vocab']['another'] = max(facts['model']['vocab'].values()) + 1
  file.write_text(json.dumps(facts))


def tokenizer_beside(run):
  shutil.copy(run / 'tokenizer.json', run.parent / 'mine')
  another_tokenizer(run)
  os.replace(run / 'tokenizer.json', run.parent / 't.json')
  os.replace(run.parent / 'mine', run / 'tokenizer.json')


def left_over(run):
  manifests(arrays=lambda arrays: arrays | {'params/more/kernel': arrays[KERNEL]})(run)


KERNEL = 'params/layers/0/attention/query/kernel'
GIVEN = ' '.join(f'data.tokenizer.{one}=None' for one in ('vocab_size', 'sample_bytes', 'lowercase'))
HAND_OFFS = [
  handed(
    'path without a run', intact, 'init_from.path = no', 'no such folder', 'run the pre-training first', path='no'
  ),
  handed(
    'run without a checkpoint', no_checkpoints, 'init_from.path = run', 'no checkpoint there', 'run the pre-training'
  ),
  handed(
    'hand-off of a step that is not there',
    intact,
    'init_from.step = 4',
    'not among the checkpoints',
    'one of [3, 6]',
    leaves='init_from.step=4',
  ),
  handed(
    'folder of a step that is not there',
    intact,
    'init_from.step = 9',
    'not among',
    'choose one of [3, 6]',
    path='run/checkpoints/9',
  ),
  handed(
    'two steps',
    intact,
    'init_from.step = 3',
    'init_from.path names step 6',
    'leave it at latest',
    path='run/checkpoints/6',
    leaves='init_from.step=3',
  ),
  handed(
    'step that is none',
    intact,
    'init_from.step = oldest',
    "'latest' or 'best' or an int",
    'did you mean',
    code=2,
    leaves='init_from.step=oldest',
  ),
  handed(
    'manifest without a model', manifests(model=None), 'init_from.path', 'names no model', 'choose another checkpoint'
  ),
  handed('model that is a list', manifests(model=[1]), 'init_from.path', 'names no model', 'choose another checkpoint'),
  handed(
    'hand-off of a newer schema', manifests(schema=99), 'schema 99', 'reads schema 2 alone', 'install the newer lmjax'
  ),
  handed(
    'hand-off of an older schema', manifests(schema=1), 'schema 1', 'reads schema 2 alone', 'use the lmjax that wrote'
  ),
  handed(
    'tokenizer that was changed', another_tokenizer, 'run/tokenizer.json', 'was trained with', 'put the tokenizer of'
  ),
  handed(
    "tokenizer of one's own",
    tokenizer_beside,
    'data.tokenizer.path = t.json',
    'was trained with',
    'set data.tok',
    leaves=f'data.tokenizer.path=t.json {GIVEN}',
  ),
  handed(
    'vocabulary of another size',
    array('params/embeddings/token/embedding', shape=[99, 32]),
    'has shape [99, 32]',
    'the model needs [320, 32]',
    'use the same model and tokenizer',
  ),
  handed('array of another shape', array(KERNEL, shape=[7, 7]), KERNEL[7:], 'has shape [7, 7]', 'let init_from.fresh'),
  handed('array of another type', array(KERNEL, dtype='int32'), KERNEL[7:], 'is int32', 'let init_from.fresh'),
  handed(
    'model of another width',
    intact,
    'model.width = 64',
    'is 32 in the checkpoint',
    'leave it out',
    code=2,
    leaves='model.width=64',
  ),
  handed(
    'attention of the other kind',
    intact,
    "'bidirectional'",
    'is causal in the checkpoint',
    'init_from.convert',
    code=2,
    leaves='model.attention=bidirectional',
  ),
  handed(
    'conversion of the other kind',
    intact,
    'encoder_to_decoder',
    'needs a bidirectional',
    'set it to None',
    code=2,
    leaves='init_from.convert=encoder_to_decoder',
  ),
  handed(
    'pattern that matches nothing',
    intact,
    'layers/0..1/mlp/up/kernel',
    'matches neither take nor fresh',
    'change the',
    leaves='init_from.take=nothing/*',
  ),
  handed(
    'parameter claimed twice',
    intact,
    'final_norm/scale',
    'both init_from.take and init_from.fresh',
    'change the',
    leaves='init_from.fresh=*',
  ),
  handed(
    'parameter that is not there',
    intact,
    'classifier/kernel',
    'has no such parameter',
    'name it in init_from.fresh',
    leaves='init_from.take=* init_from.fresh=',
  ),
  handed(
    'parameter that is left over', left_over, 'more/kernel', 'in the checkpoint, but not used', 'let init_from.drop'
  ),
  handed(
    'adapters on nothing',
    intact,
    "'*/nothing'",
    'matches no kernel',
    'try */query/kernel',
    code=2,
    leaves='model.lora.rank=4 model.lora.alpha=8 model.lora.dropout=0 model.lora.targets=*/nothing',
  ),
  case(
    'runs of several seeds',
    4,
    [f'--config={ROOT}/configs/finetune_qa.py:demo', '--config.init_from.path=a'],
    'init_from.path = a',
    'no checkpoint there',
    'choose one of its runs',
    files={'a/seed0/b': ''},
  ),
]

STUDY = """from ml_collections import ConfigDict
def stage(source):
  return dict(config='{file}', overrides=(), init_from=source)
def get_config():
  return ConfigDict(dict(stages=dict({stages}), comparisons={{}}))
"""


def study(name: str, code: int, stages: str, *says: str, file: str = CLM[9:]):
  """An experiment whose stages are wrong."""
  files = {'e.py': STUDY.format(file=file, stages=stages)}
  return case(name, code, ['--config=e.py', '--workdir=a'], *says, files=files, command=experiment)


EXPERIMENTS = [
  study('stage from nowhere', 2, 'one=stage("on")', 'one.init_from = on', 'no such stage', 'did you mean one?'),
  study(
    'stages in a circle', 2, 'a=stage("b"), b=stage("a")', 'a circle of init_from', 'which is from', 'start from None'
  ),
  study('stage without its config', 2, 'a=stage(None)', 'stage a: no.py', 'no such file', 'FILE.py', file='no.py'),
  study(
    'stage without its text', 3, 'a=stage(None)', 'stage a: no.txt', 'no such', 'check', file=f'{CLM[9:]},data=no.txt'
  ),
]


class Weights(NamedTuple):
  """As much of a TrainState as is read of a run that is done."""

  params: dict


def fine_tuned(source: str, folder: pathlib.Path) -> str:
  """The workdir of a fine-tuned run as far as other commands read it; nobody trains for these tests."""
  config = config_lib.build(runs.classification_config(source, folder))
  config, task, _ = prepare.prepare(config, Tokenizer.load(f'{source}/tokenizer.json'))
  workdir = folder / 'run'
  workdir.mkdir()
  with contextlib.closing(
    checkpoint.Checkpoints(workdir, config.checkpoint, task.RANKING_METRIC, task.HIGHER_IS_BETTER)
  ) as checkpoints:
    weights = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), task.shapes())
    checkpoints.save(6, Weights(weights), {}, {task.RANKING_METRIC: 0.5})
  (workdir / 'config.json').write_text(json.dumps(describe.to_dict(config)))
  task.tokenizer.save(str(workdir / 'tokenizer.json'))
  return str(workdir)


@pytest.fixture(scope='module')
def made(raw_config, tmp_path_factory):
  """Workdirs of a pre-trained run, and of a fine-tuned one."""
  source = runs.pre_trained('causal_lm', raw_config, tmp_path_factory)
  return {False: source, True: fine_tuned(source, tmp_path_factory.mktemp('tuned'))}


def snapshot(folder: pathlib.Path) -> dict[str, str | None]:
  """{path: digest} of all that lies in a folder."""
  paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob('*'))}
  contents = {name: path.read_bytes() for name, path in paths.items() if path.is_file() and not path.is_symlink()}
  return {name: hashlib.sha256(contents[name]).hexdigest() if name in contents else None for name in paths}


@pytest.mark.parametrize(
  'found', COMMAND_LINES + CONFIGS + FILES + RECORDS + TOKENIZERS + CHECKPOINTS + HAND_OFFS + EXPERIMENTS
)
def test_a_bad_input_is_reported_with_its_remedy(found, made, tmp_path, monkeypatch, capsys, cache_dir):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', cache_dir)  # where token stores go by themselves
  for name, content in found.files.items():
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
  for name, target in found.links.items():
    (tmp_path / name).symlink_to(target)
  if found.damage is not None:
    shutil.copytree(made[found.tuned], tmp_path / 'run')
    found.damage(tmp_path / 'run')
  before = snapshot(tmp_path)
  capsys.readouterr()
  code = found.command.main(found.flags)
  out, err = capsys.readouterr()
  assert code == found.code, err
  assert 'Traceback' not in out + err
  for line in err.splitlines():
    assert re.fullmatch(r'lmjax: \S.*: .+; .+', line) and line.isprintable(), line
  for expected in found.says:
    assert expected in err
  assert snapshot(tmp_path) == before
