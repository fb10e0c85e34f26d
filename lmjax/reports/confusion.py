"""Confusion matrices as pictures."""

import io
from collections.abc import Sequence

import numpy as np

from lmjax.scoring.classification import MOST_WRITTEN_CLASSES


def plot_confusion(confusion: np.ndarray, names: Sequence[str]) -> bytes:
  """The matrix [C, C] as a PNG: the colour is the share of the gold label, the number the count."""
  from matplotlib.figure import Figure  # without pyplot: no display, no global state, safe in a notebook

  classes = len(names)
  share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
  side = 3 + 0.5 * min(classes, 2 * MOST_WRITTEN_CLASSES)
  figure = Figure(figsize=(side + 1, side), layout='constrained')
  axes = figure.subplots()
  image = axes.imshow(share, cmap='Blues', vmin=0, vmax=1)
  axes.set_xticks(range(classes), names, rotation=90)
  axes.set_yticks(range(classes), names)
  axes.set_xlabel('predicted')
  axes.set_ylabel('gold')
  figure.colorbar(image, label='share of the gold label')
  if classes <= MOST_WRITTEN_CLASSES:
    for row in range(classes):
      for column in range(classes):
        colour = 'white' if share[row, column] > 0.5 else 'black'
        axes.text(column, row, str(confusion[row, column]), ha='center', va='center', color=colour)
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=120)
  return buffer.getvalue()
