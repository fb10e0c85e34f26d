"""Rows of fixed length from documents of any length: which tokens row i holds, computed when it is asked for.

Legend: B rows, T tokens of a row, D documents, P parts: of an item, what stands in one row. An item is a document
between its `begin` and `end` tokens.
"""

import dataclasses
from typing import Literal

import numpy as np

from lmjax.data.corpus.store import Documents

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


def rows_of_documents(lengths_D: np.ndarray, spec: RowSpec) -> np.ndarray:
  """int64 [D]: 'padded' rows of documents of so many tokens: until less than the overlap is left."""
  sizes_D = lengths_D + len(spec.begin) + len(spec.end)
  return np.maximum(1, -(-(sizes_D - (spec.content - spec.stride)) // spec.stride))


def rows_of_stream(documents: int, tokens: int, kind: Kind, spec: RowSpec, keep_tail: bool) -> int:
  """'concat' or 'packed' rows of so many documents, of so many tokens in all."""
  around = len(spec.end) + (0 if kind == 'concat' else len(spec.begin))
  partial = spec.stride - 1 if keep_tail else 0
  return max(0, (tokens + documents * around - (spec.content - spec.stride) + partial) // spec.stride)


class RowLayout:
  """The rows of a list of documents, each found in O(log D); many are made at once.

  - 'concat': the documents in order, each followed by `end`, are one stream; row i begins at i * stride.
  - 'packed': the same with `begin` before each document, and documents kept apart: each has its own segment number
    within a row, and positions start again with it. A document that is cut continues in the next row as a new segment.
  - 'padded': a row holds one document, or one piece of a long one, and padding.

  With end=(2,), size 5 and stride 4, the documents [7 8 9] and [5 6] make the stream 7 8 9 2 5 6 2 and the rows
    concat  tokens 7 8 9 2 5  and, if the tail is kept, 5 6 2 0 0
            segments 1 1 1 1 1                          1 1 1 0 0
    packed  the same tokens with segments 1 1 1 1 2 and positions 0 1 2 3 0 in the first row
    padded  tokens 7 8 9 2 0                        and 5 6 2 0 0

  Memory: 12 bytes a document (its place in the order and where its item starts).

  Args:
    documents: the documents.
    order: integers [D], indices of the documents to lay out, in order.
    kind: how documents share rows.
    spec: the shape of a row.
    keep_tail: whether a last row that is not full is kept, padded ('padded' rows always are).
  """

  def __init__(self, documents: Documents, order: np.ndarray, kind: Kind, spec: RowSpec, keep_tail: bool):
    assert 1 <= spec.stride <= spec.content, (spec, 'a stride beyond the content would drop tokens')
    assert not (kind == 'packed' and (spec.prefix or spec.suffix)), 'prefix and suffix belong to a whole row'
    self.documents, self.order, self.kind, self.spec = documents, np.asarray(order, np.int32), kind, spec
    self._begin = np.array(() if kind == 'concat' else spec.begin, np.int32)
    self._end = np.array(spec.end, np.int32)
    # in place: a window may have a million documents
    self._offsets = np.zeros(len(self.order) + 1, np.int64)
    sizes_D = self._offsets[1:]
    sizes_D[:] = documents.lengths[self.order]
    tokens = int(sizes_D.sum())
    if kind == 'padded':  # what is counted up is rows
      sizes_D[:] = rows_of_documents(sizes_D, spec)
    else:
      sizes_D += len(self._begin) + len(self._end)
    np.cumsum(sizes_D, out=sizes_D)
    self._rows = int(self._offsets[-1])
    if kind != 'padded':
      self._rows = rows_of_stream(len(self.order), tokens, kind, spec, keep_tail)

  def __len__(self):
    return self._rows

  def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Rows as int32 [B, T] arrays, T = spec.size.

    Returns:
      tokens: ids, padding included.
      segments: 0 for padding, 1 and up for the documents of the row (all 1 unless packed).
      positions: what position embeddings see; starts again with each segment of a packed row.
    """
    spec, (row_P, document_P, low_P, high_P) = self.spec, self._parts(np.asarray(indices, np.int64))
    size_P, before, after = high_P - low_P, len(spec.prefix), len(spec.suffix)
    size_B = np.bincount(row_P, size_P, len(indices)).astype(np.int64)
    tokens_BT = np.full((len(indices), spec.size), spec.pad, np.int32)
    tokens_BT[:, :before] = spec.prefix
    place_T = np.arange(spec.size)
    inside_BT = (place_T >= before) & (place_T < before + size_B[:, None])
    tokens_BT[inside_BT] = self._tokens(document_P, low_P, high_P)
    if after:
      tokens_BT[np.arange(len(indices))[:, None], before + size_B[:, None] + np.arange(after)] = spec.suffix
    if self.kind != 'packed':
      segments_BT = place_T < (before + size_B + after)[:, None]
      positions_BT = np.broadcast_to(place_T, tokens_BT.shape)
      return {'tokens': tokens_BT, 'segments': segments_BT.astype(np.int32), 'positions': positions_BT.astype(np.int32)}
    first_P = np.concatenate([[0], np.cumsum(size_P)[:-1]])  # place among all tokens
    number_P = np.arange(len(row_P)) - np.searchsorted(row_P, row_P)
    segments_BT = np.zeros_like(tokens_BT)
    segments_BT[inside_BT] = np.repeat(number_P + 1, size_P)
    positions_BT = (place_T - size_B[:, None]).astype(np.int32)  # those of padding begin again, too
    positions_BT[inside_BT] = np.arange(size_P.sum()) - np.repeat(first_P, size_P)
    return {'tokens': tokens_BT, 'segments': segments_BT, 'positions': positions_BT}

  def documents_of(self, index: int) -> list[tuple[int, int]]:
    """(document, where in the row it begins) for each document of a row; for display."""
    _, document_P, low_P, high_P = self._parts(np.array([index]))
    places = len(self.spec.prefix) + np.concatenate([[0], np.cumsum(high_P - low_P)[:-1]])
    return list(zip(document_P.tolist(), places.astype(int).tolist()))

  def _parts(self, index_B: np.ndarray) -> tuple[np.ndarray, ...]:
    """(row, document, low, high), integers [P] each, in their order: a row holds item[low:high]."""
    if len(outside := index_B[(index_B < 0) | (index_B >= self._rows)]):
      raise IndexError(f'row {outside[0]} of {self._rows}')
    spec, offsets = self.spec, self._offsets
    if self.kind == 'padded':
      place_B = np.searchsorted(offsets, index_B, 'right') - 1
      document_B = self.order[place_B]
      low_B = (index_B - offsets[place_B]) * spec.stride
      size_B = self._lengths(document_B) + len(self._begin) + len(self._end)
      return np.arange(len(index_B)), document_B, low_B, np.minimum(low_B + spec.content, size_B)
    start_B = index_B * spec.stride
    stop_B = np.minimum(start_B + spec.content, offsets[-1])
    first_B = np.searchsorted(offsets, start_B, 'right') - 1
    count_B = np.searchsorted(offsets, stop_B, 'left') - first_B
    row_P = np.repeat(np.arange(len(index_B)), count_B)
    item_P = np.arange(len(row_P)) + np.repeat(first_B - (np.cumsum(count_B) - count_B), count_B)
    low_P = np.maximum(start_B[row_P] - offsets[item_P], 0)
    high_P = np.minimum(stop_B[row_P], offsets[item_P + 1]) - offsets[item_P]
    return row_P, self.order[item_P], low_P, high_P

  def _lengths(self, document_P: np.ndarray) -> np.ndarray:
    """int64, so that less than nothing can come of them."""
    return self.documents.lengths[document_P].astype(np.int64)

  def _tokens(self, document_P: np.ndarray, low_P: np.ndarray, high_P: np.ndarray) -> np.ndarray:
    """int32, the items' parts end to end."""
    documents, head = self.documents, len(self._begin)
    size_P, length_P = high_P - low_P, self._lengths(document_P)
    first_P = np.concatenate([[0], np.cumsum(size_P)[:-1]])
    source = np.repeat(documents.starts[document_P] + low_P - head - first_P, size_P)
    source += np.arange(len(source))
    # for tokens before and after a document this takes a neighbour's, which is overwritten
    tokens = documents.take(document_P, source, size_P)
    around: list = [(place, token) for place, token in enumerate(self._begin)]
    around += [(head + length_P + place, token) for place, token in enumerate(self._end)]
    for place_P, token in around:
      is_there_P = (low_P <= place_P) & (place_P < high_P)
      tokens[(first_P + place_P - low_P)[is_there_P]] = token
    return tokens
