"""What a person sees of a run: the banner, a line a log step, the last words."""

import math
import os
import time

import jax

from lmjax import metrics
from lmjax.errors import NonFiniteError
from lmjax.models import flops
from lmjax.workdir import files


class Reporter:
  """Turns a step's report into a line for people and a line of metrics.jsonl, and keeps the time."""

  def __init__(self, run, writer):
    self._run, self._writer = run, writer
    earlier = files.values_until(run.files.folder, 'train', run.kept)
    self.last = list(earlier.values())[-1] if earlier else {}
    # in training steps alone: no compiling, evaluating or saving
    self.seconds = self.last['seconds'] if self.last else 0.0
    self._since, self._window = None, (self.seconds, run.start)
    config = run.config
    self._tokens = config.data.batch_size * config.data.length
    self._flops = step_flops(config, run.task)
    peak = flops.peak_flops(jax.devices()[0])
    self._peak = None if peak is None else peak * run.mesh.size

  def start_clock(self):
    """Training goes on."""
    self._since = time.perf_counter()

  def stop_clock(self):
    """Something else than training begins."""
    seconds = time.perf_counter() - self._since
    self.seconds += seconds
    self._run.clock.add('train', seconds)
    self._since = None

  def _elapsed(self):
    return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

  def log(self, step: int, report) -> None:
    """Reads the report of `step` (waiting for it), checks it, and writes it if its turn has come.

    Raises:
      NonFiniteError: too many batches in a row were skipped.
    """
    config = self._run.config
    skipped = int(report['skipped'])
    if skipped:
      self._tell_skipped(step, report, skipped)
    if 'log' not in config.due(step):
      return
    report = jax.device_get(report)
    elapsed = self._elapsed()
    window_seconds, window_step = self._window
    rate = (step - window_step) / max(elapsed - window_seconds, 1e-9)
    self._window = (elapsed, step)
    values = metrics.derive(metrics.means(report['pairs']))
    values |= {'grad_norm': float(report['grad_norm']), 'learning_rate': float(report['learning_rate'])}
    values |= {name: float(value) for name, value in report['groups'].items()}
    values['tokens_per_second'] = rate * self._tokens
    if self._peak is not None:
      values['mfu'] = rate * self._flops / self._peak
    values['seconds'] = round(elapsed, 3)
    names = ('loss', 'grad_norm', 'learning_rate')
    shown = [f'{name} {number(values[name])}' for name in names]
    shown.append(f'{values["tokens_per_second"]:,.0f} tokens/s')
    shown += [f'mfu {values["mfu"]:.3f}'] if 'mfu' in values else []
    shown.append(f'eta {duration((config.train.steps - step) / rate)}')
    self._run.say(f'step {step}/{config.train.steps} | train | ' + ' | '.join(shown))
    self.last = values
    if self._writer:
      self._writer.write(step, 'train', values)

  def _tell_skipped(self, step, report, skipped) -> None:
    """Names the batch that changed nothing; NonFiniteError once there were too many in a row."""
    most = self._run.config.train.max_skipped
    pairs = jax.device_get(report['pairs'])
    loss, grad_norm = metrics.means(pairs)['loss'], float(report['grad_norm'])
    what = f'loss {loss}, grad_norm {grad_norm}' if pairs['loss'][1] else 'nothing in it is labelled'
    found = self._run.pipeline.rows(step - 1)
    rows = ', '.join(f'{name} epoch {epoch} row {row}' for name, epoch, row in found[:4])
    rows += f' and {len(found) - 4} more' if len(found) > 4 else ''
    self._run.say(f'step {step} skipped: {what}; {skipped} of at most {most} in a row; its rows: {rows}')
    if skipped >= most:
      raise NonFiniteError(
        f'{skipped} batches in a row without a finite loss and gradient, up to step {step} ({what}; its rows: {rows}): '
        f'train.max_skipped = {most}; lower optim.learning_rate or optim.clip_norm, or go on from an earlier checkpoint'
      )


def step_flops(config, task) -> float:
  """FLOPs of one training step."""
  return flops.train_flops(
    config.model, task.model.backbone.rows, config.data.batch_size, config.data.length, task.predicted
  )


def times(run) -> dict[str, float]:
  """Seconds of this process by part: waiting for input, the rest of the training steps, evaluation, and so on."""
  parts = dict(run.clock.seconds)
  parts['step'] = parts.pop('train', 0.0) - parts.get('input', 0.0)
  return {name: round(parts.get(name, 0.0), 3) for name in ('compile', 'input', 'step', 'evaluate', 'checkpoint')}


def banner(config, workdir, mesh, task, state, data) -> str:
  """What a person wants to know before the first step."""
  m, d = config.model, config.data
  kind = f'{jax.devices()[0].device_kind} ({jax.default_backend()})'
  shape = ', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())
  rows = [
    ('task', f'{config.task}, seed {config.seed}'),
    ('model', f'{m.attention}, {m.layers} layers, width {m.width}, {m.heads} heads, {m.dtype}'),
    ('parameters', f'{metrics.count(state.params):,}, vocabulary {task.model.backbone.vocab_size:,}'),
    ('data', task.describe(data)),
    (
      'batch',
      f'{d.batch_size} rows x {d.length} = {d.batch_size * d.length:,} tokens a step, {config.train.steps:,} steps',
    ),
    ('devices', f'{mesh.size} x {kind}; mesh {shape}; {jax.process_count()} host(s)'),
    ('FLOPs a step', f'{step_flops(config, task):.3e} ({flops.FLOPS_COUNT})'),
    ('workdir', workdir if '://' in workdir else os.path.abspath(workdir)),
  ]
  return '\n'.join(f'{name:>13}  {text}' for name, text in rows)


def farewell(run, results: dict) -> str:
  """Where everything is, and what to run next."""
  main, baseline = run.task.MAIN_METRIC, run.task.BASELINE
  found = results['metrics']
  lines = [f'done: step {results["step"]}']
  for split in ('valid', 'test'):
    if f'{split}/{main}' in found:
      beside = f' ({baseline} {number(found[f"{split}/{baseline}"])})' if f'{split}/{baseline}' in found else ''
      loss, value = number(found[f'{split}/loss']), number(found[f'{split}/{main}'])
      lines.append(f'{split} loss {loss}, {main} {value}{beside}')
  lines[:2] = [', '.join(lines[:2])]
  if 'time' in results:
    parts = ', '.join(f'{name} {seconds:.1f} s' for name, seconds in results['time'].items())
    lines.append(f'time: {parts}')
  files = '{results.json, metrics.jsonl, curves.png, samples.md}'
  lines.append(f'metrics, curves and samples: {os.path.join(run.workdir, "")}{files}')
  what = 'use it: python -m lmjax.predict' if run.task.HAND_OFF else 'look inside: python -m lmjax.inspect'
  lines.append(f'{what} --workdir={run.workdir}')
  return '\n'.join(lines)


def moved(groups: dict[str, float]) -> str:
  """How far each group of weights has moved."""
  return f'{"moved":>13}  ' + ', '.join(f'{name} {share:.3f}' for name, share in groups.items())


def number(value) -> str:
  """A metric for people."""
  if not isinstance(value, float) or math.isnan(value):
    return str(value)
  return f'{value:.4g}' if abs(value) < 1e-3 or abs(value) >= 1e5 else f'{value:.4f}'


def duration(seconds: float) -> str:
  """Hours:minutes:seconds."""
  seconds = int(seconds)
  return f'{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}'
