"""The loop of training: dispatches step i, then reads and writes what step i - 1 reported."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator

import jax

from lmjax import profile, sharding
from lmjax.checkpoint.checkpoints import Checkpoints
from lmjax.hosts.preemption import Interrupted, StopSignal
from lmjax.hosts.watchdog import Watchdog
from lmjax.training.evaluator import Evaluations
from lmjax.training.progress import Progress
from lmjax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Intervals:
  """How often each of these happens, in batches; all of them at the last of `steps` too."""

  steps: int
  log: int
  evaluate: int
  save: int

  def due(self, step: int) -> set[str]:
    """What happens once `step` batches are done: of log, evaluate, save.

    >>> sorted(Intervals(steps=10, log=2, evaluate=4, save=8).due(4))
    ['evaluate', 'log']
    """
    every = {'log': self.log, 'evaluate': self.evaluate, 'save': self.save}
    return {name for name, n in every.items() if step == self.steps or step % n == 0}


@dataclasses.dataclass(frozen=True)
class Loop:
  """All that happens between the first step and the last one; the state itself is passed through `run`."""

  intervals: Intervals
  mesh: jax.sharding.Mesh
  evaluations: Evaluations
  progress: Progress
  checkpoints: Checkpoints
  metadata: dict  # what the manifests of all of them hold
  stop: StopSignal
  watchdog: Watchdog
  tracer: profile.Tracer
  workdir: str
  log: Callable[[str], None]

  def run(self, state: TrainState, first: int, step_fn, batches: Iterator[dict], key) -> tuple[TrainState, int]:
    """All training steps after `first`; returns (the state, the last step).

    `state` is that after `first` batches, and donated; `batches` gives this host's rows of those that follow; `key` is
    that of dropout.

    Raises:
      Stopped: it was asked to, and has begun to save.
      NonFiniteError: too many batches in a row were skipped.
    """
    # Several CPU devices: with more than one sharded program in flight XLA's rendezvous can deadlock (jax 0.10.2: an
    # abort after 40 s). An accelerator computes step i while the host reads the report of step i - 1.
    wait_each_step = jax.default_backend() == 'cpu' and self.mesh.size > 1
    pending, done = None, first
    with contextlib.closing(self.tracer):
      self.progress.start_clock()
      for step in range(first + 1, self.intervals.steps + 1):
        with self.progress.clock('input'):
          rows = next(batches)
          batch = sharding.shard_batch(rows | self.stop.flags(len(next(iter(rows.values())))), self.mesh)
        with self.tracer.step(step):
          state, report = step_fn(state, batch, key)
        self.watchdog.heartbeat(f'step {step}')
        if wait_each_step:
          jax.block_until_ready(report)
        if self.tracer.ended(step, report):
          traced = os.path.join(self.workdir, 'profile')
          self.log(f'step {step}: trace in {traced}; look at it with xprof --logdir={traced}')
        # reading waits for what is read: that of step i - 1, so that step i is already on the device meanwhile
        if pending is not None:
          self._read(*pending)
        pending, done = (step, report), step
        self.progress.check_compilations(step)
        self.checkpoints.poll()
        due = {'save'} if self.stop.asked() else self.intervals.due(step)
        if due & {'evaluate', 'save'}:
          self._read(*pending)
          pending = None
          self.progress.stop_clock()
          if self._evaluate_and_save(state, step, due):
            break
          self.progress.start_clock()
        self.progress.mark_compilations()
    return state, done

  def save(self, step: int, state: TrainState, values: dict[str, float] | None) -> None:
    """Saves a checkpoint, once the lines up to it are on disk; returns when its arrays are copied.

    `values` are the metrics of the evaluation at this step, if there was one.
    """
    self.watchdog.heartbeat(f'saving step {step}')
    with self.progress.clock('checkpoint'):
      self.progress.files.sync()
      self.checkpoints.save(step, state, self.metadata, values)

  def _read(self, step: int, report: dict) -> None:
    """Waits for the report of a step; every host reads the same stop flag in it."""
    self.stop.read(report)
    self.progress.read(step, report)

  def _evaluate_and_save(self, state: TrainState, step: int, due: set[str]) -> bool:
    """Does what is due after a step; whether training ends with it.

    Raises Stopped: the run was asked to stop; it has saved, without an evaluation: that is made when the run continues.
    """
    values = None
    try:
      self.stop.interrupt()
      if 'evaluate' in due:
        with self.progress.clock('evaluate'):
          values = self.evaluations(step, state.params)
    except Interrupted:
      self.save(step, state, None)
      raise self.stop.stopped(step) from None
    ended = values is not None and self.evaluations.has_patience_ended
    if ended or 'save' in due:
      self.save(step, state, values)
    if ended:
      metric, patience = self.evaluations.task.RANKING_METRIC, self.evaluations.patience
      self.log(f'step {step}: no better {metric} in {patience} evaluations; training ends')
    return ended
