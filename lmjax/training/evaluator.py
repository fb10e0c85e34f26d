"""Evaluation passes: over held-out documents, and over labelled examples; and the evaluations that a run makes."""

import dataclasses
import functools
import gzip
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lmjax import metrics, sharding
from lmjax.data.batches.pipeline import valid_batches, valid_text
from lmjax.hosts.preemption import StopSignal
from lmjax.reports import pictures
from lmjax.tasks.base import Loss, Task
from lmjax.tasks.fine_tuning import FineTuningTask
from lmjax.training.progress import number
from lmjax.workdir.run_files import RunFiles

# curves.png is drawn again at most this often: a drawing takes as long as many steps of a small model.
PLOT_SECONDS = 10.0


@functools.lru_cache(maxsize=32)
def _program(function: Callable, mesh: jax.sharding.Mesh) -> Callable:
  """A function of (params, batch) as it runs; compiled once for all runs of a process that share it, as seeds do."""

  def run(params, batch, flags):
    return function(params, batch), jax.tree.map(lambda flag_B: flag_B.max(), flags)

  return jax.jit(run, out_shardings=sharding.replicated(mesh))


class Runner:
  """Compiles functions of (params, batch) for a mesh, runs them, and brings what they return to the host.

  On several CPU devices one program is in flight at a time: more can deadlock (XLA's rendezvous needs a thread each).
  `heartbeat` is called before each batch, of generations too; a `stop` that was asked for interrupts.
  """

  def __init__(self, mesh, stop: StopSignal | None = None, heartbeat: Callable[[], None] = lambda: None):
    self._mesh, self._stop, self._heartbeat = mesh, StopSignal() if stop is None else stop, heartbeat

  def __call__(self, function: Callable, params, batch: dict[str, np.ndarray]):
    """The outputs of a function for this host's rows of a batch, whole on every host."""
    self._heartbeat()
    self._stop.interrupt()
    flags = self._stop.flags(len(next(iter(batch.values()))))
    placed = (sharding.shard_batch(part, self._mesh) for part in (batch, flags))
    outputs, flags = jax.device_get(_program(function, self._mesh)(params, *placed))
    self._stop.read(flags)
    self._stop.interrupt()
    return outputs


def make(task: Task, data, run: Runner):
  """The evaluator of a task's kind."""
  return ExampleEvaluator(task, data, run) if isinstance(task, FineTuningTask) else TextEvaluator(task, data, run)


@functools.lru_cache(maxsize=8)
def make_eval_step(loss: Loss):
  """`(params, batch) -> metrics` as (sum, weight) pairs: pure, without dropout."""

  def eval_step(params, batch):
    return loss(params, batch, None)[2]

  return eval_step


def gzip_bits_per_byte(text: bytes) -> float:
  """What `gzip -9` needs for `text`, in bits a byte."""
  return 8.0 * len(gzip.compress(text, 9, mtime=0)) / max(len(text), 1)


class Evaluator:
  """`(params, split) -> (metrics, predictions)`, predictions None for documents.

  `samples(params, predictions, key)` of both kinds is Markdown: what the model writes, fills in or answers.
  """

  def __init__(self, task, data, run: Runner):
    self._task, self._data, self._run, self._step = task, data, run, make_eval_step(task.loss)

  def _sums(self, params, batches) -> dict[str, tuple]:
    """The metrics of all batches as (sum, weight) pairs, without dropout."""
    return functools.reduce(metrics.add_pairs, (self._run(self._step, params, batch) for batch in batches), None)


class TextEvaluator(Evaluator):
  """Evaluates on the held-out documents of every token store: always the same rows and the same masks."""

  def __init__(self, task, stores, run: Runner):
    super().__init__(task, stores, run)
    self._batches, texts = {}, {}
    share = dict(batch_size=task.data.batch_size, hosts=jax.process_count(), host=jax.process_index())
    for name, store in stores.items():
      transform = task.eval_batch_of(stores, store)
      self._batches[name] = valid_batches(task.data, store, task.row_spec(), transform, **share)
      if task.MAIN_METRIC == 'bits_per_byte':
        texts[name] = valid_text(task.data, store)
    self._gzip = {name: {'gzip_bits_per_byte': gzip_bits_per_byte(text)} for name, text in texts.items()}
    self._overall_gzip = {'gzip_bits_per_byte': gzip_bits_per_byte(b''.join(texts.values()))} if texts else {}

  def __call__(self, params, split: str = 'valid') -> tuple[dict[str, float], None]:
    """Metrics over all sources, and `SOURCE/METRIC` for each where there are several."""
    assert split == 'valid', split
    total, by_source = None, {}
    for name, batches in self._batches.items():
      pairs = self._sums(params, batches)
      by_source[name] = metrics.derive(metrics.means(pairs)) | self._gzip.get(name, {})
      total = metrics.add_pairs(total, pairs)
    values = metrics.derive(metrics.means(total)) | self._overall_gzip
    if len(by_source) > 1:
      values |= {f'{name}/{key}': value for name, means in by_source.items() for key, value in means.items()}
    return values, None

  def samples(self, params, predictions, key: jax.Array) -> str:
    """Continuations, or filled masks, of held-out documents."""
    return self._task.samples(params, self._data, key)


class ExampleEvaluator(Evaluator):
  """Evaluates on the labelled examples of a split: the loss, and the scores of the predictions."""

  def __call__(self, params, split: str = 'valid') -> tuple[dict[str, float], list]:
    """(metrics, a prediction for each record) of a split; what is chosen on predictions, on validation alone."""
    examples = self._data.splits[split]
    values = metrics.means(self._sums(params, self._task.batches(examples)))
    predictions = self._task.predict(params, examples, self._run)
    if split == 'valid':
      self._task.fit_threshold(examples.records, predictions)
      values |= self._task.calibration  # a line of metrics.jsonl: each checkpoint has its own
    return values | self._task.scores(examples.records, predictions), predictions

  def samples(self, params, predictions: list, key: jax.Array) -> str:
    """The first validation examples with their predictions."""
    return self._task.samples(self._data.splits['valid'].records, predictions)


@dataclasses.dataclass
class Evaluations:
  """The evaluations of a run: each one made, logged, written and drawn; which of them was best."""

  task: Task
  evaluate: TextEvaluator | ExampleEvaluator
  seed: int  # keys the samples
  steps: int
  patience: int | None  # see EvalConfig
  files: RunFiles
  history: dict[int, dict[str, float]]  # {step: metrics} of every evaluation so far
  log: Callable[[str], None]
  newest: tuple[int | None, dict | None, Any] = (None, None, None)  # step, metrics, predictions; of this process
  drawn: float = dataclasses.field(default_factory=time.monotonic)

  def __call__(self, step: int, params) -> dict[str, float]:
    """Evaluates; writes the line and the samples, and every PLOT_SECONDS the curves.

    Raises preemption.Interrupted: the run was asked to stop; nothing is written.
    """
    began = time.perf_counter()
    values, predictions = self.evaluate(params)
    self.newest = (step, dict(values), predictions)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), 2), step)
    samples = self.evaluate.samples(params, predictions, key)
    text = ' | '.join(f'{name} {number(value)}' for name, value in values.items())
    self.log(f'step {step}/{self.steps} | valid | {text}')
    values['seconds'] = round(time.perf_counter() - began, 3)
    self.history[step] = dict(values)
    self.files.add_metrics(step, 'valid', values)
    self.files.add_samples(step, samples)
    if time.monotonic() - self.drawn >= PLOT_SECONDS:
      self.draw()
    return values

  def draw(self) -> None:
    """Draws WORKDIR/curves.png, if there is a point to draw."""
    picture = pictures.plot_curves(self.files.lines(), self.task.MAIN_METRIC, self.task.BASELINE)
    if picture is not None:
      self.files.write('curves.png', picture)
    self.drawn = time.monotonic()

  @property
  def has_patience_ended(self) -> bool:
    """Whether so many evaluations have passed since the best one; those before a stop count, and every host agrees."""
    ranked = [values[self.task.RANKING_METRIC] for values in self.history.values()]
    signed = [-math.inf if v is None or math.isnan(v) else v if self.task.HIGHER_IS_BETTER else -v for v in ranked]
    return self.patience is not None and bool(signed) and len(signed) - 1 - int(np.argmax(signed)) >= self.patience
