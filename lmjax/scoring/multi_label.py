"""Any number of labels a text: F1 over all decisions and by label. Legend: N examples, C labels, 0 or 1 for each."""

from collections.abc import Sequence

import numpy as np


def scores(gold_NC: np.ndarray, predicted_NC: np.ndarray) -> dict[str, float]:
  """Scores from 0 to 1, as scikit-learn's f1_score has them with zero_division=0.

  Returns:
    micro_f1: F1 of all decisions together.
    constant_micro_f1: the best that is reached by giving every text the same labels, the most frequent ones.
    macro_f1: the mean F1 of the labels that a text has or was given.

  Raises ValueError: no example, or arrays of different shapes.
  """
  gold_NC, predicted_NC = np.asarray(gold_NC, bool), np.asarray(predicted_NC, bool)
  if gold_NC.shape != predicted_NC.shape or not gold_NC.size:
    raise ValueError(f'labels {gold_NC.shape} and predictions {predicted_NC.shape}: must be of one shape, and some')
  right_C, gold_C, predicted_C = _counts(gold_NC, predicted_NC)
  occurs_C = gold_C + predicted_C > 0
  most_C = np.sort(gold_C)[::-1]
  given_C = len(gold_NC) * np.arange(1, len(most_C) + 1)
  return {
    'micro_f1': float(f1(right_C.sum(), gold_C.sum(), predicted_C.sum())),
    'constant_micro_f1': float(f1(np.cumsum(most_C), gold_C.sum(), given_C).max()),
    'macro_f1': float(f1(right_C, gold_C, predicted_C)[occurs_C].mean()) if occurs_C.any() else 0.0,
  }


def f1(right, gold, predicted) -> np.ndarray:
  """F1 of counts: of right ones among gold and predicted ones; 0 where there are neither.

  >>> f1(2, 4, 2).item()
  0.6666666666666666
  """
  total = np.asarray(gold, np.float64) + predicted
  return 2.0 * np.asarray(right) / np.where(total == 0, 1.0, total)


def f1_each(gold_NC: np.ndarray, predicted_NC: np.ndarray) -> np.ndarray:
  """F1 of each example's labels [N]; 1 where there are none and none were given."""
  gold_NC, predicted_NC = np.asarray(gold_NC, bool), np.asarray(predicted_NC, bool)
  gold_N, predicted_N = gold_NC.sum(axis=1), predicted_NC.sum(axis=1)
  found_N = f1((gold_NC & predicted_NC).sum(axis=1), gold_N, predicted_N)
  return np.where(gold_N + predicted_N == 0, 1.0, found_N)


def best_threshold(gold_NC: np.ndarray, probabilities_NC: np.ndarray) -> float:
  """The probability above which a label is given, for the best micro F1; halfway between two that occur.

  Raises ValueError: no example has a label.
  """
  gold, p = np.asarray(gold_NC, bool).ravel(), np.asarray(probabilities_NC, np.float64).ravel()
  if not gold.any():
    raise ValueError('no example has a label: every threshold has a micro F1 of 0')
  order = np.argsort(-p, kind='stable')
  right, p = np.cumsum(gold[order]), p[order]
  values = f1(right, gold.sum(), np.arange(1, len(p) + 1))
  ends = np.append(p[:-1] > p[1:], True)  # a cut stands between different probabilities
  best = int(np.argmax(np.where(ends, values, -1.0)))
  return float((p[best] + (p[best + 1] if best + 1 < len(p) else 0.0)) / 2)


def markdown(gold_NC: np.ndarray, predicted_NC: np.ndarray, names: Sequence[str]) -> str:
  """A table of each label: how many texts have it and were given it, precision, recall and F1."""
  right_C, gold_C, predicted_C = _counts(np.asarray(gold_NC, bool), np.asarray(predicted_NC, bool))
  lines = ['| label | texts | given | precision | recall | F1 |', '|---|---:|---:|---:|---:|---:|']
  for name, right, gold, given in zip(names, right_C, gold_C, predicted_C):
    shares = (right / max(given, 1), right / max(gold, 1), f1(right, gold, given).item())
    cells = (name.replace('|', '\\|'), str(gold), str(given), *(f'{share:.4f}' for share in shares))
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def _counts(gold_NC, predicted_NC):
  return (gold_NC & predicted_NC).sum(axis=0), gold_NC.sum(axis=0), predicted_NC.sum(axis=0)
