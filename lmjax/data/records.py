"""Labelled examples as tables, whatever they are read from.

A record of classification has id, text, text_pair (None where there is one text) and label, which is a float in
regression and a list of strings in multi_label; of extractive_qa id, question, context and answers, a list of {'text',
'answer_start'}, empty for a question without an answer; of summarization id, document and summary. All other values are
strings. Where labels need not be there, as in a prediction, a record may lack label, answers or summary.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from lmjax.data.batches.order import key_of
from lmjax.data.config import BadText, RecordKind, RecordsConfig
from lmjax.data.counts import Counts, of_split, remarks
from lmjax.data.labelled import kept, splits, table
from lmjax.data.labelled.reader import Reader, fields_of
from lmjax.data.labelled.table import Table
from lmjax.data.sources import demo, documents, files, listing, remote
from lmjax.errors import ConfigError, DataError

_SPLITS = ('train', 'valid', 'test')
# The settings that, next to the files, say what a run's records are.
_IN_CONTENTS = ('fields', 'train_share', 'valid_fraction', 'bad_text')


@dataclasses.dataclass(frozen=True)
class Records:
  """The records of a run."""

  splits: dict[str, Sequence[dict]]  # 'train', 'valid' and, where there is one, 'test'
  contents: dict  # what identifies the contents, JSON-able
  counts: Counts  # of each split: examples, and what was left out
  fingerprint: str | None = None  # of all that the splits depend on; None where it is not known


def load(config: RecordsConfig, kind: RecordKind, seed: int) -> Records:
  """Reads all splits. Training examples that also stand in another split are dropped, and counted.

  What was made of the same files, by their content, and settings before is taken from where it was kept.

  Args:
    config: where they are.
    kind: decides what a record holds.
    seed: orders the training examples of which `train_share` takes the first.

  Raises DataError: a source is missing, broken or empty, or has other fields.
  """
  paths = {split: path for split in _SPLITS if (path := getattr(config, split)) is not None}
  before = _stamps(paths)
  identities, name = _known_identities(paths), None
  if identities is not None:
    settings = {key: getattr(config, key) for key in (*_IN_CONTENTS, 'valid_examples', 'separator')}
    name = kept.fingerprint('records', kind, identities, settings, seed if config.train_share < 1 else None)
    if (found := kept.load(name)) is not None:
      arrays, more = found
      contents = _contents(config, kind, identities)
      return Records({**table.from_arrays(arrays, more['columns'])}, contents, more['counts'], name)
  splits_, counts = _read_all(config, kind, seed, paths)
  if before != _stamps(paths):
    name = identities = None  # it is not known of which content the records are
  if name is not None:
    arrays, columns = table.to_arrays(splits_)
    kept.save(name, arrays, {'columns': columns, 'counts': counts})
  identities = identities or {split: _identity(path, kind) for split, path in paths.items()}
  return Records({**splits_}, _contents(config, kind, identities), counts, name)


def _read_all(config: RecordsConfig, kind: RecordKind, seed: int, paths) -> tuple[dict[str, Table], Counts]:
  """(the splits, their counts); see `load`."""
  skipped: dict[str, collections.Counter] = {split: collections.Counter() for split in _SPLITS}
  found = {split: _reader(kind, config, skipped[split]).read(path, split) for split, path in paths.items()}
  if config.separator is not None:
    _check_separator(config.separator, found['train'])
  duplicates = _split(found, config, kind, seed)
  for split, items in found.items():
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
  counts = {split: of_split(len(found[split]), skipped[split]) for split in _SPLITS if split in found}
  counts['train']['duplicates'] = duplicates
  return found, counts


def _contents(config: RecordsConfig, kind: RecordKind, identities: dict[str, dict]) -> dict:
  contents = {**identities} | {name: getattr(config, name) for name in _IN_CONTENTS}
  if config.valid is None and kind == 'classification':
    contents['held_out'] = 'of each class'
  if config.separator is not None:
    contents['separator'] = config.separator
  return contents


def _identity(path: str, kind: RecordKind) -> dict:
  return demo.identity(kind) if path == 'demo' else documents.identity(path)


def _known_identities(paths: dict[str, str]) -> dict[str, dict] | None:
  """Those of files, by their content; None where a source is another, which nothing is kept of."""
  is_file = lambda path: path != 'demo' and not path.startswith('tfds:')
  return {split: files.identity(path) for split, path in paths.items()} if all(map(is_file, paths.values())) else None


def _stamps(paths: dict[str, str]) -> list:
  """What changes if a local file does while it is read."""
  is_local = lambda path: not remote.is_url(path) and not path.startswith(('hf:', 'tfds:')) and path != 'demo'
  return [listing.named(path) for path in paths.values() if is_local(path)]


def _reader(kind: RecordKind, config: RecordsConfig, counts: collections.Counter) -> Reader:
  return Reader(kind, config.fields, config.bad_text, counts, separator=config.separator)


def _split(found: dict[str, Table], config: RecordsConfig, kind: RecordKind, seed: int) -> int:
  """Holds out, drops what stands in two splits and draws samples, in place; returns how many were dropped."""
  made = {split: splits.digests(splits.keys(items), len(items)) for split, items in found.items()}

  def keep(split: str, kept: np.ndarray, source: str) -> None:
    found[split], made[split] = found[source].some(kept), made[source][kept]

  if config.valid is None:
    is_held_out = splits.held_out(found['train'], made['train'], config.valid_fraction, kind == 'classification')
    keep('valid', is_held_out, 'train')
    keep('train', ~is_held_out, 'train')
  before = len(found['train'])
  others = [(found[split], made[split]) for split in ('valid', 'test') if split in found]
  keep('train', ~splits.in_another(found['train'], made['train'], others), 'train')
  count = max(1, round(config.train_share * len(found['train'])))
  duplicates = before - len(found['train'])
  keep('train', splits.drawn(made['train'], count, key_of('share', seed)), 'train')
  keep('valid', splits.drawn(made['valid'], config.valid_examples, key_of('valid')), 'valid')
  return duplicates


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
  yield from Reader(kind, fields, bad_text, counts, labelled, separator).read(path, split)


def read_alone(
  path: str, config: RecordsConfig, kind: RecordKind, fields, labelled: bool
) -> tuple[Sequence[dict], str]:
  """All records of one source, and a line about what was skipped ('' for nothing).

  Args:
    path, kind, labelled: see `read`.
    config: of the run; its fields and policy hold here too.
    fields: names in place of config.fields; None: those.

  Raises ConfigError: so many fields the records do not have; DataError: see `load`.
  """
  choices, fixed = fields_of(kind, labelled), kind == 'extractive_qa'
  if fields is None and config.fields is not None:
    fields = config.fields if labelled else config.fields[:-1]
  elif fields is not None and (fixed or len(fields) not in map(len, choices)):
    wanted = "SQuAD's own names" if fixed else ' or '.join(map(', '.join, choices))
    raise ConfigError(f'--fields = {",".join(fields)}: must name {wanted}; correct it')
  elif fields is not None and config.fields is not None and len(fields) != len(config.fields) - (not labelled):
    rule = f'must name as many as data.fields = {",".join(config.fields)}, with which the run was trained'
    raise ConfigError(f'--fields = {",".join(fields)}: {rule}; correct it')
  counts: collections.Counter = collections.Counter()
  items = Reader(kind, fields, config.bad_text, counts, labelled, config.separator).read(path, 'test')
  skipped = remarks(of_split(len(items), counts))
  if not items:
    raise DataError(f'{path}: no example{f" ({skipped})" if skipped else ""}; it must hold some; name another file')
  if fixed:
    _check_ids(path, items)
  return items, skipped


def _check_separator(separator: str, items: Table) -> None:
  if items and all(len(labels) < 2 for labels in items.values('label')):
    example = next((labels[0] for labels in items.values('label') if labels), '')
    rule = f'stands in none of {len(items):,} labels, such as {example!r}; some text must have two'
    raise DataError(f'data.separator = {separator!r}: {rule}; correct it, or set objective.target to class')


def _check_ids(where: str, items: Table) -> None:
  """The ids keep predictions of questions apart."""
  [(most, count)] = collections.Counter(items.values('id')).most_common(1) or [(None, 0)]
  if count > 1:
    raise DataError(f'{where}: {count} questions have the id {most!r}; ids must differ; give each its own')
