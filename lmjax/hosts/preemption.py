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

import numpy as np

from lmjax.console import print_line
from lmjax.errors import Stopped

# jax is imported where it is used: `command` begins before the seconds that this takes.

# Ctrl-C, a machine that is taken away, and a terminal that is gone.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# The column of a batch, and the entry of a report, with a signal's number where the run is to stop, else 0.
FLAG = 'stop'


class Interrupted(BaseException):
  """An evaluation or a generation is given up, since the run was asked to stop; never leaves `lmjax.train`."""


class StopSignal:
  """Whether a run has been asked to stop.

  Of several hosts each puts its own flag into its rows of every batch, of evaluations and generations too; the program
  reduces them, and all hosts read the same flag of the same batch: so all stop at one step. JAX's own
  `multihost_utils.reached_preemption_sync_point` has one count alone; Orbax advances it too, when it saves, and a
  SIGTERM that came before the next call of ours had no effect.

  Attributes:
    signal: name of the signal, None before it; with several hosts, of the first one that this host knows of.
  """

  def __init__(self):
    self.signal: str | None = None
    self._several, self._all_stop = _several_hosts(), False

  def flags(self, rows: int) -> dict[str, np.ndarray]:
    """What goes into a batch of so many rows: nothing on one host, so that its program is the same."""
    if not self._several:
      return {}
    number = 0 if self.signal is None else signal.Signals[self.signal].value
    return {FLAG: np.full(rows, number, np.int32)}

  def read(self, report: dict) -> None:
    """Takes the reduced flag out of what a program returned, on several hosts."""
    if self._several and (number := int(report[FLAG])):
      self.signal, self._all_stop = self.signal or signal.Signals(number).name, True

  def asked(self) -> bool:
    """Whether to stop now; on several hosts, as of the newest batch that was read."""
    return self._all_stop if self._several else self.signal is not None

  def interrupt(self) -> None:
    """Raises Interrupted where the run is to stop now."""
    if self.asked():
      raise Interrupted

  def stopped(self, step: int) -> Stopped:
    """What ends a run that was asked to stop and has saved."""
    return Stopped(f'{self.signal}: saved at step {step}; the same command again continues from there')

  def wait_for_all(self) -> None:
    """Waits until every host has come this far: a launcher may end them all when the first one ends."""
    if self._several:
      from jax.experimental import multihost_utils

      multihost_utils.sync_global_devices('stopped')


_run: StopSignal | None = None  # of the run that this process is at
_has_command = False


@contextlib.contextmanager
def command() -> Iterator[None]:
  """For a process that trains, before anything else: while no run listens a signal ends it at once, with a message.

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
    for number, handler in before.items():
      signal.signal(number, handler)
    writer.close()  # which ends the thread


def _watch(reader: socket.socket) -> None:
  while data := reader.recv(1):
    if data[0] not in SIGNALS:
      continue
    name = signal.Signals(data[0]).name
    if _run is None or _run.signal is not None:
      why, or_again = (', since there is nothing to save yet', 'starts again, or ') if _run is None else ('', '')
      remedy = f'the same command {or_again}continues from the newest checkpoint'
      print_line(f'lmjax: {name}: ends at once{why}; {remedy}', sys.stderr)
      os._exit(Stopped.exit_code)
    _run.signal = name
    print_line(f'lmjax: {name}: saving at the next step; once more ends at once', sys.stderr)


def _several_hosts() -> bool:
  import jax

  return jax.distributed.is_initialized() and jax.process_count() > 1


@contextlib.contextmanager
def listening(stop: StopSignal) -> Iterator[None]:
  """While it lasts, the first of SIGNALS is noted in `stop`; a second one acts as it would have without this.

  Outside the main thread signals are left alone; and one that is ignored (SIGINT in the background) stays so.
  """
  global _run
  before = {}

  def note(number, frame):
    del frame
    stop.signal = signal.Signals(number).name
    restore()

  def restore():
    while before:
      signal.signal(*before.popitem())

  if threading.current_thread() is threading.main_thread() and not _has_command:
    for number in SIGNALS:
      if signal.getsignal(number) is not signal.SIG_IGN:
        before[number] = signal.signal(number, note)
  earlier, _run = _run, stop
  try:
    yield
  finally:
    _run = earlier
    restore()
