"""Several hosts: how they find each other, how one that is lost or hangs ends the others, and the watchdog of each.

JAX ends a process whose neighbour is gone by aborting it in C++, after minutes, with a stack trace. What is here comes
first: each host notes in the coordinator's key-value store that it lives and how far it is, and looks at the others'.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time

import jax

from lmjax.console import print_line, redact
from lmjax.errors import LmjaxError, Stalled, Stopped, reason
from lmjax.hosts.config import BACKSTOP_SECONDS, HostsConfig

_has_reported = False  # whether this host has failed, and reported it to the others
_REMEDY = 'the same command on every host continues from the newest checkpoint'


def leave(code: int) -> None:
  """Lets a host that has failed end with its own exit code.

  At its end JAX waits for the other hosts: those that fail alike come at once; those that heard of this one's failure
  end without, whereupon JAX would abort.
  """
  if _has_reported:
    timer = threading.Timer(2.0, os._exit, (code,))
    timer.daemon = True
    timer.start()


class Watchdog:
  """Reports that this host lives and how far it is, and ends it when another one is lost, or when none makes progress.

  Attributes:
    heartbeats: how often this host made progress: steps, and batches of evaluations.
    phase: what it did last.
  """

  def __init__(self, config: HostsConfig):
    self._config, self.heartbeats, self.phase = config, 0, 'starting'
    self._me, self._count = jax.process_index(), jax.process_count()
    self._store = Store('watch') if self._count > 1 else None
    self._moved = self._answered = time.monotonic()
    # what each other host reported last, and since when
    self._heard = {host: ('', self._moved) for host in range(self._count) if host != self._me}
    self._failure: str | None = None  # of another host, which ends
    self._closed = threading.Event()
    self._pause = min(max(config.lost_seconds / 8, 0.2), 5.0)
    self._threads = [threading.Thread(target=self._watch, name='watch', daemon=True)]
    if self._store is not None:
      self._threads.append(threading.Thread(target=self._exchange, name='hosts', daemon=True))
    for thread in self._threads:
      thread.start()

  def heartbeat(self, phase: str) -> None:
    """This host makes progress; the first heartbeat begins the watch for a hang."""
    self.heartbeats, self.phase, self._moved = self.heartbeats + 1, phase, time.monotonic()
    if self._config.hang_seconds is not None:
      # should no Python thread run, for a lock that C code holds: it needs none, and exits with 1
      faulthandler.dump_traceback_later(self._config.hang_seconds + BACKSTOP_SECONDS, exit=True, file=sys.__stderr__)

  def evaluating(self) -> None:
    """A batch of an evaluation; not counted before the first step, since compiling may take long there."""
    if self.heartbeats:
      self.heartbeat('evaluating')

  def _watch(self) -> None:
    while not self._closed.wait(self._pause):
      if (why := self._verdict(time.monotonic())) is not None:
        self._end(why)

  def _exchange(self) -> None:
    """Reports and reads, in a thread of its own: where host 0 is lost, its store may never answer."""
    while not self._closed.wait(self._pause):
      with contextlib.suppress(Exception):  # of jaxlib's own kinds; what counts is when it last went well
        self._store.put(f'alive/{self._me}', f'{time.monotonic()} {self.heartbeats} {self.phase}')
        reports = self._store.read()
        now = self._answered = time.monotonic()
        self._failure = reports.pop('end', None)
        for key, text in reports.items():
          host = int(key.removeprefix('alive/'))
          if host != self._me and self._heard[host][0] != text:
            self._heard[host] = (text, now)

  def _verdict(self, now: float) -> str | None:
    """Why this host ends, or None."""
    lost, hang = self._config.lost_seconds, self._config.hang_seconds
    if self._failure is not None:
      return self._failure
    if self._store is not None:
      silent = [host for host, (text, since) in self._heard.items() if text != 'done' and now - since > lost]
      if now - self._answered > lost:
        silent = [0]  # where the store is
      if silent:
        rule = f'silent for hosts.lost_seconds = {lost}, so it is lost'
        return f'host {silent[0]} of {self._count}: {rule}; {_REMEDY}'
    if hang is not None and self.heartbeats and now - self._moved > hang:
      faulthandler.dump_traceback(file=sys.__stderr__)
      rule = f'nothing for hosts.hang_seconds = {hang}, see the stack above'
      return f'{self._slowest()} ({self.phase}): {rule}; {_REMEDY}'
    return None

  def _slowest(self) -> str:
    if self._store is None:
      return 'the run hangs'
    beats = {host: int(text.split()[1]) for host, (text, _) in self._heard.items() if text not in ('', 'done')}
    beats[self._me] = self.heartbeats
    if len(set(beats.values())) < 2:
      return f'all of {self._count} hosts hang'
    return f'host {min(beats, key=beats.get)} of {self._count} hangs'

  def _end(self, why: str) -> None:
    print_line(f'lmjax: {why}', sys.__stderr__)
    if self._store is not None:
      threading.Thread(target=self._store.put, args=('end', why), daemon=True).start()  # for those who do not see it
      time.sleep(3 * self._pause if self._me == 0 else self._pause)  # the store goes with host 0
    os._exit(Stalled.exit_code)

  def failed(self, error: BaseException) -> None:
    """Reports an error of this host's own to the others; where it is that of an operation that another host did not
    take part in, waits for that one's end instead."""
    if self._store is None or isinstance(error, Stopped):
      return
    if isinstance(error, RuntimeError | ValueError) and not isinstance(error, LmjaxError):
      waiting = f'waiting up to {self._config.lost_seconds} s to hear which host is lost'
      print_line(f'lmjax: {reason(error)[:200]}; {waiting}', sys.__stderr__)
      self._threads[0].join(self._config.lost_seconds + 3 * self._pause)
    global _has_reported
    _has_reported = True
    self._closed.set()  # from here on it ends by its own error
    time.sleep(self._pause)  # an error that all hosts meet is reported by each
    with contextlib.suppress(Exception):
      self._store.put('end', redact(f'host {self._me} of {self._count} ended: {reason(error)}'))
      time.sleep(3 * self._pause if self._me == 0 else 0)

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback):
    try:
      if error is not None:
        self.failed(error)
    finally:
      self.close()

  def close(self) -> None:
    """Ends the watch; this host is done."""
    self._closed.set()
    faulthandler.cancel_dump_traceback_later()
    if self._store is not None:
      self._threads[-1].join(1.0)  # a later report would replace this one
      with contextlib.suppress(Exception):  # host 0 may have gone by now
        self._store.put(f'alive/{self._me}', 'done')


class Store:
  """A folder in the key-value store of JAX's coordinator, in host 0; there is no public way to it."""

  def __init__(self, folder: str):
    from jax._src import distributed

    self._client, self._folder = distributed.global_state.client, f'lmjax/{folder}/'

  def put(self, key: str, value: str) -> None:
    """Sets a key for all hosts, again if need be."""
    self._client.key_value_set(self._folder + key, value, allow_overwrite=True)

  def read(self) -> dict[str, str]:
    """What all hosts have set so far."""
    return {key.removeprefix(self._folder): value for key, value in self._client.key_value_dir_get(self._folder)}
