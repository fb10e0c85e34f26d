"""A number of a text, or of a pair of texts, as a task: similarity, a rating, a price (GLUE's STS-B).

The model learns the numbers in units of their deviation from their mean, so that any range of them is learned alike.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lmjax.data import records
from lmjax.data.labelled.table import column
from lmjax.errors import ConfigError, DataError
from lmjax.scoring import regression as scoring
from lmjax.tasks.classification import TextLabels
from lmjax.tasks.fine_tuning import SHOWN


class Regression(TextLabels):
  """One number a text."""

  RECORDS = 'regression'
  MAIN_METRIC, BASELINE = 'rmse', 'mean_rmse'
  size = 1
  activation = staticmethod(lambda logits_B1: logits_B1[:, 0])

  def __init__(self, model, objective, samples, data, tokenizer):
    if objective.scale is None:  # `resolve` sets it; a config.json that was changed by hand may lack it
      raise ConfigError(['objective.scale = None: a run that has been trained has it; write mean and deviation there'])
    super().__init__(model, objective, samples, data, tokenizer)

  @classmethod
  def resolve(cls, objective, read: records.Records):
    """Mean and deviation of the training numbers."""
    if objective.scale is not None:
      return objective
    numbers = np.array(list(column(read.splits['train'], 'label')), np.float64)
    if np.ptp(numbers) == 0:
      problem = f'all {len(numbers):,} examples have the number {numbers[0]:g}'
      raise DataError(f'data.train: {problem}; there is nothing to learn; add examples with another')
    return dataclasses.replace(objective, scale=(float(numbers.mean()), float(numbers.std())))

  @classmethod
  def example_records(cls, objective) -> list[dict]:
    """Two different numbers."""
    return [{'id': str(number), 'text': 'a', 'label': float(number)} for number in range(2)]

  def label(self, record: dict) -> np.ndarray:
    """Its number in units of the deviation, float32."""
    mean, deviation = self.objective.scale
    return np.array((record.get('label', mean) - mean) / deviation, np.float32)

  def value(self, output: np.ndarray) -> float:
    """The number."""
    mean, deviation = self.objective.scale
    return float(output) * deviation + mean

  def describe(self, data) -> str:
    """A line about the data, with the range of its numbers."""
    parts = [super().describe(data)]
    for split, examples in data.splits.items():
      numbers = np.array(list(column(examples.records, 'label')))
      parts.append(f'{split}: from {numbers.min():g} to {numbers.max():g}, mean {numbers.mean():.4g}')
      if np.ptp(numbers) == 0:
        parts[-1] = f'{split}: all numbers are {numbers[0]:g}, so Pearson and Spearman are undefined (nan)'
    return '; '.join(parts)

  def scores(self, items: Sequence[dict], predictions: list[float]) -> dict[str, float]:
    """Root of the mean squared error, the same of always giving the mean, and two correlations."""
    return scoring.scores(list(column(items, 'label')), predictions)

  def per_example(self, items: Sequence[dict], predictions: list[float]) -> list[float]:
    """The squared error below zero, for paired comparisons in which more is better."""
    return [-((p - label) ** 2) for label, p in zip(column(items, 'label'), predictions)]

  def report(self, prediction: float) -> dict:
    """The number."""
    return {'number': prediction}

  def report_files(self, split: str, items: Sequence[dict], predictions: list[float]) -> dict[str, str | bytes]:
    """predictions_SPLIT.jsonl, and errors_SPLIT.md with the largest errors."""
    order = np.argsort(self.per_example(items, predictions), kind='stable')[:SHOWN]
    page = self.samples([items[i] for i in order], [predictions[i] for i in order], SHOWN)
    return super().report_files(split, items, predictions) | {f'errors_{split}.md': page}
