"""A run that is asked to stop, by Ctrl-C, a notebook's interrupt, or the SIGTERM of a machine that is taken away.

`command` is the part of a whole process, from its first line on; `listening` that of a run. Between them every moment
has an answer: where there is something to save the run does so at the next step, elsewhere the process ends at once.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

from lmjax.errors import Stopped
from lmjax.redact import tell

# jax is imported where it is used: `command` begins before the seconds that this takes.

# Ctrl-C, a machine that is taken away, and a terminal that is gone.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
  """An evaluation or a generation is given up, since the run was asked to stop; never leaves `lmjax.train`."""


class Stop:
  """Whether a run has been asked to stop.

  Attributes:
    signal: name of the signal, None before it.
  """

  def __init__(self):
    self.signal: str | None = None
    self._asked = 0

  def asked(self) -> bool:
    """Whether to stop now; several hosts, which must ask equally often, agree on one moment."""
    if _several_hosts():
      from jax.experimental import multihost_utils

      self._asked += 1
      # jax's own handler of SIGTERM: one of ours would silently disable it on every host
      if multihost_utils.reached_preemption_sync_point(self._asked):
        self.signal = 'SIGTERM'
    return self.signal is not None

  def agree(self) -> None:
    """Waits until every host has come this far: a launcher may end them all when the first one ends."""
    if not _several_hosts():
      return
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices('stopped')


_run: Stop | None = None  # of the run that this process is at
_has_command = False


@contextlib.contextmanager
def command() -> Iterator[None]:
  """For a process that trains, before anything else: while no run listens a signal ends it at once, and says so.

  Python runs handlers between two of its own instructions, so none inside a long compilation: the signal's number goes
  through a socket to a thread (`signal.set_wakeup_fd`). It ends the process itself, with the exit code of `Stopped`.
  """
  global _has_command
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  reader, writer = socket.socketpair()
  writer.setblocking(False)
  fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
  before = {number: signal.getsignal(number) for number in SIGNALS}
  for number, handler in before.items():
    if handler is not signal.SIG_IGN:  # a job in the background ignores SIGINT: it stays so
      signal.signal(number, lambda number, frame: None)
  threading.Thread(target=_watch, args=(reader,), name='signals', daemon=True).start()
  _has_command = True
  try:
    yield
  finally:
    _has_command = False
    signal.set_wakeup_fd(fd)
    if not _several_hosts():  # else SIGTERM is jax's, and setting it again would disable it on every host
      for number, handler in before.items():
        signal.signal(number, handler)
    writer.close()  # which ends the thread


def _watch(reader: socket.socket) -> None:
  while data := reader.recv(1):
    if data[0] not in SIGNALS:
      continue
    name = signal.Signals(data[0]).name
    if _run is None or _run.signal is not None or _several_hosts():
      if _several_hosts():
        said = f'{name}: this host ends at once, and the run with it (SIGTERM would have saved first); the same command'
      elif _run is None:
        said = f'{name}: ends at once, since there is nothing to save yet; the same command starts again, or'
      else:
        said = f'{name}: ends at once; the same command'
      tell(f'lmjax: {said} goes on from the newest checkpoint', sys.stderr)
      os._exit(Stopped.exit_code)
    _run.signal = name
    tell(f'lmjax: {name}: saving at the next step; once more ends at once', sys.stderr)


def _several_hosts() -> bool:
  distributed = getattr(sys.modules.get('jax'), 'distributed', None)  # not there yet, in the middle of its import
  return distributed is not None and distributed.is_initialized()


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
  """While it lasts, the first of SIGNALS is noted; a second one acts as it would have without this.

  In another thread than the main one, and with several processes, signals are left alone; and one that is ignored
  (a job in the background ignores SIGINT) stays so.
  """
  global _run
  stop, before = Stop(), {}

  def note(number, frame):
    del frame
    stop.signal = signal.Signals(number).name
    restore()

  def restore():
    while before:
      signal.signal(*before.popitem())

  if threading.current_thread() is threading.main_thread() and not _has_command and not _several_hosts():
    for number in SIGNALS:
      if signal.getsignal(number) is not signal.SIG_IGN:
        before[number] = signal.signal(number, note)
  earlier, _run = _run, stop
  try:
    yield stop
  finally:
    _run = earlier
    restore()
