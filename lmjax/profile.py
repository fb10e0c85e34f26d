"""Where a run's time goes: the clock of its parts, and traces that xprof opens."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator

import jax

from lmjax.fields import PositiveInt


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
  """A trace of some training steps, in WORKDIR/profile, for xprof (https://openxla.org/xprof).

  start: the first step that is traced; None for no trace
  steps: how many
  """

  start: PositiveInt | None
  steps: PositiveInt


class Tracer:
  """Begins and ends the trace of a run.

  Args:
    config: a ProfileConfig.
    workdir: of the run; every host writes its own file.
  """

  def __init__(self, config: ProfileConfig, workdir: str):
    self._config, self._folder = config, os.path.join(workdir, 'profile')
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

  def ended(self, number: int, report) -> str | None:
    """Ends the trace once the last of its steps has been computed; where it then lies, or None."""
    if not self._running or number < self._config.start + self._config.steps - 1:
      return None
    jax.block_until_ready(report)
    return self.close()

  def close(self) -> str | None:
    """Ends a trace that is running."""
    if not self._running:
      return None
    jax.profiler.stop_trace()
    self._running = False
    return self._folder


class Clock:
  """Seconds of each part of a run: `with clock('input'): ...`."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, part: str) -> Iterator[None]:
    """Adds what happens inside to a part."""
    began = time.perf_counter()
    try:
      yield
    finally:
      self.add(part, time.perf_counter() - began)

  def add(self, part: str, seconds: float) -> None:
    """Adds what was measured elsewhere."""
    self.seconds[part] = self.seconds.get(part, 0.0) + seconds
