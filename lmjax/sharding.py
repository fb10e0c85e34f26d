"""The mesh, and the one table that says which axis of an array lies along which axis of the mesh."""

import dataclasses
import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from lmjax.errors import ConfigError
from lmjax.schema.slices import MeshConfig

AXES = ('data', 'fsdp', 'tensor')

# Logical axis -> mesh axis or axes; None: not split. Batches are split over `data` and `fsdp` alike; `fsdp`
# splits parameters too, gathered layer by layer (ZeRO-3, https://arxiv.org/abs/1910.02054); `tensor` splits
# heads, hidden units and vocabulary (Megatron, https://arxiv.org/abs/1909.08053, section 3).
RULES = {
  'batch': ('data', 'fsdp'),
  'group_batch': 'data',  # the rows of all devices that share one set of parameters
  'length': None,
  'features': None,
  'embed': 'fsdp',
  'heads': 'tensor',
  'kv_heads': 'tensor',
  'mlp': 'tensor',
  'vocab': 'tensor',
  'positions': None,
  'segment_types': None,
  'norm': None,  # vectors: a message for each would cost more than the few bytes that every device holds
}


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, int, int] | None:
  """Sizes of ('data', 'fsdp', 'tensor') whose product is `devices`, or None where they do not make it.

  >>> mesh_shape(MeshConfig(data=None, fsdp=2, tensor=1), devices=8)
  (4, 2, 1)
  """
  sizes = dataclasses.astuple(config)
  known = math.prod(size for size in sizes if size is not None)
  whole = devices % known == 0 if None in sizes else devices == known
  return tuple(devices // known if size is None else size for size in sizes) if whole else None


def nearest_mesh(config: MeshConfig, devices: int) -> tuple[int, int, int]:
  """The sizes nearest to those asked for, by their ratios, that make `devices`.

  >>> nearest_mesh(MeshConfig(data=None, fsdp=3, tensor=1), devices=8)
  (2, 4, 1)
  """
  factors = [n for n in range(1, devices + 1) if devices % n == 0]
  shapes = [
    (data, fsdp, devices // data // fsdp) for data in factors for fsdp in factors if devices % (data * fsdp) == 0
  ]

  def distance(shape):
    return sum(abs(math.log(size / asked)) for size, asked in zip(shape, dataclasses.astuple(config)) if asked)

  return min(shapes, key=distance)


def make_mesh(config: MeshConfig, devices=None, granule: str = 'slice_index') -> jax.sharding.Mesh:
  """The mesh of `devices` (default: all). Its axes are Auto: Linen and embedding gathers fail on Explicit ones.

  Slices of TPUs that only the data-centre network joins are laid along `data`: of the three axes it moves least, the
  gradients once a step.

  `granule` is the attribute of a device that names its slice ('process_index': hosts count as slices). On GPUs
  'slice_index' is the node, which need not be a slice: there one mesh lies over all.

  Raises:
    ConfigError: its axes do not make the number of devices, `data` the number of slices, or `tensor` leaves a host.
  """
  devices = jax.devices() if devices is None else devices
  shape = mesh_shape(config, len(devices))
  if shape is None:
    raise ConfigError(f'mesh = {dataclasses.astuple(config)}: must make {len(devices)} devices')
  is_gpu = devices[0].platform == 'gpu'
  slices = 1 if is_gpu and granule == 'slice_index' else len({getattr(device, granule, None) for device in devices})
  data, fsdp, tensor = shape
  if data % slices:
    rule = f'must be a multiple of the {slices} slices, between which only data is parallel'
    raise ConfigError(f'mesh.data = {data}: {rule}; set it to {slices}, or to None')
  # an axis of the mesh may be part of an axis of the machine: fsdp=8 on 4 x 4 chips
  if slices == 1:
    grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  else:
    within, between = (data // slices, fsdp, tensor), (slices, 1, 1)
    grid = mesh_utils.create_hybrid_device_mesh(
      within, between, devices, process_is_granule=granule == 'process_index', allow_split_physical_axes=True
    )
  if not in_host_order(grid):
    # rings of chips cross hosts, on whose order the rows of a batch and the predictions for them depend
    order = sorted(devices, key=lambda device: (device.process_index, device.id))
    grid = np.array(order, dtype=object).reshape(shape)
    if not in_host_order(grid):
      rule = f'must lie within a host, of {len(devices) // len({d.process_index for d in devices})} devices'
      raise ConfigError(f'mesh.tensor = {tensor}: {rule}; set it to a divisor of that')
  return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def in_host_order(grid: np.ndarray) -> bool:
  """Whether host h holds the h-th equal part of the rows of a batch; the grid of devices is [data, fsdp, tensor]."""
  hosts = np.vectorize(lambda device: device.process_index, otypes=[int])(grid).reshape(-1, grid.shape[2])
  rows = hosts[:, 0]
  _, counts = np.unique(rows, return_counts=True)
  return bool((hosts == rows[:, None]).all() and (np.diff(rows) >= 0).all() and (counts == counts[0]).all())


def one_device_mesh() -> jax.sharding.Mesh:
  """The first device alone, for what is looked at after training."""
  return make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


def spec(axes: tuple[str | None, ...]) -> PartitionSpec:
  """Logical axes -> PartitionSpec, strictly.

  >>> spec(('embed', 'heads')) == PartitionSpec('fsdp', 'tensor')
  True

  Raises:
    KeyError: a name that is not in RULES.
    ValueError: two axes of one array on one mesh axis.
  """
  if unknown := set(axes) - {None, *RULES}:
    raise KeyError(f'logical axes {unknown} are not in sharding.RULES: {", ".join(RULES)}')
  entries = [None if axis is None else RULES[axis] for axis in axes]
  used = [name for entry in entries for name in ((entry,) if isinstance(entry, str) else entry or ())]
  if len(used) > len(set(used)):
    raise ValueError(f'logical axes {axes} use a mesh axis twice: {used}')
  return PartitionSpec(*entries)


def shardings(axes_tree, mesh) -> dict:
  """A tree of tuples of logical axes -> the same tree of NamedShardings."""
  return jax.tree.map(lambda axes: NamedSharding(mesh, spec(axes)), axes_tree, is_leaf=lambda x: isinstance(x, tuple))


def constrain(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
  """Pins an activation to the rules, under a mesh; without one (a laptop, a test) does nothing."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, spec(axes))


def shard_batch(batch: dict[str, np.ndarray], mesh) -> dict[str, jax.Array]:
  """This host's rows -> arrays of the whole batch, split over `data` and `fsdp`."""
  return jax.tree.map(jax.make_array_from_process_local_data, batch_shardings(batch, mesh), batch)


def batch_shardings(batch, mesh):
  """Shardings of a batch (arrays or their shapes), rows over `data` and `fsdp`."""
  return jax.tree.map(lambda a: NamedSharding(mesh, spec(('batch',) + (None,) * (a.ndim - 1))), batch)


def replicated(mesh) -> NamedSharding:
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())
