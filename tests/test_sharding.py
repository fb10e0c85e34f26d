"""Meshes over hosts: each host's devices hold the part of a batch that the host reads."""

from types import SimpleNamespace

import numpy as np
import pytest

from lmjax import sharding


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
