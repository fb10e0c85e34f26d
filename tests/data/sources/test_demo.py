"""The demonstration data: sizes, balance, splits that share nothing, answers that stand where they are said to."""

import collections
import importlib.resources
import json
import re

import pytest

from lmjax.data.sources import demo

HELD_OUT = ('valid', 'test')
TASKS = ('classification', 'extractive_qa', 'summarization')


def words(text):
  return tuple(re.findall(r"[a-z0-9']+", text.lower()))


def split_of(key, task):
  """Key of a record -> the splits in which it occurs."""
  found = collections.defaultdict(set)
  for split in demo.SPLITS:
    for record in demo.records(task, split):
      found[key(record)].add(split)
  return found


def module_of_question(record):
  return record['id'].split(':')[1].split('.')[0]


def module_of_summary(record):
  return record['id'].split('.')[0]


@pytest.mark.parametrize('split, count', [('train', 600), ('valid', 200), ('test', 200)])
def test_sentences_are_balanced(split, count):
  records = demo.records('classification', split)
  assert collections.Counter(record['label'] for record in records) == {
    'positive': count // 2,
    'negative': count // 2,
  }
  assert all(set(record) == {'text', 'label'} and 6 <= len(record['text'].split()) <= 30 for record in records)


def test_no_sentence_occurs_twice():
  texts = [words(record['text']) for split in demo.SPLITS for record in demo.records('classification', split)]
  assert len(texts) == len(set(texts)) == 1_000


def test_no_template_is_shared_between_splits():
  split, grams, where = [], [], collections.defaultdict(list)
  for name in demo.SPLITS:
    for record in demo.records('classification', name):
      text = words(record['text'])
      grams.append({text[i : i + 4] for i in range(len(text) - 3)})
      split.append(name)
      for gram in grams[-1]:
        where[gram].append(len(split) - 1)
  shared = collections.Counter((a, b) for places in where.values() for a in places for b in places if a < b)
  for (a, b), count in shared.items():
    assert split[a] == split[b] or count <= 0.6 * min(len(grams[a]), len(grams[b]))


def test_every_answer_stands_where_its_record_has_it():
  identifiers = set()
  for split in demo.SPLITS:
    for record in demo.records('extractive_qa', split):
      (answer,) = record['answers']
      start, text = answer['answer_start'], answer['text']
      assert record['context'][start : start + len(text)] == text and text == text.strip()
      assert 1 <= len(text.split()) <= 12 and not record['is_impossible']
      around = record['context'][max(start - 1, 0) : start + 1], record['context'][start + len(text) - 1 :][:2]
      assert not any(re.fullmatch(r'\w\w', pair) for pair in around), f'{record["id"]}: cuts a word'
      assert record['question'].endswith('?')
      identifiers.add(record['id'])
  assert len(identifiers) == sum(len(demo.records('extractive_qa', split)) for split in demo.SPLITS)


@pytest.mark.parametrize('split', HELD_OUT)
def test_there_are_enough_held_out_questions_on_this_python(split):
  assert len(demo.records('extractive_qa', split)) >= 200


def test_a_question_that_this_python_cannot_answer_is_left_out(monkeypatch):
  contexts = demo._docstring_of()
  whole = demo.records('extractive_qa', 'valid')
  sources = {record['id'].split(':')[1] for record in whole}
  assert {'textwrap.wrap', 'textwrap.fill'} <= sources
  changed = {**contexts, 'textwrap.wrap': 'Rewritten.'}
  del changed['textwrap.fill']
  monkeypatch.setattr(demo, '_docstring_of', lambda: changed)
  left = demo.records('extractive_qa', 'valid')
  assert left == [r for r in whole if r['id'].split(':')[1] not in ('textwrap.wrap', 'textwrap.fill')]


def test_no_module_has_questions_or_summaries_in_two_splits():
  assert all(len(splits) == 1 for splits in split_of(module_of_question, 'extractive_qa').values())
  assert all(len(splits) == 1 for splits in split_of(module_of_summary, 'summarization').values())


def test_contexts_and_documents_are_of_one_split():
  assert all(len(splits) == 1 for splits in split_of(lambda r: r['context'], 'extractive_qa').values())
  assert all(len(splits) == 1 for splits in split_of(lambda r: r['document'], 'summarization').values())


def test_summaries_are_lines_and_there_are_enough():
  sizes = {split: len(demo.records('summarization', split)) for split in demo.SPLITS}
  assert sizes['train'] >= 1_400 and min(sizes[split] for split in HELD_OUT) >= 150
  for split in demo.SPLITS:
    for record in demo.records('summarization', split):
      assert set(record) == {'id', 'document', 'summary'}
      assert '\n' not in record['summary'] and len(record['summary']) >= 20 and len(record['document']) >= 80


def test_held_out_summaries_are_of_many_modules():
  for split in HELD_OUT:
    modules = collections.Counter(module_of_summary(record) for record in demo.records('summarization', split))
    assert len(modules) >= 10 and modules.most_common(1)[0][1] <= 0.6 * modules.total()


@pytest.mark.parametrize('task', TASKS)
def test_records_may_be_changed_by_the_caller(task):
  first = demo.records(task, 'test')
  first[0].clear()
  assert demo.records(task, 'test')[0]


def test_identity_is_json_and_names_what_the_records_depend_on():
  facts = {task: demo.identity(task) for task in TASKS}
  assert json.loads(json.dumps(facts)) == facts
  assert {task: 'file' in facts[task] for task in TASKS} == dict(zip(TASKS, (True, True, False)))
  assert {task: 'library' in facts[task] for task in TASKS} == dict(zip(TASKS, (False, True, True)))


def test_files_have_no_other_splits():
  folder = importlib.resources.files('lmjax.data.sources') / 'demo_records'
  for name in ('sentiment.jsonl', 'questions.jsonl'):
    lines = (folder / name).read_text(encoding='utf-8').splitlines()
    assert {json.loads(line)['split'] for line in lines} == set(demo.SPLITS)
