"""The watch of a run: a host that is silent, one that hangs, and one that fails end the others, which name it."""

import time

import pytest

from lmjax.errors import ConfigError
from lmjax.hosts import watchdog
from lmjax.hosts.config import HostsConfig


class Store(dict):
  """A key-value store as JAX's coordinator has it; of three hosts the tests here play 0 and 2."""

  put = dict.__setitem__

  def read(self):
    return dict(self)


def wait_for(found, seconds=20):
  ends = time.monotonic() + seconds
  while not found and time.monotonic() < ends:
    time.sleep(0.05)
  return found


@pytest.fixture
def make_watch(monkeypatch):
  made, ended = [], []
  monkeypatch.setattr(watchdog.Watchdog, '_end', lambda self, said: ended.append(said))

  def make(lost_seconds=60, hang_seconds=None, store=None):
    if store is not None:
      monkeypatch.setattr(watchdog.jax, 'process_count', lambda: 3)
      monkeypatch.setattr(watchdog.jax, 'process_index', lambda: 1)
      monkeypatch.setattr(watchdog, 'Store', lambda folder: store)
    watch = watchdog.Watchdog(HostsConfig(start_seconds=60, lost_seconds=lost_seconds, hang_seconds=hang_seconds))
    made.append(watch)
    return watch, ended

  yield make
  for watch in made:
    watch.close()


def test_a_run_that_does_nothing_hangs(make_watch):
  watch, ended = make_watch(lost_seconds=1, hang_seconds=1)
  time.sleep(1.5)
  assert not ended  # before the first step anything may take long
  watch.heartbeat('step 3')
  assert wait_for(ended)[0].startswith('the run hangs (step 3): nothing for hosts.hang_seconds = 1')


def test_a_run_that_continues_does_not_hang(make_watch):
  watch, ended = make_watch(lost_seconds=1, hang_seconds=2)
  for _ in range(30):
    watch.heartbeat('evaluating')
    time.sleep(0.1)
  assert not ended


def test_a_silent_host_is_named(make_watch):
  store = Store({'alive/0': 'a', 'alive/2': 'c'})
  _, ended = make_watch(lost_seconds=1, store=store)
  for i in range(100):
    store['alive/0'] = f'{i} 1 step 1'  # host 0 lives
    time.sleep(0.05)
    if ended:
      break
  assert ended[0].startswith('host 2 of 3: silent for hosts.lost_seconds = 1, so it is lost; the same command')


def test_a_host_that_was_never_heard_of_is_named(make_watch):
  store = Store()
  _, ended = make_watch(lost_seconds=1, store=store)
  for i in range(100):
    store['alive/0'] = f'{i} 1 step 1'
    time.sleep(0.05)
    if ended:
      break
  assert ended[0].startswith('host 2 of 3: silent for hosts.lost_seconds = 1')


def test_a_host_that_is_done_is_not_lost(make_watch):
  store = Store({'alive/0': 'done', 'alive/2': 'done'})
  _, ended = make_watch(lost_seconds=1, store=store)
  time.sleep(2.5)
  assert not ended and store['alive/1'].split()[1:] == ['0', 'starting']


def test_a_store_that_does_not_answer_is_host_0(make_watch):
  store = Store()
  _, ended = make_watch(lost_seconds=1, store=store)
  store.read = lambda: time.sleep(30) or {}
  assert wait_for(ended)[0].startswith('host 0 of 3: silent for hosts.lost_seconds = 1')


def test_the_host_that_is_behind_hangs(make_watch):
  store = Store()
  watch, ended = make_watch(lost_seconds=2, hang_seconds=1, store=store)
  watch.heartbeat('step 4')
  watch.heartbeat('step 5')
  for i in range(100):
    store['alive/0'], store['alive/2'] = f'{i} 2 step 5', f'{i} 1 step 4'
    time.sleep(0.05)
    if ended:
      break
  assert ended[0].startswith('host 2 of 3 hangs (step 5): nothing for hosts.hang_seconds = 1')


def test_a_failing_host_notifies_the_others(make_watch, monkeypatch):
  monkeypatch.setattr(
    watchdog, '_has_reported', False
  )  # put back afterwards: else the next command would end this process
  store = Store()
  watch, ended = make_watch(lost_seconds=2, store=store)
  watch.failed(ConfigError('data.path = x: no such file; fix it'))
  assert store['end'] == 'host 1 of 3 ended: ConfigError: data.path = x: no such file; fix it'
  assert watchdog._has_reported and not ended  # by its own error


def test_a_host_ends_by_the_notice_of_another(make_watch):
  _, ended = make_watch(lost_seconds=2, store=Store(end='host 0 of 3 ended: DataError: x; y'))
  assert wait_for(ended)[0] == 'host 0 of 3 ended: DataError: x; y'
