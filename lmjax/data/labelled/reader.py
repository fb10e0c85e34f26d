"""The records of one source as a table: fields by their names, labels as they must be, what is skipped counted."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lmjax.data.config import FIELDS, BadText, RecordKind
from lmjax.data.labelled import plain, questions
from lmjax.data.labelled.table import Table, TableBuilder
from lmjax.data.labelled.values import answers_of, has_answers, labels_in, number_of, value_of
from lmjax.data.sources import demo, tfds
from lmjax.errors import DataError

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
# The names that the fields usually have, for `data.fields = None`.
_USUAL = {
  'text': ('text', 'sentence', 'review'),
  'label': ('label', 'class', 'sentiment', 'labels', 'score'),
  'document': ('document', 'text', 'article'),
  'summary': ('summary', 'highlights'),
}


def fields_of(kind: RecordKind, labelled: bool) -> list[tuple[str, ...]]:
  """The fields that a record may have, without labels and summaries where they need not be there."""
  return FIELDS[kind] if labelled or kind == 'extractive_qa' else [names[:-1] for names in FIELDS[kind]]


@dataclasses.dataclass
class Reader:
  """Reads sources by the same rules.

  Attributes:
    kind: decides what a record holds.
    fields, bad_text, separator: see RecordsConfig.
    counts: filled with why examples are skipped ('empty_text', 'bad_text'), and how many texts are 'replaced'.
    labelled: whether labels and summaries must be there; without them, `fields` does not name them either.
  """

  kind: RecordKind
  fields: tuple[str, ...] | None
  bad_text: BadText
  counts: collections.Counter
  labelled: bool = True
  separator: str | None = None

  def read(self, path: str, split: str) -> Table:
    """The records of a source; `split` chooses among those of 'demo'. Raises DataError: see `records.load`."""
    made = TableBuilder(self.kind)
    if path == 'demo':
      made.add(self._completed(enumerate(demo.records(self.kind, split))))
      return made.table()
    if path.startswith('tfds:'):
      raw: Iterable = tfds.records(path, self.fields or ())
      raw = questions.nested(iter(raw)) if self.kind == 'extractive_qa' else raw
    else:
      raw = questions.records(path) if self.kind == 'extractive_qa' else plain.records(path)
    number = 0
    for found in raw:
      rows: Iterable = [found]
      if isinstance(found, plain.Block):
        if (columns := self._columns(found, number)) is not None:
          made.add_columns(columns)
          number += len(found.rows)
          continue
        rows = found.records()
      for where, record in rows:
        made.add(self._completed([(number, self._values(record, where, path))]))
        number += 1
    return made.table()

  def _completed(self, found: Iterable[tuple[int, dict | None]]) -> Iterator[dict]:
    """Records with their numbers as ids where they have none, and None in place of a second text."""
    for number, record in found:
      if record is not None:
        rest = {'text_pair': None} if 'text' in record else {}
        yield {'id': number, **rest, **record}

  def _names(self, record: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what the fields hold, how they are called): the names are found in the first record, where none are given."""
    options = fields_of(self.kind, self.labelled)
    if self.fields is not None:
      return next(names for names in options if len(names) == len(self.fields)), self.fields
    names = options[0]
    if pair := next((pair for pair in _PAIRS if 'text' in names and set(pair) <= record.keys()), None):
      rule = f'fields {pair[0]} and {pair[1]} are there: data.fields must say whether both are read'
      choices = ' or '.join(
        ','.join([*texts, _usual(record, 'label')][: None if self.labelled else -1]) for texts in (pair, pair[:1])
      )
      raise DataError(f'{where}: {rule}; name {choices}')
    self.fields = tuple(_usual(record, name) for name in names)
    return names, self.fields

  def _values(self, record: dict, where: str, path: str) -> dict | None:
    """What a record holds; None where it is skipped, and counted."""
    names, fields = self._names(record, where)
    if record.get('answer') in _REJECTED and 'answer' not in fields:
      self.counts['rejected'] += 1  # by whoever labelled it
      return None
    policy = where, self.bad_text, self.counts, self.kind
    values: dict = {name: value_of(record, field, name, *policy) for name, field in zip(names, fields)}
    if self.kind == 'extractive_qa' and (self.labelled or has_answers(record)):
      values['answers'] = answers_of(record, where, self.bad_text)
    if path.startswith('tfds:') and values.get('label') == '-1':
      raise DataError(f'{where}: label -1, which stands for a hidden one; labels must be known; choose another split')
    if None in values.values():
      return None  # bad text, counted by `value_of`
    if self.kind == 'multi_label' and isinstance(values.get('label'), str):
      values['label'] = labels_in(values['label'], self.separator, where)
    if empty := [name for name in names if isinstance(values[name], str) and not values[name].strip()]:
      self.counts[f'empty_{empty[0]}'] += 1
      return None
    if self.kind == 'regression' and 'label' in values:
      values['label'] = number_of(values['label'], where)
    return values

  def _columns(self, block: plain.Block, number: int) -> dict[str, Sequence] | None:
    """What `_values` makes of the rows of a block, the first of which has a number; None where it must see each."""
    names, fields = self._names(dict.fromkeys(block.header, ''), f'{block.name}, line {block.lines[0]}')
    if not set(fields) <= set(block.header) or 'answer' in block.header and 'answer' not in fields:
      return None
    found = list(zip(*block.rows))
    values: dict[str, Sequence] = {name: found[block.header.index(field)] for name, field in zip(names, fields)}
    ids: Sequence[int] = range(number, number + len(block.rows))
    skipped: collections.Counter = collections.Counter()
    try:
      if self.kind == 'multi_label' and 'label' in values:
        values['label'] = [labels_in(label, self.separator, '') for label in values['label']]
      texts = [name for name in names if isinstance(values[name][0], str)]
      if not all(all(map(str.strip, values[name])) for name in texts):
        empty = [next((name for name in texts if not values[name][i].strip()), '') for i in range(len(ids))]
        skipped.update(f'empty_{name}' for name in empty if name)
        kept = [i for i, name in enumerate(empty) if not name]
        values, ids = {name: [values[name][i] for i in kept] for name in names}, [ids[i] for i in kept]
      if self.kind == 'regression' and 'label' in values:
        values['label'] = [number_of(label, '') for label in values['label']]
    except DataError:
      return None
    self.counts.update(skipped)
    rest = {'text_pair': [None] * len(ids)} if 'text' in names else {}
    return {'id': ids, **rest, **values}


def _usual(record: Mapping[str, Any], role: str) -> str:
  """The field that usually holds a role, of those there are; the role itself where none does."""
  return next((name for name in _USUAL.get(role, ()) if name in record), role)
