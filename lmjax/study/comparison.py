"""The report of a study: tables, pictures, and verdicts on its claims that follow from the numbers.

Of a stage, WORKDIR/STAGE/{results.json, config.json} and the predictions are read; of several seeds those of
WORKDIR/STAGE/seed0, seed1, ... (see `lmjax.train`).
"""

import collections
import dataclasses
import json
import os
import textwrap
from typing import Any

import jax
import numpy as np

import lmjax
from lmjax.errors import ConfigError, DataError
from lmjax.reports import pictures
from lmjax.scoring.bootstrap import bootstrap
from lmjax.study.config import ComparisonConfig
from lmjax.tasks import prepare
from lmjax.tasks.table import TASKS
from lmjax.training.progress import number
from lmjax.workdir import files

# A metric is the mean of the scores by example where both agree so closely; where not, they are different measures.
SAME = 1e-4
# majority_accuracy next to accuracy, lead_rougeL (the first sentences) next to rougeL, gzip_bits_per_byte
BASELINES = ('majority', 'lead', 'gzip')


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage that has ended."""

  name: str
  results: dict  # of all seeds, as its results.json holds them
  runs: list[tuple[str, dict]]  # (folder, results) of each seed
  config: dict  # the resolved config, of the first seed

  @classmethod
  def read(cls, workdir: str, name: str) -> 'Stage':
    """The stage in WORKDIR/NAME."""
    folder = os.path.join(workdir, name)
    results, folders = read_json(folder, 'results.json'), [folder]
    if 'seeds' in results:
      folders = [os.path.join(folder, f'seed{i}') for i in range(len(results['seeds']))]
    runs = [(one, read_json(one, 'results.json')) for one in folders]
    return cls(name, results, runs, read_json(folders[0], 'config.json'))

  @property
  def seconds(self) -> float:
    """In training steps, over all seeds."""
    return sum(results['seconds'] for _, results in self.runs)

  def values(self, metric: str) -> list[float]:
    """A metric of each seed. Raises ConfigError where there is none of this name."""
    values = [results['metrics'].get(metric) for _, results in self.runs]
    if None in values:
      names = ', '.join(sorted(name for name in self.runs[0][1]['metrics'] if not name.startswith('train/')))
      raise ConfigError(f'metric = {metric}: stage {self.name} has no such number; it has {names}')
    return values

  def scores(self, split: str) -> dict[str, float] | None:
    """The score of each example, by its id, averaged over seeds; None where a stage predicts no examples."""
    scores = collections.defaultdict(list)
    for folder, _ in self.runs:
      path = os.path.join(folder, f'predictions_{split}.jsonl')
      if not os.path.exists(path):
        return None
      with open(path, encoding='utf-8') as file:
        for line in map(json.loads, file):
          scores[line['id']].append(line['score'])
    return {key: float(np.mean(values)) for key, values in scores.items()}


def difference(candidate: Stage, other: Stage, metric: str) -> dict[str, Any]:
  """The candidate's mean minus another arm's, and what follows for the claim that the candidate is higher.

  Returns:
    value, in the unit of the metric; low and high of a 95% interval, by a paired bootstrap over the examples that both
    have scores for, None where there is none; examples, how many those are; verdict; text, the numbers for people.
  """
  split, means = metric.partition('/')[0], [float(np.mean(stage.values(metric))) for stage in (candidate, other)]
  value, scores = means[0] - means[1], [stage.scores(split) for stage in (candidate, other)]
  reason = None
  if None in scores:
    reason = 'there are no scores by example'
  elif scores[0].keys() != scores[1].keys():
    reason = 'the two were scored on different examples'
  elif any(abs(np.mean(list(by_id.values())) - mean) > SAME for by_id, mean in zip(scores, means)):
    reason = f'{metric} is not the mean of the scores by example'
  if reason is not None:
    gap = {'value': value, 'low': None, 'high': None, 'examples': 0, 'verdict': f'not decided: {reason}'}
    return gap | {'text': f'difference {value:+.4f}'}
  _, low, high = bootstrap(*([by_id[key] for key in sorted(by_id)] for by_id in scores))
  verdict = 'confirmed' if low > 0 else 'contradicted' if high < 0 else 'not decided: the interval includes 0'
  text = f'difference {value:+.4f}, 95% interval {low:+.4f} to {high:+.4f} over {len(scores[0]):,} examples'
  return {'value': value, 'low': low, 'high': high, 'examples': len(scores[0]), 'verdict': verdict, 'text': text}


def rows_of(config: ComparisonConfig, stages: dict[str, Stage]) -> list[dict]:
  """A JSON-able row for every arm and x: what it scored, and how far the candidate is from it."""
  labels, rows = [config.candidate, *(label for label in config.arms if label != config.candidate)], []
  for label in labels:
    for i, name in enumerate(config.arms[label].stages):
      stage, candidate = stages[name], stages[config.arms[config.candidate].stages[i]]
      values, valid = stage.values(config.metric), 'valid/' + config.metric.partition('/')[2]
      row: dict[str, Any] = {'arm': label, 'x': config.x and config.x[i], 'stage': name, 'values': values}
      spread = None if len(values) < 2 else float(np.std(values, ddof=1))
      row |= {'mean': float(np.mean(values)), 'standard_deviation': spread}
      row |= {'seconds': stage.seconds, 'valid': stage.results['metrics'].get(valid), 'difference': None}
      if label != config.candidate:
        row['difference'] = difference(candidate, stage, config.metric)
      rows.append(row)
  return rows


def baseline_of(config: ComparisonConfig, stages: dict[str, Stage]) -> tuple[str, float] | None:
  """(name, value) of what the metric is without a model, where the candidate's first stage measured that too."""
  split, name = config.metric.split('/', 1)
  metrics = stages[config.arms[config.candidate].stages[0]].results['metrics']
  values = ((f'{kind} {name}', metrics.get(f'{split}/{kind}_{name}')) for kind in BASELINES)
  return next((pair for pair in values if pair[1] is not None), None)


def section(name: str, config: ComparisonConfig, rows: list[dict], baseline) -> str:
  """Markdown: the claim, what follows for it against each arm, the picture and the table."""
  means = {(row['arm'], row['x']): row['mean'] for row in rows}
  x_name = () if config.x is None else (config.x_name,)
  head = ('arm', *x_name, config.metric, 'validation', 'seconds', f'{config.candidate} minus this arm', '95% interval')
  verdicts, table = [], [_row(head), _row('---' for _ in head)]
  for row in rows:
    gap, spread, x = row['difference'], row['standard_deviation'], row['x']
    mean = number(row['mean'])
    change = interval = ''
    if gap is not None:
      at = '' if x is None else f' at {config.x_name} {x:g}'
      scored = f'{config.metric} {number(means[config.candidate, x])} against {mean}'
      verdicts.append(f'- Against {row["arm"]}{at}: **{gap["verdict"]}**; {scored}, {gap["text"]}.')
      change = f'{gap["value"]:+.4f}'
      interval = '' if gap['low'] is None else f'{gap["low"]:+.4f} to {gap["high"]:+.4f}'
    cells = [row['arm'], *([] if x is None else [f'{x:g}']), mean + ('' if spread is None else f' ± {spread:.4f}')]
    cells += ['' if row['valid'] is None else number(row['valid']), f'{row["seconds"]:.0f}', change, interval]
    table.append(_row(cells))
  level = [] if baseline is None else [f'For orientation, {baseline[0]}: {number(baseline[1])}.', '']
  picture = f'![{config.title}]({name}.png)'
  return '\n'.join(
    [f'### {config.title}', '', f'Claim: {config.claim}', '', *verdicts, '', picture, '', *level, *table]
  )


def plot(config: ComparisonConfig, rows: list[dict], baseline) -> bytes:
  """A PNG: bars, or with x a curve for each arm; error bars are the standard deviation over seeds."""
  picture = pictures.figure(7, 4)
  axes = picture.subplots()
  for label in dict.fromkeys(row['arm'] for row in rows):
    points = [row for row in rows if row['arm'] == label]
    means, spreads = [row['mean'] for row in points], [row['standard_deviation'] for row in points]
    spreads = None if None in spreads else spreads  # one seed has none
    if config.x is None:
      axes.bar_label(axes.bar([textwrap.fill(label, 14)], means, yerr=spreads, capsize=4), fmt='%.3f', padding=2)
    else:
      axes.errorbar(config.x, means, yerr=spreads, marker='o', capsize=4, label=label)
  if baseline is not None:
    axes.axhline(baseline[1], color='grey', linestyle='--', label=baseline[0])
  if config.x is not None:
    axes.set_xscale('log')
    axes.set_xticks(config.x, [f'{x:g}' for x in config.x])
    axes.set_xlabel(config.x_name)
  if axes.get_legend_handles_labels()[1]:
    axes.legend(loc='best')
  axes.margins(y=0.15)
  axes.set_title(config.title)
  axes.set_ylabel(config.metric.replace('_', ' '))
  axes.grid(alpha=0.3, axis='y')
  return pictures.png(picture)


def pre_training(stages: dict[str, Stage]) -> list[str]:
  """A table: what was pre-trained on, how long, and how good the models are on held-out documents."""
  head = ('stage', 'task', 'from', 'text', 'steps', 'tokens', 'seconds', 'on held-out documents')
  lines = []
  for name, stage in stages.items():
    config, metrics, source = stage.config, stage.results['metrics'], stage.results['hand_off']
    if not TASKS[config['task']].is_pre_training:
      continue
    task, data = prepare.class_of(config['task']), config['data']
    begin = 'random weights' if source is None else os.path.basename(source['source'])
    text = ', '.join(source['path'] for source in data['sources'].values())
    steps = sum(results['step'] for _, results in stage.runs)
    tokens = steps * data['batch_size'] * data['length']
    # of a tokenizer that changes text there are no bits a byte
    known = [n for n in (task.MAIN_METRIC, task.BASELINE) if f'valid/{n}' in metrics] or ['perplexity']
    scores = ', '.join(f'{n.replace("_", " ")} {number(metrics[f"valid/{n}"])}' for n in known)
    lines.append(_row((name, config['task'], begin, text, f'{steps:,}', f'{tokens:,}', f'{stage.seconds:.0f}', scores)))
  return ['## Pre-training', '', _row(head), _row('---' for _ in head), *lines, ''] if lines else []


def write_report(workdir: str, command: str, names: list[str], comparisons: dict[str, ComparisonConfig]) -> None:
  """Writes WORKDIR/report.md, results.json and a picture for each comparison, when all stages have ended.

  Args:
    command: as it was typed.
    names: of the stages, in the order in which they ran.
  """
  stages = {name: Stage.read(workdir, name) for name in names}
  seconds = sum(stage.seconds for stage in stages.values())
  devices = f'{jax.device_count()} x {jax.devices()[0].device_kind}'
  results: dict[str, Any] = {'status': 'done', 'command': command, 'lmjax': lmjax.__version__, 'devices': devices}
  results |= {'seconds': seconds, 'stages': {name: stage.results for name, stage in stages.items()}, 'comparisons': {}}
  summary = f'lmjax {lmjax.__version__} on {devices}; {len(stages)} stages, {seconds:,.0f} s of training steps.'
  lines = [f'# {os.path.basename(os.path.abspath(workdir))}', '', f'    {command}', '', summary, '']
  lines += [*pre_training(stages), '## Comparisons', '', _METHOD, '']
  for name, config in comparisons.items():
    rows, baseline = rows_of(config, stages), baseline_of(config, stages)
    files.write_atomically(os.path.join(workdir, f'{name}.png'), plot(config, rows, baseline))
    results['comparisons'][name] = dataclasses.asdict(config) | {'rows': rows}
    lines += [section(name, config, rows, baseline), '']
  files.write_atomically(os.path.join(workdir, 'report.md'), '\n'.join(lines))
  files.write_json(os.path.join(workdir, 'results.json'), results)


_METHOD = (
  'Comparisons select on validation and report on test, unless their metric says valid. Intervals: paired bootstrap '
  'over the examples, of scores averaged over seeds; they say nothing about other seeds, for which the standard '
  'deviation over seeds (±) stands. Seconds are those of training steps, over all seeds.'
)


def read_json(folder: str, name: str) -> dict:
  """FOLDER/NAME. Raises DataError where it is missing or damaged."""
  try:
    with open(os.path.join(folder, name), encoding='utf-8') as file:
      value = json.load(file)
    if not isinstance(value, dict):
      raise ValueError('it holds no object')
    return value
  except (OSError, ValueError) as error:
    rule = f'cannot be read ({getattr(error, "strerror", None) or error})'
    raise DataError(f'{folder}/{name}: {rule}; remove its folder, and the same command makes it again') from error


def _row(cells) -> str:
  return f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |'
