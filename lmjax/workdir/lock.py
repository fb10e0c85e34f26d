"""Locks on files; one run at a time in a workdir: two would mix their metrics, and remove each other's checkpoints."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator

from lmjax.errors import ConfigError


def acquire(file, wait: bool) -> bool | None:
  """Locks an open file until it is closed; False: another process holds it; None: there are no locks here.

  Some network filesystems have none.
  """
  try:
    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    return None
  return True


@contextlib.contextmanager
def holding(folder: str, log) -> Iterator[None]:
  """Holds WORKDIR/.lock, which names process and host; the system lets go of it when the process ends, however.

  `log` is called where the lock is that of a process that was killed.

  Raises ConfigError: another run holds it.
  """
  path = os.path.join(folder, '.lock')
  with open(path, 'a+', encoding='utf-8', errors='replace') as file:
    file.seek(0)
    before = file.read(200).split()
    locked = acquire(file, wait=False)
    if locked is False or locked is None and _is_running(before):
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


def _is_running(holder: list[str]) -> bool:
  """Whether the process that the lock file names is another one that may be running: all there is without locks."""
  if len(holder) < 2 or not holder[0].isdigit():
    return False
  if holder[1] != socket.gethostname():
    return True
  try:
    os.kill(int(holder[0]), 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass
  return int(holder[0]) != os.getpid()
