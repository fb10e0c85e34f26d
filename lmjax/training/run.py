"""What the loop of a run works with, and how it is made."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from lmjax import config as config_lib
from lmjax import optim, profile
from lmjax.checkpoint import checkpoints as checkpoint
from lmjax.console import redacted
from lmjax.data.batches import pipeline
from lmjax.hosts import preemption, watchdog
from lmjax.schema import describe
from lmjax.training import evaluator, initialize
from lmjax.training import progress as report_lib
from lmjax.training import state as state_lib
from lmjax.workdir import upload


@dataclasses.dataclass
class Run:
  """What the loop works with; `set_up` makes it."""

  config: config_lib.Config
  workdir: str
  files: upload.Staging
  mesh: jax.sharding.Mesh
  task: Any
  data: Any
  tx: optax.GradientTransformation
  pipeline: pipeline.Pipeline
  evaluator: Any
  checkpoints: checkpoint.Checkpoints
  facts: dict
  hand_off: dict | None
  state: state_lib.TrainState
  start: int
  kept: int  # the last step whose lines an earlier process wrote; -1 where the run begins
  say: Callable[[str], None]
  watch: watchdog.Watch
  clock: profile.Clock = dataclasses.field(default_factory=profile.Clock)
  evaluated: tuple = (None, None, None)  # the newest evaluation: step, metrics, predictions
  history: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)  # metrics of every evaluation so far
  recompiled: int = 0  # programs that were compiled in the middle of training
  stop: preemption.Stop | None = None  # once there is something to save

  def tick(self) -> None:
    """Between two batches of an evaluation; raises preemption.Interrupted if the run was asked to stop."""
    if self.watch.beats:  # before the first step much is compiled, which may take long
      self.watch.beat('evaluating')
    if self.stop is not None and self.stop.asked():
      raise preemption.Interrupted


def set_up(config, workdir: str, files, mesh, task, data, checkpoints, source, say, watch) -> Run:
  """Everything before the first step: batches, state, the files that describe the run."""
  batches = task.pipeline(data, config, jax.process_count(), jax.process_index())
  tx = optim.make(config.optim, task.shapes())
  facts = initialize.facts_of(config, task, batches.fingerprint)
  start = initialize.begin(config, task, tx, mesh, checkpoints, facts, source, say)
  say(report_lib.banner(config, workdir, mesh, task, start.state, data))
  say(start.said)
  facts |= {'hand_off': redacted(start.hand_off), 'frozen': initialize.frozen_digests(config, start.state)}
  facts |= {'config': redacted(describe.to_dict(config)), 'token_stores': initialize.token_stores(task, data)}
  run = Run(
    config=config,
    workdir=workdir,
    files=files,
    mesh=mesh,
    task=task,
    data=data,
    tx=tx,
    pipeline=batches,
    evaluator=None,
    checkpoints=checkpoints,
    facts=facts,
    hand_off=start.hand_off,
    state=start.state,
    start=start.step,
    kept=start.step if start.restored else -1,
    say=say,
    watch=watch,
    history=files.values_until(files.folder, 'valid', start.step if start.restored else -1),
  )
  run.evaluator = evaluator.make(config, task, data, mesh, run.tick)
  return run
