"""What a run leaves for people: metrics.jsonl, curves.png, samples.md, results.json, TensorBoard, W&B."""

import dataclasses
import glob
import json
import math
import os
import re
import tempfile
import time

from etils import epath

from lmjax.errors import ConfigError
from lmjax.redact import redacted

# Smoothing of the training loss in curves.png: a running mean over this share of its points.
SMOOTH_SHARE = 0.02
# curves.png is drawn anew at most this often: a drawing takes as long as many steps of a small model.
PLOT_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class WriterConfig:
  """Where metrics go besides metrics.jsonl.

  tensorboard: whether WORKDIR/tensorboard is written
  wandb_project: Weights & Biases project; None for off (needs the extra `wandb`)
  """

  tensorboard: bool
  wandb_project: str | None


def write_atomically(path: str, data: str | bytes) -> None:
  """Writes a whole file or none: first under another name, then renamed."""
  folder = os.path.dirname(os.path.abspath(path))
  handle, temporary = tempfile.mkstemp(dir=folder, prefix=f'.{os.path.basename(path)}.', suffix='.tmp')
  try:
    with os.fdopen(handle, 'wb') as file:
      file.write(data.encode() if isinstance(data, str) else data)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def clear_temporary(folder: str) -> None:
  """Removes what a killed run has left of `write_atomically`; nobody else may be writing there."""
  for path in glob.glob(os.path.join(glob.escape(folder), '.*.tmp')):
    os.unlink(path)


def write_json(path: str, value) -> None:
  """Readable JSON, atomically; NaN and infinities become null, and secrets are redacted."""
  write_atomically(path, json.dumps(redacted(_finite(value)), indent=2) + '\n')


class Writer:
  """Writes a run's metrics.

  Args:
    workdir: the run's folder.
    config: a WriterConfig.
    start_step: lines of later steps are dropped, and so is a line that was cut short: the run resumed from here.
      Lines of the test set are dropped too: they belong to the end of a run.
    name: of the run, for W&B.
  """

  def __init__(self, workdir: str, config: WriterConfig, start_step: int, name: str):
    self.workdir = workdir
    self._path = os.path.join(workdir, 'metrics.jsonl')
    self._samples = os.path.join(workdir, 'samples.md')
    lines = [line for line in read_metrics(workdir) if line['step'] <= start_step and line['split'] != 'test']
    write_atomically(self._path, ''.join(json.dumps(line) + '\n' for line in lines))
    if os.path.exists(self._samples):
      with open(self._samples, encoding='utf-8', errors='replace') as file:  # a full disk may cut a character
        write_atomically(self._samples, _samples_until(file.read(), start_step))
    self._file = open(self._path, 'a', encoding='utf-8')
    self._plotted = time.monotonic()
    self._tensorboard = self._wandb = None
    if config.tensorboard:
      import tensorboardX

      self._tensorboard = tensorboardX.SummaryWriter(os.path.join(workdir, 'tensorboard'), purge_step=start_step + 1)
    if config.wandb_project is not None:
      self._wandb = _start_wandb(config.wandb_project, name, workdir)

  def write(self, step: int, split: str, values: dict[str, float]) -> None:
    """One line of metrics."""
    self._file.write(json.dumps(_finite({'step': step, 'split': split, **values})) + '\n')
    self._file.flush()
    numbers = {f'{split}/{k}': v for k, v in values.items() if isinstance(v, (int, float))}
    if self._tensorboard is not None:
      for name, value in numbers.items():
        self._tensorboard.add_scalar(name, value, step)
    if self._wandb is not None:
      self._wandb.log(numbers, step=step)

  def write_samples(self, step: int, markdown: str) -> None:
    """Adds a section to samples.md."""
    with open(self._samples, 'a', encoding='utf-8') as file:
      file.write(f'## step {step}\n\n{markdown}\n')

  def sync(self) -> None:
    """Puts every line on disk: a checkpoint of step N must not be there before the lines up to N are."""
    self._file.flush()
    os.fsync(self._file.fileno())
    if self._tensorboard is not None:
      self._tensorboard.flush()

  def plot(self, metric: str, baseline: str | None, at_end: bool = False) -> None:
    """Draws curves.png anew: the loss, and the task's main metric; every PLOT_SECONDS at most, and at the end."""
    if at_end or time.monotonic() - self._plotted >= PLOT_SECONDS:
      plot_curves(self.workdir, metric, baseline)
      self._plotted = time.monotonic()

  def close(self) -> None:
    """Lets go of all files."""
    self._file.close()
    if self._tensorboard is not None:
      self._tensorboard.close()
    if self._wandb is not None:
      self._wandb.finish()


def read_metrics(workdir) -> list[dict]:
  """The lines of metrics.jsonl; one that is cut short or damaged is left out."""
  file, lines = epath.Path(workdir) / 'metrics.jsonl', []
  if not file.exists():
    return lines
  for text in file.read_bytes().decode('utf-8', 'replace').split('\n'):
    try:
      line = json.loads(text)
    except ValueError:
      continue
    if isinstance(line, dict) and isinstance(line.get('step'), int) and 'split' in line:
      lines.append(line)
  return lines


def values_until(workdir: str, split: str, step: int) -> dict[int, dict[str, float]]:
  """{step: metrics} of every line of a split up to a step."""
  lines = [line for line in read_metrics(workdir) if line['split'] == split and line['step'] <= step]
  return {line.pop('step'): {k: v for k, v in line.items() if k != 'split'} for line in lines}


def plot_curves(workdir: str, metric: str, baseline: str | None) -> None:
  """WORKDIR/curves.png from WORKDIR/metrics.jsonl: the loss and a metric, with the level of a baseline to it.

  Nothing is drawn where there is no point.
  """
  from matplotlib.figure import Figure  # without pyplot: no display, no global state, safe in a notebook

  lines = read_metrics(workdir)
  train = [(line['step'], line['loss']) for line in lines if line['split'] == 'train' and line.get('loss') is not None]
  valid = [line for line in lines if line['split'] == 'valid']
  if not train and not valid:
    return
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
  with tempfile.NamedTemporaryFile(suffix='.png') as file:
    figure.savefig(file.name, dpi=120)
    write_atomically(os.path.join(workdir, 'curves.png'), file.read())


def _running_mean(values):
  width = max(1, int(len(values) * SMOOTH_SHARE))
  return [
    sum(values[max(0, i - width) : i + width + 1]) / len(values[max(0, i - width) : i + width + 1])
    for i in range(len(values))
  ]


def _samples_until(text, step):
  for found in re.finditer(r'^## step (\d+)$', text, flags=re.MULTILINE):
    if int(found[1]) > step:
      return text[: found.start()]
  return text


def _finite(value):
  if isinstance(value, dict):
    return {k: _finite(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(v) for v in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value


def _start_wandb(project, name, workdir):
  try:
    import wandb
  except ImportError as error:
    raise ConfigError(
      f"writer.wandb_project = {project}: wandb is not installed; pip install 'lmjax[wandb]', or set it to None"
    ) from error
  return wandb.init(project=project, name=name, dir=workdir, resume='allow')
