"""What a person sees of a run: the banner, the lines of its steps, the last words."""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax

from lmjax import metrics, profile
from lmjax.data.batches.pipeline import Pipeline
from lmjax.errors import NonFiniteError
from lmjax.models import flops
from lmjax.models.config import ModelConfig
from lmjax.models.layers import implementation_of
from lmjax.schema.slices import TrainConfig
from lmjax.tasks.base import Task
from lmjax.tasks.table import TASKS
from lmjax.workdir.run_files import RunFiles

# Sources that are named before a run.
_SHOWN_SOURCES = 10


@dataclasses.dataclass
class Progress:
  """Turns a step's report into a line for people and a line of metrics.jsonl, and keeps the time."""

  task: Task
  config: TrainConfig
  first: int  # the step that this process begins after
  last: dict[str, float]  # the newest metrics
  devices: int  # of the mesh
  rows_of: Callable[[int], list[tuple[str, int, int]]]  # step -> (source, epoch, row) of each, to name a batch
  files: RunFiles
  log: Callable[[str], None]
  recompiled: int = 0  # programs that were compiled in the middle of training

  def __post_init__(self):
    self.clock = profile.Clock(float)  # seconds of this process by part
    self.seconds = self.last.get('seconds', 0.0)  # in training steps alone: no compiling, evaluating or saving
    self._window = (self.seconds, self.first)
    self._since: float | None = None
    self._compilations: int | None = None

  def start_clock(self):
    """Training begins, or continues."""
    self._since = time.perf_counter()

  def stop_clock(self):
    """Something else than training begins."""
    seconds = time.perf_counter() - self._since
    self.seconds += seconds
    self.clock['train'] += seconds
    self._since = None

  def read(self, step: int, report) -> None:
    """Reads the report of `step` (waiting for it), checks it, and writes it if its turn has come.

    Raises NonFiniteError: too many batches in a row were skipped.
    """
    skipped = int(report['skipped'])
    if skipped:
      self._log_skipped(step, report, skipped)
    if step != self.config.steps and step % self.config.log_every:
      return
    report = jax.device_get(report)
    elapsed = self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)
    window_seconds, window_step = self._window
    rate = (step - window_step) / max(elapsed - window_seconds, 1e-9)
    self._window = (elapsed, step)
    values = metrics.derive(metrics.means(report['pairs']))
    scalars = {name: report[name] for name in ('grad_norm', 'learning_rate')} | report['groups']
    values |= {name: float(value) for name, value in scalars.items()}
    values['tokens_per_second'] = rate * self.task.data.batch_size * self.task.data.length
    if (peak := flops.peak_flops(jax.devices()[0])) is not None:
      values['mfu'] = rate * step_flops(self.task) / (peak * self.devices)
    values['seconds'] = round(elapsed, 3)
    shown = [f'{name} {number(values[name])}' for name in ('loss', 'grad_norm', 'learning_rate')]
    shown.append(f'{values["tokens_per_second"]:,.0f} tokens/s')
    shown += [f'mfu {values["mfu"]:.3f}'] if 'mfu' in values else []
    shown.append(f'eta {duration((self.config.steps - step) / rate)}')
    self.log(f'step {step}/{self.config.steps} | train | ' + ' | '.join(shown))
    self.last = values
    self.files.add_metrics(step, 'train', values)

  def _log_skipped(self, step, report, skipped) -> None:
    """Names the batch that changed nothing; NonFiniteError once there were too many in a row."""
    pairs = jax.device_get(report['pairs'])
    loss, grad_norm = metrics.means(pairs)['loss'], float(report['grad_norm'])
    what = f'loss {loss}, grad_norm {grad_norm}' if pairs['loss'][1] else 'nothing in it is labelled'
    batch, limit = self.rows_of(step - 1), self.config.max_skipped
    rows = ', '.join(f'{name} epoch {epoch} row {row}' for name, epoch, row in batch[:4])
    rows += f' and {len(batch) - 4} more' if len(batch) > 4 else ''
    self.log(f'step {step} skipped: {what}; {skipped} of at most {limit} in a row; its rows: {rows}')
    if skipped >= limit:
      raise NonFiniteError(
        f'{skipped} batches in a row without a finite loss and gradient, up to step {step} ({what}; its rows: {rows}): '
        f'train.max_skipped = {limit}; lower optim.learning_rate or optim.clip_norm, or continue from an earlier '
        'checkpoint'
      )

  def mark_compilations(self) -> None:
    """From here to the next `check_compilations` nothing should be compiled."""
    self._compilations = profile.compilations()

  def check_compilations(self, step: int) -> None:
    """A step is compiled once, for one shape: what is compiled between two steps is a mistake that costs time."""
    new = 0 if self._compilations is None else profile.compilations() - self._compilations
    if new:
      self.recompiled += new
      self.log(f'step {step}: {new} programs were compiled in the middle of training ({self.recompiled} so far)')

  def times(self) -> dict[str, float]:
    """Seconds of this process by part: waiting for input, the rest of the training steps, evaluation, and so on."""
    parts = dict(self.clock)
    parts['step'] = parts.pop('train', 0.0) - parts.get('input', 0.0)
    return {name: round(parts.get(name, 0.0), 3) for name in ('compile', 'input', 'step', 'evaluate', 'checkpoint')}


def step_flops(task: Task) -> float:
  """FLOPs of one training step."""
  backbone, data = task.model.backbone, task.data
  return flops.train_flops(backbone.config, backbone.padded_vocab_size, data.batch_size, data.length, task.predicted)


def model_line(m: ModelConfig) -> str:
  """A model for people."""
  return f'{m.attention}, {m.layers} layers, width {m.width}, {m.heads} heads, {m.dtype}; remat {m.remat}'


def attention_rows(m: ModelConfig) -> list[tuple[str, str]]:
  """A row of the banner where a soft-cap or dropout keeps `auto` from the fastest attention."""
  off: dict[str, Any] = {'attention_softcap': None, 'attention_dropout': 0.0}
  chosen, fastest = implementation_of(m), implementation_of(dataclasses.replace(m, **off))
  if chosen == fastest:
    return []
  alone = [
    name for name in off if implementation_of(dataclasses.replace(m, **off | {name: getattr(m, name)})) == chosen
  ]
  return [('attention', f'{chosen}: {fastest} has no {" and no ".join(f"model.{name}" for name in alone)}')]


def banner(task: Task, seed: int, batches: Pipeline, steps: int, mesh, params, data, workdir: str) -> str:
  """What a person wants to know before the first step."""
  m, d = task.model.backbone.config, task.data
  kind = f'{jax.devices()[0].device_kind} ({jax.default_backend()})'
  shape = ', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())
  rows = [
    ('task', f'{task.NAME}, seed {seed}'),
    ('model', model_line(m)),
    *attention_rows(m),
    ('parameters', f'{metrics.count(params):,}, vocabulary {task.model.backbone.vocab_size:,}'),
    ('data', task.describe(data)),
    ('epochs', epochs_line(batches)),
    ('batch', f'{d.batch_size} rows x {d.length} = {d.batch_size * d.length:,} tokens a step, {steps:,} steps'),
    ('devices', f'{mesh.size} x {kind}; mesh {shape}; {jax.process_count()} host(s)'),
    ('FLOPs a step', f'{step_flops(task):.3e} ({flops.FLOPS_COUNT})'),
    ('workdir', workdir if '://' in workdir else os.path.abspath(workdir)),
  ]
  return '\n'.join(f'{name:>13}  {text}' for name, text in rows)


def epochs_line(batches: Pipeline) -> str:
  """How often each source is read; of many those that are read most often."""
  plans = sorted(batches.plan().items(), key=lambda item: -item[1]['epochs'])
  shown = [f'{name} {plan["epochs"]:.3g} ({plan["share"]:.3g} of the rows)' for name, plan in plans[:_SHOWN_SOURCES]]
  return ', '.join(shown) + (f', and {len(plans) - _SHOWN_SOURCES:,} less often' if len(plans) > _SHOWN_SOURCES else '')


def farewell(task: Task, workdir: str, results: dict) -> str:
  """Where everything is, and what to run next."""
  main, baseline, values = task.MAIN_METRIC, task.BASELINE, results['metrics']
  best = results.get('best_step', results['step'])
  lines = [f'done: step {results["step"]}' + (f'; best: step {best}' if best != results['step'] else '')]
  for split in ('valid', 'test'):
    if f'{split}/{main}' in values:
      reference = f' ({baseline} {number(values[f"{split}/{baseline}"])})' if f'{split}/{baseline}' in values else ''
      loss, value = number(values[f'{split}/loss']), number(values[f'{split}/{main}'])
      lines.append(f'{split} loss {loss}, {main} {value}{reference}')
  lines[:2] = [', '.join(lines[:2])]
  if 'time' in results:
    parts = ', '.join(f'{name} {seconds:.1f} s' for name, seconds in results['time'].items())
    lines.append(f'time: {parts}')
  files = '{results.json, metrics.jsonl, curves.png, samples.md}'
  lines.append(f'metrics, curves and samples: {os.path.join(workdir, "")}{files}')
  pre_trained = TASKS[task.NAME].is_pre_training
  what = 'look inside: python -m lmjax.inspect' if pre_trained else 'use it: python -m lmjax.predict'
  lines.append(f'{what} --workdir={workdir}')
  return '\n'.join(lines)


def number(value) -> str:
  """A metric for people."""
  if not isinstance(value, float) or math.isnan(value):
    return str(value)
  return f'{value:.4g}' if abs(value) < 1e-3 or abs(value) >= 1e5 else f'{value:.4f}'


def duration(seconds: float) -> str:
  """Hours:minutes:seconds."""
  seconds = int(seconds)
  return f'{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}'
