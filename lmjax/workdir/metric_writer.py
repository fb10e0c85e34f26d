"""The metrics of a run as it goes on: metrics.jsonl, samples.md, TensorBoard, W&B."""

import json
import os
import re

from lmjax.errors import ConfigError
from lmjax.workdir import files


class MetricWriter:
  """Writes a run's metrics.

  Args:
    workdir: the run's folder.
    tensorboard: whether WORKDIR/tensorboard is written.
    wandb_project: of Weights & Biases; None for off.
    start_step: lines of later steps are dropped, and so is a line that was cut short: the run resumed from here.
      Lines of the test set are dropped too: they belong to the end of a run.
    name: of the run, for W&B.
  """

  def __init__(self, workdir: str, *, tensorboard: bool, wandb_project: str | None, start_step: int, name: str):
    self.workdir = workdir
    self._path = os.path.join(workdir, 'metrics.jsonl')
    self._samples = os.path.join(workdir, 'samples.md')
    lines = [line for line in files.read_metrics(workdir) if line['step'] <= start_step and line['split'] != 'test']
    files.write_atomically(self._path, ''.join(json.dumps(line) + '\n' for line in lines))
    if os.path.exists(self._samples):
      with open(self._samples, encoding='utf-8', errors='replace') as file:  # a full disk may cut a character
        files.write_atomically(self._samples, _samples_until(file.read(), start_step))
    self._file = open(self._path, 'a', encoding='utf-8')
    self._tensorboard = self._wandb = None
    if tensorboard:
      import tensorboardX

      self._tensorboard = tensorboardX.SummaryWriter(os.path.join(workdir, 'tensorboard'), purge_step=start_step + 1)
    if wandb_project is not None:
      self._wandb = _start_wandb(wandb_project, name, workdir)

  def write(self, step: int, split: str, values: dict[str, float]) -> None:
    """One line of metrics."""
    self._file.write(json.dumps(files.without_non_finite({'step': step, 'split': split, **values})) + '\n')
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

  def close(self) -> None:
    """Lets go of all files."""
    self._file.close()
    if self._tensorboard is not None:
      self._tensorboard.close()
    if self._wandb is not None:
      self._wandb.finish()


def _samples_until(text, step):
  for found in re.finditer(r'^## step (\d+)$', text, flags=re.MULTILINE):
    if int(found[1]) > step:
      return text[: found.start()]
  return text


def _start_wandb(project, name, workdir):
  try:
    import wandb
  except ImportError as error:
    raise ConfigError(
      f"writer.wandb_project = {project}: wandb is not installed; pip install 'lmjax[wandb]', or set it to None"
    ) from error
  return wandb.init(project=project, name=name, dir=workdir, resume='allow')
