"""Whether one model scores higher than another by more than the choice of test examples explains."""

from collections.abc import Sequence

import numpy as np


def bootstrap(
  first: Sequence[float], second: Sequence[float], *, seed: int = 0, resamples: int = 10_000
) -> tuple[float, float, float]:
  """Paired bootstrap of the difference of two means (Koehn 2004, https://aclanthology.org/W04-3250/).

  Args:
    first: one score for each example.
    second: another model's scores for the same examples, in the same order.
    seed: of the resampling.
    resamples: test sets drawn, each of as many examples as there are, with replacement.

  Returns:
    mean(first) - mean(second), and the 2.5th and 97.5th percentile of that difference over the resamples.

  Raises ValueError: no scores, or lists of different lengths.
  """
  if len(first) != len(second) or not len(first):
    raise ValueError(f'{len(first)} and {len(second)} scores: must be as many, and 1 or more')
  differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
  count, rng = len(differences), np.random.default_rng(seed)
  means = [differences[rng.integers(count, size=count)].mean() for _ in range(resamples)]
  low, high = np.percentile(means, [2.5, 97.5])
  return float(differences.mean()), float(low), float(high)
