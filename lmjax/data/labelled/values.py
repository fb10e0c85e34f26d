"""What the fields of a record hold: texts by policy, labels as their kind of records has them, answers to questions."""

import ast
import contextlib
import math
import numbers
from collections.abc import Iterable

import numpy as np

from lmjax.data.config import FIELDS, BadText, RecordKind
from lmjax.data.sources import documents, files
from lmjax.errors import DataError

_SQUAD = FIELDS['extractive_qa'][0]  # whose names are fixed
# What a label is, where it is not a string; and which target takes a label of another type.
_WANTED: dict[RecordKind, str] = {'regression': 'number', 'multi_label': 'list of strings'}
_TARGETS = {'float': 'number', 'float32': 'number', 'list': 'many'}


def value_of(record: dict, field: str, role: str, where: str, bad_text: BadText, counts, kind: RecordKind):
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
    items = [value_of({field: item}, field, role, where, bad_text, counts, 'classification') for item in value]
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


def number_of(value: str | float, where: str) -> float:
  """A label of regression."""
  try:
    number = math.nan if '_' in str(value) else float(value)  # Python reads 1_0 as 10
  except ValueError:
    number = math.nan
  if not math.isfinite(number):
    remedy = 'correct it, drop the record, or set objective.target to class'
    raise DataError(f'{where}: label {value!r}; must be a number such as 3.5, and finite; {remedy}')
  return number


def labels_in(text: str, separator: str | None, where: str) -> list[str]:
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


def has_answers(record: dict) -> bool:
  """Whether a record says what is right: answers, or that there are none."""
  return record.get('answers') is not None or _is_impossible(record)


def _is_impossible(record: dict) -> bool:
  return str(record.get('is_impossible')).strip().lower() in ('true', '1', 'yes')


def answers_of(record: dict, where: str, bad_text: BadText) -> list[dict] | None:
  """The answers as a list of {'text', 'answer_start'}, from a list or from TFDS's pair of arrays; None: bad text.

  An empty text stands for no answer.
  """
  if not has_answers(record):
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
