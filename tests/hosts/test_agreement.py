"""Several hosts that are asked to stop: all do so at the same of their steps, or none does and all end."""

import random
import threading
import time

import pytest

from lmjax.hosts import preemption, watchdog
from tests.hosts.test_watchdog import Store

HOSTS = 3


@pytest.fixture
def agreements(monkeypatch):
  """One of each host, and the signals that they have had."""
  store, signals = Store(), {}
  monkeypatch.setattr(watchdog, 'Store', lambda folder: store)
  monkeypatch.setattr(watchdog.jax, 'process_count', lambda: HOSTS)
  made = []
  for host in range(HOSTS):
    monkeypatch.setattr(watchdog.jax, 'process_index', lambda host=host: host)
    made.append(preemption.Agreement(lambda host=host: signals.get(host)))
  yield made, signals
  for one in made:
    one.close()


def train(agreements, steps: int, seed: int) -> list[int | None]:
  """At which step each host stops, None where it came to the end; each is as fast as chance makes it."""
  stopped = [None] * HOSTS

  def host(number):
    fast = random.Random(f'{seed} {number}')
    for step in range(1, steps + 1):
      time.sleep(fast.random() * 0.01)
      if agreements[number].reached():
        stopped[number] = step
        break
    agreements[number].close()

  threads = [threading.Thread(target=host, args=(number,), daemon=True) for number in range(HOSTS)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
    assert not thread.is_alive()
  return stopped


@pytest.mark.parametrize(
  'asked', [{1: 'SIGTERM'}, {0: 'SIGINT', 2: 'SIGINT'}, {0: 'SIGTERM', 1: 'SIGTERM', 2: 'SIGTERM'}]
)
def test_all_hosts_stop_at_one_step(agreements, asked):
  made, signals = agreements
  threading.Timer(0.4, signals.update, (asked,)).start()
  stopped = train(made, 100_000, seed=len(asked))
  assert len(set(stopped)) == 1 and stopped[0] is not None
  assert [one.signal for one in made] == [next(iter(asked.values()))] * HOSTS
  assert all(one.reached() for one in made)  # from there on


@pytest.mark.parametrize('after', [0.0, 0.2, 0.3, 0.35])
def test_asked_at_the_end_they_all_end(agreements, after):
  """A host that is done would never answer; the others do not wait for it."""
  made, signals = agreements
  threading.Timer(after, signals.update, ({2: 'SIGTERM'},)).start()
  assert len(set(train(made, 60, seed=7))) == 1


def test_nobody_stops_unasked(agreements):
  assert train(agreements[0], 40, seed=1) == [None] * HOSTS
