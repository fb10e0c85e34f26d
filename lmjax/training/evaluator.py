"""Evaluation passes: over held-out documents, and over labelled examples."""

import gzip

import jax

from lmjax import metrics, sharding
from lmjax.data.batches.pipeline import valid_batches, valid_text


def make(config, task, data, mesh, tick=lambda: None):
  """The evaluator of a run: `(params, split) -> (metrics, predictions)`; held-out documents have no predictions.

  `tick` is called before each batch, of generations too; what it raises ends the evaluation.
  """
  return (ExampleEvaluator if task.HAND_OFF else TextEvaluator)(config, task, data, Runner(mesh, tick))


def make_eval_step(task):
  """`(params, batch) -> metrics` as (sum, weight) pairs: pure, without dropout."""

  def eval_step(params, batch):
    return task.loss(params, batch, None)[2]

  return eval_step


def gzip_bits_per_byte(text: bytes) -> float:
  """What `gzip -9` needs for `text`, in bits a byte."""
  return 8.0 * len(gzip.compress(text, 9, mtime=0)) / max(len(text), 1)


class Runner:
  """Runs jitted functions of (params, batch) on a mesh, and brings what they return to the host.

  On several CPU devices one program is in flight at a time: more can deadlock (XLA's rendezvous needs a thread each).
  """

  def __init__(self, mesh, tick=lambda: None):
    self._mesh, self._tick, self._placed = mesh, tick, {}

  def __call__(self, function, params, batch):
    """The outputs of a jitted function for this host's rows of a batch, whole on every host."""
    self._tick()
    if function not in self._placed:
      self._placed[function] = jax.jit(function, out_shardings=sharding.replicated(self._mesh))
    return jax.device_get(self._placed[function](params, sharding.shard_batch(batch, self._mesh)))


class TextEvaluator:
  """Evaluates on the held-out documents of every source: always the same rows and the same masks.

  Args:
    config: the run's Config.
    task: its task.
    stores: its token stores, by source name.
    runner: of its mesh.
  """

  def __init__(self, config, task, stores, runner):
    self._step, self._run = jax.jit(make_eval_step(task)), runner
    self._batches, self._fixed = {}, {}
    texts = []
    for name, store in stores.items():
      self._batches[name] = valid_batches(
        config.data,
        store,
        task.row_spec(),
        task.eval_example(stores, store),
        batch_size=config.data.batch_size,
        hosts=jax.process_count(),
        host=jax.process_index(),
      )
      if task.MAIN_METRIC == 'bits_per_byte':
        texts.append(valid_text(config.data, store))
        self._fixed[name] = gzip_bits_per_byte(texts[-1])
    self._overall_gzip = gzip_bits_per_byte(b''.join(texts)) if texts else None

  def __call__(self, params, split: str = 'valid') -> tuple[dict[str, float], None]:
    """Metrics over all sources, and `SOURCE/METRIC` for each where there are several."""
    assert split == 'valid', split
    total, by_source = None, {}
    for name, batches in self._batches.items():
      pairs = None
      for batch in batches:
        pairs = metrics.add_pairs(pairs, self._run(self._step, params, batch))
      by_source[name] = self._report(pairs, self._fixed.get(name))
      total = metrics.add_pairs(total, pairs)
    values = self._report(total, self._overall_gzip)
    if len(by_source) > 1:
      values |= {f'{name}/{key}': value for name, found in by_source.items() for key, value in found.items()}
    return values, None

  @staticmethod
  def _report(pairs, gzip_level):
    values = metrics.derive(metrics.means(pairs))
    if gzip_level is not None:
      values['gzip_bits_per_byte'] = gzip_level
    return values


class ExampleEvaluator:
  """Evaluates on the labelled examples of a split: the loss, and the scores of the predictions.

  Args:
    config: the run's Config.
    task: its task.
    data: its `Labelled` examples.
    runner: of its mesh.
  """

  def __init__(self, config, task, data, runner):
    del config
    self._task, self._data = task, data
    self._step, self._run = jax.jit(make_eval_step(task)), runner

  def __call__(self, params, split: str = 'valid') -> tuple[dict[str, float], list]:
    """(metrics, a prediction for each record) of a split."""
    examples, pairs = self._data.splits[split], None
    for batch in self._task.batches(examples, jax.process_count(), jax.process_index()):
      pairs = metrics.add_pairs(pairs, self._run(self._step, params, batch))
    predictions = self._task.predict(params, examples, self._run)
    if split == 'valid':
      self._task.tune(examples.records, predictions)
    return metrics.means(pairs) | self._task.scores(examples.records, predictions), predictions
