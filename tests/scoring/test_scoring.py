"""Scores against definitions written out, hand-worked cases and the libraries they name."""

import collections
import itertools
import random
import string

import numpy as np
import pytest

from lmjax.reports import pictures
from lmjax.scoring import classification, generation, squad
from lmjax.scoring.bootstrap import bootstrap

WORDS = ('the', 'a', 'cat', 'cats', 'sat', 'sitting', 'on', 'mats', 'mat.', 'Running', 'U.S.', 'law!', '(an)', 'No.')


def random_text(draw, most):
  return ' '.join(draw.choice(WORDS) for _ in range(draw.randint(0, most)))


def random_pairs(seed, count, most=12):
  draw = random.Random(seed)
  return [random_text(draw, most) for _ in range(count)], [random_text(draw, most) for _ in range(count)]


# Classification


def brute_macro_f1(gold, predicted):
  found = []
  for label in set(gold) | set(predicted):
    hits = sum(g == p == label for g, p in zip(gold, predicted))
    precision = hits / predicted.count(label) if label in predicted else 0.0
    recall = hits / gold.count(label) if label in gold else 0.0
    found.append(2 * precision * recall / (precision + recall) if hits else 0.0)
  return sum(found) / len(found)


@pytest.mark.parametrize('seed', range(20))
def test_classification_scores_are_their_definitions(seed):
  draw = random.Random(seed)
  labels = draw.sample(range(6), draw.randint(1, 6))  # some classes never occur
  gold, predicted = ([draw.choice(labels) for _ in range(15)] for _ in range(2))
  matrix = classification.confusion(gold, predicted, classes=6)
  assert matrix.dtype == np.int64
  for g, p in itertools.product(range(6), repeat=2):
    assert matrix[g, p] == list(zip(gold, predicted)).count((g, p))
  found = classification.scores(matrix)
  assert found['accuracy'] == pytest.approx(np.mean(np.array(gold) == np.array(predicted)))
  assert found['majority_accuracy'] == collections.Counter(gold).most_common(1)[0][1] / len(gold)
  assert found['macro_f1'] == pytest.approx(brute_macro_f1(gold, predicted))


def test_classification_errors():
  with pytest.raises(ValueError, match='as many'):
    classification.confusion([0], [0, 1], classes=2)
  with pytest.raises(ValueError, match=r'predicted labels from -1 to 0: must lie in \[0, 2\)'):
    classification.confusion([0, 1], [0, -1], classes=2)
  with pytest.raises(ValueError, match='gold labels from 2 to 2'):
    classification.confusion([2], [0], classes=2)
  with pytest.raises(ValueError, match='no example'):
    classification.scores(classification.confusion([], [], classes=3))


def test_confusion_is_shown():
  matrix = classification.confusion([0, 0, 1], [0, 1, 1], classes=2)
  assert classification.confusion_markdown(matrix, ['no', 'a|b']) == (
    '| gold \\ predicted | no | a\\|b |\n| --- | ---: | ---: |\n| no | 1 | 1 |\n| a\\|b | 0 | 1 |\n'
  )
  for classes in (2, 30):
    matrix = np.zeros((classes, classes), np.int64)  # no division by the empty rows
    assert pictures.plot_confusion(matrix, [f'class {i}' for i in range(classes)]).startswith(b'\x89PNG')


# SQuAD


@pytest.mark.parametrize(
  'prediction,answers,exact,f1',
  [
    ('The Cat', ['cat'], 1, 1),  # articles and case
    ('theatre', ['atre'], 0, 0),  # an article inside a word is none
    ('U.S.A.', ['USA'], 1, 1),  # punctuation goes without leaving a space
    ('mother-in-law', ['mother in law'], 0, 0),
    ('a big, red  dog', ['red dog'], 0, 4 / 5),
    ('red red dog', ['red dog dog'], 0, 2 / 3),  # repeated words count as often as in both
    ('café “Münch”', ['café “münch”'], 1, 1),
    ('naïve “cat”', ['naïve cat'], 0, 1 / 2),  # other than ASCII quotes are letters
    ('İstanbul', ['i̇stanbul'], 1, 1),
    ('one two', ['three', 'one', 'one two three four'], 0, 2 / 3),  # the best of several answers
    ('', ['cat'], 0, 0),
    ('', [], 1, 1),
    ('', [''], 1, 1),
    ('cat', [], 0, 0),
    ('the', ['a', 'cat'], 0, 0),  # an answer of which nothing is left does not count
    ('the', ['a'], 1, 1),
  ],
)
def test_squad_cases_worked_by_hand(prediction, answers, exact, f1):
  assert squad.exact_match(prediction, answers) == exact
  assert squad.f1(prediction, answers) == pytest.approx(f1)


def test_squad_means():
  gold = {'1': ['a red dog', 'dog'], '2': ['cat']}
  found = squad.scores({'1': 'Dog!', '2': 'cat food', 'other': 'x'}, gold)
  assert found == pytest.approx({'exact_match': 1 / 2, 'f1': (1 + 2 / 3) / 2})
  found = squad.scores({'1': '', '2': 'cat', '3': '', '4': 'x', '5': ''}, gold | {'3': [], '4': [], '5': ['']})
  assert found == pytest.approx(
    {
      'exact_match': 3 / 5,
      'f1': 3 / 5,
      'has_answer_exact_match': 1 / 2,
      'has_answer_f1': 1 / 2,
      'no_answer_exact_match': 2 / 3,
      'no_answer_f1': 2 / 3,
    }
  )
  assert set(squad.scores({'3': ''}, {'3': []})) == {'exact_match', 'f1', 'no_answer_exact_match', 'no_answer_f1'}


def test_squad_errors():
  with pytest.raises(ValueError, match='no question'):
    squad.scores({}, {})
  with pytest.raises(ValueError, match='2 of 2 questions lack a prediction; the first is 7'):
    squad.scores({}, {'7': ['x'], '8': []})
  with pytest.raises(ValueError, match='1 of 1 questions lack a no-answer score'):
    squad.best_threshold({'7': 'x'}, {}, {'7': ['x']})
  with pytest.raises(ValueError, match='question 7: its no-answer score is nan'):
    squad.best_threshold({'7': 'x'}, {'7': float('nan')}, {'7': ['x']})


def random_questions(seed, levels):
  draw = random.Random(seed)
  ids = [str(i) for i in range(25)]
  gold = {q: [random_text(draw, 4) or 'x' for _ in range(draw.randint(0, 2))] for q in ids}
  predictions = {q: draw.choice([random_text(draw, 4), *gold[q]]) for q in ids}
  return predictions, {q: draw.randint(-levels, levels) / 4 for q in ids}, gold


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('levels', [3, 1000])
def test_the_threshold_is_the_best_of_all(seed, levels):
  predictions, no_answer, gold = random_questions(seed, levels)
  threshold, found = squad.best_threshold(predictions, no_answer, gold)

  def at(threshold):
    return squad.scores({q: '' if no_answer[q] > threshold else predictions[q] for q in gold}, gold)

  assert found == at(threshold)
  assert found['f1'] == pytest.approx(max(at(t)['f1'] for t in [min(no_answer.values()) - 1, *no_answer.values()]))


def test_the_threshold_may_answer_nothing_or_everything():
  gold = {'1': [], '2': ['cat']}
  threshold, found = squad.best_threshold({'1': 'x', '2': 'dog'}, {'1': -5.0, '2': -4.0}, gold)
  assert -5.001 < threshold < -5 and found['f1'] == 0.5
  threshold, found = squad.best_threshold({'1': '', '2': 'cat'}, {'1': -5.0, '2': -4.0}, gold)
  assert threshold == -4 and found['f1'] == 1


@pytest.mark.slow
@pytest.mark.parity
def test_squad_scores_are_those_of_torchmetrics():
  """Its `squad` is the official v1.1 script; texts that normalise to nothing, where v2.0 differs, are left out."""
  from torchmetrics.functional.text import squad as reference

  for seed in range(50):
    predictions, _, gold = random_questions(seed, levels=1)
    gold = {q: [text + ' x' for text in answers] for q, answers in gold.items() if answers}
    # half of the predictions share the word
    predictions = {q: predictions[q] + (' x' if i % 2 else ' y') for i, q in enumerate(gold)}
    expected = reference(
      [{'prediction_text': text, 'id': q} for q, text in predictions.items()],
      [{'answers': {'text': a, 'answer_start': [0] * len(a)}, 'id': q} for q, a in gold.items()],
    )
    found = squad.scores(predictions, gold)
    assert found['exact_match'] == pytest.approx(float(expected['exact_match']) / 100, abs=1e-6)
    assert found['f1'] == pytest.approx(float(expected['f1']) / 100, abs=1e-6)
    assert 0 < found['f1'] < 1


# Generation


@pytest.mark.parametrize(
  'text,expected',
  [
    ('', []),
    ('One. Two! Three? Four', ['One.', 'Two!', 'Three?', 'Four']),
    ('No stop here\n\n  and here. yes', ['No stop here', 'and here. yes']),
    ('See Sec. 2 of the U.S. Code, No. 5. It ends.', ['See Sec. 2 of the U.S. Code, No. 5.', 'It ends.']),
    ('Ask (e.g. Ann) or Mr. J. Doe. 7 came.', ['Ask (e.g. Ann) or Mr. J. Doe.', '7 came.']),
    ('"Go." He said “Go.” “Why?” 3.5 is no end.', ['"Go."', 'He said “Go.”', '“Why?”', '3.5 is no end.']),
    ('Élan. Über alles.', ['Élan.', 'Über alles.']),
    ('Spaces.   \t Kept  inside.', ['Spaces.', 'Kept  inside.']),
    ('法院驳回上诉。“维持原判。”结束！好', ['法院驳回上诉。', '“维持原判。”', '结束！', '好']),
    ('अपील खारिज। आदेश बरकरार।', ['अपील खारिज।', 'आदेश बरकरार।']),
    ('حكمت المحكمة. ثم استأنف هو؟ نعم', ['حكمت المحكمة.', 'ثم استأنف هو؟', 'نعم']),
  ],
)
def test_sentences(text, expected):
  assert generation.sentences(text) == expected


def test_no_character_is_lost_between_sentences():
  for text in random_pairs(1, 50, most=40)[0]:
    assert ''.join(generation.sentences(text)).replace(' ', '') == text.replace(' ', '')


def test_lead():
  text = 'One here. Two here.\nThree'
  assert generation.lead(text, 2) == 'One here.\nTwo here.'
  assert generation.lead(text, 9) == 'One here.\nTwo here.\nThree'
  assert generation.lead('', 3) == ''


def test_rouge_is_the_librarys_on_sentences_of_a_line_each():
  from rouge_score import rouge_scorer

  predictions, references = random_pairs(2, 30)
  scorer = rouge_scorer.RougeScorer(generation.ROUGE_TYPES, use_stemmer=True)
  lines = lambda text: '\n'.join(generation.sentences(text))
  results = [scorer.score(lines(reference), lines(text)) for text, reference in zip(predictions, references)]
  each, found = (f(predictions, references) for f in (generation.rouge_each, generation.rouge))
  for name in generation.ROUGE_TYPES:
    np.testing.assert_allclose(each[name], [result[name].fmeasure for result in results])
    assert found[name] == pytest.approx(np.mean([result[name].fmeasure for result in results]))
  assert found['rougeLsum'] != found['rougeL']


def test_rouge_worked_by_hand():
  found = generation.rouge(['The cats sat. On mats'], ['On a mat the cat sits'])
  # stems: the cat sat on mat | on a mat the cat sit; sentence by sentence, 'the cat' and 'on mat' are both in order
  assert found == pytest.approx({'rouge1': 8 / 11, 'rouge2': 2 / 9, 'rougeL': 4 / 11, 'rougeLsum': 8 / 11})


@pytest.mark.parametrize(
  'text',
  [
    'Суд отклонил иск.',
    'न्यायालय ने अपील खारिज की।',
    '法院驳回上诉。',
    'ศาลยกฟ้อง',
    'المحكمة رفضت الدعوى',
    'Größe über alles',
  ],
)
def test_rouge_of_any_script_against_itself_is_one(text):
  assert generation.rouge([text], [text]) == dict.fromkeys(generation.ROUGE_TYPES, 1.0)


def test_rouge_counts_words_of_other_scripts():
  """A word where there are spaces, a character where there are none, composed or not, and never a part of a word."""
  rouge1 = lambda *pair: generation.rouge(*([text] for text in pair))['rouge1']
  assert rouge1('Суд отклонил иск', 'суд удовлетворил ИСК') == pytest.approx(2 / 3)
  assert rouge1('法院驳回', '法院支持') == 0.5
  assert rouge1('über', 'ber') == rouge1('naïve', 'na ve') == rouge1('क', 'की') == 0.0
  assert rouge1('cafe\u0301', 'CAFÉ') == 1.0
  assert generation.Words().tokenize('ที่นี่') == ['ที่', 'นี่']


def test_bleu_of_one_short_text_counts_the_n_grams_that_it_has():
  """Of a corpus it is 0 where no text has four words; of one text that is right it must not be."""
  texts = ['le chat voit', 'le chat voit la souris']
  assert generation.score_each('bleu', texts, texts) == pytest.approx([1.0, 1.0])
  assert generation.scores(['bleu'], texts[:1], texts[:1])['bleu'] == 0.0
  assert (
    generation.score_each('chrf', texts, texts[::-1])[0] == generation.scores(['chrf'], texts[:1], texts[1:])['chrf']
  )


def test_words_of_ascii_are_the_librarys():
  from rouge_score import tokenizers

  library, draw = tokenizers.DefaultTokenizer(use_stemmer=True), random.Random(0)
  for _ in range(300):
    text = ''.join(draw.choice(string.printable + 10 * 'aeinst ') for _ in range(80))
    assert generation.Words().tokenize(text) == library.tokenize(text)


def test_nothing_is_logged_while_rouge_is_counted(capfd, caplog):
  with caplog.at_level('DEBUG'):
    generation.rouge(['a cat'], ['a cat'])
  captured = capfd.readouterr()
  assert not captured.out and not captured.err
  assert 'tokenizer' not in caplog.text


def test_scores_by_name():
  import sacrebleu

  predictions, references = random_pairs(3, 20)
  found = generation.scores(['chrf', 'rouge', 'bleu'], predictions, references)
  assert list(found) == ['chrf', *generation.ROUGE_TYPES, 'bleu']
  assert found['bleu'] == pytest.approx(sacrebleu.corpus_bleu(predictions, [references]).score / 100)
  assert found['chrf'] == pytest.approx(sacrebleu.corpus_chrf(predictions, [references]).score / 100)
  same = generation.scores(['chrf', 'rouge', 'bleu'], ['the cat sat on mats'], ['the cat sat on mats'])
  assert set(same.values()) == {1.0}


def test_rouge_by_length_covers_all_documents_once():
  predictions, references = random_pairs(4, 30)
  lengths = [(i * 37) % 100 for i in range(30)]
  each = generation.rouge_each(predictions, references)['rougeL']
  rows = generation.rouge_by_length(predictions, references, lengths, edges=[10, 50, 200])
  assert [(row['from'], row['below']) for row in rows] == [(0, 10), (10, 50), (50, 200)]  # none above 200
  for row in rows:
    mine = [value for value, length in zip(each, lengths) if row['from'] <= length < row['below']]
    assert row['examples'] == len(mine) and row['rougeL'] == pytest.approx(np.mean(mine))
  assert sum(row['examples'] for row in rows) == 30
  [row] = generation.rouge_by_length(['a'], ['a'], [5], edges=[5])
  assert row == {'from': 5, 'below': None, 'examples': 1, 'rougeL': 1.0}


@pytest.mark.parametrize('name', ['rouge', 'bleu', 'chrf'])
def test_generation_errors(name):
  with pytest.raises(ValueError, match='1 or more'):
    generation.scores([name], [], [])
  with pytest.raises(ValueError, match='as many'):
    generation.scores([name], ['a'], ['a', 'b'])


# Bootstrap


def test_the_interval_is_that_of_the_normal_distribution():
  draw = np.random.default_rng(0)
  second = draw.normal(size=400)
  first = second + draw.normal(0.5, 1.0, size=400)
  mean, low, high = bootstrap(first, second)
  error = np.std(first - second) / np.sqrt(400)
  assert mean == pytest.approx(np.mean(first - second))
  assert low == pytest.approx(mean - 1.96 * error, abs=0.05 * error)
  assert high == pytest.approx(mean + 1.96 * error, abs=0.05 * error)
  assert low < 0.5 < high


def test_swapped_models_give_the_mirrored_interval():
  first, second = np.random.default_rng(1).random((2, 57))
  mean, low, high = bootstrap(first, second, seed=3, resamples=500)
  assert bootstrap(second, first, seed=3, resamples=500) == pytest.approx((-mean, -high, -low))
  assert bootstrap(first, first + 0.25) == pytest.approx((-0.25, -0.25, -0.25))


def test_bootstrap_errors():
  for first, second in ([], []), ([1.0], [1.0, 2.0]):
    with pytest.raises(ValueError, match='as many'):
      bootstrap(first, second)
