"""What the tasks that fine-tune share: labelled records in, rows of tokens out, predictions for each record.

Legend: B batch, T length.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from lmjax.data import records
from lmjax.data.batches.pipeline import Pipeline, ValidBatches
from lmjax.data.batches.shuffle import Shuffled
from lmjax.data.config import RecordKind, RecordsConfig
from lmjax.data.counts import Counts, check_known, described
from lmjax.data.labelled import kept
from lmjax.data.labelled.trained import tokenizer_of
from lmjax.data.tokens.published import Frame
from lmjax.data.tokens.tokenizer import Encoded, Tokenizer
from lmjax.models.transformer import Transformer
from lmjax.tasks.base import Run, Task
from lmjax.tasks.table import TASKS

# Examples on a page of a report.
SHOWN = 50


@dataclasses.dataclass(frozen=True)
class Examples:
  """The rows of one split, each a dict of arrays; a record may give several: `owners` has the record of each row."""

  records: Sequence[dict]
  rows: Any  # a sequence of dicts, made when they are read
  owners: np.ndarray

  def __len__(self):
    return len(self.rows)

  def take(self, indices: np.ndarray) -> list[dict]:
    """Rows, not yet padded."""
    return [self.rows[index] for index in indices]

  def documents_of(self, index: int) -> list[tuple[int, int]]:
    """(record, where in the row it begins), for display."""
    return [(int(self.owners[index]), 0)]


@dataclasses.dataclass(frozen=True)
class FineTuningData:
  """The data of a run: its rows by split, and the other two as in `records.Records`, with what the rows add."""

  splits: dict[str, Examples]
  contents: dict
  counts: Counts


class FineTuningTask(Task):
  """Reads records, makes rows of them, and predictions; each task says how."""

  NAME: ClassVar[str]
  RECORDS: ClassVar[RecordKind | None] = None  # what is read, where it is not what the table says
  SHAPE_ROWS: ClassVar[tuple[str, ...]] = ()  # the settings of the objective that change rows
  # each task's own
  example_records: Callable[..., list[dict]]  # (objective): invented records, one of each label
  rows_of: Callable[..., Examples]  # (records)
  reopened: Callable[..., Examples]  # (records, arrays, what else): what `rows_of` made of them, as its rows were kept
  example: Callable[[dict], dict[str, np.ndarray]]  # (row): what the model is given, and must predict
  outputs: Callable[..., dict]  # (params, batch): arrays with a row each
  answers: Callable[..., list]  # (examples, outputs): a prediction for each record
  scores: Callable[..., dict[str, float]]  # (records, predictions)
  per_example: Callable[..., list[float]]  # (records, predictions): the score of each, for paired comparisons
  report: Callable[..., dict]  # (prediction): JSON-able
  show: Callable[..., str]  # (record, prediction): Markdown

  def __init__(self, model, objective, samples, data, tokenizer: Tokenizer):
    self.objective, self.samples_config, self.data, self.tokenizer = objective, samples, data, tokenizer
    self.backbone = Transformer(model, tokenizer.vocab_size_in(model.vocab_size))

  @classmethod
  def read(cls, data: RecordsConfig, tokenizer: Tokenizer | None, seed: int, progress: bool, pin=None):
    """(tokenizer, Records) of a data slice; without a checkpoint's tokenizer one is loaded or trained."""
    read = records.load(data, cls.RECORDS or TASKS[cls.NAME].records, seed)
    settings = data.tokenizer  # given where there is no checkpoint: a rule of the config
    if tokenizer is not None:
      return tokenizer, read
    if settings.path is not None:
      return Tokenizer.load(settings.path), read
    return tokenizer_of(read.splits['train'], settings, read.fingerprint), read

  def load(self, read: records.Records) -> FineTuningData:
    """Makes rows of all records, or takes those that were made of the same ones before."""
    splits = self._rows_of_all(read)
    counts = {split: counts | self.counts_of(splits[split]) for split, counts in read.counts.items()}
    for split, found in counts.items():
      check_known(f'data.{split}', found, self.data.max_unknown)
    return FineTuningData(splits, read.contents, counts)

  def _rows_of_all(self, read: records.Records) -> dict[str, Examples]:
    if read.fingerprint is None:
      return {split: self.rows_of(items) for split, items in read.splits.items()}
    program, settings = type(self), [getattr(self.objective, name) for name in self.SHAPE_ROWS]
    given = [self.tokenizer.hash, self.data.length, self.frame, self.bidirectional, settings]
    name = kept.fingerprint('rows', read.fingerprint, program.__module__, program.__qualname__, *given)
    if (found := kept.load(name)) is not None:
      of_split = lambda split: {
        k.removeprefix(f'{split} '): a for k, a in found[0].items() if k.startswith(f'{split} ')
      }
      return {split: self.reopened(items, of_split(split), found[1][split]) for split, items in read.splits.items()}
    made = {split: self.rows_of(items) for split, items in read.splits.items()}
    parts = {split: examples.rows.arrays() for split, examples in made.items()}
    arrays = {f'{split} {key}': array for split, (found, _) in parts.items() for key, array in found.items()}
    kept.save(name, arrays, {split: more for split, (_, more) in parts.items()})
    return made

  def counts_of(self, examples: Examples) -> dict:
    """What `counted` says of all rows together."""
    return examples.rows.totals()

  def read_of(self, examples: Examples) -> list[tuple[int, int]]:
    """(tokens that are read, all of them) of each record's texts."""
    tokens, cut = examples.rows.count('tokens'), examples.rows.count('cut_tokens')
    return list(zip((tokens - cut).tolist(), tokens.tolist()))

  def unread(self, examples: Examples) -> str:
    """How much of the records' texts is not read or not known, for people; '' where all of it is."""
    parts, counts = [], self.counts_of(examples)
    if short := [(read, tokens) for read, tokens in self.read_of(examples) if read < tokens]:
      read, tokens = map(sum, zip(*short))
      what = f'{len(short):,} of {len(examples.records):,} are too long'
      parts.append(f'{what}, and {read:,} of their {tokens:,} tokens are read: {self.limit}')
    if unknown := counts['unknown_bytes']:
      parts.append(f'the tokenizer does not know {unknown:,} of {counts["bytes"]:,} bytes of text')
    return '; '.join(parts)

  @property
  def limit(self) -> str:
    """The setting that decides how much is read."""
    return f'data.length = {self.data.length}'

  def counted(self, cut: int, *texts: Encoded) -> dict[str, int]:
    """The `counts` of a row, whose texts these are: tokens of them, cut off and unknown ones, and bytes."""
    unknown = sum(int(np.count_nonzero(text.ids == self.tokenizer.unk)) for text in texts)
    of_bytes = {'bytes': sum(t.n_bytes for t in texts), 'unknown_bytes': sum(t.unknown_bytes for t in texts)}
    return {'tokens': sum(len(t.ids) for t in texts), 'cut_tokens': cut, 'unknown_tokens': unknown, **of_bytes}

  def example_rows(self) -> list[dict]:
    """A row such as the pipeline gives to `batch_of`, of an invented record."""
    return self.rows_of(self.example_records(self.objective)).take(np.zeros(1, int))

  def batch_of(self, rows: list[dict], keys_B: np.ndarray) -> dict[str, np.ndarray]:
    """Rows -> the `example` of each; nothing is drawn."""
    del keys_B
    examples = [self.example(row) for row in rows]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}

  def rows(self, data: FineTuningData) -> int:
    """Training rows of an epoch."""
    return len(data.splits['train'])

  def describe(self, data: FineTuningData) -> str:
    """A line about the data, for people."""
    return described(data.counts)

  def counts(self, data: FineTuningData) -> Counts:
    """Of each split."""
    return data.counts

  def pipeline(self, data: FineTuningData, seed: int, total_steps: int, hosts: int = 1, host: int = 0) -> Pipeline:
    """The training batches."""
    contents = {**data.contents, 'tokenizer': self.tokenizer.hash, 'length': self.data.length}
    sizes = dict(batch_size=self.data.batch_size, vocab_size=self.tokenizer.vocab_size, total_steps=total_steps)
    rows, share = {'train': Shuffled(data.splits['train'], 'train', seed)}, dict(hosts=hosts, host=host)
    return Pipeline(rows, [1.0], self.batch_of, contents, seed=seed, **sizes, **share)

  def batches(self, examples: Examples) -> ValidBatches:
    """This host's rows of a split in their order."""
    sizes = dict(batch_size=self.data.batch_size, vocab_size=self.tokenizer.vocab_size)
    share = dict(hosts=jax.process_count(), host=jax.process_index())
    return ValidBatches(self.NAME, examples, self.batch_of, **sizes, **share)

  @property
  def bidirectional(self) -> bool:
    """Whether the backbone reads from both sides."""
    return self.backbone.config.attention == 'bidirectional'

  @property
  def norms_after_sums(self) -> bool:
    """Whether it is an encoder with norms after its residual sums, as BERT is."""
    return self.bidirectional and self.backbone.config.norm_placement == 'post'

  @property
  def frame(self) -> Frame:
    """Ids around texts: in an encoder those of its tokenizer's template, else [CLS], [SEP], [SEP].

    A decoder knows a document's beginning by what the template puts there, or by the end of the one before; between two
    texts, and at the end, it has its end-of-document token.
    """
    tok = self.tokenizer
    if self.bidirectional and tok.frame is not None:
      return tok.frame
    if self.bidirectional and tok.cls is not None and tok.sep is not None:
      return Frame((tok.cls,), (tok.sep,), (tok.sep,))
    end = self.document_end()
    return Frame(end if tok.frame is None else tok.frame.begin or end, end, end)

  def padded(self, tokens, second: int | None = None) -> dict[str, np.ndarray]:
    """inputs, segments (0 for padding) and segment_types (1 from token `second` on), int32 [T]."""
    inputs_T = np.full(self.data.length, self.pad, np.int32)
    inputs_T[: len(tokens)] = tokens
    place_T = np.arange(self.data.length)
    real_T = place_T < len(tokens)
    types_T = real_T & (place_T >= (len(tokens) if second is None else second))
    types_T &= (self.backbone.config.segment_types or 0) > 1
    return {'inputs': inputs_T, 'segments': real_T.astype(np.int32), 'segment_types': types_T.astype(np.int32)}

  def predict(self, params, examples: Examples, run: Run) -> list:
    """A prediction for each record."""
    outputs = [run(self.outputs, params, batch) for batch in self.batches(examples)]
    joined = {name: np.concatenate([output[name] for output in outputs])[: len(examples)] for name in outputs[0]}
    return self.answers(examples, joined)

  def fit_threshold(self, items: Sequence[dict], predictions: list) -> None:
    """Chooses on validation predictions what training does not learn; nothing here."""

  @property
  def calibration(self) -> dict:
    """What was chosen on validation predictions, JSON-able; kept in results.json."""
    return {}

  def load_calibration(self, calibration: dict) -> None:
    """Takes back what `calibration` gave."""

  def samples(self, items: Sequence[dict], predictions: list, count: int | None = None) -> str:
    """Markdown: the first records of a split with their predictions; None: as many as the config says."""
    return '\n---\n\n'.join(map(self.show, items[: count or self.samples_config.count], predictions))

  def report_files(self, split: str, items: Sequence[dict], predictions: list) -> dict[str, str | bytes]:
    """{file name: content}; predictions_SPLIT.jsonl has a line a record, with its score for paired comparisons."""
    lines = []
    for record, prediction, score in zip(items, predictions, self.per_example(items, predictions)):
      right = {name: record[name] for name in ('label', 'answers', 'summary') if name in record}
      line = {'id': record['id'], **right, 'prediction': prediction, 'score': score}
      lines.append(json.dumps(line, ensure_ascii=False) + '\n')
    return {f'predictions_{split}.jsonl': ''.join(lines)}
