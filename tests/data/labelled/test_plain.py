"""Rows that are read many at a time are those that the csv module gives, with the same lines in errors."""

import collections
import itertools
import json
import random

import pytest

from lmjax.data import records
from lmjax.data.labelled import plain, questions
from lmjax.data.sources import files
from lmjax.errors import DataError

# What a file may be made of, most of it odd.
PIECES = [
  *(['a', 'b c', 'text', '\u00e9', '7'] * 4),
  *('\t,\n' * 12),
  *['\r\n'] * 8,
  *('"', '""', '\r', '\0', ' ', '\u2028', '\x85', '\x0b', '\x1c', '\ufeff', '\n\n', '\U0001f642', '\\', "'"),
]
BROKEN = [b'\xff', b'\xe9', b'\xed\xa0\x80', b'\xf0\x9f']


def outcome(found):
  """The records, and the error that ends them."""
  made = []
  try:
    for one in found:
      made += one.records() if isinstance(one, plain.Block) else [one]
  except DataError as error:
    return made, str(error)
  return made, None


def same(path) -> list:
  """What both readers give, which must be the same."""
  expected = outcome(files.records(str(path)))
  assert outcome(plain.records(str(path))) == expected, path.read_bytes()
  return expected[0]


@pytest.mark.parametrize('name', ['a.tsv', 'a.csv'])
@pytest.mark.parametrize('header', ['text\tlabel', 'text,label', 'text', 'text,,label,', '\u00e9,text,text', ''])
@pytest.mark.parametrize('part', [1, 7, 64])
def test_any_file_gives_what_the_csv_module_does(tmp_path, monkeypatch, name, header, part):
  monkeypatch.setattr(plain, '_PART', part)
  draw, path, rows = random.Random(f'{name}{header}{part}'), tmp_path / name, 0
  for number in range(120):
    mark = header[4:5] if number % 2 and header.isascii() and len(header) > 4 else ''
    if mark:  # as many fields as the header has, mostly
      lines = [mark.join(draw.choices(PIECES[:20], k=1 + header.count(mark))) for _ in range(draw.randrange(6))]
      text = draw.choice(['\n', '\r\n']).join([header, *lines]) + draw.choice(['', '\n', '\n\n'])
      text += draw.choice(['', '', ''.join(draw.choices(PIECES, k=3))])
    else:
      text = header + draw.choice(['\n', '\r\n', '\r', '']) + ''.join(draw.choices(PIECES, k=draw.randrange(30)))
    data = text.encode('utf-8')
    if number % 5 == 0:
      place = draw.randrange(len(data) + 1)
      data = data[:place] + draw.choice(BROKEN) + data[place:]
    path.write_bytes(data)
    rows += len(same(path))
  assert rows or '\n' not in header


PLAIN = 'text\tlabel\r\n1 a\tx\r\n\r\n2 "b\ty\r\n3 c\u2028d\tx\r\n4\t \r\n'


@pytest.mark.parametrize(
  'name, data, count',
  [
    ('a.tsv', PLAIN.encode(), 4),
    ('a.tsv', PLAIN.replace('\r', '').encode(), 4),
    ('a.tsv', b'\xef\xbb\xbf' + PLAIN.encode(), 4),
    ('a.tsv', PLAIN.removesuffix('\r\n').encode(), 4),
    ('a.csv', PLAIN.replace('\t', ',').replace('"', '').encode(), 4),
    ('a.csv', b'text,label\n,\nb,\n', 2),
    ('a.tsv', b'text\tlabel\n', 0),
  ],
)
def test_plain_rows_come_in_blocks(tmp_path, name, data, count):
  (tmp_path / name).write_bytes(data)
  found = list(plain.records(str(tmp_path / name)))
  assert all(isinstance(block, plain.Block) for block in found) and sum(len(block.rows) for block in found) == count
  same(tmp_path / name)


@pytest.mark.parametrize('line, where', [('five', '1 fields'), ('a\tb\tc', '3 fields'), ('"a"\tb', None)])
def test_what_is_not_plain_is_read_from_there_on_with_its_line(tmp_path, line, where):
  lines = [f'text {i}\t{i % 2}' for i in range(100_000)]
  (tmp_path / 'a.tsv').write_text('\n'.join(['text\tlabel', *lines, line, *lines[:3]]) + '\n')
  if where is None:
    assert len(same(tmp_path / 'a.tsv')) == 100_004
  else:
    with pytest.raises(DataError, match=f'line 100002: {where}'):
      records.read_alone(str(tmp_path / 'a.tsv'), config(tmp_path), 'classification', None, True)
  (tmp_path / 'b.csv').write_text(
    '\n'.join(['text,label', *(one.replace('\t', ',') for one in lines[:70_000]), '"a\nb",c', 'd'])
  )
  found, error = outcome(plain.records(str(tmp_path / 'b.csv')))
  assert found[-1] == (f'{tmp_path}/b.csv, line 70003', {'text': 'a\nb', 'label': 'c'})
  assert 'line 70004: 1 fields' in error and (found, error) == outcome(files.records(str(tmp_path / 'b.csv')))


def config(folder, **changes):
  from tests.data.test_records import config_of

  return config_of(folder / 'a.tsv', **changes)


@pytest.mark.parametrize('part', [16, 1 << 20])
@pytest.mark.parametrize(
  'kind, header, rows',
  [
    ('classification', 'text\tlabel', ['a\tx', ' \ty', 'b\t ', '\t', 'c\ty']),
    ('classification', 'label\tmore\tsentence', ['x\tm\ta', 'y\t\t\u00a0', 'z\tm\tb']),
    ('classification', 'text\tlabel\tanswer', ['a\tx\taccept', 'b\ty\treject', 'c\ty\tignore']),
    ('classification', 'text\ttext_pair\tlabel', ['a\tb\tx']),
    ('classification', 'body\tlabel', ['a\tx']),
    ('regression', 'text\tscore', ['a\t1', 'b\t ', ' \tno number', 'c\t2.50']),
    ('regression', 'text\tscore', ['a\t1', 'b\t1_0']),
    ('multi_label', 'text\tlabels', ['a\tx;y; ', 'b\t', ' \tx', 'c\t["x", "z"]']),
    ('summarization', 'article\tsummary', ['a\tx', 'b\t']),
  ],
)
def test_a_block_holds_what_its_rows_do(tmp_path, monkeypatch, part, kind, header, rows):
  """The same records, counts and errors as row by row."""
  (tmp_path / 'a.tsv').write_text('\n'.join([header, *rows]) + '\n', encoding='utf-8')
  read = lambda counts: list(
    records.read(
      str(tmp_path / 'a.tsv'), 'train', kind, None, 'raise', counts, separator=';' if 'multi' in kind else None
    )
  )
  found = []
  monkeypatch.setattr(plain, '_PART', part)
  for reader in (plain.records, files.records):
    monkeypatch.setattr(plain, 'records', reader)
    counts = collections.Counter()
    try:
      found.append((read(counts), list(counts.items())))
    except DataError as error:
      found.append(str(error))
  assert found[0] == found[1]


def squad_text(shape) -> str:
  asked = lambda i: {'id': f'q{i}', 'question': 'Where?', 'answers': [{'text': 'north', 'answer_start': 4}]}
  articles = [
    {
      'title': f'{a}',
      'paragraphs': [{'context': f'the north \u00e9 {a}{p}', 'qas': [asked(f'{a}{p}')]} for p in range(3)],
    }
    for a in range(9)
  ]
  return shape(articles)


SHAPES = {
  'as it is published': lambda articles: json.dumps({'version': '1.1', 'data': articles}),
  'the version last': lambda articles: json.dumps({'data': articles, 'version': '1.1'}, indent=2, ensure_ascii=False),
  'other keys around': lambda articles: json.dumps({'a': [1, {'data': 2}], 'data': articles, 'b': None}),
  'a title each': lambda articles: '\n'.join(json.dumps({'data': [article]}) for article in articles),
  'a list': lambda articles: json.dumps([{'data': articles}]),
  'no article': lambda articles: json.dumps({'data': []}),
  'twice the key': lambda articles: '{"data": ' + json.dumps(articles) + ', "data": []}',
  'cut short': lambda articles: json.dumps({'data': articles})[:-20],
  'more after it': lambda articles: json.dumps({'data': articles}) + '1',
  'a trailing comma': lambda articles: json.dumps({'data': articles})[:-2] + ',]}',
  'a broken article': lambda articles: json.dumps({'data': [*articles[:4], {'title': 't'}]}),
  'no list': lambda articles: json.dumps({'data': 'text'}),
  'a number': lambda articles: '1',
  'nothing': lambda articles: '',
  'a record': lambda articles: json.dumps({'id': '1', 'question': 'q', 'context': 'c', 'answers': []}),
}


@pytest.mark.parametrize('shape', SHAPES)
def test_articles_read_one_at_a_time_are_those_of_the_whole_file(tmp_path, shape):
  path = tmp_path / 'a.json'
  path.write_text(squad_text(SHAPES[shape]), encoding='utf-8')
  found, error = outcome(questions.records(str(path)))
  expected, expected_error = outcome(questions.nested(files.records(str(path))))
  if shape == 'a title each':  # of the first line the number is not told
    found, expected = ([question for _, question in some] for some in (found, expected))
  assert error == expected_error and found[: len(expected)] == expected
  assert len(found) == len(expected) or error  # an error at the end is found there
  if shape == 'as it is published':
    assert len(found) == 27 and found[5][0] == f'{path}, question q12'
    second = tmp_path / 'b.json'
    second.write_text(squad_text(SHAPES['a title each']), encoding='utf-8')
    assert len(list(questions.records(f'{tmp_path}/*.json'))) == 54


def test_an_article_at_a_time_is_held(tmp_path, monkeypatch):
  """A file is not read as a whole where it is as published."""
  path = tmp_path / 'a.json'
  path.write_text(squad_text(SHAPES['the version last']), encoding='utf-8')
  monkeypatch.setattr('lmjax.data.sources.json_items.records', lambda name, file: pytest.fail('it was read as a whole'))
  assert len(list(itertools.islice(questions.records(str(path)), 30))) == 27
