"""Labelled examples from every kind of file, and what is said about files that are not as they should be."""

import collections
import gzip
import json
import lzma

import numpy as np
import pytest

from lmjax.data import records
from lmjax.data.config import FIELDS, RecordsConfig
from lmjax.data.labelled import values
from lmjax.data.sources import files, tfds
from lmjax.errors import ConfigError, DataError

ROWS = [('good film', 'positive'), ('bad "film', 'negative'), ('long\u2028line', 'positive')]


def config_of(train, **changes) -> RecordsConfig:
  """As it stands in a config, without a tokenizer."""
  rest = dict(valid=None, valid_fraction=0.5, test=None, fields=None, train_share=1.0, valid_examples=None)
  rest |= dict(tokenizer=None, length=32, batch_size=4, bad_text='raise')
  return RecordsConfig(train=str(train), **rest | changes)


def read(path, task='classification', fields=None, bad_text='raise', labelled=True):
  """(records of one source, what was counted)."""
  counts = collections.Counter()
  return list(records.read(str(path), 'train', task, fields, bad_text, counts, labelled)), dict(counts)


def json_lines(path, rows):
  path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows), encoding='utf-8')
  return path


def questions(*ids, version_2=False):
  """A file in SQuAD's format with one paragraph."""
  asked = [{'id': i, 'question': f'What is {i}?', 'answers': [{'text': 'north', 'answer_start': 4}]} for i in ids]
  if version_2:
    asked[-1] |= {'is_impossible': True, 'answers': [], 'plausible_answers': [{'text': 'the', 'answer_start': 0}]}
  return {'version': '2.0', 'data': [{'title': 't', 'paragraphs': [{'context': 'the north', 'qas': asked}]}]}


@pytest.mark.parametrize('name', ['a.jsonl', 'a.jsonl.gz', 'a.csv', 'a.csv.xz', 'a.tsv', 'a.tsv.gz'])
def test_every_kind_of_file_gives_the_same_records(tmp_path, name):
  if '.jsonl' in name:
    lines = [json.dumps({'text': text, 'label': label}, ensure_ascii=False) for text, label in ROWS]
  elif '.csv' in name:  # where a quote is written twice, between quotes
    lines = ['text,label', *('"' + text.replace('"', '""') + f'",{label}' for text, label in ROWS)]
  else:
    lines = ['text\tlabel', *(f'{text}\t{label}' for text, label in ROWS)]
  data = ('\n'.join(lines) + '\n').encode('utf-8')
  pack = gzip.compress if name.endswith('.gz') else lzma.compress if name.endswith('.xz') else bytes
  (tmp_path / name).write_bytes(pack(data))
  found, counts = read(tmp_path / name)
  assert [(record['text'], record['label']) for record in found] == ROWS
  assert [record['id'] for record in found] == ['0', '1', '2'] and not counts
  assert all(record['text_pair'] is None for record in found)


def test_a_text_may_hold_the_ends_of_lines_of_unicode(tmp_path):
  """U+2028 and U+0085 end a line for str.splitlines, and for no format that is read here."""
  text = 'one\u2028two\u2029three\x85four'
  file = json_lines(tmp_path / 'a.jsonl', [{'text': text, 'label': 'a'}, {'text': 'b', 'label': 'b'}])
  assert [record['text'] for record in read(file)[0]] == [text, 'b']
  (tmp_path / 'a.tsv').write_text(f'text\tlabel\n{text}\ta\nb\tb\n', encoding='utf-8')
  assert [record['text'] for record in read(tmp_path / 'a.tsv')[0]] == [text, 'b']


def test_a_csv_field_may_hold_line_ends_and_be_longer_than_the_csv_module_takes_by_itself(tmp_path):
  document = 'a section\nof law, ' * 20_000
  (tmp_path / 'a.csv').write_text(f'document,summary\n"{document}",short\n', encoding='utf-8')
  [record], _ = read(tmp_path / 'a.csv', 'summarization')
  assert record == {'id': '0', 'document': document, 'summary': 'short'}


def test_a_byte_order_mark_is_no_part_of_a_field(tmp_path):
  (tmp_path / 'a.csv').write_bytes(b'\xef\xbb\xbftext,label\ngood,positive\n')
  assert read(tmp_path / 'a.csv')[0][0]['text'] == 'good'


def test_files_of_a_glob_are_read_in_sorted_order(tmp_path):
  for name in ('b', 'c', 'a'):
    json_lines(tmp_path / f'{name}.jsonl', [{'text': f'of {name}', 'label': name}])
  assert [record['label'] for record in read(tmp_path / '*.jsonl')[0]] == ['a', 'b', 'c']


@pytest.mark.parametrize(
  'task, given, expected',
  [
    ('classification', {'sentence': 'a b', 'label': 1}, {'text': 'a b', 'label': '1'}),
    ('classification', {'review': 'a b', 'sentiment': 'good'}, {'text': 'a b', 'label': 'good'}),
    ('classification', {'text': 'a b', 'sentence': 'c', 'class': 'x'}, {'text': 'a b', 'label': 'x'}),
    ('summarization', {'article': 'a b', 'highlights': 'a'}, {'document': 'a b', 'summary': 'a'}),
    ('summarization', {'text': 'a b', 'summary': 'a'}, {'document': 'a b', 'summary': 'a'}),
  ],
)
def test_fields_are_found_by_their_usual_names(tmp_path, task, given, expected):
  [record], _ = read(json_lines(tmp_path / 'a.jsonl', [given]), task)
  assert {name: record[name] for name in expected} == expected


def test_fields_name_a_text_a_pair_and_a_label(tmp_path):
  file = json_lines(tmp_path / 'a.jsonl', [{'premise': 'p', 'hypothesis': 'h', 'gold': 'yes', 'text': 'other'}])
  [record], _ = read(file, fields=('premise', 'hypothesis', 'gold'))
  assert record == {'id': '0', 'text': 'p', 'text_pair': 'h', 'label': 'yes'}
  [record], _ = read(file, fields=('hypothesis', 'gold'))
  assert record == {'id': '0', 'text': 'h', 'text_pair': None, 'label': 'yes'}


@pytest.mark.parametrize('pair', [('text', 'text_pair'), ('sentence1', 'sentence2'), ('question', 'sentence')])
def test_a_pair_of_texts_must_be_named(tmp_path, pair):
  """One of the two would be left out without a word."""
  file = json_lines(tmp_path / 'a.jsonl', [{pair[0]: 'p', pair[1]: 'h', 'label': 'yes'}])
  both, alone = f'{pair[0]},{pair[1]},label', f'{pair[0]},label'
  with pytest.raises(DataError, match=f'must say whether both are read; name {both} or {alone}$'):
    read(file)
  assert read(file, fields=(*pair, 'label'))[0][0]['text_pair'] == 'h'


def test_what_was_rejected_when_it_was_labelled_is_left_out(tmp_path):
  """As Prodigy writes it; a field of that name may be read all the same."""
  rows = [{'text': 'a', 'label': 'x', 'answer': answer} for answer in ('accept', 'reject', 'ignore', 'yes')]
  file = json_lines(tmp_path / 'a.jsonl', rows)
  found, counts = read(file)
  assert len(found) == 2 and counts == {'rejected': 2}
  assert [r['label'] for r in read(file, fields=('text', 'answer'))[0]] == ['accept', 'reject', 'ignore', 'yes']


def test_other_fields_must_be_as_many_as_in_training(tmp_path):
  """A pair of which one text is read, or one text that becomes a pair, is scored as something else."""
  file = json_lines(tmp_path / 'a.jsonl', [{'p': 'x', 'h': 'y', 'label': 'z'}])
  for trained, given in ((('a', 'b', 'label'), ('p', 'label')), (('a', 'label'), ('p', 'h', 'label'))):
    with pytest.raises(ConfigError, match='must name as many as data.fields'):
      records.read_alone(file, config_of(file, fields=trained), 'classification', given, True)
    with pytest.raises(ConfigError, match='must name as many as data.fields'):
      records.read_alone(file, config_of(file, fields=trained), 'classification', given[:-1], False)


def test_a_fraction_of_numpy_is_cut_to_no_whole_number():
  """As TFDS gives the scores of STS-B."""
  value = lambda kind: values.value_of({'label': np.float32(2.5)}, 'label', 'label', 'x', 'raise', {}, kind)
  assert value('regression') == 2.5 and isinstance(value('regression'), float)
  with pytest.raises(DataError, match='is of type float32; the label must be a string; .* objective.target to number'):
    value('classification')


def test_flags_are_labels_as_json_writes_them(tmp_path):
  rows = [{'text': 'a', 'label': True}, {'text': 'b', 'label': False}, {'text': 'c', 'label': 1}]
  assert [r['label'] for r in read(json_lines(tmp_path / 'a.jsonl', rows))[0]] == ['true', 'false', '1']


def test_without_labels_the_texts_alone_are_read(tmp_path):
  file = json_lines(tmp_path / 'a.jsonl', [{'premise': 'p', 'hypothesis': 'h'}])
  [record], _ = read(file, fields=('premise', 'hypothesis'), labelled=False)
  assert record == {'id': '0', 'text': 'p', 'text_pair': 'h'}


def test_a_wrong_field_names_those_that_are_there(tmp_path):
  file = json_lines(tmp_path / 'a.jsonl', [{'body': 'a', 'stars': 3}])
  with pytest.raises(DataError, match=r"line 1: no field 'text'.*set data.fields; fields there: body, stars"):
    read(file)
  with pytest.raises(DataError, match=r"no field 'score', which is to hold the label.*fields there: body, stars"):
    read(file, fields=('body', 'score'))


@pytest.mark.parametrize('value, kind', [([1], 'list'), (None, 'NoneType'), (3, 'int'), ({'a': 1}, 'dict')])
def test_a_text_of_another_type_is_refused(tmp_path, value, kind):
  file = json_lines(tmp_path / 'a.jsonl', [{'text': value, 'label': 'x'}])
  with pytest.raises(DataError, match=f"line 1: field 'text' is of type {kind}; the text must be a string"):
    read(file)


def test_a_label_may_be_an_integer_but_not_a_fraction(tmp_path):
  assert read(json_lines(tmp_path / 'a.jsonl', [{'text': 'a', 'label': 0}]))[0][0]['label'] == '0'
  with pytest.raises(DataError, match="field 'label' is of type float"):
    read(json_lines(tmp_path / 'b.jsonl', [{'text': 'a', 'label': 0.5}]))


def test_a_hidden_label_of_tfds_is_refused_and_one_of_ones_own_is_a_label(tmp_path, monkeypatch):
  rows = [{'text': 'a', 'label': 1}, {'text': 'b', 'label': -1}]
  assert [record['label'] for record in read(json_lines(tmp_path / 'a.jsonl', rows))[0]] == ['1', '-1']
  made = [(f'tfds:glue/sst2@test, example {i}', row) for i, row in enumerate(rows)]
  monkeypatch.setattr(tfds, 'records', lambda path, fields: iter(made))
  with pytest.raises(DataError, match='example 1: label -1, which stands for a hidden one'):
    read('tfds:glue/sst2@test')


def test_an_answer_that_is_no_text_is_reported_or_skipped(tmp_path):
  text = {'data': [{'paragraphs': [{'context': 'the north', 'qas': [{'id': 'q', 'question': 'Where?'}]}]}]}
  for answer, message in [('no\ud800', 'lone surrogate'), ('north', 'OverflowError')]:
    start = 4 if 'surrogate' in message else float('inf')
    text['data'][0]['paragraphs'][0]['qas'][0]['answers'] = [{'text': answer, 'answer_start': start}]
    (tmp_path / 'a.json').write_text(json.dumps(text))
    with pytest.raises(DataError, match=message):
      read(tmp_path / 'a.json', 'extractive_qa')
    if 'surrogate' in message:
      assert read(tmp_path / 'a.json', 'extractive_qa', bad_text='skip')[0] == []


def test_a_file_read_alone_is_whole(tmp_path):
  config = config_of('demo', valid='demo', valid_fraction=None, fields=('a', 'b', 'label'))
  found, said = records.read_alone(
    str(json_lines(tmp_path / 'a.jsonl', [{'a': 'x', 'b': 'y'}, {'a': ' ', 'b': 'y'}])),
    config,
    'classification',
    None,
    False,
  )
  assert [(record['id'], record['text'], record['text_pair']) for record in found] == [('0', 'x', 'y')]
  assert said == '1 skipped (1 empty text)'
  file = str(json_lines(tmp_path / 'b.jsonl', [{'c': 'x', 'd': 'y'}]))
  assert records.read_alone(file, config, 'classification', ('c', 'd'), False)[0][0]['text_pair'] == 'y'
  with pytest.raises(ConfigError, match='--fields = c: must name text, label or text, text_pair, label'):
    records.read_alone(file, config, 'classification', ('c',), True)
  (tmp_path / 'c.csv').write_text('text,label\n')
  with pytest.raises(DataError, match='c.csv: no example'):
    records.read_alone(str(tmp_path / 'c.csv'), config, 'classification', None, True)
  (tmp_path / 'd.json').write_text(json.dumps(questions('q', 'q')))
  with pytest.raises(DataError, match="d.json: 2 questions have the id 'q'"):
    records.read_alone(str(tmp_path / 'd.json'), config_of('demo', fields=None), 'extractive_qa', None, True)


def test_a_file_that_is_no_table_is_refused_in_one_printable_line(tmp_path):
  (tmp_path / 'a.tsv').write_bytes(b'\xff\x00\x07 PK' + b'x' * 500 + b'\tlabel\nno\n')
  with pytest.raises(DataError, match='line 2: 1 fields') as refused:
    read(tmp_path / 'a.tsv')
  assert str(refused.value).isprintable() and len(str(refused.value)) < 300


@pytest.mark.parametrize('name, separator', [('a.csv', ','), ('a.tsv', '\t')])
def test_a_ragged_row_is_refused_with_its_line(tmp_path, name, separator):
  for row, count in ((['one', 'x', 'more'], 3), (['one'], 1)):
    lines = [['text', 'label'], ['fine', 'x'], row]
    (tmp_path / name).write_text('\n'.join(map(separator.join, lines)) + '\n')
    with pytest.raises(DataError, match=rf'line 3: {count} fields; each row must have as many.*\(text, label\)'):
      read(tmp_path / name)


@pytest.mark.parametrize(
  'name, text, message',
  [
    ('a.jsonl', '{"text": ', 'line 1: broken JSON'),
    ('a.jsonl', '["text"]', 'line 1: a JSON list; each line must be one object'),
    ('a.jsonl', '{"text": "a", "label": "x", "label": "y"}', "line 1: broken JSON .key 'label' stands there twice"),
    ('a.json', '[{"text": "a", "label": "x", "label": "y"}]', "broken JSON .key 'label' stands there twice"),
    ('a.json', '[1]', 'item 1: a JSON int; each item must be one object'),
    ('a.json', '"text"', 'a JSON str; the file must be one object'),
    ('a.json', '{"text": "a", "label": "x"}\n{"text"', 'line 2: broken JSON'),
    ('a.csv', 'text,label,text\na,x,b\n', "line 1: field 'text' stands there twice"),
    ('a.csv', 'text,label\na,x\n"b,x\nc,"x"\nd,x\n', 'line 3: its row is broken in line 4 .*; a quote that opens'),
    ('a.csv', 'text,label\na,x\n"b,x\nc,x\nd,x\n', 'line 3: its row is broken in line 5 .*; a quote that opens'),
    ('a.csv', 'text;label\na;x, y\n', "line 2: 2 fields; .* parted by ';': save it with commas, or tabs in .tsv"),
    ('a.tsv', '\ufefftext\tlabel\n', 'is UTF-16, by its first bytes; text must be UTF-8; save it as that'),
    ('a.xml', '<a/>', 'unknown ending; a source must end in one of .jsonl'),
    ('a.csv.gz', 'text,label', 'a compressed file must be whole'),
  ],
)
def test_a_broken_file_is_named(tmp_path, name, text, message):
  (tmp_path / name).write_text(text, encoding='utf-16-le' if text.startswith('\ufeff') else 'utf-8')
  with pytest.raises(DataError, match=message) as caught:
    read(tmp_path / name)
  assert name in str(caught.value)


@pytest.mark.parametrize('shown', [json.dumps, lambda rows: '\n'.join(map(json.dumps, rows)) + '\n'])
def test_a_json_file_is_a_list_of_objects_or_has_one_in_each_line(tmp_path, shown):
  rows = [{'text': f'text {i}', 'label': i % 2} for i in range(3)]
  (tmp_path / 'a.json').write_text(shown(rows))
  assert [(record['text'], record['label']) for record in read(tmp_path / 'a.json')[0]] == [
    ('text 0', '0'),
    ('text 1', '1'),
    ('text 2', '0'),
  ]


def test_a_quote_inside_a_field_is_text(tmp_path):
  # with columns without a name, as spreadsheets leave them
  (tmp_path / 'a.csv').write_text('text,label,,\na 5" pipe,x,,\n"she said ""no"", twice",x,,\n')
  assert [record['text'] for record in read(tmp_path / 'a.csv')[0]] == ['a 5" pipe', 'she said "no", twice']


def test_a_missing_file_and_an_empty_glob(tmp_path):
  with pytest.raises(DataError, match='there is no such file'):
    read(tmp_path / 'a.csv')
  with pytest.raises(DataError, match='the glob matches no file'):
    read(tmp_path / '*.csv')


@pytest.mark.parametrize('text', ['', 'text,label\n', 'text,label\n" ",x\n'])
def test_a_file_without_an_example_is_refused(tmp_path, text):
  (tmp_path / 'a.csv').write_text(text)
  with pytest.raises(DataError, match='data.train = .*a.csv: no example'):
    records.load(config_of(tmp_path / 'a.csv', valid='demo', valid_fraction=None), 'classification', 0)


def test_examples_without_text_are_counted(tmp_path):
  file = json_lines(tmp_path / 'a.jsonl', [{'text': ' \n', 'label': 'x'}, {'text': 'a', 'label': 'x'}])
  found, counts = read(file)
  assert [record['text'] for record in found] == ['a']
  assert counts == {'empty_text': 1}


@pytest.mark.parametrize('name', ['a.tsv', 'a.csv', 'a.jsonl'])
def test_text_that_is_not_utf8_by_policy(tmp_path, name):
  lines = {
    'a.tsv': b'text\tlabel\ncaf\xe9\tx\nfine\ty\n',
    'a.csv': b'text,label\ncaf\xe9,x\nfine,y\n',
    'a.jsonl': b'{"text": "caf\xe9", "label": "x"}\n{"text": "fine", "label": "y"}\n',
  }
  (tmp_path / name).write_bytes(lines[name])
  with pytest.raises(DataError, match="text must be UTF-8; fix it, or set data.bad_text to 'replace' or 'skip'"):
    read(tmp_path / name)
  replaced, counts = read(tmp_path / name, bad_text='replace')
  assert [record['text'] for record in replaced] == ['caf\ufffd', 'fine'] and counts == {'replaced': 1}
  skipped, counts = read(tmp_path / name, bad_text='skip')
  assert [record['text'] for record in skipped] == ['fine'] and counts == {'bad_text': 1}


@pytest.mark.parametrize('name', ['a.json', 'a.json.xz'])
def test_squad(tmp_path, name):
  data = json.dumps(questions('q1', 'q2', version_2=True)).encode()
  (tmp_path / name).write_bytes(lzma.compress(data) if name.endswith('.xz') else data)
  first, second = read(tmp_path / name, 'extractive_qa')[0]
  assert first['id'] == 'q1' and first['question'] == 'What is q1?' and first['context'] == 'the north'
  assert first['answers'] == [{'text': 'north', 'answer_start': 4}]
  assert second['answers'] == []  # without an answer; plausible ones are none


def test_questions_as_lines(tmp_path):
  """A record a question, with the answers as TFDS has them."""
  row = {'id': 'q', 'question': 'Where?', 'context': 'the north'}
  row['answers'] = {'text': ['north'], 'answer_start': [4]}
  [record], _ = read(json_lines(tmp_path / 'a.jsonl', [row]), 'extractive_qa')
  assert record == {**row, 'answers': [{'text': 'north', 'answer_start': 4}]}


ASKED = {'id': '1', 'question': 'q', 'context': 'c'}


@pytest.mark.parametrize(
  'broken, message',
  [
    ({'data': [{'title': 'no paragraphs'}]}, "not in SQuAD's format .KeyError: 'paragraphs'"),
    ({'data': 'text'}, "not in SQuAD's format .TypeError"),
    ({'data': [{'paragraphs': [{'context': 'c', 'qas': [{'question': 'q'}]}]}]}, "KeyError: 'id'"),
    ({'id': '1', 'question': 'q', 'context': 'c', 'answers': [{'text': 'c'}]}, "answers: KeyError: 'answer_start'"),
    ({'id': '1', 'question': 'q', 'context': 'c', 'answers': [{'text': 1, 'answer_start': 0}]}, 'answers: TypeError'),
    (ASKED | {'answers': {'text': 'c', 'answer_start': [0]}}, 'answers: ValueError: .* not two lists of one length'),
    (ASKED | {'answers': {'text': ['c', 'c'], 'answer_start': [0]}}, 'not two lists of one length'),
    (ASKED | {'answers': {'text': ['c'], 'answer_start': '0'}}, 'not two lists of one length'),
    (ASKED | {'answers': {'text': ['c'], 'answer_start': []}}, 'not two lists of one length'),
    (ASKED | {'answers': {'text': ['c'], 'answer_start': 0}}, 'answers: TypeError'),
    (ASKED | {'answers': [{'text': 'c', 'answer_start': 0}], 'is_impossible': 'TRUE'}, 'is_impossible is true, and'),
    ({'id': '1', 'context': 'c', 'answers': []}, "no field 'question'.*fields there: answers, context, id"),
  ],
)
def test_broken_questions(tmp_path, broken, message):
  (tmp_path / 'a.json').write_text(json.dumps(broken))
  with pytest.raises(DataError, match=message):
    read(tmp_path / 'a.json', 'extractive_qa')


def test_ids_of_questions_must_differ(tmp_path):
  for name, ids in (('a.json', ['q1', 'q2', 'q2']), ('b.json', ['q3', 'q4'])):
    (tmp_path / name).write_text(json.dumps(questions(*ids)))
  options = dict(valid=str(tmp_path / 'a.json'), valid_fraction=None)
  with pytest.raises(DataError, match="data.valid: 2 questions have the id 'q2'"):
    records.load(config_of(tmp_path / 'b.json', **options), 'extractive_qa', 0)


@pytest.mark.parametrize('task', ['classification', 'extractive_qa', 'summarization'])
def test_the_demo_has_every_split(task):
  config = config_of('demo', valid='demo', valid_fraction=None, test='demo')
  found = records.load(config, task, 0)
  assert found.splits.keys() == {'train', 'valid', 'test'} and all(found.splits.values())
  roles = {*FIELDS[task][0], 'id'}
  assert all(roles <= record.keys() for items in found.splits.values() for record in items)


@pytest.fixture
def many(tmp_path):
  """200 different examples; every tenth stands there twice."""
  rows = [{'text': f'text {i}', 'label': 'ab'[i % 2]} for i in range(200)]
  return json_lines(tmp_path / 'many.jsonl', rows + rows[::10])


def test_valid_fraction_is_by_text_and_leaves_nothing_in_both(many):
  found = records.load(config_of(many, valid_fraction=0.25), 'classification', 0).splits
  train, valid = ({record['text'] for record in found[split]} for split in ('train', 'valid'))
  assert not train & valid and len(train | valid) == 200
  assert 30 <= len(valid) <= 70  # 50 expected; 4 standard deviations are 25
  other = records.load(config_of(many, valid_fraction=0.25), 'classification', 1).splits
  assert other['valid'] == found['valid'], 'the validation set depends on the seed'
  larger = records.load(config_of(many, valid_fraction=0.5), 'classification', 0).splits
  assert valid < {record['text'] for record in larger['valid']}


def test_questions_about_one_context_are_held_out_together(tmp_path):
  answers = [{'text': 'text', 'answer_start': 0}]
  rows = [{'id': str(i), 'question': f'q {i}?', 'context': f'text {i // 4}', 'answers': answers} for i in range(200)]
  path = json_lines(tmp_path / 'many.jsonl', rows)
  found = records.load(config_of(path, valid_fraction=0.25), 'extractive_qa', 0).splits
  train, valid = ({record['context'] for record in found[split]} for split in ('train', 'valid'))
  assert not train & valid and len(train | valid) == 50 and len(valid) > 3


def test_shares_of_the_training_examples_are_nested(many):
  def texts(share, seed=0):
    config = config_of(many, train_share=share, valid_fraction=0.2)
    return [record['id'] for record in records.load(config, 'classification', seed).splits['train']]

  whole = texts(1.0)
  small, middle = texts(0.1), texts(0.4)
  assert len(small) == round(0.1 * len(whole)) and len(middle) == round(0.4 * len(whole))
  assert set(small) < set(middle) < set(whole)
  assert middle == sorted(middle, key=int) and whole == sorted(whole, key=int), 'not in the order of the file'
  assert texts(0.1, seed=1) != small
  assert len(texts(1e-6)) == 1


def test_training_examples_that_stand_in_another_split_are_dropped_and_counted(tmp_path, many):
  valid = json_lines(tmp_path / 'valid.jsonl', [{'text': 'text 0', 'label': 'b'}, {'text': 'new', 'label': 'a'}])
  test = json_lines(tmp_path / 'test.jsonl', [{'text': 'text 1', 'label': 'a'}])
  config = config_of(many, valid=str(valid), valid_fraction=None, test=str(test))
  found = records.load(config, 'classification', 0)
  left = {record['text'] for record in found.splits['train']}
  assert not left & {'text 0', 'text 1'} and len(left) == 198
  assert len(found.splits['valid']) == 2 and len(found.splits['test']) == 1
  # text 0 stands there twice, and with another label it is the same example
  assert found.counts == {
    'train': {'examples': 217, 'skipped': {}, 'duplicates': 3},
    'valid': {'examples': 2, 'skipped': {}},
    'test': {'examples': 1, 'skipped': {}},
  }


def test_a_pair_is_the_same_example_only_with_the_same_second_text(tmp_path):
  rows = [{'a': 'p', 'b': 'one', 'c': 'x'}, {'a': 'p', 'b': 'two', 'c': 'y'}]
  train, valid = json_lines(tmp_path / 'a.jsonl', rows), json_lines(tmp_path / 'b.jsonl', rows[:1])
  config = config_of(train, valid=str(valid), valid_fraction=None, fields=('a', 'b', 'c'))
  assert [record['text_pair'] for record in records.load(config, 'classification', 0).splits['train']] == ['two']


def test_valid_examples_are_a_sample_that_no_seed_changes(many):
  def ids(count, seed=0):
    config = config_of('demo', valid=str(many), valid_fraction=None, valid_examples=count)
    return [int(record['id']) for record in records.load(config, 'classification', seed).splits['valid']]

  few, more = ids(3), ids(20)
  assert len(few) == 3 and len(more) == 20 and set(few) < set(more)
  assert more == sorted(more), 'not in the order of the file'
  assert ids(20, seed=1) == more
  assert more != list(range(20)), 'the first: files are often sorted by label'
  assert ids(None) == ids(1000) == list(range(220))


def test_what_is_left_out_of_the_validation_sample_is_not_trained_on(many):
  config = config_of(many, valid=str(many), valid_fraction=None, valid_examples=3)
  with pytest.raises(DataError, match='data.train = .*: each example stands in another split as well'):
    records.load(config, 'classification', 0)


def test_a_share_that_holds_nothing_out_is_refused_by_its_name(many):
  with pytest.raises(DataError, match='data.valid_fraction = 1e-09: no example'):
    records.load(config_of(many, valid_fraction=1e-9), 'classification', 0)


def test_facts_change_with_whatever_changes_the_training_examples(tmp_path, many):
  def facts(**changes):
    return json.dumps(records.load(config_of(many, **changes), 'classification', 0).contents, sort_keys=True)

  first = facts()
  assert facts() == first
  assert facts(valid_fraction=0.4) != first
  assert facts(train_share=0.5) != first
  assert facts(fields=('text', 'label')) != first
  assert facts(bad_text='skip') != first
  with open(many, 'a', encoding='utf-8') as out:
    out.write('{"text": "one more", "label": "a"}\n')
  assert facts() != first


def test_identity_is_of_the_content_not_of_the_folder(tmp_path):
  for folder in ('a', 'b'):
    (tmp_path / folder).mkdir()
    json_lines(tmp_path / folder / 'x.jsonl', [{'text': 'a', 'label': 'b'}])
  one, two = (files.identity(str(tmp_path / folder / 'x.jsonl')) for folder in ('a', 'b'))
  assert one == two
