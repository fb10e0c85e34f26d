"""Devices that a run is meant for, here or only described: `v5e:2x4`, `2*v5e:4x4`, `cpu:8`."""

import contextlib
import dataclasses
import importlib.util
import itertools
import math
import os
import re

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from lmjax.errors import ConfigError
from lmjax.training.compiled import memory_here, memory_refused

GENERATIONS = ('v2', 'v3', 'v4', 'v5e', 'v5p', 'v6e', 'tpu7x')
# no question to Google's servers, no complaint that this is no TPU VM, and no lock on chips that another process uses
_LIBTPU = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_MIN_LOG_LEVEL': '3',
}


@dataclasses.dataclass(frozen=True)
class Target:
  """Where a program is to run."""

  name: str | None  # as it is typed; None: this machine
  devices: list  # JAX devices; described ones compile, and do not run
  memory: float | None  # bytes of one device that a program may use; None where it is not known


def find(name: str | None) -> Target:
  """The target that `--dry_run=NAME` names; None: every device of this machine.

  Raises ConfigError: no such target, with the nearest that exists, or no compiler for it.
  """
  if name is None:
    return Target(None, jax.devices(), memory_here(jax.devices()[0], len(jax.devices())))
  platform, count, shape = parse(name)
  jax.config.update('jax_platforms', 'cpu')  # what is only described needs no accelerator of this machine
  if platform == 'cpu':
    return Target(name, cpu_devices(count), memory_here(jax.devices('cpu')[0], count))
  devices = _describe(count, platform, shape)
  if devices is None:
    nearest = _nearest(count, platform, shape)
    raise ConfigError(f'--dry_run = {name}: no such topology; the nearest is {nearest}')
  return Target(name, devices, _memory_of(devices[0]))


def parse(name: str) -> tuple[str, int, tuple[int, ...]]:
  """(platform, slices or CPU devices, shape of a slice).

  >>> parse('2*v5e:4x4'), parse('cpu:8')
  (('v5e', 2, (4, 4)), ('cpu', 8, ()))

  Raises ConfigError: not of this form, or no such platform.
  """

  def refused(rule: str) -> ConfigError:
    return ConfigError(f'--dry_run = {name}: {rule}')

  match = re.fullmatch(r'(?:(\d+)\*)?(\w+):(\d+(?:x\d+)*)', name)
  if match is None:
    raise refused('must be as v5e:2x4, 2*v5e:4x4 (slices), or cpu:8; try v5e:2x4')
  slices, platform, shape = match.groups()
  if platform == 'cpu':
    if slices or not shape.isdigit() or not 1 <= int(shape) <= 1024:
      raise refused('a number of CPU devices is needed, from 1 to 1,024; the nearest is cpu:1')
    return 'cpu', int(shape), ()
  if platform in ('gpu', 'cuda', 'rocm'):
    raise refused('GPUs must be here to be compiled for; there, give --dry_run alone')
  sizes, many = tuple(max(int(size), 1) for size in shape.split('x')), max(int(slices or 1), 1)
  if platform not in GENERATIONS:
    close = min(GENERATIONS, key=lambda known: abs(_number(known) - _number(platform)))
    known = ', '.join(GENERATIONS)
    raise refused(f'no such generation; the nearest is {_nearest(many, close, sizes)} (there are {known})')
  if slices == '0' or '0' in shape.split('x'):
    raise refused(f'has no chip; the nearest is {_nearest(many, platform, sizes)}')
  return platform, many, sizes


def _number(generation: str) -> int:
  """'v5e' -> 5."""
  return int((re.findall(r'\d+', generation) or [0])[0])


def cpu_devices(count: int) -> list:
  """So many CPU devices. Raises ConfigError where JAX is running already, with fewer."""
  with contextlib.suppress(RuntimeError):  # running already
    jax.config.update('jax_num_cpu_devices', count)
  devices = jax.devices('cpu')
  if len(devices) < count:
    raise ConfigError(f'--dry_run = cpu:{count}: JAX runs with {len(devices)} CPU devices; start a new process')
  return devices[:count]


def _describe(slices: int, platform: str, shape: tuple[int, ...]) -> list | None:
  """The devices of a TPU topology, or None where libtpu does not know it."""
  if importlib.util.find_spec('libtpu') is None:
    raise ConfigError("--dry_run: a TPU's compiler is not installed; pip install 'lmjax[tpu]'")
  for name, value in _LIBTPU.items():
    os.environ.setdefault(name, value)
  options: dict = {} if slices == 1 else {'num_slices': slices}
  if platform == 'v4':  # its two cores are one JAX device, as v5p's are without being asked
    options['chip_config_name'] = 'megacore'
  if any(size % 2 for size in shape[:2]):  # chips that share a host; one chip has a host of its own
    options['chips_per_host_bounds'] = [1, 1, 1]
    if math.prod(shape) > 1:
      return None
  elif platform in ('v5e', 'v6e') and shape == (2, 4):  # is rented as one host of 8 chips, not as two of 4
    options['chips_per_host_bounds'] = [2, 4, 1]
  name = f'{platform}:{_shown(shape)}'
  try:
    return list(topologies.get_topology_desc(platform='tpu', topology_name=name, **options).devices)
  except jax.errors.JaxRuntimeError:
    return None


def _nearest(slices: int, platform: str, shape: tuple[int, ...]) -> str:
  """The topology of this generation whose chips are nearest in number, and then in shape."""

  def distance(other: tuple[int, ...]) -> tuple[float, int]:
    sides = itertools.zip_longest(other, shape, fillvalue=1)
    return abs(math.log(math.prod(other) / math.prod(shape))), sum(abs(a - b) for a, b in sides)

  return ('' if slices == 1 else f'{slices}*') + f'{platform}:{_shown(min(_shapes(platform), key=distance))}'


def _shapes(platform: str) -> list[tuple[int, ...]]:
  """Shapes of slices that can be rented: 1, or squares and doubled squares up to 16 x 16; or blocks of 4 chips."""
  if platform in ('v5e', 'v6e', 'v2', 'v3'):
    return [(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
  return [(2, 2, 1), *itertools.combinations_with_replacement((2, 4, 8, 12, 16), 3)]


def _shown(shape) -> str:
  return 'x'.join(map(str, shape))


def _memory_of(device) -> float | None:
  """Bytes of a described device that a program may use: the compiler says so when it is asked for far too many."""
  here = jax.sharding.SingleDeviceSharding(device)
  far_too_many = jax.ShapeDtypeStruct((2**40,), jnp.float32)
  try:
    program = jax.jit(lambda x: x + 1, in_shardings=here, out_shardings=here).trace(far_too_many)
    program.lower(lowering_platforms=(device.platform,)).compile()
  except jax.errors.JaxRuntimeError as error:
    if refused := memory_refused(error):
      return refused[1]
  return None
