"""Labelled examples as plain records, whatever they are read from.

A record of classification has id, text, text_pair (None where there is one text) and label; of extractive_qa id,
question, context and answers, a list of {'text', 'answer_start'}, empty for a question without an answer; of
summarization id, document and summary. All values are strings but for the answers.
"""

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from lmjax.data.batches.order import key_of, mix
from lmjax.data.config import ROLES, BadText, RecordsConfig
from lmjax.data.sources import demo, documents, files, tfds
from lmjax.data.tokens.tokenizer import digest64
from lmjax.errors import ConfigError, DataError

Task = Literal['classification', 'extractive_qa', 'summarization']

_SQUAD = ROLES['extractive_qa'][0]  # whose names are fixed
# The names that the fields usually have, for `data.fields = None`.
_USUAL = {
  'text': ('text', 'sentence', 'review'),
  'label': ('label', 'class', 'sentiment'),
  'document': ('document', 'text', 'article'),
  'summary': ('summary', 'highlights'),
}
_DROPPED = 'train examples dropped, which stand in another split'


@dataclasses.dataclass(frozen=True)
class Records:
  """The records of a run.

  Attributes:
    splits: 'train', 'valid' and, where there is one, 'test': lists of records.
    facts: JSON-able, change when the content does.
    said: one line for people: counts, and what was skipped.
  """

  splits: dict[str, list[dict]]
  facts: dict
  said: str


def load(config: RecordsConfig, task: Task, seed: int) -> Records:
  """Reads all splits. Training examples that also stand in another split are dropped, and counted.

  Args:
    config: where they are.
    task: decides what a record holds.
    seed: orders the training examples of which `train_share` takes the first.

  Raises:
    DataError: a source is missing, broken or empty, or has other fields.
  """
  counts: collections.Counter = collections.Counter()
  paths = {'train': config.train, 'valid': config.valid, 'test': config.test}
  splits = {
    split: list(read(path, split, task, config.fields, config.bad_text, counts))
    for split, path in paths.items()
    if path is not None
  }
  if config.valid is None:
    limit = int(config.valid_fraction * 2.0**64)
    # all questions about a context on one side
    held = [digest64(record.get('context', '').encode() or _key(record)) < limit for record in splits['train']]
    splits['valid'] = [record for record, out in zip(splits['train'], held) if out]
    splits['train'] = [record for record, out in zip(splits['train'], held) if not out]
  seen = {_key(record) for split in ('valid', 'test') for record in splits.get(split, ())}
  kept = [record for record in splits['train'] if _key(record) not in seen]
  counts[_DROPPED] = len(splits['train']) - len(kept)
  splits['train'] = _drawn(kept, max(1, round(config.train_share * len(kept))), key_of('share', seed))
  splits['valid'] = _drawn(splits['valid'], config.valid_examples, key_of('valid'))
  for split, found in splits.items():
    if task == 'extractive_qa':
      _check_ids(f'data.{split}', found)
    if not found:
      held_out = split == 'valid' and config.valid is None
      where = f'data.valid_fraction = {config.valid_fraction}' if held_out else f'data.{split} = {paths[split]}'
      twice = split == 'train' and counts[_DROPPED]
      why = 'each example stands in another split as well' if twice else 'no example'
      raise DataError(f'{where}: {why}; a split must have some of its own; add examples, or name another file')
  shown = [f'{len(splits[split]):,} {split}' for split in ('train', 'valid', 'test') if split in splits]
  shown += counted(counts)
  facts = {split: identity(path, task) for split, path in paths.items() if path is not None}
  facts |= {name: getattr(config, name) for name in ('fields', 'train_share', 'valid_fraction', 'bad_text')}
  return Records(splits, facts, ', '.join(shown))


def read(
  path: str, split: str, task: Task, fields, bad_text: BadText, counts: collections.Counter, labelled: bool = True
) -> Iterator[dict]:
  """The records of one source; see `load`.

  Args:
    path: as in RecordsConfig.
    split: chooses among those of 'demo'.
    task: decides what a record holds.
    fields: as in RecordsConfig.
    bad_text: as in RecordsConfig.
    counts: filled with what is skipped.
    labelled: whether labels and summaries must be there; without them, `fields` does not name them either.

  Raises:
    DataError: see `load`.
  """
  if path == 'demo':
    yield from (_complete(record, task, i) for i, record in enumerate(demo.records(task, split)))
    return
  raw = tfds.records(path, fields or ()) if path.startswith('tfds:') else files.records(path)
  options = ROLES[task] if labelled or task == 'extractive_qa' else [names[:-1] for names in ROLES[task]]
  names = options[0]
  if task == 'extractive_qa':
    raw, fields = _questions(raw), names
  elif fields is None:
    raw = iter(raw)
    first = next(raw, None)
    fields = names if first is None else tuple(_usual(first[1], name) for name in names)
    raw = itertools.chain([] if first is None else [first], raw)
  else:
    names = next(names for names in options if len(names) == len(fields))
  for number, (where, record) in enumerate(raw):
    found: dict = {'id': str(number)}
    for name, field in zip(names, fields):
      found[name] = _value(record, field, name, where, bad_text, counts)
    empty = [name for name in names if found[name] is not None and not found[name].strip()]
    if task == 'extractive_qa':
      found['answers'] = _answers(record, where, bad_text)
    if path.startswith('tfds:') and found.get('label') == '-1':
      raise DataError(f'{where}: label -1, which stands for a hidden one; labels must be known; choose another split')
    if None in found.values():
      continue  # bad text, counted by `sources.clean`'s verdict
    if empty:
      counts[f'examples with an empty {empty[0]} skipped'] += 1
      continue
    yield _complete(found, task, number)


def read_alone(path: str, config: RecordsConfig, task: Task, fields, labelled: bool) -> tuple[list[dict], str]:
  """All records of one source, and a line about what was skipped ('' for nothing).

  Args:
    path: as in RecordsConfig.
    config: of the run; its fields and policy hold here too.
    task: decides what a record holds.
    fields: names in place of config.fields; None: those.
    labelled: see `read`.

  Raises:
    ConfigError: so many fields the task does not have.
    DataError: see `load`.
  """
  names = [role if labelled or task == 'extractive_qa' else role[:-1] for role in ROLES[task]]
  if fields is None and config.fields is not None:
    fields = config.fields if labelled else config.fields[:-1]
  elif fields is not None and (task == 'extractive_qa' or len(fields) not in map(len, names)):
    wanted = "SQuAD's own names" if task == 'extractive_qa' else ' or '.join(', '.join(role) for role in names)
    raise ConfigError(f'--fields = {",".join(fields)}: must name {wanted}; correct it')
  counts: collections.Counter = collections.Counter()
  found = list(read(path, 'test', task, fields, config.bad_text, counts, labelled))
  said = ', '.join(counted(counts))
  if not found:
    raise DataError(f'{path}: no example{f" ({said})" if said else ""}; it must hold some; name another file')
  if task == 'extractive_qa':
    _check_ids(path, found)
  return found, said


def counted(counts: Mapping[str, int]) -> list[str]:
  """What there is any of, for people."""
  return [f'{n:,} {what}' for what, n in counts.items() if n]


def identity(path: str, task: Task) -> dict:
  """JSON-able facts that change when the content of a source does."""
  if path == 'demo':
    return demo.identity(task)
  return tfds.identity(path) if path.startswith('tfds:') else files.identity(path)


def _drawn(found: list[dict], count: int | None, key: int) -> list[dict]:
  """A sample of `count` records, in their order; a smaller one is part of a larger one. None: all.

  Not the first so many: files are often sorted by label.
  """
  digests = np.array([digest64(_key(record)) for record in found], np.uint64)
  order = np.argsort(mix(digests, key), kind='stable')[:count]
  return [found[i] for i in sorted(order.tolist())]


def _usual(record: dict, role: str) -> str:
  """The field that usually holds a role, of those there are; the role itself where none does."""
  return next((name for name in _USUAL[role] if name in record), role)


def _check_ids(where: str, found: list[dict]) -> None:
  """Predictions of questions are told apart by their ids."""
  [(most, count)] = collections.Counter(record['id'] for record in found).most_common(1) or [(None, 0)]
  if count > 1:
    raise DataError(f'{where}: {count} questions have the id {most!r}; ids must differ; give each its own')


def _complete(record: dict, task: Task, number: int) -> dict:
  rest = {'text_pair': None} if task == 'classification' else {}
  return {'id': str(number), **rest, **record}


def _key(record: dict) -> bytes:
  """What makes two records the same example: all that a model is given."""
  given = {name: value for name, value in record.items() if name not in ('id', 'label', 'summary', 'answers')}
  return json.dumps(given, sort_keys=True).encode('utf-8')


def _value(record: dict, field: str, role: str, where: str, bad_text: BadText, counts) -> str | None:
  """The text of a field; a label may be a number."""
  if field not in record:
    there = files.listed(sorted(record))
    remedy = 'fix the record' if role in _SQUAD else 'set data.fields'
    raise DataError(f'{where}: no field {field!r}, which is to hold the {role}; {remedy}; fields there: {there}')
  value = record[field]
  if role == 'label' and hasattr(value, '__int__') and not isinstance(value, str | bytes | float):
    value = str(int(value))
  if not isinstance(value, str | bytes):
    kind, remedy = type(value).__name__, 'fix the record' if role in _SQUAD else 'name another field'
    raise DataError(f'{where}: field {field!r} is of type {kind}; the {role} must be a string; {remedy}')
  text, verdict = documents.clean(value, where, bad_text)
  if verdict:
    counts[f'texts {verdict}'] += 1
  return text


def _questions(raw: Iterator[tuple[str, dict]]) -> Iterator[tuple[str, dict]]:
  """SQuAD's files nest questions in paragraphs in articles; TFDS, and .jsonl, have a record a question."""
  for where, record in raw:
    if 'data' not in record:
      yield where, record
      continue
    try:
      for article in record['data']:
        for paragraph in article['paragraphs']:
          for question in paragraph['qas']:
            given = {'is_impossible': False, 'answers': []} | question
            yield f'{where}, question {given["id"]}', {**given, 'context': paragraph['context']}
    except (KeyError, TypeError) as error:
      raise DataError(
        f"{where}: not in SQuAD's format ({type(error).__name__}: {error}); it must be data[].paragraphs[].qas[] with "
        'id, question and answers; see rajpurkar.github.io/SQuAD-explorer'
      ) from None


def _answers(record: dict, where: str, bad_text: BadText) -> list[dict] | None:
  """The answers as a list of {'text', 'answer_start'}, from a list or from TFDS's pair of arrays; None: bad text."""
  answers = [] if record.get('is_impossible') else record.get('answers', [])
  try:
    if isinstance(answers, dict):
      answers = [{'text': t, 'answer_start': s} for t, s in zip(answers['text'], answers['answer_start'])]
    found = []
    for answer in answers:
      if not isinstance(answer['text'], str | bytes):
        raise TypeError(f'text is of type {type(answer["text"]).__name__}')
      text, _ = documents.clean(answer['text'], where, bad_text)
      if text is None:
        return None
      found.append({'text': text, 'answer_start': int(answer['answer_start'])})
    return found
  except DataError:
    raise
  except (KeyError, TypeError, ValueError, OverflowError) as error:
    raise DataError(
      f'{where}: answers: {type(error).__name__}: {error}; each must have text and answer_start; fix the record'
    ) from None
