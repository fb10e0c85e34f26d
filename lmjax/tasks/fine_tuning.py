"""What the tasks that fine-tune share: labelled records in, rows of tokens out, predictions for each record.

Legend: B batch, T length.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import ClassVar

import jax
import numpy as np

from lmjax.data import records
from lmjax.data.batches.pipeline import Pipeline, ValidBatches
from lmjax.data.config import RecordsConfig
from lmjax.data.tokens.tokenizer import Tokenizer, train_tokenizer
from lmjax.models.transformer import Transformer
from lmjax.tasks.base import Run, Task


@dataclasses.dataclass(frozen=True)
class Examples:
  """The rows of one split, each a dict of arrays; a record may give several: `owners` has the record of each row."""

  records: list[dict]
  rows: list[dict]
  owners: np.ndarray

  def __len__(self):
    return len(self.rows)

  def row(self, index: int) -> dict:
    """One row, not yet padded."""
    return self.rows[index]

  def documents_of(self, index: int) -> list[tuple[int, int]]:
    """(record, where in the row it begins), for display."""
    return [(int(self.owners[index]), 0)]


@dataclasses.dataclass(frozen=True)
class FineTuningData:
  """The data of a run: Examples by split, JSON-able facts about their content, and a line for people."""

  splits: dict[str, Examples]
  facts: dict
  said: str


class FineTuningTask(Task):
  """Reads records, makes rows of them, and predictions; each task says how.

  A task defines `example_records(objective)` (invented records, of each label one), `rows_of(records) -> Examples`,
  `example(row, rng)`, `outputs(params, batch)` (arrays with a row each), `answers(examples, outputs)` (a
  prediction for each record), `scores(records, predictions)`, `per_example(records, predictions)`, `report(prediction)`
  (JSON-able), `show(record, prediction)` (Markdown) and `report_files(split, records, predictions)`
  ({file name: content}, which the loop writes).
  """

  NAME: ClassVar[records.Task]
  STANDS_FOR_RUN = 'best'
  # each task's own
  example_records: Callable[..., list[dict]]
  rows_of: Callable[..., 'Examples']
  outputs: Callable[..., dict]
  answers: Callable[..., list]
  show: Callable[..., str]
  report: Callable[..., dict]
  report_files: Callable[..., dict[str, str | bytes]]

  def __init__(self, model, objective, samples, data, tokenizer: Tokenizer):
    self.objective, self.samples_config, self.data, self.tokenizer = objective, samples, data, tokenizer
    self.backbone = Transformer(model, tokenizer.vocab_size)

  @classmethod
  def read(cls, data: RecordsConfig, tokenizer: Tokenizer | None, seed: int, progress: bool):
    """(tokenizer, Records) of a data slice; without a checkpoint's tokenizer one is loaded or trained."""
    del progress
    found = records.load(data, cls.NAME, seed)
    settings = data.tokenizer  # given where there is no checkpoint: a rule of the config
    if tokenizer is not None:
      return tokenizer, found
    if settings.path is not None:
      return Tokenizer.load(settings.path), found
    given = [(name, value) for record in found.splits['train'] for name, value in record.items()]
    texts = [text for name, text in given if name not in ('id', 'label') and isinstance(text, str)]
    return train_tokenizer(texts, settings.vocab_size, settings.sample_bytes, settings.lowercase), found

  def load(self, found: records.Records) -> FineTuningData:
    """Makes rows of all records."""
    splits = {split: self.rows_of(items) for split, items in found.splits.items()}
    cut = sum(int(row.get('cut', 0)) for row in splits['train'].rows)
    said = found.description + (f'; {cut:,} train rows cut to data.length = {self.data.length}' if cut else '')
    return FineTuningData(splits, found.contents, said)

  def example_record(self) -> dict:
    """A row such as the pipeline gives to `example`, of an invented record."""
    return self.rows_of(self.example_records(self.objective)).row(0)

  def rows(self, data: FineTuningData) -> int:
    """Training rows of an epoch."""
    return len(data.splits['train'])

  def describe(self, data: FineTuningData) -> str:
    """A line about the data, for people."""
    return data.description

  def pipeline(self, data: FineTuningData, seed: int, total_steps: int, hosts: int = 1, host: int = 0) -> Pipeline:
    """The training batches."""
    facts = {**data.contents, 'tokenizer': self.tokenizer.hash, 'length': self.data.length}
    share = dict(total_steps=total_steps, hosts=hosts, host=host)
    sizes = dict(batch_size=self.data.batch_size, vocab_size=self.tokenizer.vocab_size)
    return Pipeline({'train': data.splits['train']}, [1.0], self.example, facts, seed=seed, **sizes, **share)

  def batches(self, examples: Examples, hosts: int = 1, host: int = 0) -> ValidBatches:
    """The rows of a split in their order."""
    sizes = dict(vocab_size=self.tokenizer.vocab_size, batch_size=self.data.batch_size)
    return ValidBatches(self.NAME, examples, self.example, hosts=hosts, host=host, **sizes)

  @property
  def predicted(self) -> int:
    """Positions a row that the output embedding is applied to."""
    return 0

  @property
  def bidirectional(self) -> bool:
    """Whether the backbone reads from both sides."""
    return self.backbone.config.attention == 'bidirectional'

  @property
  def frame(self) -> tuple[int, int, int]:
    """Ids before a text, between two, and at the end: [CLS], [SEP], [SEP] in an encoder.

    A decoder knows a document's beginning by the end of the one before: it has its end-of-document token as the first
    two, and at the end.
    """
    tok = self.tokenizer
    if self.bidirectional and tok.cls is not None and tok.sep is not None:
      return tok.cls, tok.sep, tok.sep
    [end] = self.document_end()
    return end, end, end

  def padded(self, tokens, second: int | None = None) -> dict[str, np.ndarray]:
    """inputs, segments (0 for padding) and segment_types (1 from token `second` on), int32 [T]."""
    inputs_T = np.full(self.data.length, self.pad, np.int32)
    inputs_T[: len(tokens)] = tokens
    place_T = np.arange(self.data.length)
    real_T = place_T < len(tokens)
    types_T = real_T & (place_T >= (len(tokens) if second is None else second))
    if (self.backbone.config.segment_types or 0) < 2:
      types_T = np.zeros_like(types_T)
    return {'inputs': inputs_T, 'segments': real_T.astype(np.int32), 'segment_types': types_T.astype(np.int32)}

  def predict(self, params, examples: Examples, run: Run) -> list:
    """A prediction for each record."""
    found: dict[str, list[np.ndarray]] = {}
    for batch in self.batches(examples, jax.process_count(), jax.process_index()):
      for name, values in run(self.outputs, params, batch).items():
        found.setdefault(name, []).append(values)
    outputs = {name: np.concatenate(parts)[: len(examples)] for name, parts in found.items()}
    return self.answers(examples, outputs)

  def fit_threshold(self, items: list[dict], predictions: list) -> None:
    """Chooses on validation predictions what training does not learn; nothing here."""

  def samples(self, found: list[dict], predictions: list) -> str:
    """Markdown: the first records of a split with their predictions."""
    shown = zip(found[: self.samples_config.count], predictions)
    return '\n---\n\n'.join(self.show(record, prediction) for record, prediction in shown)


def encode(tokenizer: Tokenizer, texts: list[str]) -> Iterator[np.ndarray]:
  """int32 ids of each text."""
  return (np.array(ids, np.int32) for ids in tokenizer.encode_batch(texts))


def json_lines(items: list[dict], predictions: list, scores: list[float]) -> str:
  """One object a record: its id, what is right, the prediction, and its score, for paired comparisons of runs."""
  gold = ('label', 'answers', 'summary')
  lines = [
    {'id': record['id'], **{name: record[name] for name in gold if name in record}, 'prediction': said, 'score': score}
    for record, said, score in zip(items, predictions, scores)
  ]
  return ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
