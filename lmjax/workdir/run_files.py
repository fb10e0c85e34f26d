"""The files of a run next to its checkpoints: what it is, its metrics, and what people read."""

import json
import os
from typing import Any

from lmjax.workdir import files, upload
from lmjax.workdir.metric_writer import MetricWriter


class RunFiles:
  """Writes a run's files; a context that closes and copies all at its end, whichever way it ends.

  Args:
    workdir: the run's folder, or a URL, to which the files are copied whenever a checkpoint is made.
    writes: whether this host writes; on another one all calls that write do nothing.

  Attributes:
    folder: the local folder.
    writes: as given.

  Raises:
    CheckpointError: what an earlier run left in the object store cannot be read.
  """

  def __init__(self, workdir: str, writes: bool = True):
    self._name, self.writes = os.path.basename(workdir), writes
    self._upload = upload.Upload(workdir)
    self._writer: MetricWriter | None = None
    self.folder = self._upload.folder

  def begin(self, last_step: int, tensorboard: bool, wandb_project: str | None) -> None:
    """Opens the metrics; lines of steps after `last_step` are dropped, since they are taken again."""
    if self.writes:
      options: dict[str, Any] = dict(tensorboard=tensorboard, wandb_project=wandb_project)
      self._writer = MetricWriter(self.folder, start_step=last_step, name=self._name, **options)

  def add_metrics(self, step: int, split: str, values: dict[str, float]) -> None:
    """One line of metrics.jsonl."""
    if self._writer is not None:
      self._writer.write(step, split, values)

  def add_samples(self, step: int, markdown: str) -> None:
    """A section of samples.md."""
    if self._writer is not None:
      self._writer.write_samples(step, markdown)

  def write(self, name: str, content: str | bytes) -> None:
    """A whole file or none."""
    if self.writes:
      files.write_atomically(os.path.join(self.folder, name), content)

  def write_json(self, name: str, value) -> None:
    """Readable JSON, whole or not at all, without secrets."""
    if self.writes:
      files.write_json(os.path.join(self.folder, name), value)

  def read_json(self, name: str):
    """What a file holds.

    Raises:
      OSError, ValueError: it is not there, or damaged.
    """
    with open(os.path.join(self.folder, name), encoding='utf-8') as file:
      return json.load(file)

  def lines(self) -> list[dict]:
    """Those of metrics.jsonl so far."""
    return files.read_metrics(self.folder)

  def earlier(self, split: str, last_step: int) -> dict[int, dict[str, float]]:
    """{step: metrics} of every line of a split up to a step."""
    return files.values_until(self.folder, split, last_step)

  def sync(self) -> None:
    """Puts everything on disk, or into the object store: before a checkpoint of step N, the lines up to N are there."""
    if self._writer is not None:
      self._writer.sync()
    self._upload.push()

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if self._writer is not None:
      self._writer.close()
    self._upload.__exit__(*error)
