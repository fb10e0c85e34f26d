"""Classification: accuracy, macro F1 and the confusion matrix. Legend: N examples, C classes."""

from collections.abc import Sequence

import numpy as np

# Beyond this many classes the counts in the cells of the picture could not be read.
MOST_WRITTEN_CLASSES = 20


def confusion(gold: Sequence[int], predicted: Sequence[int], classes: int) -> np.ndarray:
  """How often each class was taken for each: int64 [C, C], a row a gold label, a column a predicted one.

  Raises ValueError: lists of different lengths, or a label outside [0, classes).

  >>> confusion([0, 0, 1], [0, 1, 1], classes=2)
  array([[1, 1],
         [0, 1]])
  """
  gold_N, predicted_N = np.asarray(gold, np.int64), np.asarray(predicted, np.int64)
  if gold_N.shape != predicted_N.shape:
    raise ValueError(f'{len(gold_N)} gold labels and {len(predicted_N)} predicted ones: they must be as many')
  for name, labels_N in (('gold', gold_N), ('predicted', predicted_N)):
    if labels_N.size and not 0 <= labels_N.min() <= labels_N.max() < classes:
      raise ValueError(f'{name} labels from {labels_N.min()} to {labels_N.max()}: must lie in [0, {classes})')
  return np.bincount(gold_N * classes + predicted_N, minlength=classes**2).reshape(classes, classes)


def scores(confusion: np.ndarray) -> dict[str, float]:
  """Scores of a confusion matrix [C, C], each from 0 to 1.

  Returns:
    accuracy: the share of right predictions.
    majority_accuracy: the same of a guesser who always names the most frequent gold label.
    macro_f1: the mean F1 of the classes that occur as a gold or a predicted label, as scikit-learn's
      f1_score(average='macro', zero_division=0) has it.

  Raises ValueError: no example.
  """
  total = confusion.sum()
  if not total:
    raise ValueError('no example to score')
  right_C, gold_C, predicted_C = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
  occurs_C = gold_C + predicted_C > 0
  f1_C = 2 * right_C[occurs_C] / (gold_C + predicted_C)[occurs_C]
  return {
    'accuracy': float(right_C.sum() / total),
    'majority_accuracy': float(gold_C.max() / total),
    'macro_f1': float(f1_C.mean()),
  }


def confusion_markdown(confusion: np.ndarray, names: Sequence[str]) -> str:
  """The matrix [C, C] as a Markdown table whose rows are the gold labels; `names` are those of the C classes."""
  safe = [name.replace('|', '\\|') for name in names]
  head = ['gold \\ predicted', *safe]
  rows = [[name, *map(str, row)] for name, row in zip(safe, confusion.tolist())]
  rule = ['---'] + ['---:'] * len(safe)
  return ''.join('| ' + ' | '.join(cells) + ' |\n' for cells in (head, rule, *rows))
