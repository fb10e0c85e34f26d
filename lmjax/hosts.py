"""Several hosts: how they find each other, how one that is lost or hangs ends the others, and the watchdog of each.

JAX ends a process whose neighbour is gone by aborting it in C++, after minutes, with a stack trace. What is here comes
first: each host notes in the coordinator's key-value store that it lives and how far it is, and looks at the others'.
"""

import contextlib
import ctypes
import dataclasses
import faulthandler
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lmjax.errors import ConfigError, LmjaxError, Stalled, Stopped, reason
from lmjax.fields import PositiveInt
from lmjax.redact import redact, tell

# JAX's own timeouts come after ours by so many seconds, since its way to end a process says less.
_BACKSTOP_SECONDS = 15
_has_told = False  # whether this host has failed, and told the others
_REMEDY = 'the same command on every host goes on from the newest checkpoint'


@dataclasses.dataclass(frozen=True)
class HostsConfig:
  """How long hosts wait for each other, and for themselves.

  start_seconds: after so long every host must have come
  lost_seconds: a host that is silent for so long is lost, and the others end with exit code 6
  hang_seconds: so long without a step, or a batch of an evaluation, ends the run with exit code 6; None for off
  """

  start_seconds: PositiveInt
  lost_seconds: PositiveInt
  hang_seconds: PositiveInt | None


def join(config: HostsConfig, coordinator: str | None = None, processes: int | None = None, process: int | None = None):
  """Calls `jax.distributed.initialize` where there are several hosts: explicit flags, SLURM, or a TPU pod.

  Must come before anything touches a device. On one host it does nothing, nor in a SLURM job outside `srun`.

  Raises:
    ConfigError: only some of the three flags, or numbers that cannot be.
    Stalled: naming the hosts that did not come.
  """
  flags = {'coordinator': coordinator, 'processes': processes, 'process': process}
  given = [name for name, value in flags.items() if value is not None]
  if given and len(given) < 3:
    missing = [name for name in flags if name not in given]
    raise ConfigError(f'--{given[0]} = {flags[given[0]]}: needs the other two as well; add --{" and --".join(missing)}')
  timeouts: dict[str, Any] = dict(
    initialization_timeout=config.start_seconds + _BACKSTOP_SECONDS,
    heartbeat_timeout_seconds=config.lost_seconds + _BACKSTOP_SECONDS,
    shutdown_timeout_seconds=config.lost_seconds + _BACKSTOP_SECONDS,
  )
  if given:
    if re.fullmatch(r'\[?[\w.:-]+\]?:\d+', coordinator) is None:
      raise ConfigError(f'--coordinator = {coordinator}: must be HOST:PORT of process 0; add a free port, as :1234')
    if processes < 1:
      raise ConfigError(f'--processes = {processes}: must be at least 1; give the number of hosts')
    if not 0 <= process < processes:
      raise ConfigError(f'--process = {process}: must be from 0 to {processes - 1}; give the number of this host')
    found = coordinator, processes, process
  else:
    found = _surroundings(config.start_seconds)
  if found is None or found[1] == 1:  # a TPU VM of one host says so too
    return
  meet(*found, config.start_seconds)
  _abort_as_stalled()
  jax.config.update('jax_enable_preemption_service', False)  # it would take SIGTERM from us; see stops.Agreement
  # what JAX finds by itself it is left to find again: with it comes which devices are this process's
  jax.distributed.initialize(*(found if given else ()), **timeouts)


def _surroundings(seconds: int) -> tuple[str, int, int] | None:
  """(coordinator, processes, process) in a SLURM job or on a TPU pod; None where there are no other hosts."""
  tasks = min(int(os.environ.get(name, '1')) for name in ('SLURM_NTASKS', 'SLURM_STEP_NUM_TASKS'))
  # platforms as jax sets them where it finds TPU chips; no cluster there: a notebook, or not Google's machine
  if tasks < 2 and not (getattr(jax.config, 'jax_platforms', None) or '').startswith('tpu'):
    return None
  from jax._src import clusters  # there is no public way to it

  try:
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, seconds)[:3]
  except RuntimeError as error:  # the name of host 0 is unknown for so long
    raise Stalled(
      f'host 0: {error} in hosts.start_seconds = {seconds}; start the command on every host again'
    ) from error
  if None not in found:
    return found
  if tasks > 1:
    rule = 'JAX does not find where task 0 of this job is'
    raise ConfigError(f'SLURM_NTASKS = {tasks}: {rule}; add --coordinator, --processes and --process')
  return None


def leave(code: int) -> None:
  """Lets a host that has failed end with its own exit code.

  At its end JAX waits for the other hosts: those that fail alike come at once; those that were told of this one's
  failure end without, whereupon JAX would abort.
  """
  if _has_told:
    timer = threading.Timer(2.0, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _abort_as_stalled() -> None:
  """Where host 0 dies, JAX aborts the others at once, in C++, with a message that names it ("the leader task").

  The handler of SIGABRT becomes `_exit`, which is called with the signal's number: 6, the exit code of Stalled.
  """
  libc = ctypes.CDLL(None)
  libc.signal(int(signal.SIGABRT), libc._exit)


def meet(coordinator: str, processes: int, process: int, seconds: float) -> None:
  """Waits until every host is there. JAX waits as well, but ends by aborting, and names nobody.

  Host 0 listens where its coordinator will; each other one sends its number, and is told who is missing, if any.

  Raises:
    Stalled: naming the hosts that did not come.
  """
  host, _, port = coordinator.rpartition(':')
  ends = time.monotonic() + seconds
  if process:
    raise_missing(_ask(host.strip('[]'), int(port), process, ends), processes, seconds)
    return
  try:
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    opened = socket.create_server(('', int(port)), family=family, backlog=processes)
  except (OSError, OverflowError) as error:
    raise ConfigError(f'--coordinator = {coordinator}: {error}; choose a free port of this host') from error
  with opened as server:
    came: dict[int, socket.socket] = {}
    while len(came) < processes - 1 and (left := ends - time.monotonic()) > 0:
      server.settimeout(left)
      with contextlib.suppress(OSError, ValueError):
        other, _ = server.accept()
        other.settimeout(5.0)
        came[int(other.recv(16))] = other
    missing = sorted(set(range(1, processes)) - came.keys())
    for other in came.values():
      with contextlib.suppress(OSError), other:
        other.sendall(json.dumps(missing).encode())
  raise_missing(missing, processes, seconds)


def raise_missing(missing: list[int], processes: int, seconds: float) -> None:
  """Raises Stalled if there are any."""
  if missing:
    who = f'host{"s" if len(missing) > 1 else ""} {", ".join(map(str, missing))} of {processes}'
    rule = f'did not come within hosts.start_seconds = {seconds}'
    raise Stalled(f'{who}: {rule}; look at what they say, and start the command on every host again')


def _ask(host: str, port: int, process: int, ends: float) -> list[int]:
  """The hosts that are missing, as host 0 says; itself, where it does not answer."""
  while (left := ends - time.monotonic()) > 0:
    try:
      with socket.create_connection((host, port), timeout=left) as opened:
        opened.sendall(str(process).encode())
        opened.settimeout(max(ends - time.monotonic(), 0) + 5.0)
        if answer := opened.recv(1 << 16):
          return json.loads(answer)
    except (OSError, OverflowError, ValueError):
      pass
    time.sleep(0.2)
  return [0]


class Watch:
  """Says that this host lives and how far it is, and ends it when another one is lost, or when none goes on.

  Attributes:
    beats: how often this host went on: steps, and batches of evaluations.
    phase: what it did last.
  """

  def __init__(self, config: HostsConfig):
    self._config, self.beats, self.phase = config, 0, 'starting'
    self._me, self._count = jax.process_index(), jax.process_count()
    self._store = Store('watch') if self._count > 1 else None
    self._moved = self._answered = time.monotonic()
    # what each other host said last, and since when it says that
    self._heard = {host: ('', self._moved) for host in range(self._count) if host != self._me}
    self._told: str | None = None  # by another host, which ends
    self._closed = threading.Event()
    self._pause = min(max(config.lost_seconds / 8, 0.2), 5.0)
    self._threads = [threading.Thread(target=self._watch, name='watch', daemon=True)]
    if self._store is not None:
      self._threads.append(threading.Thread(target=self._talk, name='hosts', daemon=True))
    for thread in self._threads:
      thread.start()

  def beat(self, phase: str) -> None:
    """This host goes on; the first beat begins the watch for a hang."""
    self.beats, self.phase, self._moved = self.beats + 1, phase, time.monotonic()
    if self._config.hang_seconds is not None:
      # should no Python thread run, for a lock that C code holds: it needs none, and exits with 1
      faulthandler.dump_traceback_later(self._config.hang_seconds + _BACKSTOP_SECONDS, exit=True, file=sys.__stderr__)

  def _watch(self) -> None:
    while not self._closed.wait(self._pause):
      found = self._verdict(time.monotonic())
      if found is not None:
        self._end(found)

  def _talk(self) -> None:
    """Says and hears, in a thread of its own: where host 0 is lost, its store may never answer."""
    while not self._closed.wait(self._pause):
      with contextlib.suppress(Exception):  # of jaxlib's own kinds; what counts is when it last went well
        self._store.put(f'alive/{self._me}', f'{time.monotonic()} {self.beats} {self.phase}')
        said = self._store.read()
        now = self._answered = time.monotonic()
        self._told = said.pop('end', None)
        for key, text in said.items():
          host = int(key.removeprefix('alive/'))
          if host != self._me and self._heard[host][0] != text:
            self._heard[host] = (text, now)

  def _verdict(self, now: float) -> str | None:
    """Why this host ends, or None."""
    lost, hang = self._config.lost_seconds, self._config.hang_seconds
    if self._told is not None:
      return self._told
    if self._store is not None:
      silent = [host for host, (text, since) in self._heard.items() if text != 'done' and now - since > lost]
      if now - self._answered > lost:
        silent = [0]  # where the store is
      if silent:
        rule = f'silent for hosts.lost_seconds = {lost}, so it is lost'
        return f'host {silent[0]} of {self._count}: {rule}; {_REMEDY}'
    if hang is not None and self.beats and now - self._moved > hang:
      faulthandler.dump_traceback(file=sys.__stderr__)
      rule = f'nothing for hosts.hang_seconds = {hang}, see the stack above'
      return f'{self._slowest()} ({self.phase}): {rule}; {_REMEDY}'
    return None

  def _slowest(self) -> str:
    if self._store is None:
      return 'the run hangs'
    beats = {host: int(text.split()[1]) for host, (text, _) in self._heard.items() if text not in ('', 'done')}
    beats[self._me] = self.beats
    behind = min(beats, key=beats.get)
    same = len(set(beats.values())) < 2
    return f'all of {self._count} hosts hang' if same else f'host {behind} of {self._count} hangs'

  def _end(self, said: str) -> None:
    tell(f'lmjax: {said}', sys.__stderr__)
    if self._store is not None:
      threading.Thread(target=self._store.put, args=('end', said), daemon=True).start()  # for those who do not see it
      time.sleep(3 * self._pause if self._me == 0 else self._pause)  # the store goes with host 0
    os._exit(Stalled.exit_code)

  def failed(self, error: BaseException) -> None:
    """This host has met an error: its own, of which the others are told; or that of an operation that another host did
    not take part in, whose end this then waits for."""
    if self._store is None or isinstance(error, Stopped):
      return
    if isinstance(error, RuntimeError | ValueError) and not isinstance(error, LmjaxError):
      said = f'{reason(error)[:200]}; waiting up to {self._config.lost_seconds} s to hear which host is lost'
      tell(f'lmjax: {said}', sys.__stderr__)
      self._threads[0].join(self._config.lost_seconds + 3 * self._pause)
    global _has_told
    _has_told = True
    self._closed.set()  # from here on it ends by its own error
    time.sleep(self._pause)  # an error that all hosts meet is told by each
    with contextlib.suppress(Exception):
      self._store.put('end', redact(f'host {self._me} of {self._count} ended: {reason(error)}'))
      time.sleep(3 * self._pause if self._me == 0 else 0)

  def close(self) -> None:
    """Ends the watch; this host is done."""
    self._closed.set()
    faulthandler.cancel_dump_traceback_later()
    if self._store is not None:
      self._threads[-1].join(1.0)  # what it says now would come after this
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


@contextlib.contextmanager
def watching(config: HostsConfig) -> Iterator[Watch]:
  """A Watch while a run lasts."""
  watch = Watch(config)
  try:
    yield watch
  except BaseException as error:
    watch.failed(error)
    raise
  finally:
    watch.close()


def on_every_host(read: Callable[[], Any], kind: type[LmjaxError]) -> Any:
  """What `read()` returns; where it fails on one host it fails on all, so that all go on the same way.

  Args:
    read: must not wait for other hosts.
    kind: the errors that count, raised where another host met one.
  """
  found = error = None
  try:
    found = read()
  except kind as met:
    error = met
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    failed = np.flatnonzero(multihost_utils.process_allgather(np.array([error is not None])))
    if error is None and len(failed):
      error = kind(f'host {failed[0]} of {jax.process_count()} cannot read it; look at what it says')
  if error is not None:
    raise error
  return found


def check_shared(folder) -> None:
  """Refuses a folder that not every host sees: saving a checkpoint would hang, with every host waiting for the others.

  Args:
    folder: an epath.Path that host 0 has made.

  Raises:
    ConfigError: naming the hosts that do not see it.
  """
  if jax.process_count() == 1:
    return
  from jax.experimental import multihost_utils

  nonce = int(multihost_utils.broadcast_one_to_all(np.int32(int.from_bytes(os.urandom(3), 'big'))))
  file = folder / f'.probe-{nonce}'
  if jax.process_index() == 0:
    file.write_text('')
  multihost_utils.sync_global_devices('probe written')
  sees = multihost_utils.process_allgather(np.array([file.exists()]))
  multihost_utils.sync_global_devices('probe seen')
  if jax.process_index() == 0:
    file.unlink()
  blind = [host for host, seen in enumerate(np.asarray(sees).reshape(-1)) if not seen]
  if blind:
    who = f'host{"s" if len(blind) > 1 else ""} {", ".join(map(str, blind))}'
    raise ConfigError(f'--workdir = {folder}: {who} cannot see what host 0 writes there; name a folder that all share')
