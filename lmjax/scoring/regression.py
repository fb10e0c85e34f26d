"""Numbers: root mean squared error and correlations. Legend: N examples."""

import math
import warnings
from collections.abc import Sequence

import numpy as np


def scores(gold: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
  """Scores of predicted numbers.

  Returns:
    rmse: the root of the mean squared error.
    mean_rmse: the same of a guesser who always gives the mean of the gold numbers, which is their deviation.
    pearson, spearman: correlation of the numbers and of their ranks (ties share theirs), as scipy.stats has them; NaN
      where either side is constant, or of one number.

  Raises ValueError: no example, or lists of different lengths.

  >>> scores([1.0, 2.0, 3.0], [1.0, 2.0, 5.0])['spearman']
  1.0
  """
  from scipy import stats  # half a second, which only a run that scores should pay

  gold_N, predicted_N = np.asarray(gold, np.float64), np.asarray(predicted, np.float64)
  if gold_N.shape != predicted_N.shape or not gold_N.size:
    raise ValueError(f'{len(gold_N)} gold numbers and {len(predicted_N)} predicted ones: must be as many, and some')
  found = {'rmse': math.sqrt(np.mean((gold_N - predicted_N) ** 2)), 'mean_rmse': float(gold_N.std())}
  for name, correlation in (('pearson', stats.pearsonr), ('spearman', stats.spearmanr)):
    is_defined = len(gold_N) > 1 and np.ptp(gold_N) > 0 and np.ptp(predicted_N) > 0
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # numbers that are nearly constant
      found[name] = float(correlation(gold_N, predicted_N).statistic) if is_defined else math.nan
  return found
