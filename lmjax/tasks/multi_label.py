"""Any number of classes a text as a task: topics, articles of a law (EUR-LEX, ECtHR), unfair terms of contracts."""

import collections
import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from lmjax.data import records
from lmjax.data.labelled.table import column
from lmjax.errors import ConfigError, DataError
from lmjax.scoring import multi_label as scoring
from lmjax.tasks.classification import TextLabels, asked_about, check_labels
from lmjax.tasks.fine_tuning import Examples


class MultiLabel(TextLabels):
  """Many classes, of which a text may have any or none: those that are likelier than a threshold, the same for all."""

  RECORDS = 'multi_label'
  MAIN_METRIC, BASELINE = 'micro_f1', 'constant_micro_f1'
  activation = staticmethod(jax.nn.sigmoid)

  def __init__(self, model, objective, samples, data, tokenizer):
    if objective.labels is None:  # `resolve` sets them; a config.json that was changed by hand may lack them
      raise ConfigError(['objective.labels = None: a run that has been trained names its classes; write them there'])
    self.size, self.threshold = len(objective.labels), 0.5
    super().__init__(model, objective, samples, data, tokenizer)

  @classmethod
  def resolve(cls, objective, read: records.Records):
    """The labels of all examples, those that no training example has too: they are missed, and count so."""
    found = {label for items in read.splits.values() for labels in column(items, 'label') for label in labels}
    if not found and objective.labels is None:
      raise DataError('data.train: no example has a label; some must; check data.fields and data.separator')
    labels = tuple(sorted(found)) if objective.labels is None else objective.labels
    check_labels(read, labels, lambda found: found)
    return dataclasses.replace(objective, labels=labels)

  @classmethod
  def example_records(cls, objective) -> list[dict]:
    """A record with all labels; with two where the data is to name them."""
    return [{'id': '0', 'text': 'a', 'label': list(objective.labels or ('0', '1'))}]

  def label(self, record: dict) -> np.ndarray:
    """1 for each class that it has, else 0; float32 [classes]."""
    return np.isin(self.objective.labels, record.get('label', [])).astype(np.float32)

  def value(self, output: np.ndarray) -> dict[str, float]:
    """{label: probability}."""
    return dict(zip(self.objective.labels, map(float, output)))

  def chosen(self, prediction: dict[str, float]) -> list[str]:
    """The labels above the threshold."""
    return [label for label, p in prediction.items() if p > self.threshold]

  def counts_of(self, examples: Examples) -> dict:
    """As for all tasks, the examples of each class, and those of none."""
    classes, none = collections.Counter(), 0
    for labels in column(examples.records, 'label'):
      classes.update(labels or ())
      none += labels == []
    return super().counts_of(examples) | {'no_label': none, 'classes': dict(classes)}

  def describe(self, data) -> str:
    """A line about the data, with what looks wrong about its labels."""
    questions = asked_about(self.objective.labels)
    if absent := [label for label in self.objective.labels if label not in data.counts['train']['classes']]:
      questions.append(f'no training example has {", ".join(absent[:5])}' + ' and others' * (len(absent) > 5))
    if not data.counts['valid']['classes']:
      questions.append(f'no validation text has a label, so the threshold stays {self.threshold}')
    return '; '.join([super().describe(data), *questions])

  def fit_threshold(self, items: Sequence[dict], predictions: list[dict]) -> None:
    """Sets the threshold that gives the best micro F1 on these; where none has a label it stays."""
    if (gold := self._gold(items)).any():
      self.threshold = scoring.best_threshold(gold, self._probabilities(predictions))

  def _gold(self, items):
    return np.array([self.label(record) for record in items])

  def _probabilities(self, predictions):
    return np.array([list(prediction.values()) for prediction in predictions])

  def scores(self, items: Sequence[dict], predictions: list[dict]) -> dict[str, float]:
    """Micro and macro F1, and the micro F1 of giving every text the same labels."""
    return scoring.scores(self._gold(items), self._probabilities(predictions) > self.threshold)

  def per_example(self, items: Sequence[dict], predictions: list[dict]) -> list[float]:
    """F1 of each text's labels, for paired comparisons; 1 where it rightly has none."""
    return scoring.f1_each(self._gold(items), self._probabilities(predictions) > self.threshold).tolist()

  def report(self, prediction: dict[str, float]) -> dict:
    """The labels, and the probabilities of all."""
    return {'labels': self.chosen(prediction), 'probabilities': prediction}

  def report_files(self, split: str, items: Sequence[dict], predictions: list[dict]) -> dict[str, str | bytes]:
    """predictions_SPLIT.jsonl, and labels_SPLIT.md with the scores of each label."""
    found = self._probabilities(predictions) > self.threshold
    page = scoring.markdown(self._gold(items), found, list(self.objective.labels))
    return super().report_files(split, items, predictions) | {f'labels_{split}.md': page}

  @property
  def calibration(self) -> dict:
    """What was chosen on validation predictions."""
    return {'threshold': self.threshold}

  def load_calibration(self, calibration: dict) -> None:
    """Takes back what `calibration` gave."""
    self.threshold = calibration['threshold']
