"""WORKDIR/curves.png: the loss and the main metric of a run."""

import io

# Smoothing of the training loss in curves.png: a running mean over this share of its points.
SMOOTH_SHARE = 0.02


def plot_curves(lines: list[dict], metric: str, baseline: str | None) -> bytes | None:
  """A PNG of the loss and a metric, with the level of a baseline to it; None where there is no point to draw.

  Args:
    lines: of metrics.jsonl.
    metric: the task's main metric.
    baseline: the name of what is known of it without a model.
  """
  from matplotlib.figure import Figure  # without pyplot: no display, no global state, safe in a notebook

  train = [(line['step'], line['loss']) for line in lines if line['split'] == 'train' and line.get('loss') is not None]
  valid = [line for line in lines if line['split'] == 'valid']
  if not train and not valid:
    return None
  figure = Figure(figsize=(10, 4), layout='constrained')
  left, right = figure.subplots(1, 2)
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
  picture = io.BytesIO()
  figure.savefig(picture, format='png', dpi=120)
  return picture.getvalue()


def _running_mean(values):
  width = max(1, int(len(values) * SMOOTH_SHARE))
  return [
    sum(values[max(0, i - width) : i + width + 1]) / len(values[max(0, i - width) : i + width + 1])
    for i in range(len(values))
  ]
