"""Labels of texts as a task: sentiment, entailment, similarity, topics; of a text or of a pair of texts."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from lmjax.data import records
from lmjax.data.batches.rows import RowTable
from lmjax.data.labelled.table import column, value, with_fields
from lmjax.data.tokens.tokenizer import Encoded
from lmjax.errors import ConfigError, DataError
from lmjax.models.heads import HeadedModel
from lmjax.objectives import classification
from lmjax.objectives.config import RANKING_METRICS
from lmjax.reports import pictures
from lmjax.scoring import classification as scoring
from lmjax.tasks.causal_lm import quote
from lmjax.tasks.fine_tuning import Examples, FineTuningTask

# More classes than this share of the examples: they are hardly classes.
_MANY_CLASSES = 0.5
# So many classes are named in a line.
_NAMED = 5
# The second text of a record that has one alone.
_NOTHING = Encoded(np.zeros(0, np.int32), 0, 0)


class TextLabels(FineTuningTask):
  """Texts, or pairs of them, each with a label; what that is, `Classification` and the others say.

  Each has `size`, the outputs of its head; `label(record)`, what the loss is given; and `value(output)`, a row of what
  the model gives as a prediction.
  """

  NAME = 'classification'
  size: int
  label: Callable[[dict], np.ndarray]  # (record): of a record without one, any
  activation: Callable[[jax.Array], jax.Array]  # (logits_BC)
  value: Callable[[np.ndarray], Any]

  def __init__(self, model, objective, samples, data, tokenizer):
    super().__init__(model, objective, samples, data, tokenizer)
    pooling, head = ('mean', 'gelu_norm') if self.bidirectional else ('last', 'linear_no_bias')
    if self.norms_after_sums:
      pooling, head = 'cls', 'relu' if model.segment_types is None else 'tanh'
    objective = dataclasses.replace(objective, pooling=objective.pooling or pooling, head=objective.head or head)
    self.objective = objective
    self.RANKING_METRIC = objective.ranking_metric or RANKING_METRICS[objective.target][0]
    self.HIGHER_IS_BETTER = self.RANKING_METRIC not in ('loss', 'rmse')
    self.model = HeadedModel(self.backbone, 'classifier', self.size, objective.head)
    self.loss = classification.make_loss(self.model, objective)
    self.outputs = _outputs(classification.make_logits(self.model, objective), type(self).activation)

  def rows_of(self, items: Sequence[dict]) -> Examples:
    """A row a record: its text, or both, with special tokens around; the end of the longer one is cut off."""
    return Examples(items, RowTable.of(self._rows(items), self._label_of(items)), np.arange(len(items)))

  def reopened(self, items: Sequence[dict], arrays, more) -> Examples:
    """What `rows_of` made of the same records before."""
    return Examples(items, RowTable.from_arrays(arrays, more, self._label_of(items)), np.arange(len(items)))

  def _label_of(self, items: Sequence[dict]) -> Callable[[int], dict]:
    """`RowTable.of_record`: the label of a record."""
    return lambda number: {'label': self.label(with_fields(items, number, 'label'))}

  def _rows(self, items: Sequence[dict]) -> Iterator[dict]:
    begin, between, end = self.frame
    firsts = self.tokenizer.encode_each(column(items, 'text'))
    has_pairs = any(pair is not None for pair in column(items, 'text_pair'))
    texts = (pair or '' for pair in column(items, 'text_pair'))
    seconds = self.tokenizer.encode_each(texts) if has_pairs else itertools.repeat(_NOTHING)
    for pair, first, second in zip(column(items, 'text_pair'), firsts, seconds):
      before_second = len(begin) + len(between)
      max_tokens = self.data.length - len(end) - (len(begin) if pair is None else before_second)
      sizes = len(first.ids), len(second.ids)
      kept_first, kept_second = longest_first(*sizes, max_tokens)
      tail = [] if pair is None else [*between, *second.ids[:kept_second]]
      tokens = np.array([*begin, *first.ids[:kept_first], *tail, *end], np.int32)
      start = len(tokens) if pair is None else kept_first + before_second
      counts = self.counted(sum(sizes) - kept_first - kept_second, first, *(() if pair is None else [second]))
      yield {'tokens': tokens, 'second': start, 'counts': counts}

  def example(self, row) -> dict[str, np.ndarray]:
    """A row -> inputs, segments, segment_types [T], labels (as of `label`) and weights (a scalar)."""
    padded = self.padded(row['tokens'], row['second'])
    return {**padded, 'labels': row['label'], 'weights': np.ones((), np.float32)}

  def answers(self, examples: Examples, outputs) -> list:
    """The prediction of each record."""
    return [self.value(row) for row in outputs['outputs']]

  def show(self, record: dict, prediction) -> str:
    """A text with its label and the model's."""
    texts = [record[name] for name in ('text', 'text_pair') if record.get(name) is not None]
    gold = f'Label: {_shown(record["label"])}. ' if 'label' in record else ''
    return '\n\n'.join(map(quote, texts)) + f'\n\n{gold}The model: {_shown(prediction)}\n'


class Classification(TextLabels):
  """One class a text."""

  MAIN_METRIC, BASELINE = 'accuracy', 'majority_accuracy'
  activation = staticmethod(jax.nn.softmax)

  def __init__(self, model, objective, samples, data, tokenizer):
    if objective.labels is None:  # `resolve` sets them; a config.json that was changed by hand may lack them
      raise ConfigError(['objective.labels = None: a run that has been trained names its classes; write them there'])
    self.size = len(objective.labels)
    super().__init__(model, objective, samples, data, tokenizer)

  @classmethod
  def resolve(cls, objective, read: records.Records):
    """Labels from the training examples, and weights from their counts."""
    counts = collections.Counter(column(read.splits['train'], 'label'))
    labels = tuple(sorted(counts)) if objective.labels is None else objective.labels
    if len(labels) < 2:
      problem = f'all {counts.total()} examples have the label {labels[0]!r}'
      raise DataError(f'data.train: {problem}; two are needed; add examples of another')
    weights = objective.class_weights
    if weights == 'balanced':
      total = sum(counts[label] for label in labels)
      weights = tuple(total / (len(labels) * max(counts[label], 1)) for label in labels)
    check_labels(read, labels, lambda label: [label])
    return dataclasses.replace(objective, labels=labels, class_weights=weights)

  @classmethod
  def example_records(cls, objective) -> list[dict]:
    """A record of each label; of two where the data is to name them."""
    return [{'id': label, 'text': 'a', 'label': label} for label in objective.labels or ('0', '1')]

  def label(self, record: dict) -> np.ndarray:
    """The number of its class, int32."""
    return np.array(self.objective.labels.index(record['label']) if 'label' in record else 0, np.int32)

  def value(self, output: np.ndarray) -> dict[str, float]:
    """{label: probability}."""
    return dict(zip(self.objective.labels, map(float, output)))

  def counts_of(self, examples: Examples) -> dict:
    """As for all tasks, and the examples of each class."""
    classes = collections.Counter(label for label in column(examples.records, 'label') if label is not None)
    return super().counts_of(examples) | {'classes': dict(classes)}

  def describe(self, data) -> str:
    """A line about the data, with what looks wrong about its labels."""
    examples, questions = data.counts['train']['examples'], []
    if absent := [label for label in self.objective.labels if label not in data.counts['valid']['classes']]:
      questions.append(f'valid has no {", ".join(absent[:_NAMED])}' + ' and others' * (len(absent) > _NAMED))
    questions += asked_about(self.objective.labels)
    if len(self.objective.labels) > _MANY_CLASSES * examples:
      many = f'{len(self.objective.labels):,} classes for {examples:,} examples'
      questions.append(f'{many}: is a label a number (objective.target=number) or a text?')
    return '; '.join([super().describe(data), *questions])

  def scores(self, items: Sequence[dict], predictions: list[dict]) -> dict[str, float]:
    """Accuracy, what always guessing the most frequent label gives, and macro F1."""
    return scoring.scores(self._confusion(items, predictions))

  def _confusion(self, items, predictions):
    number = {label: i for i, label in enumerate(self.objective.labels)}
    guesses = [number[likeliest(prediction)] for prediction in predictions]
    return scoring.confusion([number[label] for label in column(items, 'label')], guesses, len(number))

  def report(self, prediction: dict[str, float]) -> dict:
    """The likeliest label, and the probabilities of all."""
    return {'label': likeliest(prediction), 'probabilities': prediction}

  def report_files(self, split: str, items: Sequence[dict], predictions: list[dict]) -> dict[str, str | bytes]:
    """confusion_SPLIT.png and .md, predictions_SPLIT.jsonl."""
    matrix, names = self._confusion(items, predictions), list(self.objective.labels)
    return super().report_files(split, items, predictions) | {
      f'confusion_{split}.md': scoring.confusion_markdown(matrix, names) + '\n',
      f'confusion_{split}.png': pictures.plot_confusion(matrix, names),
    }

  def per_example(self, items: Sequence[dict], predictions: list[dict]) -> list[float]:
    """1 where the label is right, for paired comparisons."""
    return [float(likeliest(p) == label) for label, p in zip(column(items, 'label'), predictions)]


@functools.lru_cache(maxsize=8)
def _outputs(logits, activation):
  def outputs(params, batch):
    return {'outputs': activation(logits(params, batch, None))}

  return outputs


def _shown(value) -> str:
  """A label or a prediction for people: of probabilities the highest."""
  if isinstance(value, dict):
    return ', '.join(f'{label} {p:.2f}' for label, p in sorted(value.items(), key=lambda item: -item[1])[:_NAMED])
  return f'{value:.4g}' if isinstance(value, float) else value if isinstance(value, str) else ', '.join(value) or 'none'


def check_labels(read: records.Records, labels: Sequence[str], of: Callable[[Any], list[str]]) -> None:
  """Refuses a record of which a label, `of(field)`, is not among them. Raises DataError."""
  known = set(labels)
  for split, items in read.splits.items():
    for number, found in enumerate(column(items, 'label')):
      for unknown in [label for label in of(found) if label not in known]:
        where = f'data.{split}, example {value(items, "id", number)} (the first is 0)'
        remedy = 'correct it, or train with all of them in objective.labels'
        raise DataError(f'{where}: label {unknown!r}; must be one of {", ".join(labels)}; {remedy}')


def asked_about(labels: Sequence[str]) -> list[str]:
  """Questions about labels that are nearly the same."""
  return [f'are these one class: {", ".join(map(repr, group))}?' for group in look_alikes(labels)]


def likeliest(prediction: dict[str, float]) -> str:
  """The label with the highest probability."""
  return max(prediction, key=prediction.__getitem__)


def look_alikes(labels: Sequence[str]) -> list[list[str]]:
  """Labels that differ in case, white space, composition or characters without width, or as 1 and 1.0 do.

  >>> look_alikes(['1', '1.0', 'no', 'No ', 'yes'])
  [['1', '1.0'], ['no', 'No ']]
  """
  groups = collections.defaultdict(list)
  for label in labels:
    composed = unicodedata.normalize('NFKC', label).casefold()
    key: str | float = ' '.join(''.join(c for c in composed if unicodedata.category(c) != 'Cf').split())
    with contextlib.suppress(ValueError):
      key = float(key)
    groups[key].append(label)
  return [group for group in groups.values() if len(group) > 1]


def longest_first(first: int, second: int, limit: int) -> tuple[int, int]:
  """How much of two texts fits: the longer one is cut until both are equal, then both, as `tokenizers` does it.

  >>> longest_first(10, 3, 8), longest_first(11, 10, 9), longest_first(10, 11, 9)
  ((5, 3), (5, 4), (4, 5))
  """
  half = (limit + (second >= first)) // 2  # of an odd number the longer one keeps more
  kept_second = min(second, max(limit - first, half))
  return min(first, limit - kept_second), kept_second
