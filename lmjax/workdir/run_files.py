"""The files of a run next to its checkpoints: what it is, its metrics and samples, and what people read."""

import json
import os
import re
from typing import IO

from lmjax.errors import ConfigError
from lmjax.workdir import files, upload


class RunFiles:
  """Writes a run's files; a context that closes and copies all at its end, whichever way it ends.

  Args:
    workdir: see `Upload`, also for the attribute `folder` and for what is raised.
    writes: whether this host writes; on another one all calls that write do nothing.
  """

  def __init__(self, workdir: str, writes: bool = True):
    self._name, self.writes = os.path.basename(workdir), writes
    self._upload = upload.Upload(workdir)
    self.folder = self._upload.folder
    self._metrics: IO[str] | None = None
    self._tensorboard = self._wandb = None

  def begin(self, last_step: int, tensorboard: bool, wandb_project: str | None) -> None:
    """Opens metrics.jsonl and samples.md, and TensorBoard and Weights & Biases where they are wanted.

    Lines and samples of steps after `last_step` are dropped, since the run resumes there, and lines of the test set,
    which belong to the end of a run.
    """
    if not self.writes:
      return
    metrics, samples = os.path.join(self.folder, 'metrics.jsonl'), os.path.join(self.folder, 'samples.md')
    lines = [line for line in self.lines() if line['step'] <= last_step and line['split'] != 'test']
    files.write_atomically(metrics, ''.join(json.dumps(line) + '\n' for line in lines))
    if os.path.exists(samples):
      with open(samples, encoding='utf-8', errors='replace') as file:  # a full disk may cut a character
        files.write_atomically(samples, _samples_until(file.read(), last_step))
    self._metrics = open(metrics, 'a', encoding='utf-8')
    if tensorboard:
      import tensorboardX

      folder = os.path.join(self.folder, 'tensorboard')
      self._tensorboard = tensorboardX.SummaryWriter(folder, purge_step=last_step + 1)
    if wandb_project is not None:
      self._wandb = _start_wandb(wandb_project, self._name, self.folder)

  def add_metrics(self, step: int, split: str, values: dict[str, float]) -> None:
    """One line of metrics.jsonl."""
    if self._metrics is None:
      return
    self._metrics.write(json.dumps(files.without_non_finite({'step': step, 'split': split, **values})) + '\n')
    self._metrics.flush()
    numbers = {f'{split}/{k}': v for k, v in values.items() if isinstance(v, (int, float))}
    if self._tensorboard is not None:
      for name, value in numbers.items():
        self._tensorboard.add_scalar(name, value, step)
    if self._wandb is not None:
      self._wandb.log(numbers, step=step)

  def add_samples(self, step: int, markdown: str) -> None:
    """A section of samples.md."""
    if self._metrics is not None:
      with open(os.path.join(self.folder, 'samples.md'), 'a', encoding='utf-8') as file:
        file.write(f'## step {step}\n\n{markdown}\n')

  def write(self, name: str, content: str | bytes) -> None:
    """A whole file or none."""
    if self.writes:
      files.write_atomically(os.path.join(self.folder, name), content)

  def write_json(self, name: str, value) -> None:
    """Readable JSON, whole or not at all, without secrets."""
    if self.writes:
      files.write_json(os.path.join(self.folder, name), value)

  def read_json(self, name: str):
    """What a file holds; OSError or ValueError where it is not there, or damaged."""
    with open(os.path.join(self.folder, name), encoding='utf-8') as file:
      return json.load(file)

  def lines(self) -> list[dict]:
    """Those of metrics.jsonl so far."""
    return files.read_metrics(self.folder)

  def earlier(self, split: str, last_step: int) -> dict[int, dict[str, float]]:
    """{step: metrics} of every line of a split up to a step."""
    lines = [line for line in self.lines() if line['split'] == split and line['step'] <= last_step]
    return {line['step']: {k: v for k, v in line.items() if k not in ('step', 'split')} for line in lines}

  def sync(self) -> None:
    """Puts all on disk, or into the object store: before a checkpoint of step N, the lines up to N must be there."""
    if self._metrics is not None:
      self._metrics.flush()
      os.fsync(self._metrics.fileno())
    if self._tensorboard is not None:
      self._tensorboard.flush()
    self._upload.push()

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    if self._metrics is not None:
      self._metrics.close()
    if self._tensorboard is not None:
      self._tensorboard.close()
    if self._wandb is not None:
      self._wandb.finish()
    self._upload.close(error)


def _samples_until(text: str, step: int) -> str:
  for heading in re.finditer(r'^## step (\d+)$', text, flags=re.MULTILINE):
    if int(heading[1]) > step:
      return text[: heading.start()]
  return text


def _start_wandb(project: str, name: str, folder: str):
  try:
    import wandb
  except ImportError as error:
    raise ConfigError(
      f"writer.wandb_project = {project}: wandb is not installed; pip install 'lmjax[wandb]', or set it to None"
    ) from error
  return wandb.init(project=project, name=name, dir=folder, resume='allow')
