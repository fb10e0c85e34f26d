"""A run that is asked to stop, by Ctrl-C, a notebook's interrupt, or the SIGTERM of a machine that is taken away.

`command` is the part of a whole process, from its first line on; `listening` that of a run. Between them every moment
has an answer: where there is something to save the run does so at the next step, elsewhere the process ends at once.
"""

import contextlib
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

from lmjax.console import tell
from lmjax.errors import Stopped

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
    self._agreement = None
    if _several_hosts():
      self._agreement = Agreement(lambda: self.signal)

  def asked(self) -> bool:
    """Whether to stop now; several hosts, which must ask equally often, agree on one moment."""
    if self._agreement is None:
      return self.signal is not None
    stops = self._agreement.reached()
    if stops and self.signal is None:
      self.signal = self._agreement.signal  # another host's
    return stops

  def agree(self) -> None:
    """Waits until every host has come this far: a launcher may end them all when the first one ends."""
    if self._agreement is None:
      return
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices('stopped')

  def close(self) -> None:
    """The run has ended."""
    if self._agreement is not None:
      self._agreement.close()


class Agreement:
  """On which step all hosts stop, once one of them is asked to.

  Each host counts its calls of `reached`, which all make equally often. Once one is asked, each says how many it has
  made and waits within its next one until it knows what all have said. They stop at the largest number plus one: none
  can have passed it.

  JAX has this as `multihost_utils.reached_preemption_sync_point`, for one count alone; Orbax gives it another, of its
  own, when it saves, and a SIGTERM that came before the next call of ours was never heeded.

  Attributes:
    signal: name of the signal that one of them has had, once they have agreed.
  """

  _runs = itertools.count()  # in this process; all have equally many

  def __init__(self, asked: Callable[[], str | None]):
    """`asked()` is the name of the signal that this host has had, or None."""
    import jax

    from lmjax.hosts import watchdog

    self.signal: str | None = None
    self._asked, self._store = asked, watchdog.Store(f'stop{next(self._runs)}')
    self._me, self._count = str(jax.process_index()), jax.process_count()
    self._calls = 0
    self._said: str | None = None  # how many it had made when it was asked
    self._last: int | None = None
    self._lock, self._agreed, self._closed = threading.Lock(), threading.Event(), threading.Event()
    self._thread = threading.Thread(target=self._talk, name='agreement', daemon=True)
    self._thread.start()

  def reached(self) -> bool:
    """Whether to stop now."""
    with self._lock:
      self._calls += 1
      under_way = self._said is not None
    if under_way:
      self._agreed.wait()  # should a host be lost meanwhile, Watch ends this one
    return self._last is not None and self._calls >= self._last

  def _talk(self) -> None:
    while not self._agreed.is_set() and not self._closed.wait(0.25):
      with contextlib.suppress(Exception):  # as in watchdog.Watch
        said = self._store.read()
        name = said.pop('signal', None) or self._asked()
        if name is None:
          continue
        self._store.put('signal', name)
        said[self._me] = self._say()
        if len(said) == self._count:
          self.signal, self._last = name, max(map(int, said.values())) + 1
          self._agreed.set()

  def _say(self) -> str:
    with self._lock:
      self._said = self._said or str(self._calls)
    self._store.put(self._me, self._said)
    return self._said

  def close(self) -> None:
    """The run is at its end here; the other hosts may still be asked, and want to know how far this one came."""
    self._closed.set()
    self._thread.join(1.0)
    with contextlib.suppress(Exception):  # host 0 may have gone by now
      self._say()


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
    for number, handler in before.items():
      signal.signal(number, handler)
    writer.close()  # which ends the thread


def _watch(reader: socket.socket) -> None:
  while data := reader.recv(1):
    if data[0] not in SIGNALS:
      continue
    name = signal.Signals(data[0]).name
    if _run is None or _run.signal is not None:
      if _run is None:
        said = f'{name}: ends at once, since there is nothing to save yet; the same command starts again, or'
      else:
        said = f'{name}: ends at once; the same command'
      tell(f'lmjax: {said} goes on from the newest checkpoint', sys.stderr)
      os._exit(Stopped.exit_code)
    _run.signal = name
    tell(f'lmjax: {name}: saving at the next step; once more ends at once', sys.stderr)


def _several_hosts() -> bool:
  import jax

  return jax.distributed.is_initialized() and jax.process_count() > 1


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
  """While it lasts, the first of SIGNALS is noted; a second one acts as it would have without this.

  In another thread than the main one signals are left alone; and one that is ignored (a job in the background ignores
  SIGINT) stays so.
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

  if threading.current_thread() is threading.main_thread() and not _has_command:
    for number in SIGNALS:
      if signal.getsignal(number) is not signal.SIG_IGN:
        before[number] = signal.signal(number, note)
  earlier, _run = _run, stop
  try:
    yield stop
  finally:
    _run = earlier
    restore()
    stop.close()
