"""Training rows in the order of an epoch: those of a layout, or of a source of any size, a window of shards at a time.

Shards are grouped into windows by a keyed permutation. In each epoch the windows come in another order, the documents
of a window are laid end to end in another order, and its rows are shuffled: all of them functions of seed and epoch, so
a row of any epoch is found without what came before. A corpus of one window is shuffled as a whole.
"""

import dataclasses
import functools
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from lmjax.data.batches.order import key_of, permutation, permute
from lmjax.data.batches.packing import Kind, RowLayout, RowSpec, rows_of_documents, rows_of_stream
from lmjax.data.corpus.store import TokenStore
from lmjax.workdir.files import json_digest

# A window has shards until it has so many tokens, or so many documents, at about 40 bytes each; of a mixture of more
# sources than so many it has less, since each has a window or two in memory.
_WINDOW_TOKENS, _WINDOW_DOCUMENTS, _SOURCES = 64_000_000, 1_000_000, 4


class Layout(Protocol):
  """Rows that can be looked up: of text (`packing.RowLayout`), or of labelled examples."""

  def __len__(self) -> int:
    """Number of rows."""

  def take(self, indices: np.ndarray) -> Any:
    """What the transform is given."""

  def documents_of(self, index: int) -> list[tuple[int, int]]:
    """(document, where in the row it begins), for display."""


class Here(NamedTuple):
  """Some of the rows that were asked for, which one layout has."""

  layout: Layout
  places: np.ndarray  # among those asked for
  rows: np.ndarray  # of the layout
  first: int  # rows of the source before those of the layout, in whatever epoch


class Shuffled:
  """The rows of a layout."""

  def __init__(self, layout: Layout, name: str, seed: int):
    self._layout, self._name, self._seed = layout, name, seed

  def __len__(self) -> int:
    return len(self._layout)

  def locate(self, epoch: int, numbers: np.ndarray) -> Iterator[Here]:
    """See `Windows.locate`."""
    rows = permute(numbers, len(self), key_of('rows', self._seed, self._name, epoch))
    yield Here(self._layout, np.arange(len(numbers)), rows, 0)


class Windows:
  """The training rows of a source, of so many of a mixture; `len` is the same in each epoch."""

  def __init__(self, store: TokenStore, kind: Kind, spec: RowSpec, seed: int, sources: int = 1):
    self._store, self._kind, self._spec, self._seed = store, kind, spec, seed
    shards = [number for number, row in enumerate(store.row.shards) if row.train[0]]
    order = permutation(len(shards), key_of('shards', seed, store.name)).tolist()
    self._windows: list[list[int]] = [[]]
    documents, tokens, share = 0, 0, min(_SOURCES / sources, 1)
    for number in (shards[place] for place in order):
      if documents >= share * _WINDOW_DOCUMENTS or tokens >= share * _WINDOW_TOKENS:
        self._windows.append([])
        documents = tokens = 0
      self._windows[-1].append(number)
      documents += store.row.shards[number].train[0]
      tokens += store.row.shards[number].train[1]
    if kind == 'padded':
      key = json_digest(dataclasses.asdict(spec))
      of_shard = store.rows(key, lambda lengths: int(rows_of_documents(lengths, spec).sum()))
      sizes = [sum(of_shard[number] for number in window) for window in self._windows]
    else:
      sizes = [self._rows_of(window) for window in self._windows]
    self._sizes = np.array(sizes, np.int64)
    self._firsts = np.cumsum(self._sizes) - self._sizes
    # two at the border of windows or epochs
    self._layout, self._lock = functools.lru_cache(2)(self._laid_out), threading.Lock()
    self._order = functools.lru_cache(3)(self._ordered)

  def __len__(self) -> int:
    return int(self._sizes.sum())

  def locate(self, epoch: int, numbers: np.ndarray) -> Iterator[Here]:
    """Where rows are, by their numbers in an epoch."""
    order, ends = self._order(epoch)
    window_N = np.searchsorted(ends, numbers, 'right')
    for place in np.unique(window_N).tolist():
      places, window = np.flatnonzero(window_N == place), int(order[place])
      within = numbers[places] - (ends[place] - self._sizes[window])
      rows = permute(within, int(self._sizes[window]), key_of('rows', self._seed, self._store.name, epoch, window))
      with self._lock:  # or two threads lay out the same
        layout = self._layout(epoch, window)
      yield Here(layout, places, rows, int(self._firsts[window]))

  def _ordered(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(the windows as they come in an epoch, rows up to the end of each)."""
    n = len(self._windows)
    order = permutation(n, key_of('windows', self._seed, self._store.name, epoch))
    return order, np.cumsum(self._sizes[order])

  def _laid_out(self, epoch: int, window: int) -> RowLayout:
    windows = [*self._order(epoch)[0].tolist(), int(self._order(epoch + 1)[0][0])]
    self._store.fetch(self._windows[windows[windows.index(window) + 1]])
    self._store.touch()
    documents = self._store.train(self._windows[window])
    n = len(documents.lengths)
    order = permutation(n, key_of('documents', self._seed, self._store.name, epoch, window))
    return RowLayout(documents, order, self._kind, self._spec, keep_tail=False)

  def _rows_of(self, window: list[int]) -> int:
    documents, tokens = map(sum, zip((0, 0), *(self._store.row.shards[number].train for number in window)))
    return rows_of_stream(documents, tokens, self._kind, self._spec, keep_tail=False)
