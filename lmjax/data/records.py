"""Labelled examples as plain records, whatever they are read from.

A record of classification has id, text, text_pair (None where there is one text) and label, which is a float in
regression and a list of strings in multi_label; of extractive_qa id, question, context and answers, a list of {'text',
'answer_start'}, empty for a question without an answer; of summarization id, document and summary. All other values are
strings. Where labels need not be there, as in a prediction, a record may lack label, answers or summary.
"""

import ast
import collections
import contextlib
import dataclasses
import math
import numbers
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lmjax.data.batches.order import key_of, mix
from lmjax.data.config import FIELDS, BadText, RecordKind, RecordsConfig
from lmjax.data.counts import Counts, of_split, remarks
from lmjax.data.digests import digest64
from lmjax.data.sources import demo, documents, files, tfds
from lmjax.errors import ConfigError, DataError
from lmjax.workdir.files import canonical_json

_SQUAD = FIELDS['extractive_qa'][0]  # whose names are fixed
# Pairs of texts by their usual names.
_PAIRS = (
  ('text', 'text_pair'),
  ('sentence1', 'sentence2'),
  ('premise', 'hypothesis'),
  ('question1', 'question2'),
  ('question', 'sentence'),
)
# What a labelling tool (Prodigy) writes as the `answer` to a record that is not to be used.
_REJECTED = ('reject', 'ignore')
# What a label is, where it is not a string; and which target takes a label of another type.
_WANTED: dict[RecordKind, str] = {'regression': 'number', 'multi_label': 'list of strings'}
_TARGETS = {'float': 'number', 'float32': 'number', 'list': 'many'}
# The names that the fields usually have, for `data.fields = None`.
_USUAL = {
  'text': ('text', 'sentence', 'review'),
  'label': ('label', 'class', 'sentiment', 'labels', 'score'),
  'document': ('document', 'text', 'article'),
  'summary': ('summary', 'highlights'),
}


@dataclasses.dataclass(frozen=True)
class Records:
  """The records of a run."""

  splits: dict[str, list[dict]]  # 'train', 'valid' and, where there is one, 'test'
  contents: dict  # what identifies the contents, JSON-able
  counts: Counts  # of each split: examples, and what was left out


def load(config: RecordsConfig, kind: RecordKind, seed: int) -> Records:
  """Reads all splits. Training examples that also stand in another split are dropped, and counted.

  Args:
    config: where they are.
    kind: decides what a record holds.
    seed: orders the training examples of which `train_share` takes the first.

  Raises DataError: a source is missing, broken or empty, or has other fields.
  """
  given = {'train': config.train, 'valid': config.valid, 'test': config.test}
  paths = {split: path for split, path in given.items() if path is not None}
  skipped: dict[str, collections.Counter] = {split: collections.Counter() for split in given}
  splits = {
    split: list(read(path, split, kind, config.fields, config.bad_text, skipped[split], separator=config.separator))
    for split, path in paths.items()
  }
  if config.separator is not None:
    _check_separator(config.separator, splits['train'])
  if config.valid is None:
    is_held_out = _held_out(splits['train'], config.valid_fraction, kind == 'classification')
    sides: dict[bool, list[dict]] = {False: [], True: []}
    for record in splits['train']:
      sides[is_held_out(record)].append(record)
    splits['train'], splits['valid'] = sides[False], sides[True]
  seen = {_key(record) for split in ('valid', 'test') for record in splits.get(split, ())}
  kept = [record for record in splits['train'] if _key(record) not in seen]
  duplicates = len(splits['train']) - len(kept)
  splits['train'] = _drawn(kept, max(1, round(config.train_share * len(kept))), key_of('share', seed))
  splits['valid'] = _drawn(splits['valid'], config.valid_examples, key_of('valid'))
  for split, items in splits.items():
    if kind == 'extractive_qa':
      _check_ids(f'data.{split}', items)
    if not items:
      where = f'data.{split} = {paths[split]}' if split in paths else f'data.valid_fraction = {config.valid_fraction}'
      twice = split == 'train' and duplicates
      why = 'each example stands in another split as well' if twice else 'no example'
      remedy = 'add examples, or name another file'
      if kind == 'extractive_qa' and split not in paths:
        remedy = 'all questions about a context are on one side: name a file with data.valid, or raise the share'
      raise DataError(f'{where}: {why}; a split must have some of its own; {remedy}')
  contents: dict = {split: _identity(path, kind) for split, path in paths.items()}
  contents |= {name: getattr(config, name) for name in ('fields', 'train_share', 'valid_fraction', 'bad_text')}
  counts = {split: of_split(len(splits[split]), skipped[split]) for split in given if split in splits}
  counts['train']['duplicates'] = duplicates
  if config.valid is None and kind == 'classification':
    contents['held_out'] = 'of each class'
  if config.separator is not None:
    contents['separator'] = config.separator
  return Records(splits, contents, counts)


def read(
  path: str,
  split: str,
  kind: RecordKind,
  fields,
  bad_text: BadText,
  counts: collections.Counter,
  labelled: bool = True,
  separator: str | None = None,
) -> Iterator[dict]:
  """The records of one source; see `load`.

  Args:
    path, fields, bad_text: see RecordsConfig.
    kind: decides what a record holds.
    split: chooses among those of 'demo'.
    counts: filled with why examples are skipped ('empty_text', 'bad_text'), and how many texts are 'replaced'.
    labelled: whether labels and summaries must be there; without them, `fields` does not name them either.
    separator: see RecordsConfig.
  """
  if path == 'demo':
    yield from (_complete(record, i) for i, record in enumerate(demo.records(kind, split)))
    return
  is_tfds, options = path.startswith('tfds:'), _fields(kind, labelled)
  names = options[0] if fields is None else next(names for names in options if len(names) == len(fields))
  raw = tfds.records(path, fields or ()) if is_tfds else files.records(path)
  for number, (where, record) in enumerate(_questions(raw) if kind == 'extractive_qa' else raw):
    if fields is None:
      if pair := next((pair for pair in _PAIRS if 'text' in names and set(pair) <= record.keys()), None):
        rule = f'fields {pair[0]} and {pair[1]} are there: data.fields must say whether both are read'
        choices = ' or '.join(
          ','.join([*texts, _usual(record, 'label')][: None if labelled else -1]) for texts in (pair, pair[:1])
        )
        raise DataError(f'{where}: {rule}; name {choices}')
      fields = tuple(_usual(record, name) for name in names)  # as they are called in the first record
    if record.get('answer') in _REJECTED and 'answer' not in fields:
      counts['rejected'] += 1  # by whoever labelled it
      continue
    policy = where, bad_text, counts, kind
    values: dict = {name: _value(record, field, name, *policy) for name, field in zip(names, fields)}
    if kind == 'extractive_qa' and (labelled or _has_answers(record)):
      values['answers'] = _answers(record, where, bad_text)
    if is_tfds and values.get('label') == '-1':
      raise DataError(f'{where}: label -1, which stands for a hidden one; labels must be known; choose another split')
    if None in values.values():
      continue  # bad text, counted by `_value`
    if kind == 'multi_label' and isinstance(values.get('label'), str):
      values['label'] = _split(values['label'], separator, where)
    if empty := [name for name in names if isinstance(values[name], str) and not values[name].strip()]:
      counts[f'empty_{empty[0]}'] += 1
      continue
    if kind == 'regression' and 'label' in values:
      values['label'] = _number(values['label'], where)
    yield _complete(values, number)


def read_alone(path: str, config: RecordsConfig, kind: RecordKind, fields, labelled: bool) -> tuple[list[dict], str]:
  """All records of one source, and a line about what was skipped ('' for nothing).

  Args:
    path, kind, labelled: see `read`.
    config: of the run; its fields and policy hold here too.
    fields: names in place of config.fields; None: those.

  Raises ConfigError: so many fields the records do not have; DataError: see `load`.
  """
  choices, fixed = _fields(kind, labelled), kind == 'extractive_qa'
  if fields is None and config.fields is not None:
    fields = config.fields if labelled else config.fields[:-1]
  elif fields is not None and (fixed or len(fields) not in map(len, choices)):
    wanted = "SQuAD's own names" if fixed else ' or '.join(map(', '.join, choices))
    raise ConfigError(f'--fields = {",".join(fields)}: must name {wanted}; correct it')
  elif fields is not None and config.fields is not None and len(fields) != len(config.fields) - (not labelled):
    rule = f'must name as many as data.fields = {",".join(config.fields)}, with which the run was trained'
    raise ConfigError(f'--fields = {",".join(fields)}: {rule}; correct it')
  counts: collections.Counter = collections.Counter()
  items = list(read(path, 'test', kind, fields, config.bad_text, counts, labelled, config.separator))
  skipped = remarks(of_split(len(items), counts))
  if not items:
    raise DataError(f'{path}: no example{f" ({skipped})" if skipped else ""}; it must hold some; name another file')
  if fixed:
    _check_ids(path, items)
  return items, skipped


def _identity(path: str, kind: RecordKind) -> dict:
  return demo.identity(kind) if path == 'demo' else documents.identity(path)


def _fields(kind: RecordKind, labelled: bool) -> list[tuple[str, ...]]:
  """The fields that a record may have, without labels and summaries where they need not be there."""
  return FIELDS[kind] if labelled or kind == 'extractive_qa' else [names[:-1] for names in FIELDS[kind]]


def _held_out(items: list[dict], share: float, by_class: bool) -> Callable[[dict], bool]:
  """Tells which records are held out, by their digests; by class: of each the same share, and never all of it.

  All questions about a context are on one side.
  """
  digest = lambda record: digest64(record.get('context', '').encode() or _key(record))
  if not by_class:
    limit = int(share * 2.0**64)
    return lambda record: digest(record) < limit
  classes: dict[str, set[int]] = collections.defaultdict(set)
  for record in items:
    classes[record['label']].add(digest(record))
  held_out = {label: set(sorted(found)[: _rounded(share, len(found))]) for label, found in classes.items()}
  return lambda record: digest(record) in held_out[record['label']]


def _rounded(share: float, count: int) -> int:
  """How many of so many are held out.

  >>> _rounded(0.1, 24), _rounded(0.1, 5), _rounded(0.1, 4), _rounded(0.9, 1)
  (2, 1, 0, 0)
  """
  return min(int(share * count + 0.5), count - 1)


def _drawn(items: list[dict], count: int | None, key: int) -> list[dict]:
  """A sample of `count` records, in their order; a smaller one is part of a larger one. None: all.

  Not the first so many: files are often sorted by label.
  """
  digests = np.array([digest64(_key(record)) for record in items], np.uint64)
  order = np.argsort(mix(digests, key), kind='stable')[:count]
  return [items[i] for i in sorted(order.tolist())]


def _usual(record: dict, role: str) -> str:
  """The field that usually holds a role, of those there are; the role itself where none does."""
  return next((name for name in _USUAL.get(role, ()) if name in record), role)


def _check_ids(where: str, items: list[dict]) -> None:
  """The ids keep predictions of questions apart."""
  [(most, count)] = collections.Counter(record['id'] for record in items).most_common(1) or [(None, 0)]
  if count > 1:
    raise DataError(f'{where}: {count} questions have the id {most!r}; ids must differ; give each its own')


def _complete(record: dict, number: int) -> dict:
  rest = {'text_pair': None} if 'text' in record else {}
  return {'id': str(number), **rest, **record}


def _key(record: dict) -> bytes:
  """What makes two records the same example: all that a model is given."""
  given = {name: value for name, value in record.items() if name not in ('id', 'label', 'summary', 'answers')}
  return canonical_json(given)


def _value(record: dict, field: str, role: str, where: str, bad_text: BadText, counts, kind: RecordKind):
  """The text of a field, None for bad text; a label may be a whole number, and what its kind of records asks for."""
  if field not in record:
    there = files.listed(sorted(record))
    remedy = 'fix the record' if role in _SQUAD else 'set data.fields'
    raise DataError(f'{where}: no field {field!r}, which is to hold the {role}; {remedy}; fields there: {there}')
  value = record[field]
  if role == 'label':
    value = _label(value, kind)
  if isinstance(value, float) and kind == 'regression':
    return value
  if isinstance(value, list) and kind == 'multi_label':
    items = [_value({field: item}, field, role, where, bad_text, counts, 'classification') for item in value]
    return None if None in items else _names(items)
  if not isinstance(value, str | bytes):
    found, remedy = type(value).__name__, 'fix the record' if role in _SQUAD else 'name another field'
    if role == 'label' and found in _TARGETS:
      remedy += f', or set objective.target to {_TARGETS[found]}'
    rule = f'the {role} must be a {_WANTED.get(kind, "string") if role == "label" else "string"}'
    raise DataError(f'{where}: field {field!r} is of type {found}; {rule}; {remedy}')
  text, verdict = documents.clean(value, where, bad_text)
  if verdict:
    counts['bad_text' if text is None else verdict] += 1
  return text


def _label(value, kind: RecordKind):
  """A label as its kind of records has it; what is none stays as it is."""
  if kind == 'multi_label' and isinstance(value, list | tuple | np.ndarray):
    return list(value)
  is_flag = isinstance(value, bool | np.bool_)
  if kind == 'regression':
    return float(value) if isinstance(value, numbers.Real) and not is_flag else value
  if is_flag or isinstance(value, numbers.Integral):
    return str(bool(value)).lower() if is_flag else str(int(value))  # flags as JSON writes them
  return value


def _number(value: str | float, where: str) -> float:
  """A label of regression."""
  try:
    number = math.nan if '_' in str(value) else float(value)  # Python reads 1_0 as 10
  except ValueError:
    number = math.nan
  if not math.isfinite(number):
    remedy = 'correct it, drop the record, or set objective.target to class'
    raise DataError(f'{where}: label {value!r}; must be a number such as 3.5, and finite; {remedy}')
  return number


def _split(text: str, separator: str | None, where: str) -> list[str]:
  """The labels in a field."""
  if text.startswith('[') and text.endswith(']'):  # a list that was saved in a table
    with contextlib.suppress(ValueError, SyntaxError):
      if isinstance(found := ast.literal_eval(text), list) and all(isinstance(name, str | int) for name in found):
        return _names(map(str, found))
  if separator is None:
    remedy = 'set data.separator to what stands between labels'
    raise DataError(f'{where}: label {text!r} is a text; the labels of a text must be a list; {remedy}')
  return _names(text.split(separator))


def _names(found: Iterable[str]) -> list[str]:
  """Labels of one text, each once, without white space around; an empty one is none."""
  return list(dict.fromkeys(name.strip() for name in found if name.strip()))


def _check_separator(separator: str, items: list[dict]) -> None:
  if items and all(len(record['label']) < 2 for record in items):
    example = next((record['label'][0] for record in items if record['label']), '')
    rule = f'stands in none of {len(items):,} labels, such as {example!r}; some text must have two'
    raise DataError(f'data.separator = {separator!r}: {rule}; correct it, or set objective.target to class')


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
            yield f'{where}, question {question["id"]}', {**question, 'context': paragraph['context']}
    except (KeyError, TypeError) as error:
      problem = f"not in SQuAD's format ({type(error).__name__}: {error})"
      rule = 'it must be data[].paragraphs[].qas[] with id, question and answers'
      raise DataError(f'{where}: {problem}; {rule}; see rajpurkar.github.io/SQuAD-explorer') from None


def _has_answers(record: dict) -> bool:
  """Whether a record says what is right: answers, or that there are none."""
  return record.get('answers') is not None or _is_impossible(record)


def _is_impossible(record: dict) -> bool:
  return str(record.get('is_impossible')).strip().lower() in ('true', '1', 'yes')


def _answers(record: dict, where: str, bad_text: BadText) -> list[dict] | None:
  """The answers as a list of {'text', 'answer_start'}, from a list or from TFDS's pair of arrays; None: bad text.

  An empty text stands for no answer.
  """
  if not _has_answers(record):
    rule = 'each question must have answers, or is_impossible: true; a set without can be predicted, not scored'
    raise DataError(f'{where}: no answers; {rule}; fields there: {files.listed(sorted(record))}')
  answers = record['answers'] if record.get('answers') is not None else []
  try:
    if isinstance(answers, dict):
      sizes = [
        -1 if isinstance(answers[name], str | bytes) else len(answers[name]) for name in ('text', 'answer_start')
      ]
      if sizes[0] != sizes[1] or -1 in sizes:
        raise ValueError('text and answer_start are not two lists of one length')
      answers = [{'text': t, 'answer_start': s} for t, s in zip(answers['text'], answers['answer_start'])]
    cleaned = []
    for answer in answers:
      if not isinstance(answer['text'], str | bytes):
        raise TypeError(f'text is of type {type(answer["text"]).__name__}')
      text, _ = documents.clean(answer['text'], where, bad_text)
      if text is None:
        return None
      if text.strip():
        cleaned.append({'text': text, 'answer_start': int(answer['answer_start'])})
    if cleaned and _is_impossible(record):
      raise ValueError('is_impossible is true, and there is an answer')
    return cleaned
  except DataError:
    raise
  except (KeyError, TypeError, ValueError, OverflowError) as error:
    rule = 'each must have text and answer_start'
    raise DataError(f'{where}: answers: {type(error).__name__}: {error}; {rule}; fix the record') from None
