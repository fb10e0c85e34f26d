"""Batches as a pure function of (seed, step): mixture, order, masks; the same on any number of hosts.

Row j of the run belongs to batch j // batch_size. `order.MixtureSchedule` decides which source it comes from and
which of that source's rows it is; a keyed permutation decides which row of the layout that is in its epoch. So a
batch needs no state but its number, and a run is resumed by the step alone.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from lmjax.data.batches.order import MixtureSchedule, key_of, mix, permute
from lmjax.data.batches.packing import RowLayout, RowSpec
from lmjax.data.config import DataConfig
from lmjax.data.tokens.store import StoredDocuments, TokenStore
from lmjax.errors import DataError
from lmjax.workdir.files import json_digest

_THREADS = 2
_PREFETCHED_BATCHES = 4

# What decides how much a prediction counts: zero for the rows that fill up the last evaluation batch.
_WEIGHTS = ('weights', 'shown')


# Makes a batch of rows: (rows, uint64 key of each) -> arrays of [rows, ...]. A pure function of each row and its key,
# as rows are transformed in any company, and from several threads.
Transform = Callable[[Any, np.ndarray], dict[str, np.ndarray]]


class Layout(Protocol):
  """Rows that can be looked up: of text (`packing.RowLayout`), or of labelled examples."""

  def __len__(self) -> int:
    """Number of rows."""

  def take(self, indices: np.ndarray) -> Any:
    """What the transform is given."""

  def documents_of(self, index: int) -> list[tuple[int, int]]:
    """(document, where in the row it begins), for display."""


class Pipeline:
  """The training batches of a run.

  Args:
    layouts: the rows of each source.
    weights: of the sources, in the same order.
    transform: makes a batch of rows.
    contents: JSON-able, all that decides what the rows hold.
    batch_size: rows of a batch, over all hosts.
    vocab_size: ids must lie below.
    seed: orders the rows and keys the masks.
    total_steps: steps of the run, after which `iterate` ends.
    hosts: processes that share each batch.
    host: which of them this is.

  Attributes:
    layouts: the rows of each source, by name.
    rows_per_epoch: how many rows each source has, by name.

  Raises DataError: the batch cannot be shared equally.
  """

  def __init__(
    self,
    layouts: Mapping[str, Layout],
    weights: list[float],
    transform: Transform,
    contents: dict,
    *,
    batch_size: int,
    vocab_size: int,
    seed: int,
    total_steps: int,
    hosts: int = 1,
    host: int = 0,
  ):
    self.layouts, self._transform, self._contents = dict(layouts), transform, contents
    self._batch_size, self._vocab_size = batch_size, vocab_size
    self._seed, self._total_steps = seed, total_steps
    self._part = _part(batch_size, hosts, host)
    self._mixture = MixtureSchedule(weights)
    self.rows_per_epoch = {name: len(layout) for name, layout in self.layouts.items()}

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Batch `step` (from 0): this host's part, arrays of [batch_size / hosts, ...].

    Raises DataError: a token id is outside the vocabulary.
    """
    places, parts = [], []
    for name, epoch, place_N, row_N in self._groups(step, self._part):
      keys_N = mix(row_N.astype(np.uint64), key_of('transform', self._seed, name, epoch))
      places.append(place_N)
      parts.append(self._transform(self.layouts[name].take(row_N), keys_N))
    back = np.argsort(np.concatenate(places))
    batch = (
      parts[0] if len(parts) == 1 else {key: np.concatenate([part[key] for part in parts])[back] for key in parts[0]}
    )
    return _checked(batch, self._vocab_size, f'batch {step}')

  def rows(self, step: int) -> list[tuple[str, int, int]]:
    """(source, epoch, row of its layout) of each row of the whole batch; host h has the h-th equal part."""
    origins: list[tuple[str, int, int]] = [('', 0, 0)] * self._batch_size
    for name, epoch, place_N, row_N in self._groups(step, slice(None)):
      for place, row in zip(place_N.tolist(), row_N.tolist()):
        origins[place] = (name, epoch, row)
    return origins

  def _groups(self, step: int, part: slice) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """(source, epoch, places in the part, rows of the layout) of a batch, together all of the part."""
    index_N = step * self._batch_size + np.arange(self._batch_size, dtype=np.int64)[part]
    source_N, number_N = self._mixture.locate(index_N)
    names = list(self.rows_per_epoch)
    for source in np.unique(source_N).tolist():
      place_N = np.flatnonzero(source_N == source)
      name, per_epoch = names[source], self.rows_per_epoch[names[source]]
      epoch_N, row_N = np.divmod(number_N[place_N], per_epoch)
      for epoch in np.unique(epoch_N).tolist():
        here_N = epoch_N == epoch
        key = key_of('rows', self._seed, name, epoch)
        yield name, epoch, place_N[here_N], permute(row_N[here_N], per_epoch, key)

  def iterate(self, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches start_step, start_step + 1, ... up to the last step, made ahead of time by grain's threads."""
    import grain  # takes JAX along: a second and a half that reading a config should not cost

    batches = grain.MapDataset.range(start_step, self._total_steps).map(self.batch)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_PREFETCHED_BATCHES)
    return iter(batches.to_iter_dataset(options))

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hex sha256 of all that decides which rows a batch holds: stores, weights, layout, batch size and seed.

    What the transform does (masking rates, say) is not in it, nor the number of steps: a run can be made longer.
    """
    return json_digest({**self._contents, 'batch_size': self._batch_size, 'seed': self._seed})


def make(
  config: DataConfig, stores: dict[str, TokenStore], spec: RowSpec, transform: Transform, *, seed: int, **run: int
) -> Pipeline:
  """The training batches of text, from stores of one tokenizer; `run` is total_steps, hosts and host of `Pipeline`.

  Raises DataError: a source has too little text for one row, or the batch cannot be shared equally.
  """
  [(vocab_size, _)] = {(store.meta['vocab_size'], store.meta['tokenizer']) for store in stores.values()}
  contents = {
    'sources': [[name, stores[name].fingerprint, source.weight] for name, source in config.sources.items()],
    'rows': config.rows,
    'spec': dataclasses.asdict(spec),
  }
  layouts = {name: _training_layout(config, stores[name], spec, seed) for name in config.sources}
  weights = [source.weight for source in config.sources.values()]
  sizes = {'batch_size': config.batch_size, 'vocab_size': vocab_size}
  return Pipeline(layouts, weights, transform, contents, seed=seed, **sizes, **run)


class ValidBatches:
  """The evaluation batches of one source: the same rows and masks at each evaluation, whatever the seed.

  The rows of all batches together are those of the layout, in order; the last batch is filled up with rows of
  weight 0. `len` and the shapes are the same on every host. `name` keys the masks; the rest as of `Pipeline`.

  Raises DataError: no row, or a batch that cannot be shared equally.
  """

  def __init__(self, name, layout: Layout, transform: Transform, *, vocab_size, batch_size, hosts=1, host=0):
    if not len(layout):
      raise DataError(f'{name}: its held-out documents make no row; raise data.valid_fraction or add text')
    self.layout, self._name, self._vocab_size = layout, name, vocab_size
    self._transform, self._batch_size, self._part = transform, batch_size, _part(batch_size, hosts, host)

  def __len__(self):
    return math.ceil(len(self.layout) / self._batch_size)

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    return (self.batch(index) for index in range(len(self)))

  def rows(self, index: int) -> range:
    """Rows of the layout in this host's part of a batch; beyond `len(self.layout)` for those that fill it up."""
    return range(index * self._batch_size, (index + 1) * self._batch_size)[self._part]

  def batch(self, index: int) -> dict[str, np.ndarray]:
    """This host's part of batch `index`, arrays of [batch_size / hosts, ...]."""
    row_N = np.array(self.rows(index))
    is_filling_N = row_N >= len(self.layout)
    row_N[is_filling_N] = 0  # a real row, so that nothing is masked out altogether; it just does not count
    batch = self._transform(self.layout.take(row_N), mix(row_N.astype(np.uint64), key_of('valid', self._name)))
    for name in _WEIGHTS:
      if name in batch:
        batch[name][is_filling_N] = 0
    return _checked(batch, self._vocab_size, f'validation batch {index}')


def valid_batches(
  config: DataConfig, store: TokenStore, spec: RowSpec, transform: Transform, **run: int
) -> ValidBatches:
  """The held-out documents of a source, by their digests; `run` is batch_size, hosts and host of `ValidBatches`."""
  documents, order = held_out(config, store)
  layout = RowLayout(documents, order, config.rows, spec, keep_tail=True)
  return ValidBatches(store.name, layout, transform, vocab_size=store.meta['vocab_size'], **run)


def valid_text(config: DataConfig, store: TokenStore) -> bytes:
  """The text that `valid_batches` evaluates, in the same order, as one stream; what gzip is measured on."""
  documents, order = held_out(config, store)
  return b''.join(documents.text(index) for index in order)


def valid_bytes_per_token(config: DataConfig, store: TokenStore) -> float:
  """UTF-8 bytes per token of the evaluated text: for bits per byte where tokens have no bytes of their own."""
  documents, order = held_out(config, store)
  return float(documents.n_bytes[order].sum() / documents.lengths[order].sum())


def held_out(config: DataConfig, store: TokenStore) -> tuple[StoredDocuments, np.ndarray]:
  """The held-out documents that are evaluated, and their order, by digest; int64 [documents].

  With `config.valid_bytes`, these are the first so many bytes: the document in which they end is cut at the
  last piece (about 16 kB, at a space) that fits, or kept whole if it is the first and has no such piece.
  """
  valid = store.valid
  order = np.argsort(valid.digests, kind='stable')
  if config.valid_bytes is None or int(valid.n_bytes.sum()) <= config.valid_bytes:
    return valid, order
  ends = np.cumsum(valid.n_bytes[order])
  whole = int(np.searchsorted(ends, config.valid_bytes, 'right'))
  last = order[whole]
  left = config.valid_bytes - (int(ends[whole - 1]) if whole else 0)
  pieces = valid.pieces()
  _, tokens, n_bytes = np.cumsum(pieces[pieces[:, 0] == last], axis=0).T
  fitting = int(np.searchsorted(n_bytes, left, 'right'))
  if not fitting and whole:
    return valid, order[:whole]
  lengths, sizes = valid.lengths.copy(), valid.n_bytes.copy()
  lengths[last], sizes[last] = tokens[max(fitting - 1, 0)], n_bytes[max(fitting - 1, 0)]
  return dataclasses.replace(valid, lengths=lengths, n_bytes=sizes), order[: whole + 1]


def _part(batch_size: int, hosts: int, host: int) -> slice:
  """A host's rows of each batch."""
  if batch_size % hosts:
    remedy = f'set it to {-(-batch_size // hosts) * hosts}'
    raise DataError(f'data.batch_size = {batch_size}: must be a multiple of the {hosts} hosts; {remedy}')
  size = batch_size // hosts
  return slice(host * size, (host + 1) * size)


def _training_layout(config: DataConfig, store: TokenStore, spec: RowSpec, seed: int) -> RowLayout:
  order = np.argsort(mix(store.train.digests, key_of('documents', seed)), kind='stable')
  layout = RowLayout(store.train, order, config.rows, spec, keep_tail=False)
  if not len(layout):
    given = f'{len(store.train.tokens):,} tokens of training text; one row takes {spec.size:,}'
    raise DataError(f'{store.name}: {given}; add text, or lower data.length')
  return layout


def _checked(batch: dict[str, np.ndarray], vocab_size: int, where: str) -> dict[str, np.ndarray]:
  """The batch; its ids are checked: on the device an id out of range would be clamped, wrapped or NaN."""
  for key in ('inputs', 'targets'):
    if key in batch and batch[key].size:
      low, high = int(batch[key].min()), int(batch[key].max())
      if low < 0 or high >= vocab_size:
        rule = f'ids must lie in [0, {vocab_size})'
        remedy = 'the tokenizer and the token store do not belong together: delete the store'
        raise DataError(f'{where}: {key} hold id {low if low < 0 else high}; {rule}; {remedy}')
  return batch
