"""Pictures of a run as PNG: its loss and main metric, and the confusion matrix of a classifier."""

import io
from collections.abc import Sequence

import numpy as np

from lmjax.scoring.classification import MOST_WRITTEN_CLASSES

# Smoothing of the training loss in curves.png: a running mean over this share of its points.
SMOOTH_SHARE = 0.02


def figure(width: float, height: float):
  """An empty figure of this size in inches."""
  from matplotlib.figure import Figure  # without pyplot: no display, no global state, safe in a notebook

  return Figure(figsize=(width, height), layout='constrained')


def png(figure) -> bytes:
  """A figure as a PNG."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=120)
  return buffer.getvalue()


def plot_curves(lines: list[dict], metric: str, baseline: str | None) -> bytes | None:
  """The loss and a metric, with the level of a baseline to it; None where there is no point to draw.

  Args:
    lines: of metrics.jsonl.
    metric: the task's main metric.
    baseline: the name of the same metric without a model.
  """
  train = [(line['step'], line['loss']) for line in lines if line['split'] == 'train' and line.get('loss') is not None]
  valid = [line for line in lines if line['split'] == 'valid']
  if not train and not valid:
    return None
  picture = figure(10, 4)
  left, right = picture.subplots(1, 2)
  if train:
    steps, losses = zip(*train)
    left.plot(steps, losses, color='tab:blue', alpha=0.25, linewidth=1)
    left.plot(steps, _running_mean(losses), color='tab:blue', label='train')
  for axes, name in ((left, 'loss'), (right, metric)):
    points = [(line['step'], line[name]) for line in valid if line.get(name) is not None]
    if points:
      axes.plot(*zip(*points), color='tab:orange', marker='o', label='valid')
    level = [line[baseline] for line in valid if name == metric and baseline and line.get(baseline) is not None]
    if level:
      axes.axhline(level[-1], color='grey', linestyle='--', label=baseline.replace('_', ' '))
    axes.set_xlabel('step')
    axes.set_ylabel(name.replace('_', ' '))
    axes.grid(alpha=0.3)
    axes.legend()
  return png(picture)


def _running_mean(values: Sequence[float]) -> list[float]:
  width = max(1, int(len(values) * SMOOTH_SHARE))
  windows = [values[max(0, i - width) : i + width + 1] for i in range(len(values))]
  return [sum(window) / len(window) for window in windows]


def plot_confusion(confusion: np.ndarray, names: Sequence[str]) -> bytes:
  """The matrix [C, C]: the colour is the share of the gold label, the number the count."""
  classes = len(names)
  share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
  side = 3 + 0.5 * min(classes, 2 * MOST_WRITTEN_CLASSES)
  picture = figure(side + 1, side)
  axes = picture.subplots()
  image = axes.imshow(share, cmap='Blues', vmin=0, vmax=1)
  axes.set_xticks(range(classes), names, rotation=90)
  axes.set_yticks(range(classes), names)
  axes.set_xlabel('predicted')
  axes.set_ylabel('gold')
  picture.colorbar(image, label='share of the gold label')
  if classes <= MOST_WRITTEN_CLASSES:
    for (row, column), count in np.ndenumerate(confusion):
      colour = 'white' if share[row, column] > 0.5 else 'black'
      axes.text(column, row, str(count), ha='center', va='center', color=colour)
  return png(picture)
