"""Meshes over hosts: each host's devices hold the part of a batch that the host reads."""

from types import SimpleNamespace

import numpy as np
import pytest

from lmjax import sharding
from lmjax.schema import validate
from lmjax.schema.slices import MeshConfig


def grid(hosts, shape):
  """Devices of these hosts, in this order, as a mesh."""
  devices = np.empty(len(hosts), object)
  devices[:] = [SimpleNamespace(process_index=host) for host in hosts]
  return devices.reshape(shape)


@pytest.mark.parametrize(
  'hosts,shape,expected',
  [
    ([0, 0, 0, 0], (4, 1, 1), True),
    ([0, 0, 1, 1], (4, 1, 1), True),
    ([0, 0, 1, 1], (2, 1, 2), True),
    ([0, 1, 1, 0], (4, 1, 1), False),  # a ring that comes back to host 0, as JAX lays 4 x 4 chips of v5e
    ([1, 1, 0, 0], (2, 2, 1), False),
    ([0, 0, 1, 1], (1, 1, 4), False),  # a row on two hosts
    ([0, 0, 0, 1], (4, 1, 1), False),
  ],
)
def test_host_order(hosts, shape, expected):
  assert sharding.in_host_order(grid(hosts, shape)) == expected


@pytest.mark.parametrize(
  'mesh,axis', [(dict(data=None, fsdp=None, tensor=1), 'data'), (dict(data=1, fsdp=None, tensor=None), 'fsdp')]
)
def test_two_axes_that_follow_from_the_others_are_refused_by_the_first(mesh, axis):
  assert validate.check(MeshConfig, mesh)[1] == [f'{axis} = None: only one axis may be None; give the others a number']
