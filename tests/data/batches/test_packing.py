"""Row layouts: exact on hand-made examples, and nothing lost or read twice on random ones."""

import numpy as np
import pytest

from lmjax.data.batches.packing import RowLayout, RowSpec
from lmjax.data.corpus.store import Documents


def stored(*documents):
  lengths = np.array([len(document) for document in documents], np.uint32)
  tokens = np.concatenate([np.array(document, '<u2') for document in documents])
  return Documents([tokens], np.zeros(len(documents), np.int32), np.cumsum(lengths, dtype=np.uint32) - lengths, lengths)


def spec(size, stride, begin=(), end=(2,), prefix=(), suffix=(), pad=0):
  return RowSpec(size, stride, begin, end, prefix, suffix, pad)


def rows(layout, key):
  return layout.take(np.arange(len(layout)))[key].tolist()


DOCUMENTS = stored([7, 8, 9], [5, 6], [11, 12, 13, 14, 15])
ORDER = np.array([0, 1, 2])


def test_concat():
  layout = RowLayout(DOCUMENTS, ORDER, 'concat', spec(5, 4), keep_tail=False)
  # the stream: 7 8 9 2 | 5 6 2 11 | 12 13 14 15 | 2
  assert rows(layout, 'tokens') == [[7, 8, 9, 2, 5], [5, 6, 2, 11, 12], [12, 13, 14, 15, 2]]
  assert rows(layout, 'segments') == [[1] * 5] * 3
  assert rows(layout, 'positions') == [[0, 1, 2, 3, 4]] * 3
  assert [layout.documents_of(index) for index in range(3)] == [[(0, 0), (1, 4)], [(1, 0), (2, 3)], [(2, 0)]]


def test_concat_does_not_begin_documents_and_follows_the_order():
  layout = RowLayout(DOCUMENTS, np.array([1, 0]), 'concat', spec(4, 4, begin=(1,)), keep_tail=False)
  assert rows(layout, 'tokens') == [[5, 6, 2, 7]]


def test_concat_tail_is_padded_where_it_is_kept():
  layout = RowLayout(DOCUMENTS, np.array([0, 1]), 'concat', spec(5, 4), keep_tail=True)
  assert rows(layout, 'tokens') == [[7, 8, 9, 2, 5], [5, 6, 2, 0, 0]]
  assert rows(layout, 'segments') == [[1] * 5, [1, 1, 1, 0, 0]]


def test_a_tail_of_the_overlap_alone_is_no_row():
  # 4 + 5 tokens: the last one is the target of the last full row, and predicts nothing itself.
  documents = stored([7, 8, 9], [4, 5, 6, 7])
  assert len(RowLayout(documents, np.array([0, 1]), 'concat', spec(5, 4), keep_tail=True)) == 2
  assert len(RowLayout(documents, np.array([0, 1]), 'concat', spec(5, 4), keep_tail=False)) == 2


def test_frame_stands_around_the_content_of_each_row():
  layout = RowLayout(DOCUMENTS, ORDER, 'concat', spec(6, 4, prefix=(3,), suffix=(4,)), keep_tail=True)
  assert rows(layout, 'tokens') == [
    [3, 7, 8, 9, 2, 4],
    [3, 5, 6, 2, 11, 4],
    [3, 12, 13, 14, 15, 4],
    [3, 2, 4, 0, 0, 0],
  ]
  assert rows(layout, 'segments')[-1] == [1, 1, 1, 0, 0, 0]
  assert layout.documents_of(1) == [(1, 1), (2, 4)]


def test_packed():
  layout = RowLayout(DOCUMENTS, ORDER, 'packed', spec(6, 5, begin=(1,)), keep_tail=True)
  # the stream: 1 7 8 9 2 | 1 5 6 2 1 | 11 12 13 14 15 | 2
  assert rows(layout, 'tokens') == [[1, 7, 8, 9, 2, 1], [1, 5, 6, 2, 1, 11], [11, 12, 13, 14, 15, 2]]
  assert rows(layout, 'segments') == [[1, 1, 1, 1, 1, 2], [1, 1, 1, 1, 2, 2], [1] * 6]
  assert rows(layout, 'positions') == [[0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 5]]
  assert layout.documents_of(1) == [(1, 0), (2, 4)]


def test_packed_tail_is_padding():
  layout = RowLayout(DOCUMENTS, np.array([1]), 'packed', spec(6, 6, begin=(1,)), keep_tail=True)
  assert rows(layout, 'tokens') == [[1, 5, 6, 2, 0, 0]]
  assert rows(layout, 'segments') == [[1, 1, 1, 1, 0, 0]]
  assert len(RowLayout(DOCUMENTS, np.array([1]), 'packed', spec(6, 6), keep_tail=False)) == 0


def test_padded():
  layout = RowLayout(DOCUMENTS, ORDER, 'padded', spec(5, 4, begin=(1,)), keep_tail=False)
  assert rows(layout, 'tokens') == [[1, 7, 8, 9, 2], [1, 5, 6, 2, 0], [1, 11, 12, 13, 14], [14, 15, 2, 0, 0]]
  assert rows(layout, 'segments') == [[1] * 5, [1, 1, 1, 1, 0], [1] * 5, [1, 1, 1, 0, 0]]
  assert rows(layout, 'positions') == [[0, 1, 2, 3, 4]] * 4
  assert layout.documents_of(3) == [(2, 0)]


def test_padded_with_a_frame():
  layout = RowLayout(DOCUMENTS, ORDER, 'padded', spec(5, 3, end=(), prefix=(3,), suffix=(4,)), keep_tail=False)
  assert rows(layout, 'tokens') == [[3, 7, 8, 9, 4], [3, 5, 6, 4, 0], [3, 11, 12, 13, 4], [3, 14, 15, 4, 0]]


@pytest.mark.parametrize('kind', ['concat', 'packed', 'padded'])
@pytest.mark.parametrize('overlap', [0, 1])
def test_every_token_of_random_documents_stands_once(kind, overlap):
  rng = np.random.default_rng(overlap)
  for trial in range(30):
    documents = stored(*[rng.integers(10, 60_000, rng.integers(1, 40)) for _ in range(rng.integers(1, 20))])
    order = rng.permutation(len(documents.lengths))
    size = int(rng.integers(4, 30))
    begin, end = [((), (2,)), ((1,), (2,)), ((1, 3), (2, 4)), ((), ())][trial % 4]
    layout = RowLayout(documents, order, kind, spec(size, size - overlap, begin, end), keep_tail=True)
    begin = () if kind == 'concat' else begin
    items = [[*begin, *documents.ids(i).tolist(), *end] for i in order]
    together = layout.take(np.arange(len(layout)))
    # Drop the token that a row shares with the one before it: the rest, in order, are the documents.
    found, previous = [], None
    for index in range(len(layout)):
      row = {key: value[0] for key, value in layout.take([index]).items()}
      real = row['tokens'][row['segments'] > 0].tolist()
      goes_on = index > 0 and (kind != 'padded' or layout.documents_of(index)[0] == previous)
      assert all(value.dtype == np.int32 and value.shape == (size,) for value in row.values())
      assert all((together[key][index] == value).all() for key, value in row.items())
      found += real[overlap if goes_on else 0 :]
      previous = layout.documents_of(index)[0]
    assert found == sum(items, [])


def test_packed_segments_and_positions_follow_the_documents():
  rng = np.random.default_rng(5)
  documents = stored(*[rng.integers(10, 99, rng.integers(1, 9)) for _ in range(50)])
  layout = RowLayout(documents, np.arange(50), 'packed', spec(16, 15, begin=(1,)), keep_tail=True)
  for index in range(len(layout)):
    row = {key: value[0] for key, value in layout.take([index]).items()}
    starts = [place for _, place in layout.documents_of(index)]
    assert np.flatnonzero(np.diff(row['segments'], prepend=0) > 0).tolist() == starts
    assert (row['positions'][starts] == 0).all()
    inside = np.diff(row['segments']) == 0
    assert (np.diff(row['positions'])[inside] == 1).all()


def test_a_row_out_of_range_is_an_index_error():
  layout = RowLayout(DOCUMENTS, ORDER, 'concat', spec(5, 4), keep_tail=False)
  for index in (-1, 3):
    with pytest.raises(IndexError):
      layout.take([0, index])


def test_impossible_layouts_are_refused():
  with pytest.raises(AssertionError):
    RowLayout(DOCUMENTS, ORDER, 'concat', spec(5, 5, prefix=(3,)), keep_tail=False)
  with pytest.raises(AssertionError):
    RowLayout(DOCUMENTS, ORDER, 'packed', spec(5, 3, prefix=(3,), suffix=(4,)), keep_tail=False)
