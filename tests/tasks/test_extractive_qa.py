"""Questions answered by spans: windows, offsets, n-best, no answer, the official format."""

import collections
import json
import lzma

import jax
import numpy as np
import pytest
import tokenizers

from lmjax import config as config_lib
from lmjax import evaluate, predict
from lmjax import train as train_lib
from lmjax.data.batches import windows
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.errors import ConfigError, DataError
from lmjax.scoring import squad
from lmjax.tasks import prepare
from lmjax.training import reopen
from tests.conftest import REAL_DATA, config_dict

DATA = REAL_DATA / 'qa'
FILES = ('squad_v1.1_dev_first24articles', 'squad_v2.0_dev_first24articles', 'policyqa_dev', 'cuad_qa')
NAMES = 'Ada Grace Alan Edsger Barbara Donald'.split()


def article(count: int, with_answers=True, first=0) -> dict:
  """Contexts in SQuAD's format: who wrote which number; every third question may have no answer."""
  paragraphs = []
  for i in range(first, first + count):
    name, other = NAMES[i % 6], NAMES[(i + 1) % 6]
    context = f'In the year {100 + i} the book was written by {name}. It was read by {other} in the year {200 + i}.'
    qas = [
      {
        'id': f'w{i}',
        'question': 'Who wrote the book?',
        'answers': [{'text': name, 'answer_start': context.index(name)}],
      }
    ]
    if not with_answers:
      qas.append({'id': f'n{i}', 'question': 'Who sold the car?', 'answers': [], 'is_impossible': True})
    paragraphs.append({'context': context, 'qas': qas})
  return {'version': '2.0', 'data': [{'title': 'books', 'paragraphs': paragraphs}]}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('qa')
  contents = {'plain': article(24), 'valid': article(40, first=50)}
  contents |= {'none': article(24, with_answers=False), 'none_valid': article(24, with_answers=False, first=50)}
  for name, found in contents.items():
    (folder / f'{name}.json').write_text(json.dumps(found), encoding='utf-8')
  return {path.stem: str(path) for path in folder.glob('*.json')}


def raw(train, valid, **leaves):
  """A model from random weights, small."""
  small = {
    'data.tokenizer.vocab_size': 320,
    'model.width': 32,
    'model.mlp_width': 64,
    'objective.max_question': 10,
    'objective.stride': 24,
    'objective.max_answer': 6,
    'train.epochs': None,
    'train.steps': 4,
    'writer.tensorboard': False,
  }
  argument = f'preset=mini_encoder,length=48,train={train},valid={valid}'
  return config_dict('configs/finetune_qa.py', argument, small | leaves)


def prepared(train, valid, **leaves):
  return prepare.prepare(config_lib.build(raw(train, valid, **leaves)))


@pytest.mark.parametrize('n', [0, 1, 5, 6, 7, 23])
@pytest.mark.parametrize('room,stride', [(6, 2), (6, 6), (5, 4)])
def test_windows_lose_no_run(n, room, stride):
  found = windows.windows(n, room, stride)
  assert all(0 <= low <= high <= n and high - low <= room for low, high in found)
  for size in range(1, room - stride + 2):
    for first in range(n - size + 1):
      assert any(low <= first and first + size <= high for low, high in found), (first, size, found)


def test_spans_of_characters():
  offsets = np.array([[0, 3], [3, 7], [7, 8]])
  assert windows.token_span(offsets, 4, 7) == (1, 1)
  assert windows.token_span(offsets, 2, 8) == (0, 2)
  assert windows.token_span(offsets, 8, 9) is None
  assert windows.character_span('The cat.', offsets, 1, 1) == (4, 7)


def gold_outputs(examples, length):
  """Logits that are sure of the right places."""
  start, end = (np.full((len(examples), length), -10.0, np.float32) for _ in range(2))
  for i, row in enumerate(examples.rows):
    start[i, row['places'][0]] = end[i, row['places'][1]] = 10.0
  return {'start': start, 'end': end}


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('whole', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gold_answers_survive_windows_and_offsets(name, whole, tmp_path):
  """Sent through windows, tokens and offsets, right answers are right, but for those that end inside a token."""
  file = DATA / f'{name}.json.xz'
  if not file.exists():
    pytest.skip(f'{file} is not there')
  with lzma.open(file) as opened:
    data = json.load(opened)
  data['data'] = data['data'][: None if whole else 12 if name == 'cuad_qa' else 4]
  used = tmp_path / f'{name}.json'
  used.write_text(json.dumps(data), encoding='utf-8')
  contexts = [p['context'] for a in data['data'] for p in a['paragraphs']]
  tokenizer = train_tokenizer(contexts, 8192 if whole else 1000, 2_000_000 if whole else 200_000)
  length, longest = (1024, 800) if whole else (256, 100)
  leaves = {'data.length': length, 'objective.max_answer': longest, 'objective.max_question': 40}
  leaves |= {'objective.stride': 100} | ({'objective.no_answer': True} if 'v2.0' in name else {})
  config = config_lib.build(raw('demo', used, **leaves))
  _, task, data = prepare.prepare(config, tokenizer)
  fit, counts = [], collections.Counter()
  for record in data.splits['valid'].records:
    if not record['answers']:
      fit.append(record)
      continue
    answer, context = record['answers'][0], record['context']
    counts['answered'] += 1
    begin = answer['answer_start']
    if context[begin : begin + len(answer['text'])] != answer['text']:
      counts['misplaced'] += 1
      continue
    [(_, offsets)] = tokenizer.encode_with_offsets([context])
    first, last = windows.token_span(offsets, begin, begin + len(answer['text']))
    low, high = windows.character_span(context, offsets, first, last)
    if context[low:high] != answer['text'].strip():
      counts['cut'] += 1
    elif last - first >= longest:
      counts['too long'] += 1
    else:
      fit.append(record)
  print(name, dict(counts))
  assert len(fit) > 50 and counts['cut'] < 0.05 * len(fit) and not (whole and counts['too long'])
  predictions = []
  for start in range(0, len(fit), 500):
    examples = task.rows_of(fit[start : start + 500])
    predictions += task.answers(examples, gold_outputs(examples, length))
  task.fit_threshold(fit, predictions)
  assert task.scores(fit, predictions)['exact_match'] == 1.0


def test_what_stands_in_question_and_context_has_a_segment_type_of_its_own(files):
  for types, highest in ((None, 0), (2, 1), (3, 2)):
    _, task, data = prepared(files['plain'], files['valid'], **{'model.segment_types': types})
    batch = next(iter(task.batches(data.splits['valid'])))
    assert batch['segment_types'].max() == highest
  row, tokens = batch['segment_types'][0], batch['inputs'][0].tolist()
  second = data.splits['valid'].rows[0]['second']
  size = len(data.splits['valid'].rows[0]['tokens'])
  asked = set(tokens[1 : second - 1])
  expected = [0] * second + [1 + (token in asked) for token in tokens[second : size - 1]] + [1]
  assert row.tolist() == expected + [0] * (len(row) - size)


@pytest.mark.parametrize('steps,every', [(0, 1), (1, 1), (50, 3)])  # 24 windows in batches of 8
def test_an_epoch_lies_between_two_evaluations_if_nothing_is_given(files, steps, every):
  leaves = {'train.steps': steps, 'data.batch_size': 8, 'optim.warmup_steps': 0}
  config, _, _ = prepared(files['plain'], files['valid'], **leaves)
  assert config.eval.every == config.checkpoint.every == every


def test_misplaced_answers_are_counted_and_found(files, tmp_path):
  broken = article(24)
  for paragraph in broken['data'][0]['paragraphs'][:5]:
    paragraph['qas'][0]['answers'][0]['answer_start'] += 3
  broken['data'][0]['paragraphs'][5]['qas'][0]['answers'][0]['text'] = 'Nobody'
  file = tmp_path / 'broken.json'
  file.write_text(json.dumps(broken), encoding='utf-8')
  _, task, data = prepared(file, files['valid'])
  assert '6 answers not where their record says' in task.describe(data)
  assert data.counts['train']['skipped'] == {'answer_not_in_context': 1}
  assert len(set(data.splits['train'].owners)) == 23
  row = data.splits['train'].rows[0]
  begin, end = windows.character_span(
    row['context'], row['offsets'], *(place - row['second'] + row['low'] for place in row['places'])
  )
  assert row['context'][begin:end] == NAMES[0]


def squad_file(folder, name, *records) -> str:
  """A file of records, each (context, what else a question has)."""
  paragraphs = [
    {'context': context, 'qas': [{'id': str(i), 'question': 'Which colour?', **more}]}
    for i, (context, more) in enumerate(records)
  ]
  (folder / name).write_text(json.dumps({'data': [{'title': 't', 'paragraphs': paragraphs}]}), encoding='utf-8')
  return str(folder / name)


RED = {'answers': [{'text': 'red', 'answer_start': 11}]}


@pytest.mark.parametrize('more', [{'answer': RED['answers'][0]}, {'answers': None}, {'is_impossible': False}, {}])
def test_labels_that_are_not_there_are_no_labels(files, tmp_path, more):
  """A misspelt key, a hidden test set: neither is a set of questions without an answer."""
  file = squad_file(tmp_path, 'hidden.json', *[('The cat is red.', more)] * 3)
  for train, valid in ((file, files['valid']), (files['plain'], file)):
    with pytest.raises(DataError, match=r'question 0: no answers; .*fields there: .*context, id.*, question'):
      prepared(train, valid)


@pytest.mark.parametrize('none', [[], [{'text': '', 'answer_start': -1}], [{'text': ' ', 'answer_start': 0}]])
def test_an_empty_answer_is_none(files, tmp_path, none):
  """As is_impossible is; it is trained on, counted, and right where the model answers nothing."""
  of_a_kind = [('The cat is red.', RED), ('The cow is old.', {'answers': none}), ('An ox.', {'is_impossible': True})]
  file = squad_file(tmp_path, 'few.json', *of_a_kind)
  config, task, data = prepared(file, files['valid'])
  assert config.objective.no_answer is True and '2 without an answer' in task.describe(data)
  assert data.counts['train']['no_answer'] == 2
  examples = data.splits['train']
  assert [len(record['answers']) for record in examples.records] == [1, 0, 0] and len(examples) == 3
  task.threshold = -np.inf
  nothing = [{'n_best': [], 'no_answer_score': 0.0}] * 3
  assert task.per_example(examples.records, nothing) == [0.0, 1.0, 1.0]
  with pytest.raises(DataError, match='none of 1 questions has an answer'):
    prepared(squad_file(tmp_path, 'none.json', of_a_kind[1]), files['valid'])


def test_a_window_has_the_first_right_answer_that_it_holds(files, tmp_path):
  between = ' '.join(f'Then it was {i} days.' for i in range(30))
  names = ('Alpha of the North', 'Beta of the South')
  paragraphs = []
  for i in range(6):  # so that the windows of some end inside an answer
    context = f'{"So " * i}the buyer is {names[0]}. {between} The buyer is {names[1]}. {between}'
    answers = [{'text': name, 'answer_start': context.index(name)} for name in names]
    paragraphs.append((context, {'id': str(i), 'answers': answers}))
  file = squad_file(tmp_path, 'two.json', *paragraphs)
  _, task, data = prepared(file, files['valid'], **{'objective.max_answer': 20, 'objective.stride': 12})
  found, cut = collections.Counter(), 0
  for row in data.splits['train'].rows:
    context, (first, last) = row['context'], (place - row['second'] + row['low'] for place in row['places'])
    held = context[
      row['offsets'][row['low'], 0] : row['offsets'][row['low'] + len(row['tokens']) - row['second'] - 2, 1]
    ]
    is_none = row['places'] == (row['null'], row['null'])
    said = None if is_none else context[slice(*windows.character_span(context, row['offsets'], first, last))]
    assert said == next((name for name in names if name in held), None)
    found[said] += 1
    cut += any(held.endswith(name[:size]) for name in names for size in range(2, len(name)))
  assert found[names[0]] and found[names[1]] and found[None] and cut, 'and one that ends inside an answer'


def test_questions_whose_answers_are_too_long_are_left_out_and_counted(files, tmp_path):
  long = 'one two three four five six seven eight nine ten eleven twelve'
  both = [{'text': 'red', 'answer_start': 11}, {'text': long, 'answer_start': 19}]
  context = f'The cat is red, at {long}.'
  file = squad_file(tmp_path, 'long.json', (context, {'answers': both[1:]}), (context, {'answers': both}))
  _, task, data = prepared(file, files['valid'])
  assert data.counts['train']['skipped'] == {'long_answer': 1} and '1 skipped (1 long answer)' in task.describe(data)
  assert set(data.splits['train'].owners) == {1} and data.counts['train']['windows'] == len(data.splits['train'])
  assert all(row['places'] != (row['null'], row['null']) for row in data.splits['train'].rows)


def test_a_context_is_tokenised_once(files, tmp_path, monkeypatch):
  """However many questions there are about it; its windows are cut when they are read, and share its offsets."""
  context = ' '.join(f'Part {i} of the deed is red.' for i in range(60))
  answers = [{'text': 'red', 'answer_start': context.index('red')}]
  file = squad_file(tmp_path, 'many.json', *[(context, {'answers': answers})] * 41)
  seen, encode = [], Tokenizer.encode_with_offsets
  monkeypatch.setattr(
    Tokenizer, 'encode_with_offsets', lambda self, texts: (seen.extend(texts), encode(self, texts))[1]
  )
  _, _, data = prepared(file, files['valid'])
  rows = data.splits['train'].rows
  assert seen.count(context) == 1 and len(rows) % 41 == 0 and len(rows) > 2 * 41
  assert rows[0]['offsets'] is rows[len(rows) - 1]['offsets']
  assert rows.table.nbytes == 24 * len(rows)


@pytest.mark.parametrize('dropped', ['\u0301', '\u0301\u0323', '\xad', '\u200d', '\x02'])
def test_an_answer_keeps_what_its_tokenizer_drops(dropped):
  """Offsets end before it: the best answer there is would be wrong."""
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({'[UNK]': 0, 'the': 1, 'cafe': 2, 'open': 3}, '[UNK]'))
  backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=True)
  backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  backend.add_special_tokens(['[PAD]', '[CLS]', '[SEP]', '[EOS]'])
  context, answer = f'The cafe{dropped} open the cafe{dropped}', f'cafe{dropped}'
  [(encoded, offsets)] = Tokenizer(backend).encode_with_offsets([context])
  assert encoded.ids.tolist() == [1, 2, 3, 1, 2] and offsets[1].tolist() == [4, 8]
  for place in (4, context.rindex('cafe')):
    span = windows.token_span(offsets, place, place + len(answer))
    begin, end = windows.character_span(context, offsets, *span)
    assert context[begin:end] == answer and squad.exact_match(context[begin:end], [answer]) == 1.0


def test_no_answer_and_its_threshold(files):
  config, task, data = prepared(files['none'], files['none_valid'])
  assert config.objective.no_answer is True
  examples = data.splits['valid']
  outputs = gold_outputs(examples, 48)
  predictions = task.answers(examples, outputs)
  task.fit_threshold(examples.records, predictions)
  scores = task.scores(examples.records, predictions)
  assert scores['exact_match'] == scores['has_answer_f1'] == scores['no_answer_f1'] == 1.0
  task.threshold = np.inf
  assert task.scores(examples.records, predictions)['no_answer_f1'] == 0.0
  task.load_calibration({'no_answer_threshold': 1.5})
  assert task.calibration == {'no_answer_threshold': 1.5}
  with pytest.raises(DataError, match='24 questions have no answer.*set it to True'):
    prepared(files['none'], files['none_valid'], **{'objective.no_answer': False})


def test_n_best_obeys_its_limits(files):
  _, task, data = prepared(files['plain'], files['valid'])
  examples = data.splits['valid']
  draw = np.random.default_rng(0)
  outputs = {name: draw.normal(size=(len(examples), 48)).astype(np.float32) for name in ('start', 'end')}
  for record, prediction in zip(examples.records, task.answers(examples, outputs)):
    assert 1 <= len(prediction['n_best']) <= task.objective.n_best
    scores = [answer['score'] for answer in prediction['n_best']]
    assert scores == sorted(scores, reverse=True)
    for answer in prediction['n_best']:
      assert record['context'][answer['start'] : answer['end']] == answer['text']
      assert 0 < len(task.tokenizer.encode(' ' + answer['text'])) <= task.objective.max_answer + 2


@pytest.mark.slow
@pytest.mark.parametrize('preset', ['mini_encoder', 'mini'])
def test_it_learns_and_answers(files, tmp_path, preset):
  """On both kinds of backbone; the answer is read off the context, not off its place in it."""
  config = raw(files['plain'], files['valid'], **{'train.steps': 60, 'optim.learning_rate': 3e-3, 'eval.every': 60})
  if preset == 'mini':
    config.model.attention = 'causal'
  results = train_lib.train(config, str(tmp_path / 'run'), log=lambda line: None, devices=jax.devices()[:1])
  assert results['metrics']['valid/f1'] > 0.9
  texts = json.loads((tmp_path / 'run/predictions.json').read_text())
  gold = {f'w{i}': [NAMES[i % 6]] for i in range(50, 90)}
  assert squad.scores(texts, gold)['f1'] == pytest.approx(results['metrics']['valid/f1'])
  page = (tmp_path / 'run/examples_valid.md').read_text()
  assert '>>>' in page and 'Right: Ada' in page
  trained = reopen.load_run(str(tmp_path / 'run'))
  assert evaluate.evaluate(trained, files['none_valid'])['test/f1'] < 0.6, 'every second question has no answer'
  context = 'In the year 117 the book was written by Grace. It was read by Alan in the year 217.'
  items = predict.read(trained.config, (context,), None, 'Who wrote the book?')
  [prediction] = predict.predict(trained, trained.task.rows_of(items))
  found = trained.task.report(prediction)
  assert found['answer'] == 'Grace' and context[found['start'] : found['end']] == 'Grace'


def test_squad_from_tfds_is_validated_on_its_validation_split_and_match_leaves_old_segments_behind():
  load = lambda argument: config_dict('configs/finetune_qa.py', argument, {})
  for train in ('tfds:squad/v2.0', 'tfds:squad/v2.0@train', 'tfds:squad/v2.0@train[:10%]'):
    assert load(f'train={train}').data.valid == 'tfds:squad/v2.0@validation'
  old, plain = 'embeddings/segment/*', load('')
  assert old in plain.init_from.take and old not in plain.init_from.drop
  match = load('match').init_from
  assert old in match.drop and old in match.fresh and old not in match.take


def test_a_row_without_room_for_an_answer_says_what_to_raise(files):
  """No stride would be small enough."""
  with pytest.raises(
    ConfigError, match='data.length .* leaves no room for an answer of 6 tokens next to a question of 40'
  ):
    config_lib.build(raw(files['plain'], files['valid'], **{'objective.max_question': 40}))


def test_one_context_cannot_be_parted(files, tmp_path):
  """All questions about it are on one side."""
  asked = [('The cat is red.', {'id': str(i), **RED}) for i in range(8)]
  config = raw(squad_file(tmp_path, 'one.json', *asked), files['valid'])
  config.data.valid, config.data.valid_fraction = None, 0.1
  with pytest.raises(DataError, match='all questions about a context are on one side: name a file with data.valid'):
    prepare.prepare(config_lib.build(config))


def test_stride_and_longest_answer_must_fit(files):
  with pytest.raises(config_lib.ConfigError, match='objective.stride = 31: must be 30 or less'):
    config_lib.build(raw(files['plain'], files['valid'], **{'objective.stride': 31}))
