"""How hosts find each other: flags, SLURM, TPU pods; and what is said when one does not come."""

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import jax
import pytest
from jax._src import clusters

from lmjax.errors import ConfigError, Stalled
from lmjax.hosts import join
from lmjax.hosts.config import HostsConfig
from tests.hosts.test_hosts import free_port

WAIT = HostsConfig(start_seconds=30, lost_seconds=10, hang_seconds=None)


@pytest.mark.parametrize(
  'coordinator,processes,process,said',
  [
    ('localhost', 2, 0, '--coordinator = localhost: must be HOST:PORT of process 0; add a free port, as :1234'),
    ('host:', 2, 0, '--coordinator = host:: must be HOST:PORT'),
    ('host:1234', 0, 0, '--num_processes = 0: must be at least 1'),
    ('host:1234', 2, 2, '--process_id = 2: must be from 0 to 1'),
    ('host:1234', 2, -1, '--process_id = -1: must be from 0 to 1'),
    ('host:1234', None, 1, '--coordinator = host:1234: needs the other two as well; add --num_processes'),
  ],
)
def test_hosts_that_cannot_be(coordinator, processes, process, said):
  with pytest.raises(ConfigError) as raised:
    join.join(WAIT, coordinator, processes, process)
  assert said in str(raised.value)


SLURM = {'SLURM_JOB_ID': '4096', 'SLURM_STEP_NODELIST': 'node[07-09]', 'SLURM_LOCALID': '0'}


@pytest.fixture
def calls(monkeypatch):
  """What `join` waits for, and what it tells JAX, in a machine that knows nothing of clusters."""
  calls = []
  monkeypatch.setattr(join, 'meet', lambda *found: calls.append(found))
  monkeypatch.setattr(join, '_abort_as_stalled', lambda: None)
  monkeypatch.setattr(jax.distributed, 'initialize', lambda *given, **timeouts: calls.append((given, timeouts)))
  for name in ('SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_STEP_NUM_TASKS', *SLURM):
    monkeypatch.delenv(name, raising=False)
  return calls


@pytest.mark.parametrize(
  'there',
  [
    {},
    {'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'},  # the shell of a job: the other tasks are not there
    {'SLURM_NTASKS': '4', 'SLURM_PROCID': '0', 'SLURM_STEP_NUM_TASKS': '1'},  # `srun -n 1`, or a shell of salloc
  ],
  ids=['nothing', 'the shell of a job', 'srun -n 1'],
)
def test_one_host_joins_nothing(monkeypatch, calls, there):
  for name, value in (SLURM | there if there else {}).items():
    monkeypatch.setenv(name, value)
  if there and 'SLURM_STEP_NUM_TASKS' not in there:
    monkeypatch.delenv('SLURM_STEP_NODELIST')
  join.join(WAIT)
  assert calls == []


def test_one_host_that_knows_of_itself_alone_joins_nothing(monkeypatch, calls):
  """One host, such as a TPU VM of eight chips, has nobody to meet."""
  join.join(WAIT, 'localhost:1234', 1, 0)
  there = SimpleNamespace(config=SimpleNamespace(jax_platforms='tpu,cpu'), distributed=jax.distributed)
  monkeypatch.setattr(join, 'jax', there)
  found = ('10.0.0.2:8476', 1, 0, None)
  monkeypatch.setattr(clusters.ClusterEnv, 'auto_detect_unset_distributed_params', lambda *unset: found)
  join.join(WAIT)
  assert calls == []


def test_tasks_of_slurm_join_where_srun_started_them(monkeypatch, calls):
  for name, value in (SLURM | {'SLURM_NTASKS': '4', 'SLURM_PROCID': '2', 'SLURM_STEP_NUM_TASKS': '4'}).items():
    monkeypatch.setenv(name, value)
  join.join(WAIT)
  met, (given, timeouts) = calls
  assert met == ('node07:61440', 4, 2, 30)  # JAX's own choice of a port, by the number of the job
  assert given == () and timeouts['heartbeat_timeout_seconds'] > WAIT.lost_seconds
  monkeypatch.delenv('SLURM_STEP_NODELIST')
  with pytest.raises(ConfigError, match='SLURM_NTASKS = 4: JAX does not find .*; add --coordinator'):
    join.join(WAIT)


@pytest.mark.parametrize('found,joined', [((None, None, None, None), False), (('10.0.0.2:8476', 4, 1, None), True)])
def test_the_hosts_of_a_tpu_pod_join(monkeypatch, calls, found, joined):
  """As JAX sees them: a pod, or a TPU without other hosts (a notebook), which runs alone."""
  options = {}
  config = SimpleNamespace(jax_platforms='tpu,cpu', update=options.__setitem__)
  monkeypatch.setattr(join, 'jax', SimpleNamespace(config=config, distributed=jax.distributed))
  monkeypatch.setattr(clusters.ClusterEnv, 'auto_detect_unset_distributed_params', lambda *unset: found)
  join.join(WAIT)
  assert options == {'jax_enable_preemption_service': False} if joined else not options  # it would take SIGTERM
  assert [call[:3] for call in calls[:1]] == [found[:3]] * joined and len(calls) == 2 * joined


def test_a_host_0_whose_name_is_unknown(monkeypatch, calls):
  def detect(*unset):
    raise RuntimeError('Failed to recognize coordinator address t1v-0')

  there = SimpleNamespace(config=SimpleNamespace(jax_platforms='tpu,cpu'), distributed=jax.distributed)
  monkeypatch.setattr(join, 'jax', there)
  monkeypatch.setattr(clusters.ClusterEnv, 'auto_detect_unset_distributed_params', detect)
  with pytest.raises(
    Stalled, match='host 0: Failed to recognize coordinator address t1v-0 in hosts.start_seconds = 30'
  ):
    join.join(WAIT)


def test_every_host_learns_who_did_not_come():
  """Hosts 0, 1 and 3 of 4 are there: all of them name host 2, within the time."""
  address, said = f'localhost:{free_port()}', {}

  def come(process):
    try:
      join.meet(address, 4, process, 1.5)
    except Stalled as error:
      said[process] = str(error)

  began = time.monotonic()
  there = [threading.Thread(target=come, args=(process,)) for process in (3, 0, 1)]
  for thread in there:
    thread.start()
  for thread in there:
    thread.join(20)
  assert said.keys() == {0, 1, 3} and time.monotonic() - began < 10
  assert all(
    message.startswith('host 2 of 4: did not come within hosts.start_seconds = 1.5') for message in said.values()
  )


def test_hosts_that_all_come_continue_at_once():
  address, met = f'localhost:{free_port()}', []
  there = [threading.Thread(target=lambda i=i: met.append(join.meet(address, 3, i, 60))) for i in (2, 1, 0)]
  began = time.monotonic()
  for thread in there:
    thread.start()
  for thread in there:
    thread.join(30)
  assert met == [None] * 3 and time.monotonic() - began < 20


def test_host_0_that_does_not_come_is_named():
  with pytest.raises(Stalled, match='host 0 of 2: did not come') as raised:
    join.meet(f'localhost:{free_port()}', 2, 1, 1.0)
  assert raised.value.exit_code == 6


@pytest.mark.parametrize('port', [99999, None])
def test_a_port_that_cannot_be_opened(port):
  with contextlib.closing(socket.create_server(('', 0))) as taken:
    address = f'localhost:{port or taken.getsockname()[1]}'
    with pytest.raises(ConfigError, match=f'--coordinator = {address}: .*; choose a free port'):
      join.meet(address, 2, 0, 1.0)
