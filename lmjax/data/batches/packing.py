"""Rows of fixed length from documents of any length: which tokens row i holds, computed when it is asked for.

Legend: T tokens of a row, D documents. An item is a document between its `begin` and `end` tokens.
"""

import dataclasses
from typing import Literal

import numpy as np

from lmjax.data.tokens.store import StoredDocuments

Kind = Literal['concat', 'packed', 'padded']


@dataclasses.dataclass(frozen=True)
class RowSpec:
  """The shape of a row, which the objective decides.

  A causal row has one token more than the model's length, and the next row begins with that token
  (`size = length + 1, stride = length`), so each token of the stream is predicted once. A masked row has
  `size = length`, and `stride = size` less prefix and suffix.
  """

  size: int  # tokens of a row, prefix and suffix included
  stride: int  # tokens of the stream (or of a long document) from the beginning of one row to that of the next
  begin: tuple[int, ...]  # ids before each document ('packed' and 'padded' rows)
  end: tuple[int, ...]  # ids after each document
  prefix: tuple[int, ...]  # ids before the content of each row, such as [CLS]; not for 'packed' rows
  suffix: tuple[int, ...]  # ids after it, such as [SEP]
  pad: int  # id that fills what is left

  @property
  def content(self) -> int:
    """Tokens of a row without prefix and suffix."""
    return self.size - len(self.prefix) - len(self.suffix)


class RowLayout:
  """The rows of a list of documents, each found in O(log D).

  - 'concat': the documents in order, each followed by `end`, are one stream; row i begins at i * stride.
  - 'packed': the same with `begin` before each document, and documents kept apart: each has its own segment number
    within a row, and positions start again with it. A document that is cut continues in the next row as a new segment.
  - 'padded': a row holds one document, or one piece of a long one, and padding.

  With end=(2,), size 5 and stride 4, the documents [7 8 9] and [5 6] make the stream 7 8 9 2 5 6 2 and the rows
    concat  tokens 7 8 9 2 5  and, if the tail is kept, 5 6 2 0 0
            segments 1 1 1 1 1                          1 1 1 0 0
    packed  the same tokens with segments 1 1 1 1 2 and positions 0 1 2 3 0 in the first row
    padded  tokens 7 8 9 2 0                        and 5 6 2 0 0

  Memory: 16 bytes a document (its place in the order and where its item starts).

  Args:
    documents: the documents.
    order: int64 [D], indices of the documents to lay out, in order.
    kind: how documents share rows.
    spec: the shape of a row.
    keep_tail: whether a last row that is not full is kept, padded ('padded' rows always are).
  """

  def __init__(self, documents: StoredDocuments, order: np.ndarray, kind: Kind, spec: RowSpec, keep_tail: bool):
    assert 1 <= spec.stride <= spec.content, (spec, 'a stride beyond the content would drop tokens')
    assert not (kind == 'packed' and (spec.prefix or spec.suffix)), 'prefix and suffix belong to a whole row'
    self.documents, self.order, self.kind, self.spec = documents, np.asarray(order, np.int64), kind, spec
    self._begin = np.array(() if kind == 'concat' else spec.begin, np.int32)
    self._end = np.array(spec.end, np.int32)
    sizes_D = documents.lengths[self.order] + len(self._begin) + len(self._end)
    overlap = spec.content - spec.stride
    if kind == 'padded':
      # What is counted up is rows: a document gives as many as it takes until less than the overlap is left.
      sizes_D = np.maximum(1, -(-(sizes_D - overlap) // spec.stride))
    self._offsets = np.concatenate([[0], np.cumsum(sizes_D)]).astype(np.int64)
    self._rows = int(self._offsets[-1])
    if kind != 'padded':
      partial = spec.stride - 1 if keep_tail else 0
      self._rows = max(0, (self._rows - overlap + partial) // spec.stride)

  def __len__(self):
    return self._rows

  def row(self, index: int) -> dict[str, np.ndarray]:
    """Row `index` as int32 [T] arrays, T = spec.size.

    Returns:
      tokens: ids, padding included.
      segments: 0 for padding, 1 and up for the documents of the row (all 1 unless packed).
      positions: what position embeddings see; starts again with each segment of a packed row.
    """
    spec, items = self.spec, [self._item(*span) for span in self._spans(index)]
    content = np.concatenate([np.array(spec.prefix, np.int32), *items, np.array(spec.suffix, np.int32)])
    tokens_T = np.full(spec.size, spec.pad, np.int32)
    tokens_T[: len(content)] = content
    lengths = [len(item) for item in items] if self.kind == 'packed' else [len(content)]
    lengths.append(spec.size - len(content))  # padding
    segments_T = np.repeat(np.array([*range(1, len(lengths)), 0], np.int32), lengths)
    runs = lengths if self.kind == 'packed' else [spec.size]
    positions_T = np.concatenate([np.arange(length, dtype=np.int32) for length in runs])
    return {'tokens': tokens_T, 'segments': segments_T, 'positions': positions_T}

  def documents_of(self, index: int) -> list[tuple[int, int]]:
    """(document, where in the row it begins) for each document of a row; for display."""
    place, documents = len(self.spec.prefix), []
    for document, low, high in self._spans(index):
      documents.append((document, place))
      place += high - low
    return documents

  def _spans(self, index: int) -> list[tuple[int, int, int]]:
    """(document, low, high) for each item of a row: the row holds item[low:high]."""
    if not 0 <= index < self._rows:
      raise IndexError(f'row {index} of {self._rows}')
    spec, offsets = self.spec, self._offsets
    if self.kind == 'padded':
      place = int(np.searchsorted(offsets, index, 'right')) - 1
      document = int(self.order[place])
      low = (index - int(offsets[place])) * spec.stride
      size = len(self._begin) + int(self.documents.lengths[document]) + len(self._end)
      return [(document, low, min(low + spec.content, size))]
    start = index * spec.stride
    stop = min(start + spec.content, int(offsets[-1]))
    first, last = int(np.searchsorted(offsets, start, 'right')) - 1, int(np.searchsorted(offsets, stop, 'left'))
    items = zip(self.order[first:last].tolist(), offsets[first:last].tolist(), offsets[first + 1 : last + 1].tolist())
    return [(document, max(start - low, 0), min(stop, high) - low) for document, low, high in items]

  def _item(self, document: int, low: int, high: int) -> np.ndarray:
    """item[low:high] without reading the rest of the document, which may be a novel."""
    length, start = int(self.documents.lengths[document]), int(self.documents.starts[document])
    head, tail = len(self._begin), len(self._begin) + length
    inside = slice(start + max(low - head, 0), start + min(max(high - head, 0), length))
    tokens = self.documents.tokens[inside].astype(np.int32)
    return np.concatenate([self._begin[low:high], tokens, self._end[max(low - tail, 0) : max(high - tail, 0)]])
