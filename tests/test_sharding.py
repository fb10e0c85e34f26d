"""Meshes over hosts: each host's devices hold the part of a batch that the host reads."""

import contextlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from lmjax import sharding
from lmjax.errors import ConfigError


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
  'coordinator,processes,process,said',
  [
    ('localhost', 2, 0, '--coordinator = localhost: must be HOST:PORT of process 0; add a free port, as :1234'),
    ('host:', 2, 0, '--coordinator = host:: must be HOST:PORT'),
    ('host:1234', 0, 0, '--processes = 0: must be at least 1'),
    ('host:1234', 2, 2, '--process = 2: must be from 0 to 1'),
    ('host:1234', 2, -1, '--process = -1: must be from 0 to 1'),
    ('host:1234', None, 1, '--coordinator = host:1234: needs the other two as well; add --processes'),
  ],
)
def test_hosts_that_cannot_be(coordinator, processes, process, said):
  with pytest.raises(ConfigError) as raised:
    sharding.join_hosts(coordinator, processes, process)
  assert said in str(raised.value)


@pytest.mark.parametrize(
  'there,joined',
  [
    ({}, False),
    ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'}, False),  # the shell of a job: the other tasks are not there
    (
      {'SLURM_NTASKS': '4', 'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '1'},
      False,
    ),  # `srun -n 1`, or a shell of salloc
    ({'SLURM_NTASKS': '4', 'SLURM_PROCID': '2', 'SLURM_STEP_NUM_TASKS': '4'}, True),
  ],
)
def test_tasks_of_slurm_join_where_srun_started_them(monkeypatch, there, joined):
  calls = []
  monkeypatch.setattr(jax.distributed, 'initialize', lambda *args: calls.append(args))
  for name in ('SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_STEP_NUM_TASKS'):
    monkeypatch.delenv(name, raising=False)
  for name, value in there.items():
    monkeypatch.setenv(name, value)
  sharding.join_hosts()
  assert bool(calls) == joined


@pytest.mark.parametrize('error,told', [('coordinator_address should be defined.', False), ('bad process_id', True)])
def test_a_tpu_without_other_hosts_runs_alone(monkeypatch, error, told):
  def initialize():
    raise ValueError(error)

  found = SimpleNamespace(jax_platforms='tpu,cpu')
  monkeypatch.setattr(
    sharding, 'jax', SimpleNamespace(config=found, distributed=SimpleNamespace(initialize=initialize))
  )
  with pytest.raises(ValueError, match=error) if told else contextlib.nullcontext():
    sharding.join_hosts()
