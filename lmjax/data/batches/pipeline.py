"""Batches as a pure function of (seed, step): mixture, order, masks; the same on any number of hosts.

Row j of the run belongs to batch j // batch_size. `order.MixtureSchedule` decides which source it comes from and
which of that source's rows it is; a keyed permutation decides which row of the layout that is in its epoch. So a
batch needs no state but its number, and a run is resumed by the step alone.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from lmjax.data.batches.order import MixtureSchedule, key_of, mix
from lmjax.data.batches.packing import RowLayout, RowSpec
from lmjax.data.batches.shuffle import Here, Layout, Shuffled, Windows
from lmjax.data.config import DataConfig
from lmjax.data.corpus.store import Documents, HeldOut, TokenStore
from lmjax.errors import DataError
from lmjax.workdir.files import json_digest

_THREADS = 2
_PREFETCHED_BATCHES = 4

# What decides how much a prediction counts: zero for the rows that fill up the last evaluation batch.
_WEIGHTS = ('weights', 'shown')


# Makes a batch of rows: (rows, uint64 key of each) -> arrays of [rows, ...]. A pure function of each row and its key,
# as rows are transformed in any company, and from several threads.
Transform = Callable[[Any, np.ndarray], dict[str, np.ndarray]]


class Pipeline:
  """The training batches of a run.

  Args:
    rows_of: the rows of each source.
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
    rows_per_epoch: how many rows each source has, by name.

  Raises DataError: the batch cannot be shared equally.
  """

  def __init__(
    self,
    rows_of: Mapping[str, Shuffled | Windows],
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
    self._rows_of, self._transform, self._contents = dict(rows_of), transform, contents
    self._batch_size, self._vocab_size = batch_size, vocab_size
    self._seed, self._total_steps = seed, total_steps
    self._part = _part(batch_size, hosts, host)
    self._mixture = MixtureSchedule(weights)
    self.rows_per_epoch = {name: len(rows) for name, rows in self._rows_of.items()}

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """Batch `step` (from 0): this host's part, arrays of [batch_size / hosts, ...].

    Raises DataError: a token id is outside the vocabulary.
    """
    places, parts = [], []
    for name, epoch, here in self._groups(step, self._part):
      keys_N = mix((here.first + here.rows).astype(np.uint64), key_of('transform', self._seed, name, epoch))
      places.append(here.places)
      parts.append(self._transform(here.layout.take(here.rows), keys_N))
    back = np.argsort(np.concatenate(places))
    batch = {key: np.concatenate([part[key] for part in parts])[back] for key in parts[0]}
    return _checked(batch, self._vocab_size, f'batch {step}')

  def rows(self, step: int) -> list[tuple[str, int, int]]:
    """(source, epoch, number among its rows) of each row of the whole batch; host h has the h-th equal part."""
    found: list[tuple[str, int, int]] = [('', 0, 0)] * self._batch_size
    for name, epoch, here in self._groups(step, slice(None)):
      for place, row in zip(here.places.tolist(), here.rows.tolist()):
        found[place] = (name, epoch, here.first + row)
    return found

  def plan(self) -> dict[str, dict[str, float]]:
    """Of each source its `share` of the rows, and how many `epochs` of it the run reads."""
    shares = self._mixture.counts / self._mixture.slots
    rows = self._total_steps * self._batch_size
    return {
      name: {'share': float(share), 'epochs': float(rows * share / self.rows_per_epoch[name])}
      for name, share in zip(self._rows_of, shares)
    }

  def documents(self, step: int) -> list[list[tuple[int, int]]]:
    """Of each row of the whole batch (document, where in the row it begins), for display."""
    found: list[list[tuple[int, int]]] = [[]] * self._batch_size
    for _, _, here in self._groups(step, slice(None)):
      for place, row in zip(here.places.tolist(), here.rows.tolist()):
        found[place] = here.layout.documents_of(row)
    return found

  def _groups(self, step: int, part: slice) -> Iterator[tuple[str, int, Here]]:
    """(source, epoch, rows and their places in the part) of a batch, together all of the part."""
    index_N = step * self._batch_size + np.arange(self._batch_size, dtype=np.int64)[part]
    source_N, number_N = self._mixture.locate(index_N)
    names = list(self._rows_of)
    for source in np.unique(source_N).tolist():
      place_N, name = np.flatnonzero(source_N == source), names[source]
      epoch_N, row_N = np.divmod(number_N[place_N], self.rows_per_epoch[name])
      for epoch in np.unique(epoch_N).tolist():
        of_epoch_N = np.flatnonzero(epoch_N == epoch)
        for here in self._rows_of[name].locate(epoch, row_N[of_epoch_N]):
          yield name, epoch, here._replace(places=place_N[of_epoch_N[here.places]])

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
  [vocab_size] = {store.tokenizer.vocab_size for store in stores.values()}
  weights = weights_of(config, stores)
  contents = {
    'sources': [[name, stores[name].fingerprint, weight] for name, weight in zip(config.sources, weights)],
    'rows': config.rows,
    'spec': dataclasses.asdict(spec),
  }
  rows_of = {name: Windows(stores[name], config.rows, spec, seed, len(stores)) for name in config.sources}
  for name, rows in rows_of.items():
    if not len(rows):
      given = f'{stores[name].train_tokens:,} tokens of training text; one row takes {spec.size:,}'
      raise DataError(f'{name}: {given}; add text, or lower data.length')
  sizes = {'batch_size': config.batch_size, 'vocab_size': vocab_size}
  made = Pipeline(rows_of, weights, transform, contents, seed=seed, **sizes, **run)
  for name, plan in made.plan().items():
    limit = config.sources[name].max_epochs
    if limit is not None and plan['epochs'] > limit:
      given = f'data.sources.{name}.max_epochs = {limit:g}: the run would read it {plan["epochs"]:.2g} times'
      raise DataError(f'{given}; it must not be read more often; {_less_of(plan["share"], limit / plan["epochs"])}')
  return made


def _less_of(share: float, part: float) -> str:
  """How a source is read at most for a part of its share."""
  others = 'train for fewer steps, add text, or raise it'
  if share == 1:
    return others
  factor = part * (1 - share) / (1 - part * share)
  return f'lower its weight to {math.floor(factor * 1e3) / 1e3:g} of what it is, {others}'


def weights_of(config: DataConfig, stores: Mapping[str, TokenStore]) -> list[float]:
  """Of the sources, in their order, with `data.temperature`."""
  if config.temperature is None:
    return [source.weight for source in config.sources.values()]
  # by logarithms: a power of a low temperature is no float
  sizes = {name: math.log(max(stores[name].train_tokens, 1)) / config.temperature for name in config.sources}
  logs = [math.log(source.weight) + sizes[name] for name, source in config.sources.items()]
  return [math.exp(log - max(logs)) for log in logs]


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
  documents = held_out(config, store).documents
  layout = RowLayout(documents, np.arange(len(documents.lengths)), config.rows, spec, keep_tail=True)
  return ValidBatches(store.name, layout, transform, vocab_size=store.tokenizer.vocab_size, **run)


def valid_text(config: DataConfig, store: TokenStore) -> bytes:
  """The text that `valid_batches` evaluates, in the same order, as one stream; what gzip is measured on.

  It is decoded: that of a tokenizer that `gives_bytes_back`.
  """
  documents = held_out(config, store).documents
  return b''.join(store.tokenizer.decode(documents.ids(i)).encode('utf-8') for i in range(len(documents.lengths)))


def valid_bytes_per_token(config: DataConfig, store: TokenStore) -> float:
  """UTF-8 bytes per token of the evaluated text: for bits per byte where tokens have no bytes of their own."""
  found = held_out(config, store)
  return float(found.n_bytes.sum() / found.documents.lengths.sum())


def held_out(config: DataConfig, store: TokenStore) -> HeldOut:
  """The held-out documents that are evaluated, by digest.

  With `config.valid_bytes`, these are the first so many bytes: the document in which they end is cut at a token, or
  kept whole if it is the first and has none that ends there.
  """
  found, limit = store.held_out, config.valid_bytes
  if limit is None or int(found.n_bytes.sum()) <= limit:
    return found
  ends = np.cumsum(found.n_bytes)
  whole = int(np.searchsorted(ends, limit, 'right'))
  left = limit - (int(ends[whole - 1]) if whole else 0)
  tokens, n_bytes = _cut(store, found, whole, left)
  if not tokens and whole:
    return HeldOut(_first(found.documents, whole), found.n_bytes[:whole])
  documents, sizes = _first(found.documents, whole + 1), found.n_bytes[: whole + 1].copy()
  lengths = documents.lengths.copy()
  if tokens:
    lengths[whole], sizes[whole] = tokens, n_bytes
  return HeldOut(documents._replace(lengths=lengths), sizes)


def _first(documents: Documents, count: int) -> Documents:
  return Documents(documents.tokens, *(column[:count] for column in documents[1:]))


def _cut(store: TokenStore, found: HeldOut, index: int, limit: int) -> tuple[int, int]:
  """(tokens, bytes) of the beginning of a document that has at most so many bytes, and ends between two characters."""
  ids, size = found.documents.ids(index), int(found.n_bytes[index])
  of_token_V = store.tokenizer.token_bytes()
  if of_token_V is None or not store.tokenizer.gives_bytes_back:  # about as many
    tokens = limit * len(ids) // size
    return tokens, tokens * size // len(ids)
  ends = np.cumsum(of_token_V[ids].astype(np.int64))
  tokens = int(np.searchsorted(ends, limit, 'right'))
  while tokens and len(store.tokenizer.decode(ids[:tokens]).encode('utf-8')) != ends[tokens - 1]:
    tokens -= 1  # within a character, which decodes to another
  return tokens, int(ends[tokens - 1]) if tokens else 0


def _part(batch_size: int, hosts: int, host: int) -> slice:
  """A host's rows of each batch."""
  if batch_size % hosts:
    remedy = f'set it to {-(-batch_size // hosts) * hosts}'
    raise DataError(f'data.batch_size = {batch_size}: must be a multiple of the {hosts} hosts; {remedy}')
  size = batch_size // hosts
  return slice(host * size, (host + 1) * size)


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
