"""The text of a record: keys with dots, objects inside objects, lists; in lines and in columns."""

import io
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from lmjax.errors import DataError
from tests.data.sources.reading import read

RECORDS = {
  'nested': ('document.text', {'document': {'text': 'a', 'id': 1}}, 'a'),
  'a key with a dot': ('a.b', {'a.b': 'key', 'a': {'b': 'nested'}}, 'key'),
  'deep': ('a.b.c', {'a': {'b': {'c': 'deep'}}}, 'deep'),
  'list': ('text', {'text': ['one', None, 'two']}, 'one\ntwo'),
  'list inside': ('a.text', {'a': {'text': ['one', 'two']}}, 'one\ntwo'),
  'null above': ('a.b', {'a': None}, None),
  'null': ('a.b', {'a': {'b': None}}, None),
  'list of nothing': ('text', {'text': []}, None),
}


@pytest.mark.parametrize('name', RECORDS)
@pytest.mark.parametrize('kind', ['jsonl', 'parquet', 'arrow'])
def test_fields_inside_of_others(tmp_path, name, kind):
  field, record, wanted = RECORDS[name]
  path = tmp_path / f'a.{kind}'
  # a second row, so that a column whose first value is null has a type
  second = {'a': {'b': 'x'}} if record.get('a', 0) in (None, {'b': None}) else record
  records = [record, second]
  if kind == 'jsonl':
    path.write_text(''.join(json.dumps(one) + '\n' for one in records))
  elif kind == 'parquet':
    pyarrow.parquet.write_table(pa.Table.from_pylist(records), path)
  else:
    data = pa.Table.from_pylist(records)
    with pa.ipc.new_file(path, data.schema) as writer:
      writer.write_table(data)
  second_text = 'x' if second is not record else wanted
  expected = [text for text in (wanted, second_text) if text]
  assert read(path, field) == (expected, {'empty': 2 - len(expected)} if len(expected) < 2 else {})


@pytest.mark.parametrize(
  'field, record, message',
  [
    ('text', {'text': 3}, "line 1: field 'text' is of type int; it must be a string, or a list of strings"),
    ('text', {'text': ['a', 3]}, "field 'text' is of type list of int; .*; name another field"),
    ('text', {'text': {'body': 'a'}}, "field 'text' is of type dict; .*; name one of its own, such as text.body"),
    ('text', {'text': True}, 'is of type bool'),
    ('a.b', {'a': {'c': 'x'}}, "no field 'a.b'; it must hold the text; fields there: a.c"),
    ('a.b', {'a': ['x']}, "field 'a' is of type list; it must be an object that holds 'b'"),
    ('a.b', {'c': 'x'}, "no field 'a.b'; .*fields there: c"),
  ],
)
def test_fields_that_are_no_text(tmp_path, field, record, message):
  path = tmp_path / 'a.jsonl'
  path.write_text(json.dumps(record))
  with pytest.raises(DataError, match=message):
    read(path, field)


def written(table, **options):
  file = io.BytesIO()
  pyarrow.parquet.write_table(table, file, **options)
  return file.getvalue()


@pytest.mark.parametrize(
  'field, values, message',
  [
    ('text', pa.array([3]), "field 'text' is of type int64; it must be a string, or a list of strings; name another"),
    ('text', pa.array([[3]]), 'is of type list<'),
    ('text', pa.array([{'body': 'a'}]), "'text' is a struct; .* name one of its own, such as text.body"),
    ('text.title', pa.array([{'body': 'a'}]), "no field 'text.title'; .*fields there: text.body"),
    ('text.body', pa.array(['a']), "no field 'text.body'; .*fields there: none"),
    ('body', pa.array(['a']), "no field 'body'; .*fields there: id, text"),
  ],
)
def test_columns_that_are_no_text(tmp_path, field, values, message):
  (tmp_path / 'a.parquet').write_bytes(written(pa.table({'text': values, 'id': [1]})))
  with pytest.raises(DataError, match=f'a.parquet: .*{message}'):
    read(tmp_path / 'a.parquet', field)
