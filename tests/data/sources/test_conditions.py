"""Documents are kept by what other fields of their records hold: the same ones from every kind of file."""

import csv
import datetime
import decimal
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmjax.data.config import SourceConfig
from lmjax.data.sources import columns
from lmjax.data.sources.conditions import Filter, parsed
from lmjax.errors import DataError
from tests.data.sources import reading
from tests.data.sources.test_formats import tar

ROWS = [
  {'text': 'a', 'language': 'en', 'score': 3, 'share': 0.5, 'good': True, 'meta': {'year': 1999}},
  {'text': 'b', 'language': 'de', 'score': 4, 'share': 1.5, 'good': False, 'meta': {'year': 2001}},
  {'text': 'c', 'language': None, 'score': None, 'share': None, 'good': None, 'meta': {'year': None}},
  {'text': 'd', 'language': 'fr', 'score': -10, 'share': 3.0, 'good': True, 'meta': {'year': 2024}},
  {'text': '', 'language': 'en', 'score': 9, 'share': 9.0, 'good': True, 'meta': {'year': 2024}},
]
KEPT = {
  ('language=en|de',): 'ab',
  ('language = en | fr',): 'ad',
  ('language!=en',): 'bcd',
  ('language!=en|de',): 'cd',
  ('score>=3',): 'ab',
  ('score>3',): 'b',
  ('score<4.5',): 'abd',
  ('score<=-10',): 'd',
  ('score=3|4.0',): 'ab',
  ('share=3',): 'd',
  ('share>1e-1', 'score>3'): 'b',
  ('good=true',): 'ad',
  ('good!=true',): 'bc',
  ('meta.year>2000',): 'bd',
  ('meta.year>2000', 'language=de', 'good=false'): 'b',
  (): 'abcd',
}


def read(path, keep, target=reading.WHOLE):
  """(texts end to end, counts) of what a path names."""
  found, counts = reading.read(path, 'text', target, keep)
  return ''.join(found), dict(counts)


def flat(row):
  return {name: json.dumps(v) if isinstance(v, bool) else v for name, v in row.items() if name != 'meta'} | {
    'meta.year': row['meta']['year']
  }


def written(path, kind):
  table = pa.Table.from_pylist(ROWS)
  if kind == 'parquet':
    pq.write_table(table, path, row_group_size=2)
  elif kind == 'arrow':
    with pa.ipc.new_stream(path, table.schema) as writer:
      writer.write_table(table, max_chunksize=2)
  elif kind == 'jsonl':
    path.write_text(''.join(json.dumps(row) + '\n' for row in ROWS))
  elif kind == 'json':
    path.write_text(json.dumps(ROWS))
  elif kind == 'tar':
    members = {f'{i}.json': json.dumps(row | {'text': 'not read'}) for i, row in enumerate(ROWS[:2])}
    members |= {f'{i}.txt': row['text'] for i, row in enumerate(ROWS[:2])}
    lines = ''.join(json.dumps(row) + '\n' for row in ROWS[2:4])
    members = dict(sorted(members.items())) | {'4.jsonl': lines, '5.json': json.dumps(ROWS[4])}
    path.write_bytes(tar({name: content.encode() for name, content in members.items()}))
  else:
    out = io.StringIO()
    writer = csv.DictWriter(out, flat(ROWS[0]), delimiter=',' if kind == 'csv' else '\t')
    writer.writeheader()
    writer.writerows(map(flat, ROWS))
    path.write_text(out.getvalue())
  return path


@pytest.mark.parametrize('kind', ['jsonl', 'json', 'csv', 'tsv', 'parquet', 'arrow', 'tar'])
@pytest.mark.parametrize('keep', KEPT, ids=str)
def test_every_kind_of_file_keeps_the_same(tmp_path, kind, keep):
  texts = KEPT[keep]
  if kind in ('csv', 'tsv') and keep in (('score=3|4.0',), ('share=3',)):
    texts = {'score': 'a', 'share': ''}[keep[0][:5]]  # the text '4' is not '4.0'
  found, counts = read(written(tmp_path / f'a.{kind}', kind), keep)
  assert found == texts
  # the one without text is empty where it is kept, and filtered where it is not
  assert sum(counts.values()) + len(found) == 5
  assert counts.get('filtered', 0) in (4 - len(texts), 5 - len(texts))


@pytest.mark.parametrize('kind', ['jsonl', 'parquet', 'arrow'])
def test_pieces_keep_what_the_whole_does(tmp_path, kind):
  path = written(tmp_path / f'a.{kind}', kind)
  assert reading.number_of_pieces(path, 1) > 2
  for target in (1, 50, 100, 200):
    assert read(path, ('score>3',), target) == ('b', {'filtered': 3, 'empty': 1})


@pytest.mark.parametrize(
  'condition, value, kept',
  [
    ('a=true', True, True),
    ('a=True|true', True, True),
    ('a!=false', True, True),
    ('a=True', 'True', True),
    ('a=true', 'True', False),
    ('a=3', 3.0, True),
    ('a=9007199254740993', 9007199254740992, False),
    ('a=x|3', 3, True),
    ('a!=3', float('nan'), True),
    ('a=3', '3.0', False),
    ('a>=3', '3.0', True),
    ('a>=3', ' 1e2 ', True),
    ('a>=3', '', False),
    ('a<3', float('nan'), False),
    ('a<3', 'nan', False),
    ('a>3', 10**400, True),
    ('a>3', decimal.Decimal('3.01'), True),
    ('a>=1.1', decimal.Decimal('1.1'), True),
    ('a=1.1', decimal.Decimal('1.10'), True),
    ('a=en', b'en', True),
    ('a>3', b'4', True),
    ('a=x=y', 'x=y', True),
    ('a=', None, None),
    ('a=en', '', False),
    ('a!=en', '', True),
  ],
  ids=str,
)
def test_values(condition, value, kept):
  if kept is None:
    with pytest.raises(ValueError):
      parsed(condition)
  else:
    assert Filter([condition]).keeps({'a': value}, 'here') is kept


def test_a_key_with_a_dot_goes_before_one_inside():
  assert parsed('a.b=key').holds({'a.b': 'key', 'a': {'b': 'inside'}}, 'here')
  assert parsed('a.b=inside').holds({'a': {'b': 'inside'}}, 'here')
  assert not parsed('a.b=inside').holds({'a': None}, 'here') and parsed('a.b!=x').holds({'a': None}, 'here')


@pytest.mark.parametrize(
  'condition, value, message',
  [
    ('a>3', 'high', "here: field 'a' holds 'high'; it must be a number, or text that is one; correct 'a>3' of keep"),
    ('a>3', '1_000', "holds '1_000'; it must be a number"),
    ('a>3', True, 'is of type bool; it must be a number'),
    ('a>3', [4], 'is of type list; it must be a number'),
    ('a=3', [3], 'is of type list; it must be text, a number, true or false'),
    ('a=3', {'b': 3}, 'is of type dict; it must be text'),
    ('a=x', datetime.date(2020, 1, 1), 'is of type date; it must be text'),
    ('a=high', 3, 'is of type int; the condition must name a number'),
    ('a!=1', True, 'is of type bool; the condition must name true or false'),
    ('b=1', 3, "here: no field 'b'; it must hold what a condition names; fields there: a"),
    ('a.b=1', 'x', "field 'a' is of type str; it must be an object that holds 'b'"),
  ],
)
def test_what_cannot_be_compared(condition, value, message):
  with pytest.raises(DataError) as refused:
    Filter([condition]).keeps({'a': value}, 'here')
  assert message in str(refused.value)


def test_a_mistake_is_found_whatever_the_other_conditions_say():
  with pytest.raises(DataError, match="no field 'c'"):
    Filter(['a=en', 'c>3']).keeps({'a': 'de'}, 'here')


@pytest.mark.parametrize('text', ['', 'a', '=en', 'a=', 'a=en|', 'a>', 'a==en', 'a=>3', 'a>>3', 'a<>3', 'a!3', '|a=3'])
def test_what_is_no_condition(text):
  [(setting, rule, remedy)] = SourceConfig('a.jsonl', 'text', 1.0, keep=(text,)).problems()
  assert setting == 'keep' and rule.startswith(f'{text!r} must be a field, one of') and "'score>=3'" in remedy


@pytest.mark.parametrize('text', ['a>high', 'a<=3|4', 'a>1_000', 'a<nan'])
def test_a_range_needs_a_number(text):
  [(setting, rule, remedy)] = SourceConfig('a.jsonl', 'text', 1.0, keep=('b=1', text)).problems()
  assert setting == 'keep' and 'must name a number after' in rule and 'write it as' in remedy


def test_conditions_need_fields(tmp_path):
  for path in ('pydoc', 'a.txt'):
    [(setting, rule, _)] = SourceConfig(path, None, 1.0, keep=('a=1',)).problems()
    assert setting == 'keep' and rule == f'must be (), since {path} is plain text without fields'
  (tmp_path / 'a.txt').write_text('text')
  with pytest.raises(DataError, match='a.txt: is plain text; keep needs fields'):
    read(tmp_path / 'a.txt', ('a=1',))
  (tmp_path / 'a.jsonl').write_text('"a text"\n')
  with pytest.raises(DataError, match='a.jsonl, line 1: a JSON str; each line must be one object'):
    read(tmp_path / 'a.jsonl', ('a=1',))
  (tmp_path / 'a.tar').write_bytes(tar({'0.txt': b'text'}))
  with pytest.raises(DataError, match='a.tar, 0.txt: its sample has no .json; with keep each must have one'):
    read(tmp_path / 'a.tar', ('a=1',))


@pytest.mark.parametrize('kind', ['parquet', 'arrow', 'csv'])
def test_a_column_that_is_not_there_is_named_with_the_file(tmp_path, kind):
  with pytest.raises(
    DataError, match="a.*: no field 'lang'; it must hold what a condition names; fields there: .*score"
  ):
    read(written(tmp_path / f'a.{kind}', kind), ('lang!=xx',))


def test_columns_of_every_type(tmp_path):
  path = tmp_path / 'a.parquet'
  values = {
    'dictionary': (pa.array(['en', 'de']).dictionary_encode(), 'dictionary=en'),
    'large': (pa.array(['en', 'de'], pa.large_string()), 'large=en'),
    'small': (pa.array([1, 200], pa.uint8()), 'small<200'),
    'half': (pa.array([0.5, 2.0], pa.float16()), 'half=0.5'),
    'decimal': (pa.array([decimal.Decimal('1.50'), None]), 'decimal=1.5'),
    'same': (pa.array(['x', 'x']), 'text=a'),
  }
  table = pa.table({'text': ['a', 'b']} | {name: column for name, (column, _) in values.items()})
  pq.write_table(table, path)
  for _, condition in values.values():
    assert read(path, (condition,)) == ('a', {'filtered': 1})
  bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b'caf\xe9']).buffers())
  pq.write_table(pa.table({'text': ['a'], 'place': bad}), path)
  assert read(path, ('place!=x',)) == ('a', {})


def test_other_columns_are_not_read(tmp_path, monkeypatch):
  path, asked = str(tmp_path / 'a.parquet'), []
  pq.write_table(pa.Table.from_pylist(ROWS), path)
  real = pq.ParquetFile.iter_batches
  spy = lambda self, *given, **options: asked.append(options['columns']) or real(self, *given, **options)
  monkeypatch.setattr(pq.ParquetFile, 'iter_batches', spy)
  read(path, ('meta.year>2000', 'language=en', 'meta.year<2030'))
  assert asked == [['text', 'meta.year', 'language']]


def test_little_is_held_in_memory(tmp_path):
  path = str(tmp_path / 'a.parquet')
  table = {'text': [f'{i}' + 'x' * 20_000 for i in range(3_000)], 'number': list(range(3_000))}
  pq.write_table(pa.table(table), path, compression='none', use_dictionary=False)
  before, most, keep = pa.total_allocated_bytes(), 0, Filter(['number>=2990'])
  tracemalloc.start()
  try:
    for _ in columns.parquet_texts(path, 'text', None, keep):
      most = max(most, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert most < 30e6 and peak < 30e6  # of 60
