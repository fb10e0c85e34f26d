"""One run at a time in a workdir: two would mix their metrics, and remove each other's checkpoints."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator

from lmjax.errors import ConfigError

try:
  import fcntl
except ImportError:  # not on Windows, where only the process number tells
  fcntl = None

NAME = '.lock'


@contextlib.contextmanager
def holding(folder: str, log) -> Iterator[None]:
  """Holds WORKDIR/.lock, which names process and host; the system lets go of it when the process ends, however.

  Where a filesystem has no locks the process number decides, on the host that it is of.

  Args:
    folder: a local folder.
    log: called where the lock is that of a process that was killed.

  Raises:
    ConfigError: another run holds it.
  """
  path = os.path.join(folder, NAME)
  with open(path, 'a+', encoding='utf-8', errors='replace') as file:
    file.seek(0)
    before = file.read(200).split()
    held = _is_held(file, before)
    if held:
      who = f'process {before[0]} on {before[1]}, since {" ".join(before[2:])}' if len(before) > 2 else 'another run'
      raise ConfigError(f'--workdir = {folder}: in use by {who}; wait for it, stop it, or choose another --workdir')
    if before:
      log(f'{path}: stale; the last run here, process {before[0]}, was killed')
    file.truncate(0)
    file.write(f'{os.getpid()} {socket.gethostname()} {time.strftime("%Y-%m-%d %H:%M:%S")}')
    file.flush()
    try:
      yield
    finally:
      file.truncate(0)


def _is_held(file, before: list[str]) -> bool:
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return False
  except BlockingIOError:
    return True
  except (OSError, AttributeError):  # no locks here
    if len(before) < 2 or not before[0].isdigit():
      return False
    if before[1] != socket.gethostname():
      return True
    try:
      os.kill(int(before[0]), 0)
    except ProcessLookupError:
      return False
    except PermissionError:
      pass
    return int(before[0]) != os.getpid()
