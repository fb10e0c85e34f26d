"""Where a run's time goes: the clock of its parts, what was compiled, and traces that xprof opens."""

import collections
import contextlib
import os
import time
from collections.abc import Iterator

import jax

from lmjax.schema.slices import ProfileConfig


class Tracer:
  """Begins and ends the trace of a run, in `folder`/profile; every host writes its own file."""

  def __init__(self, config: ProfileConfig, folder: str):
    self._config, self._folder = config, os.path.join(folder, 'profile')
    self._running = False

  @contextlib.contextmanager
  def step(self, number: int) -> Iterator[None]:
    """Around what dispatches a step."""
    first = self._config.start
    if first is not None and first <= number < first + self._config.steps and not self._running:
      jax.profiler.start_trace(self._folder)
      self._running = True
    with jax.profiler.StepTraceAnnotation('train', step_num=number):
      yield

  def ended(self, number: int, report) -> bool:
    """Ends the trace once the last of its steps has been computed; whether it did."""
    if not self._running or number < self._config.start + self._config.steps - 1:
      return False
    jax.block_until_ready(report)
    self.close()
    return True

  def close(self) -> None:
    """Ends a trace that is running."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False


_compilations = 0


def _count(event: str, duration_secs: float, **metadata) -> None:
  global _compilations
  _compilations += event == '/jax/core/compile/backend_compile_duration'


jax.monitoring.register_event_duration_secs_listener(_count)


def compilations() -> int:
  """How many programs this process has compiled so far, those found in the compilation cache included."""
  return _compilations


class Clock(collections.defaultdict[str, float]):
  """Seconds of each part of a run: `clock = Clock(float)`, then `with clock('input'): ...`."""

  @contextlib.contextmanager
  def __call__(self, part: str) -> Iterator[None]:
    """Adds what happens inside to a part."""
    began = time.perf_counter()
    try:
      yield
    finally:
      self[part] += time.perf_counter() - began
