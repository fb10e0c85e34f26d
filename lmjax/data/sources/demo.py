"""Demonstration data for the fine-tuning tasks: labelled sentences, questions and summaries, with no download.

They show that a task runs and learns; they are no benchmark (`demo_records/README.md`). The texts that are asked about,
and those that are summarized, are docstrings of the standard library: a few of them differ between Python versions.
"""

import functools
import hashlib
import importlib.resources
import json
from collections.abc import Iterator

from lmjax.data.sources import pydoc

SPLITS = ('train', 'valid', 'test')

_FILES = {'classification': 'sentiment.jsonl', 'extractive_qa': 'questions.jsonl'}
# Shorter ones are mostly headings ("Methods:") before a list, and remarks that say less than the summary.
_SHORTEST_SUMMARY = 20
_SHORTEST_DOCUMENT = 80


def records(task: str, split: str) -> list[dict]:
  """The records of one split, in a fixed order.

  Returns:
    One dict a record, of strings unless noted:
      classification: text; label, 'positive' or 'negative'.
      extractive_qa: id, unique over all splits; question; context, a docstring; answers, a list of one dict of
        text and answer_start (int, in characters); is_impossible, False. A question whose docstring or answer this
        Python version does not have is left out.
      summarization: id, the name of a module, class or function; summary, the first line of its docstring;
        document, what follows.

  Raises DataError: the standard library is not there as source files.

  >>> record = records('extractive_qa', 'valid')[0]
  >>> answer = record['answers'][0]
  >>> record['context'][answer['answer_start'] :].startswith(answer['text'])
  True
  """
  if task == 'classification':
    return [{'text': record['text'], 'label': record['label']} for _, record in _lines(task, split)]
  return list(_questions(split) if task == 'extractive_qa' else _summaries(split))


def identity(task: str) -> dict:
  """JSON-able; changes when the records of a task do. Raises as `records` does."""
  made_of: dict = {'kind': 'demo', 'task': task}
  if task in _FILES:
    made_of['file'] = hashlib.blake2b(_file(task), digest_size=16).hexdigest()
  if task != 'classification':
    made_of['library'] = pydoc.identity()
  return made_of


def _file(task: str) -> bytes:
  return (importlib.resources.files(__package__) / 'demo_records' / _FILES[task]).read_bytes()


def _lines(task: str, split: str) -> Iterator[tuple[int, dict]]:
  """Yields (line number, record) of one split."""
  for number, line in enumerate(_file(task).splitlines(), 1):
    record = json.loads(line)
    if record['split'] == split:
      yield number, record


def _questions(split: str) -> Iterator[dict]:
  contexts = _docstring_of()
  for number, record in _lines('extractive_qa', split):
    source, answer = record['source'], record['answer']
    start = contexts.get(source, '').find(answer)
    if start >= 0:
      yield {
        'id': f'{number}:{source}',
        'question': record['question'],
        'context': contexts[source],
        'answers': [{'text': answer, 'answer_start': start}],
        'is_impossible': False,
      }


def _summaries(split: str) -> Iterator[dict]:
  seen = set()
  for name, text in _docstring_of().items():
    summary, _, document = (part.strip() for part in text.partition('\n\n'))
    if '\n' in summary or len(summary) < _SHORTEST_SUMMARY or len(document) < _SHORTEST_DOCUMENT:
      continue
    # Some modules repeat others (ntpath, posixpath): a document belongs to the first, and so to one split.
    if document not in seen and _split_of(name) == split:
      yield {'id': name, 'document': document, 'summary': summary}
    seen.add(document)


def _split_of(name: str) -> str:
  """The split of a docstring: by its top-level module, since what one module says it often says again.

  One byte of digest is coarse, but gives held-out splits of about 250 pairs of many modules, none of which
  distributions leave out (tkinter, idlelib).
  """
  module = name.partition('.')[0]
  bucket = hashlib.blake2b(f'summarization {module}'.encode(), digest_size=1).digest()[0] % 10
  return {0: 'test', 1: 'valid'}.get(bucket, 'train')


@functools.cache
def _docstring_of() -> dict[str, str]:
  """Qualified name -> docstring; where a name is defined twice, the first."""
  first: dict[str, str] = {}
  for name, text in pydoc.docstrings():
    first.setdefault(name, text)
  return first
