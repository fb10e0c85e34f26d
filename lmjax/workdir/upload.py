"""The files of a run next to its checkpoints, where the workdir is on an object store (`gs://`).

Nothing there can be appended to: the files are written in a local folder, and copied whenever a checkpoint is made and
at the end. Checkpoints go there directly.
"""

import os
import shutil
import tempfile

from etils import epath

from lmjax.errors import CheckpointError, reason

# What a run that resumes reads of the one before it.
READ_AGAIN = ('metrics.jsonl', 'samples.md', 'results.json', 'config.json')


class Upload:
  """Where a run writes: `folder`, which is the workdir itself, or a copy where that is a URL.

  Raises CheckpointError: what an earlier run left in the object store cannot be read.
  """

  def __init__(self, workdir: str):
    self._remote = epath.Path(workdir) if '://' in workdir else None
    self.folder = workdir if self._remote is None else tempfile.mkdtemp(prefix='lmjax-')
    self._copied: dict[str, tuple[int, int]] = {}
    for name in READ_AGAIN if self._remote is not None else ():
      self._pull(name)

  def _pull(self, name: str) -> None:
    try:
      data = (self._remote / name).read_bytes()
    except FileNotFoundError:
      return
    except Exception as error:  # each library of object stores raises errors of its own
      shutil.rmtree(self.folder, ignore_errors=True)
      raise CheckpointError(f'{self._remote / name}: cannot be read ({reason(error)}); try again') from error
    path = os.path.join(self.folder, name)
    with open(path, 'wb') as file:
      file.write(data)
    self._copied[name] = _stamp(path)

  def push(self) -> None:
    """Copies every file that has changed since the last time; CheckpointError where the object store fails."""
    if self._remote is None:
      return
    for above, _, names in os.walk(self.folder):
      for path in [os.path.join(above, name) for name in names]:
        relative, stamp = os.path.relpath(path, self.folder), _stamp(path)
        if self._copied.get(relative) == stamp:
          continue
        target = self._remote / relative
        try:
          with open(path, 'rb') as file:
            target.write_bytes(file.read())
        except Exception as error:  # as above
          where = f'the files of this run are in {self.folder}'
          raise CheckpointError(f'{target}: cannot be written ({reason(error)}); {where}') from error
        self._copied[relative] = stamp

  def close(self, error: BaseException | None) -> None:
    """Copies all, and removes the local folder; `error` is what ended the run, which is reported first."""
    try:
      self.push()
    except CheckpointError as failed:
      if error is None:
        raise
      error.add_note(str(failed))
    else:
      if self._remote is not None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _stamp(path: str) -> tuple[int, int]:
  status = os.stat(path)
  return status.st_size, status.st_mtime_ns
