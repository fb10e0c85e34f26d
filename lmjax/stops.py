"""A run that is asked to stop, by Ctrl-C, a notebook's interrupt, or the SIGTERM of a machine that is taken away."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class Stop:
  """Whether a run has been asked to stop.

  Attributes:
    signal: name of the signal, None before it.
  """

  def __init__(self):
    self.signal: str | None = None

  def asked(self, step: int) -> bool:
    """Whether to stop after this step; several hosts agree on one."""
    if jax.process_count() > 1:
      # jax's own handler of SIGTERM: one of ours would silently disable it on every host
      if multihost_utils.reached_preemption_sync_point(step):
        self.signal = 'SIGTERM'
    return self.signal is not None

  def agree(self) -> None:
    """Waits until every host has come this far: a launcher may end them all when the first one ends."""
    multihost_utils.sync_global_devices('stopped')


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
  """While it lasts, the first SIGINT, SIGTERM or SIGHUP (the terminal is gone: a machine that shuts down) is noted; a
  second one acts as it would have without this.

  In another thread than the main one, and with several processes, signals are left alone; and one that is ignored
  (a job in the background ignores SIGINT) stays so.
  """
  stop = Stop()
  if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
    yield stop
    return
  before = {}

  def note(number, frame):
    del frame
    stop.signal = signal.Signals(number).name
    restore()

  def restore():
    while before:
      signal.signal(*before.popitem())

  for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is not signal.SIG_IGN:
      before[number] = signal.signal(number, note)
  try:
    yield stop
  finally:
    restore()
