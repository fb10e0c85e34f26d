"""An evaluation pass over held-out documents."""

import gzip

import jax

from lmjax import metrics, sharding
from lmjax.data.pipeline import valid_batches, valid_text


def make_eval_step(task):
  """`(params, batch) -> metrics` as (sum, weight) pairs: pure, without dropout."""

  def eval_step(params, batch):
    return task.loss(params, batch, None)[2]

  return eval_step


def gzip_bits_per_byte(text: bytes) -> float:
  """What `gzip -9` needs for `text`, in bits a byte."""
  return 8.0 * len(gzip.compress(text, 9, mtime=0)) / max(len(text), 1)


class Evaluator:
  """Evaluates on the held-out documents of every source: always the same rows and the same masks.

  Args:
    config: the run's Config.
    task: its task.
    stores: its token stores, by source name.
    mesh: its mesh.
  """

  def __init__(self, config, task, stores, mesh):
    self._step = jax.jit(make_eval_step(task), out_shardings=sharding.replicated(mesh))
    self._mesh = mesh
    # in flight at most one step on several CPU devices: more can deadlock (XLA's rendezvous needs a thread each)
    self._one_in_flight = jax.default_backend() == 'cpu' and mesh.size > 1
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

  def __call__(self, params) -> dict[str, float]:
    """Metrics over all sources, and `SOURCE/METRIC` for each where there are several."""
    total, by_source = None, {}
    for name, batches in self._batches.items():
      pairs = None
      for batch in batches:
        found = self._step(params, sharding.shard_batch(batch, self._mesh))
        if self._one_in_flight:
          jax.block_until_ready(found)
        pairs = metrics.add_pairs(pairs, jax.device_get(found))
      by_source[name] = self._report(pairs, self._fixed.get(name))
      total = metrics.add_pairs(total, pairs)
    values = self._report(total, self._overall_gzip)
    if len(by_source) > 1:
      values |= {f'{name}/{key}': value for name, found in by_source.items() for key, value in found.items()}
    return values

  @staticmethod
  def _report(pairs, gzip_level):
    values = metrics.derive(metrics.means(pairs))
    if gzip_level is not None:
      values['gzip_bits_per_byte'] = gzip_level
    return values
