"""Tables of records and of rows behave as the lists of dicts that they stand for."""

import random

import numpy as np
import pytest

from lmjax.data.batches.rows import Ragged, RaggedBuilder, RowTable
from lmjax.data.batches.windows import TokenPlaces, token_span
from lmjax.data.digests import digest64
from lmjax.data.labelled import splits, table
from lmjax.data.labelled.table import Table, TableBuilder, column, value
from lmjax.workdir.files import canonical_json

ODD = ['', 'a', '\u00e9', '"\\/\n\x00\x7f\u2028', '\U0001f642 \u6587', 'a' * 70_000]
ANSWERS = [[], [{'text': '\u00e9"', 'answer_start': 10**30}], [{'text': 'a', 'answer_start': -1}] * 2]
RECORDS = {
  'classification': [{'id': i, 'text_pair': None, 'text': ODD[i % 6], 'label': 'xyz'[i % 3]} for i in range(20)],
  'pairs': [{'id': i, 'text_pair': ODD[-i % 6], 'text': ODD[i % 6], 'label': 'xyz'[i % 3]} for i in range(20)],
  'regression': [{'id': i, 'text_pair': None, 'text': ODD[i % 6], 'label': i / 3 - 2} for i in range(20)],
  'multi_label': [{'id': i, 'text_pair': None, 'text': ODD[i % 6], 'label': ODD[: i % 6]} for i in range(20)],
  'extractive_qa': [
    {'id': f'q{i}', 'question': ODD[i % 6], 'context': ODD[i // 4 % 6], 'answers': ANSWERS[i % 3]} for i in range(20)
  ],
  'summarization': [{'id': i, 'document': ODD[i % 6], 'summary': ODD[-i % 6]} for i in range(20)],
  'demo': [{'id': ODD[i % 6], 'question': 'q', 'context': 'c', 'is_impossible': False} for i in range(9)],
}


def made(name: str) -> tuple[Table, list[dict]]:
  """(a table, its records as dicts)."""
  kind = {'pairs': 'classification', 'demo': 'extractive_qa'}.get(name, name)
  builder = TableBuilder(kind)
  builder.add(RECORDS[name][:7])
  builder.add(RECORDS[name][7:])
  return builder.table(), [one | {'id': str(one['id'])} for one in RECORDS[name]]


@pytest.mark.parametrize('name', RECORDS)
def test_a_table_is_the_list_of_its_records(name):
  found, expected = made(name)
  assert list(found) == expected == [found[i] for i in range(len(found))] == [*found[:4], *found[4:]]
  assert found == expected and found != expected[1:] and found != [*expected[:-1], {}]
  assert list(found[0].items()) == list(expected[0].items()), 'another order of the fields'
  assert found[-1] == expected[-1] and found[2:5] == expected[2:5] and bool(found) and not found[:0]
  assert found + expected[:1] == expected + expected[:1] and expected[3] in found
  with pytest.raises(IndexError):
    found[len(found)]
  kept = np.array([5, 1, 6])
  assert found.some(kept) == [expected[i] for i in kept] and found.some(kept).some(kept[1:2]) == [expected[1]]
  for field in ('id', 'label', 'answers', 'question', 'other'):
    assert list(column(found, field, 'none')) == [one.get(field, 'none') for one in expected]
    assert list(column(expected, field, 'none')) == list(column(found, field, 'none'))
  assert table.with_fields(found, 2, 'label', 'other') == {k: v for k, v in expected[2].items() if k == 'label'}
  assert table.with_fields(expected, 2, 'label') == expected[2]
  first = next(iter(expected[0]))
  assert value(found.some(kept), first, 1) == value(expected, first, 1) == expected[1][first]


@pytest.mark.parametrize('name', RECORDS)
def test_a_table_comes_back_from_its_arrays(name):
  found, expected = made(name)
  other = made('summarization')[0]
  arrays, kinds = table.to_arrays({'train': found[3:], 'valid': found[:3], 'test': other})
  assert all(isinstance(array, np.ndarray) for array in arrays.values())
  back = table.from_arrays(arrays, kinds)
  assert back['train'] == expected[3:] and back['valid'] == expected[:3] and back['test'] == other
  assert back['train'].columns is not back['test'].columns and len(arrays) < 30


@pytest.mark.parametrize('name', RECORDS)
def test_digests_are_those_of_the_canonical_json(name):
  """By which the examples of a split were chosen before there were tables: another would change every split."""
  found, expected = made(name)
  given = [{k: v for k, v in one.items() if k not in ('id', 'label', 'summary', 'answers')} for one in expected]
  assert list(splits.keys(found)) == [canonical_json(one) for one in given]
  digests = splits.digests(splits.keys(found), len(found))
  assert digests.tolist() == [digest64(canonical_json(one)) for one in given]


def test_examples_with_one_digest_are_told_apart():
  """Two texts may have the same 64 bits; only one that stands in both splits is dropped."""
  builder = TableBuilder('classification')
  builder.add({'id': i, 'text_pair': None, 'text': text, 'label': 'x'} for i, text in enumerate('abca'))
  found = builder.table()
  alike = np.array([7, 7, 8, 7], np.uint64)
  assert splits.in_another(found, alike, [(found[:1], alike[:1])]).tolist() == [True, False, False, True]
  assert splits.in_another(found, alike, [(found[:0], alike[:0])]).tolist() == [False] * 4


def test_all_questions_without_a_context_are_held_out_by_themselves():
  builder = TableBuilder('extractive_qa')
  asked = [{'id': str(i), 'question': f'q{i}', 'context': 'c' * (i % 2), 'answers': []} for i in range(400)]
  builder.add(asked)
  digests = splits.digests(splits.keys(builder.table()), 400)
  is_held = splits.held_out(builder.table(), digests, 0.3, False)
  limit = int(0.3 * 2.0**64)
  key = lambda one: one['context'].encode() or canonical_json({'context': '', 'question': one['question']})
  assert is_held.tolist() == [digest64(key(one)) < limit for one in asked] and 10 < is_held[::2].sum() < 150


ROWS = [
  {'tokens': np.arange(i, dtype=np.int32), 'second': i, 'more': np.full(i % 3, 9, np.int64), 'counts': {'a': i, 'b': 7}}
  for i in range(6)
]


def test_rows_of_a_table_are_the_dicts_that_it_was_made_of():
  found = RowTable.of(iter(ROWS), lambda number: {'label': number * 10})
  arrays, more = found.arrays()
  for rows in (found, RowTable.from_arrays(arrays, more, lambda number: {'label': number * 10})):
    assert len(rows) == 6 and len(rows[1:3]) == 2
    for number, (row, expected) in enumerate(zip(rows, ROWS)):
      assert row.keys() == {*expected, 'label'} and row['label'] == number * 10 and row['counts'] == expected['counts']
      assert row['second'] == expected['second'] and row['tokens'].dtype == np.int32
      assert np.array_equal(row['tokens'], expected['tokens']) and np.array_equal(row['more'], expected['more'])
    assert rows.totals() == {'a': 15, 'b': 42} and rows.count('a').tolist() == [0, 1, 2, 3, 4, 5]
    assert rows[-1]['second'] == 5
    with pytest.raises(IndexError):
      rows[6]


def test_arrays_end_to_end():
  builder = RaggedBuilder()
  for size in (0, 3, 0, 2, 0):
    builder.add(np.arange(size))
  found = builder.made()
  assert [one.tolist() for one in found] == [[], [0, 1, 2], [], [0, 1], []] and found.sizes.tolist() == [0, 3, 0, 2, 0]
  back = Ragged.from_arrays('x', found.arrays('x'))
  assert len(back) == 5 and back[1].tolist() == [0, 1, 2]
  assert len(RaggedBuilder().made()) == 0


@pytest.mark.parametrize('is_sorted', [True, False])
def test_tokens_of_an_answer_are_found_as_one_by_one(is_sorted):
  """Of offsets in order by bisection; some normalizers give them in another."""
  draw = random.Random(0)
  for _ in range(300):
    begins = [draw.randrange(12) for _ in range(draw.randrange(8))]
    offsets = [(begin, begin + draw.randrange(4)) for begin in begins]
    if is_sorted:
      offsets = list(zip(sorted(begin for begin, _ in offsets), sorted(end for _, end in offsets)))
    given = np.array(offsets, np.int32).reshape(-1, 2)
    places = TokenPlaces(given)
    for begin in range(-1, 16):
      for end in range(begin, 17):
        assert places.span(begin, end) == token_span(given, begin, end), (offsets, begin, end)
