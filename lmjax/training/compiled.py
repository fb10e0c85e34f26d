"""The train step of a run, compiled: the memory that it takes, and how much it has to compute again for it to fit."""

import dataclasses
import functools
import math
import os
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lmjax.models.config import KEPT, ModelConfig
from lmjax.models.layers import implementation_of
from lmjax.schema.slices import OptimConfig, TrainConfig
from lmjax.tasks.base import Task
from lmjax.training import state as state_lib
from lmjax.training import step as step_lib

# Of a device's memory, what the estimate of a step may take to be worth compiling: it leaves out what the loss and the
# gathered kernels work with.
_WORTH_TRYING = 0.85
# The kinds that 'auto' chooses from. Not 'dots': products that are kept are written out where they are part of a larger
# operation, so it takes longer than what computes more again (0.34 s of gpt2_small on eight v5e chips, full 0.33).
TRIED = ('none', *KEPT)
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


class Compiled(NamedTuple):
  """A train step compiled for a mesh."""

  task: Task  # whose `remat` is settled
  abstract: state_lib.TrainState  # shapes and shardings of its TrainState
  mesh: jax.sharding.Mesh
  program: jax.stages.Compiled | None  # None where the compiler refused it for its size
  needed: float  # peak bytes of a device, by the compiler
  memory: float | None  # bytes of a device that there are; None where that is not known
  seconds: float  # that compiling took
  config: Any = None  # of the run, where it is a dry one

  @property
  def fits(self) -> bool:
    """Whether the compiler's peak lies within the memory of a device."""
    return self.program is not None and (self.memory is None or self.needed <= self.memory)


def compile_run(
  task: Task, tx, optim: OptimConfig, train: TrainConfig, mesh, memory: float | None, log: Callable[[str], None]
) -> Compiled:
  """Compiles the step of a run for a mesh, with `model.remat` settled where it is 'auto'.

  That is the least recomputation that fits: first the kind is compiled that does by an estimate; if it does not fit
  after all, the one that does by the compiler's figure for the first. So two programs are compiled at most. CPU
  devices recompute nothing.

  Args:
    memory: bytes of a device that there are; None where that is not known: 'full'.
    log: called with each kind that was compiled.
  """
  abstract, m, d = state_lib.abstract_state(task, tx, mesh), task.model.backbone.config, task.data
  compiled = functools.partial(_compile, tx=tx, optim=optim, train=train, mesh=mesh, abstract=abstract, memory=memory)
  if m.remat != 'auto':
    return compiled(task)
  if mesh.devices.flat[0].platform == 'cpu':
    return compiled(with_remat(task, 'none'))
  kept = sum(share(array) for array in jax.tree.leaves((abstract, abstract.params)))  # the gradients, too
  scores = d.length if implementation_of(m) == 'xla' else 0
  shards = math.prod(mesh.shape.values()) * train.accumulate
  tokens = d.batch_size * d.length / shards
  size = {kind: m.layers * tokens * kept_bytes(m, kind, scores) for kind in TRIED}

  def least(rest: float, memory: float | None) -> str:
    """The least recomputation with room for `rest` and for what it keeps."""
    fitting = (kind for kind in TRIED if memory is not None and rest + size[kind] <= _WORTH_TRYING * memory)
    return next(fitting, 'full')

  def compile_and_log(kind: str) -> Compiled:
    found = compiled(with_remat(task, kind))
    log(f'model.remat = {kind}: needs {gib(found.needed)} of {gib(found.memory)} a device')
    return found

  first = least(kept, memory)
  found = compile_and_log(first)
  if found.fits or first == 'full':
    return found
  return compile_and_log(least(found.needed - size[first], found.memory))  # with what the estimate left out


def kept_bytes(config: ModelConfig, kind: str, scores: int) -> float:
  """Bytes a token and layer that a kind of recomputation keeps for the backward pass, about.

  `scores` is how many keys a query has whose scores are in memory: none where a kernel computes attention.

  >>> from lmjax.models import presets
  >>> llama = ModelConfig(**presets.PRESETS['llama_1b']['model'])
  >>> [round(kept_bytes(llama, kind, scores=0) / 1024) for kind in TRIED]
  [110, 30, 14, 8]
  """
  D, F = config.width, config.mlp_width
  H, G = config.heads * config.head_width, config.kv_heads * config.head_width
  gates = 2 if config.is_gated else 1
  full = D + H  # what goes in, and what the attention kernel keeps
  attention_ = full + H + 2 * G
  up = attention_ + F
  none = up + (gates - 1) * F + 4 * D + 3 * config.heads * scores  # float32 scores count as two, and as weights
  if config.scan:  # written-out layers keep no result of an activation, which is part of the next product
    none += (1 + gates) * F
  numbers = {'none': none, 'attention_and_up': up, 'attention': attention_, 'full': full}
  return (2 if config.dtype == 'bfloat16' else 4) * numbers[kind]


def with_remat(task: Task, kind: str) -> Task:
  """A task whose backward pass computes another part again."""
  return task.with_model(dataclasses.replace(task.model.backbone.config, remat=kind))


def _compile(task: Task, tx, optim: OptimConfig, train: TrainConfig, mesh, abstract, memory: float | None) -> Compiled:
  began = time.perf_counter()
  train_step = step_lib.make_train_step(task, tx, optim, train.steps, train.accumulate)
  lowered = step_lib.lower(train_step, task, mesh, abstract)
  try:
    program = step_lib.compile_lowered(lowered, mesh)
    needed = float(peak_bytes(program, mesh))
  except jax.errors.JaxRuntimeError as error:
    if (refused := memory_refused(error)) is None:
      raise
    program, (needed, memory) = None, refused
  return Compiled(task, abstract, mesh, program, needed, memory, time.perf_counter() - began)


def gib(count: float | None) -> str:
  """Bytes for people."""
  return 'unknown memory' if count is None else f'{count / 2**30:.2f} GiB'


def share(array) -> int:
  """Bytes of an array that one device holds."""
  return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize


def peak_bytes(program: jax.stages.Compiled, mesh) -> int:
  """Bytes of a device that a program needs at its peak, by the compiler.

  The CPU compiler's `peak_memory_in_bytes` leaves out what the program works with, so all parts are added up there; for
  GPUs too, where nobody has compared the two yet.
  """
  sizes = program.memory_analysis()
  if mesh.devices.flat[0].platform == 'tpu':
    return sizes.peak_memory_in_bytes
  kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
  return kept + sizes.temp_size_in_bytes


def memory_refused(error: Exception) -> tuple[float, float] | None:
  """(bytes needed, bytes there are) on a device, where a compiler's error says that a program is too large."""
  match = re.search(r'\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)', str(error))
  if match is None:
    return None
  needed, unit, there, other = match.groups()
  return float(needed) * _UNITS[unit], float(there) * _UNITS[other]


def memory_here(device, count: int) -> float | None:
  """Bytes of a device of this machine: an accelerator's own; CPU devices share the machine's."""
  if device.platform == 'cpu':
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / count
  return (device.memory_stats() or {}).get('bytes_limit')
