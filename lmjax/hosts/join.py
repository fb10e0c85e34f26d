"""How the hosts of a run find each other."""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import time
from typing import Any

import jax

from lmjax.errors import ConfigError, Stalled
from lmjax.hosts.config import BACKSTOP_SECONDS, HostsConfig


def join(
  config: HostsConfig, coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
):
  """Calls `jax.distributed.initialize` where there are several hosts: explicit flags, SLURM, or a TPU pod.

  Must come before anything touches a device. On one host it does nothing, nor in a SLURM job outside `srun`.

  Raises:
    ConfigError: only some of the three flags, or numbers that cannot be.
    Stalled: naming the hosts that did not come.
  """
  flags = {'coordinator': coordinator, 'num_processes': num_processes, 'process_id': process_id}
  given = {name: value for name, value in flags.items() if value is not None}
  missing = [name for name in flags if name not in given]
  if given and missing:
    flag = next(iter(given))
    raise ConfigError(f'--{flag} = {given[flag]}: needs the other two as well; add --{" and --".join(missing)}')
  if given and re.fullmatch(r'\[?[\w.:-]+\]?:\d+', coordinator) is None:
    raise ConfigError(f'--coordinator = {coordinator}: must be HOST:PORT of process 0; add a free port, as :1234')
  if given and num_processes < 1:
    raise ConfigError(f'--num_processes = {num_processes}: must be at least 1; give the number of hosts')
  if given and not 0 <= process_id < num_processes:
    rule = f'must be from 0 to {num_processes - 1}'
    raise ConfigError(f'--process_id = {process_id}: {rule}; give the number of this host')
  hosts = (coordinator, num_processes, process_id) if given else _surroundings(config.start_seconds)
  if hosts is None or hosts[1] == 1:  # a TPU VM of one host is found too
    return
  meet(*hosts, config.start_seconds)
  _abort_as_stalled()
  jax.config.update('jax_enable_preemption_service', False)  # it would take SIGTERM from us; see preemption.StopSignal
  lost = config.lost_seconds + BACKSTOP_SECONDS
  timeouts: dict[str, Any] = dict(heartbeat_timeout_seconds=lost, shutdown_timeout_seconds=lost)
  timeouts['initialization_timeout'] = config.start_seconds + BACKSTOP_SECONDS
  # JAX is left to find again what it finds by itself: with it comes which devices are this process's
  jax.distributed.initialize(*(hosts if given else ()), **timeouts)


def _surroundings(seconds: int) -> tuple[str, int, int] | None:
  """(coordinator, processes, process) in a SLURM job or on a TPU pod; None where there are no other hosts."""
  tasks = min(int(os.environ.get(name, '1')) for name in ('SLURM_NTASKS', 'SLURM_STEP_NUM_TASKS'))
  # platforms as jax sets them where it finds TPU chips; no cluster there: a notebook, or not Google's machine
  if tasks < 2 and not (getattr(jax.config, 'jax_platforms', None) or '').startswith('tpu'):
    return None
  from jax._src import clusters  # there is no public way to it

  try:
    hosts = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, seconds)[:3]
  except RuntimeError as error:  # the name of host 0 is unknown for so long
    rule = f'{error} in hosts.start_seconds = {seconds}'
    raise Stalled(f'host 0: {rule}; start the command on every host again') from error
  if None not in hosts:
    return hosts
  if tasks > 1:
    rule = 'JAX does not find where task 0 of this job is'
    raise ConfigError(f'SLURM_NTASKS = {tasks}: {rule}; add --coordinator, --num_processes and --process_id')
  return None


def _abort_as_stalled() -> None:
  """Where host 0 dies, JAX aborts the others at once, in C++, with a message that names it ("the leader task").

  The handler of SIGABRT becomes `_exit`, which is called with the signal's number: 6, the exit code of Stalled.
  """
  libc = ctypes.CDLL(None)
  libc.signal(int(signal.SIGABRT), libc._exit)


def meet(coordinator: str, processes: int, process: int, seconds: float) -> None:
  """Waits until every host is there. JAX waits as well, but ends by aborting, and names nobody.

  Host 0 listens where its coordinator will; each other one sends its number, and is sent who is missing, if any.

  Raises Stalled: naming the hosts that did not come.
  """
  host, _, port = coordinator.rpartition(':')
  ends = time.monotonic() + seconds
  if process:
    missing = _ask(host.strip('[]'), int(port), process, ends)
  else:
    missing = _gather(coordinator, host, int(port), processes, ends)
  if missing:
    who = f'host{"s" if len(missing) > 1 else ""} {", ".join(map(str, missing))} of {processes}'
    rule = f'did not come within hosts.start_seconds = {seconds}'
    raise Stalled(f'{who}: {rule}; look at their messages, and start the command on every host again')


def _gather(coordinator: str, host: str, port: int, processes: int, ends: float) -> list[int]:
  """The hosts that are missing, as host 0 sees it and sends to all that came."""
  try:
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    opened = socket.create_server(('', port), family=family, backlog=processes)
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
  return missing


def _ask(host: str, port: int, process: int, ends: float) -> list[int]:
  """The hosts that are missing, as host 0 answers; itself, where it does not."""
  while (left := ends - time.monotonic()) > 0:
    with contextlib.suppress(OSError, OverflowError, ValueError):
      with socket.create_connection((host, port), timeout=left) as opened:
        opened.sendall(str(process).encode())
        opened.settimeout(max(ends - time.monotonic(), 0) + 5.0)
        if answer := opened.recv(1 << 16):
          return json.loads(answer)
    time.sleep(0.2)
  return [0]
