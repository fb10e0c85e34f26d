"""What all hosts do together: reading, agreeing on a number, and looking for the same folder."""

import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lmjax.console import print_line
from lmjax.errors import ConfigError, LmjaxError


def on_every_host(read: Callable[[], Any], kind: type[LmjaxError]) -> Any:
  """What `read()` returns; where it fails on one host it fails on all, so that all take the same way.

  Args:
    read: must not wait for other hosts.
    kind: the errors that count, raised where another host met one.
  """
  result = error = None
  try:
    result = read()
  except kind as met:
    error = met
  if jax.process_count() > 1:
    failed = np.flatnonzero(multihost_utils.process_allgather(np.array([error is not None])))
    if error is not None and jax.process_index():  # host 0 prints what is raised; of another's error it knows nothing
      print_line(f'lmjax: host {jax.process_index()} of {jax.process_count()}: {error}', sys.stderr)
    if error is None and len(failed):
      error = kind(f'host {failed[0]} of {jax.process_count()} cannot read it; look at its messages')
  if error is not None:
    raise error
  return result


def of_host_0(number: Any) -> Any:
  """The NumPy scalar that host 0 has, on every host."""
  return number if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(number)


def check_shared(folder) -> None:
  """Refuses a folder that not every host sees: saving a checkpoint would hang, with every host waiting for the others.

  Args:
    folder: an epath.Path that host 0 has made.

  Raises ConfigError: naming the hosts that do not see it.
  """
  if jax.process_count() == 1:
    return
  nonce = int(multihost_utils.broadcast_one_to_all(np.int32(int.from_bytes(os.urandom(3), 'big'))))
  file = folder / f'.probe-{nonce}'
  if jax.process_index() == 0:
    file.write_text('')
  multihost_utils.sync_global_devices('probe written')
  sees = multihost_utils.process_allgather(np.array([file.exists()]))
  multihost_utils.sync_global_devices('probe seen')
  if jax.process_index() == 0:
    file.unlink()
  blind = np.flatnonzero(~np.asarray(sees).reshape(-1))
  if len(blind):
    who = f'host{"s" if len(blind) > 1 else ""} {", ".join(map(str, blind))}'
    raise ConfigError(f'--workdir = {folder}: {who} cannot see what host 0 writes there; name a folder that all share')
