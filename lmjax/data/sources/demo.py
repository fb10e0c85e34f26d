"""Demonstration data for the fine-tuning tasks: labelled sentences, questions and summaries, with no download.

They show that a task runs and learns; they are no benchmark (`demo_records/README.md`). The sentences and the questions
lie next to this module. The texts that the questions are about, and those that are summarized, are docstrings of
the standard library, read where Python is installed: a few of them differ between Python versions.
"""

import functools
import hashlib
import importlib.resources
import json
from collections.abc import Iterator

from lmjax.data.sources import pydoc
from lmjax.errors import DataError

SPLITS = ('train', 'valid', 'test')

# Shorter ones are mostly headings ("Methods:") before a list, and remarks that say less than the summary.
_SHORTEST_SUMMARY = 20
_SHORTEST_DOCUMENT = 80


def records(task: str, split: str) -> list[dict]:
  """The records of one split, in a fixed order.

  Args:
    task: 'classification', 'extractive_qa' or 'summarization'.
    split: 'train', 'valid' or 'test'.

  Returns:
    One dict a record, of strings unless said otherwise:
      classification: text; label, 'positive' or 'negative'.
      extractive_qa: id, unique over all splits; question; context, a docstring; answers, a list of one dict of
        text and answer_start (int, in characters); is_impossible (bool), False. A question whose docstring or
        answer this Python version does not have is left out.
      summarization: id, the name of a module, class or function; summary, the first line of its docstring;
        document, what follows.

  Raises:
    DataError: the task or the split is unknown, or the standard library is not there as source files.

  >>> record = records('extractive_qa', 'valid')[0]
  >>> answer = record['answers'][0]
  >>> record['context'][answer['answer_start'] :].startswith(answer['text'])
  True
  """
  _check('task', task, _READERS)
  _check('split', split, SPLITS)
  return list(_READERS[task](split))


def identity(task: str) -> dict:
  """JSON-able facts that change when the records of a task do.

  Raises:
    DataError: the task is unknown, or the standard library is not there as source files.
  """
  _check('task', task, _READERS)
  facts: dict = {'kind': 'demo', 'task': task}
  if task in _FILES:
    facts['file'] = hashlib.blake2b(_file(_FILES[task]), digest_size=16).hexdigest()
  if task != 'classification':
    facts['library'] = pydoc.identity()
  return facts


def _check(kind: str, value: str, known):
  if value not in known:
    names = ', '.join(known)
    raise DataError(f'demonstration data: {kind} {value!r}; there is no such {kind}; choose one of {names}')


def _file(name: str) -> bytes:
  return (importlib.resources.files('lmjax.data.sources') / 'demo_records' / name).read_bytes()


def _lines(name: str, split: str) -> Iterator[tuple[int, dict]]:
  """Yields (line number, record) of one split."""
  for number, line in enumerate(_file(name).splitlines(), 1):
    record = json.loads(line)
    if record['split'] == split:
      yield number, record


def _sentences(split: str) -> Iterator[dict]:
  for _, record in _lines(_FILES['classification'], split):
    yield {'text': record['text'], 'label': record['label']}


def _questions(split: str) -> Iterator[dict]:
  contexts = _docstring_of()
  for number, record in _lines(_FILES['extractive_qa'], split):
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


@functools.lru_cache(maxsize=1)
def _docstring_of() -> dict[str, str]:
  """Qualified name -> docstring; where a name is defined twice, the first."""
  found = {}
  for name, text in pydoc.docstrings():
    found.setdefault(name, text)
  return found


_FILES = {'classification': 'sentiment.jsonl', 'extractive_qa': 'questions.jsonl'}
_READERS = {'classification': _sentences, 'extractive_qa': _questions, 'summarization': _summaries}
