"""Sequence classification as a task: sentiment, entailment, any label of a text or of a pair of texts."""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from lmjax.data import records
from lmjax.errors import ConfigError, DataError
from lmjax.models.heads import HeadedModel
from lmjax.objectives import classification
from lmjax.reports import pictures
from lmjax.scoring import classification as scoring
from lmjax.tasks.causal_lm import quote
from lmjax.tasks.fine_tuning import Examples, FineTuningTask

# More classes than this share of the examples: they are hardly classes.
_MANY_CLASSES = 0.5
# So many classes are named in a line.
_NAMED = 5


class Classification(FineTuningTask):
  """One label a record."""

  NAME = 'classification'
  RANKING_METRIC, HIGHER_IS_BETTER = 'accuracy', True
  MAIN_METRIC, BASELINE = 'accuracy', 'majority_accuracy'

  def __init__(self, model, objective, samples, data, tokenizer):
    if objective.labels is None:  # `resolve` sets them; a config.json that was changed by hand may lack them
      raise ConfigError(['objective.labels = None: a run that has been trained names its classes; write them there'])
    usual = 'mean' if model.attention == 'bidirectional' else 'last'
    objective = dataclasses.replace(objective, pooling=objective.pooling or usual)
    super().__init__(model, objective, samples, data, tokenizer)
    self.model = HeadedModel(self.backbone, 'classifier', len(objective.labels))
    self.loss = classification.make_loss(self.model, objective)
    self.outputs = _outputs(classification.make_logits(self.model, objective))

  @classmethod
  def resolve(cls, objective, read: records.Records):
    """Labels from the training examples, and weights from their counts."""
    counts = collections.Counter(record['label'] for record in read.splits['train'])
    labels = tuple(sorted(counts)) if objective.labels is None else objective.labels
    if len(labels) < 2:
      problem = f'all {counts.total()} examples have the label {labels[0]!r}'
      raise DataError(f'data.train: {problem}; two are needed; add examples of another')
    weights = objective.class_weights
    if weights == 'balanced':
      total = sum(counts[label] for label in labels)
      weights = tuple(total / (len(labels) * max(counts[label], 1)) for label in labels)
    for split, items in read.splits.items():
      unknown = next((record for record in items if record['label'] not in labels), None)
      if unknown is not None:
        raise DataError(
          f'data.{split}, example {unknown["id"]}: label {unknown["label"]!r}; must be one of {", ".join(labels)}; '
          'correct it, or name all in objective.labels'
        )
    return dataclasses.replace(objective, labels=labels, class_weights=weights)

  @classmethod
  def example_records(cls, objective) -> list[dict]:
    """A record of each label; of two where the data is to name them."""
    return [{'id': label, 'text': 'a', 'label': label} for label in objective.labels or ('0', '1')]

  def rows_of(self, items: list[dict]) -> Examples:
    """A row a record: its text, or both, with special tokens around; the end of the longer one is cut off."""
    begin, between, end = self.special_tokens
    firsts = self.tokenizer.encode_each([record['text'] for record in items])
    seconds = self.tokenizer.encode_each([record.get('text_pair') or '' for record in items])
    rows = []
    for record, first, second in zip(items, firsts, seconds):
      paired = record.get('text_pair') is not None
      max_tokens = self.data.length - (3 if paired else 2)
      kept_first, kept_second = longest_first(len(first), len(second), max_tokens)
      tokens = [begin, *first[:kept_first], *([between, *second[:kept_second]] if paired else []), end]
      label = self.objective.labels.index(record['label']) if 'label' in record else 0
      start = kept_first + 2 if paired else len(tokens)
      cut = len(first) + len(second) - kept_first - kept_second
      row = {'tokens': np.array(tokens, np.int32), 'second': start, 'label': label, 'cut': cut}
      rows.append(row | self.sizes(first, second))
    return Examples(items, rows, np.arange(len(items)))

  def counts_of(self, examples: Examples) -> dict:
    """As for all tasks, and the examples of each class."""
    classes = collections.Counter(record['label'] for record in examples.records)
    return super().counts_of(examples) | {'classes': dict(classes)}

  def describe(self, data) -> str:
    """A line about the data, with what looks wrong about its labels."""
    examples, questions = data.counts['train']['examples'], []
    if absent := [label for label in self.objective.labels if label not in data.counts['valid']['classes']]:
      questions.append(f'valid has no {", ".join(absent[:_NAMED])}' + ' and others' * (len(absent) > _NAMED))
    for group in look_alikes(self.objective.labels):
      questions.append(f'are these one class: {", ".join(map(repr, group))}?')
    if len(self.objective.labels) > _MANY_CLASSES * examples:
      questions.append(
        f'{len(self.objective.labels):,} classes for {examples:,} examples: is a label a number or a text?'
      )
    return '; '.join([super().describe(data), *questions])

  def example(self, row, rng) -> dict[str, np.ndarray]:
    """A row -> inputs, segments, segment_types [T], labels and weights (scalars)."""
    padded = self.padded(row['tokens'], row['second'])
    return {**padded, 'labels': np.array(row['label'], np.int32), 'weights': np.ones((), np.float32)}

  def answers(self, examples: Examples, outputs) -> list[dict[str, float]]:
    """{label: probability} of each record."""
    return [dict(zip(self.objective.labels, map(float, row))) for row in outputs['probabilities']]

  def scores(self, items: list[dict], predictions: list[dict]) -> dict[str, float]:
    """Accuracy, what always guessing the most frequent label gives, and macro F1."""
    return scoring.scores(self._confusion(items, predictions))

  def _confusion(self, items, predictions):
    number = {label: i for i, label in enumerate(self.objective.labels)}
    guesses = [number[likeliest(prediction)] for prediction in predictions]
    return scoring.confusion([number[record['label']] for record in items], guesses, len(number))

  def report(self, prediction: dict[str, float]) -> dict:
    """The likeliest label, and the probabilities of all."""
    return {'label': likeliest(prediction), 'probabilities': prediction}

  def show(self, record: dict, prediction: dict[str, float]) -> str:
    """A text with its label and the model's."""
    texts = [record[name] for name in ('text', 'text_pair') if record.get(name) is not None]
    gold = f'Label: {record["label"]}. ' if 'label' in record else ''
    model = ', '.join(f'{label} {p:.2f}' for label, p in sorted(prediction.items(), key=lambda item: -item[1])[:5])
    return '\n\n'.join(map(quote, texts)) + f'\n\n{gold}The model: {model}\n'

  def report_files(self, split: str, items: list[dict], predictions: list[dict]) -> dict[str, str | bytes]:
    """confusion_SPLIT.png and .md, predictions_SPLIT.jsonl."""
    matrix, names = self._confusion(items, predictions), list(self.objective.labels)
    return super().report_files(split, items, predictions) | {
      f'confusion_{split}.md': scoring.confusion_markdown(matrix, names) + '\n',
      f'confusion_{split}.png': pictures.plot_confusion(matrix, names),
    }

  def per_example(self, items: list[dict], predictions: list[dict]) -> list[float]:
    """1 where the label is right, for paired comparisons."""
    return [float(likeliest(p) == record['label']) for record, p in zip(items, predictions)]


@functools.lru_cache(maxsize=8)
def _outputs(logits):
  def probabilities(params, batch):
    return {'probabilities': jax.nn.softmax(logits(params, batch, None))}

  return probabilities


def likeliest(prediction: dict[str, float]) -> str:
  """The label with the highest probability."""
  return max(prediction, key=prediction.__getitem__)


def look_alikes(labels: Sequence[str]) -> list[list[str]]:
  """Labels that differ in case, outer white space or as 1 and 1.0 do.

  >>> look_alikes(['1', '1.0', 'no', 'No ', 'yes'])
  [['1', '1.0'], ['no', 'No ']]
  """
  groups = collections.defaultdict(list)
  for label in labels:
    key: str | float = label.strip().casefold()
    with contextlib.suppress(ValueError):
      key = float(key)
    groups[key].append(label)
  return [group for group in groups.values() if len(group) > 1]


def longest_first(first: int, second: int, limit: int) -> tuple[int, int]:
  """How much of two texts fits: the longer one is cut until both are equal, then both.

  >>> longest_first(10, 3, 8), longest_first(10, 10, 8)
  ((5, 3), (4, 4))
  """
  kept_second = min(second, max(limit - first, limit // 2))
  return min(first, limit - kept_second), kept_second
