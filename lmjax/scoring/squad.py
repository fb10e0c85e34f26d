"""Extractive question answering by the rules of SQuAD 1.1 and 2.0 (https://rajpurkar.github.io/SQuAD-explorer/).

Both sets are scored as evaluate-v2.0.py does. On SQuAD 1.1 this differs from the script of 1.1 only where nothing of
a text is left by `normalize_answer`. A question without a gold answer is right when the prediction is empty.
"""

import collections
import math
import re
import string
from collections.abc import Mapping, Sequence

_ARTICLES = re.compile(r'\b(a|an|the)\b')
_WITHOUT_PUNCTUATION = str.maketrans('', '', string.punctuation)


def normalize_answer(text: str) -> str:
  """Text as answers are compared: in lower case, without ASCII punctuation, English articles and repeated spaces.

  >>> normalize_answer('  The "Eiffel  Tower".')
  'eiffel tower'
  """
  return ' '.join(_ARTICLES.sub(' ', text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
  """1.0 where the prediction ('': none) equals one of the gold answers ([] or ['']: none) as normalized, else 0.0."""
  return float(normalize_answer(prediction) in _compared(answers))


def f1(prediction: str, answers: Sequence[str]) -> float:
  """The highest F1 of the prediction's words against those of a gold answer; arguments as of `exact_match`."""
  predicted = normalize_answer(prediction).split()
  return max(_words_f1(predicted, answer.split()) for answer in _compared(answers))


def scores(predictions: Mapping[str, str], gold: Mapping[str, Sequence[str]]) -> dict[str, float]:
  """Means over questions, from 0 to 1.

  Args:
    predictions: question id -> text, '' for no answer; ids that are not in `gold` are ignored.
    gold: question id -> gold answers, [] for an unanswerable question.

  Returns:
    exact_match and f1; where the set has unanswerable questions also has_answer_exact_match, has_answer_f1,
    no_answer_exact_match and no_answer_f1, those of the two kinds of question, as far as there are such questions.

  Raises ValueError: no question, or one without a prediction.
  """
  _check(predictions, gold, 'prediction')
  answerable = [question for question, answers in gold.items() if any(answers)]
  unanswerable = [question for question, answers in gold.items() if not any(answers)]
  groups = {'': list(gold)} | ({'has_answer_': answerable, 'no_answer_': unanswerable} if unanswerable else {})
  means = {}
  for prefix, questions in groups.items():
    for name, metric in (('exact_match', exact_match), ('f1', f1)):
      values = [metric(predictions[question], gold[question]) for question in questions]
      if values:
        means[prefix + name] = math.fsum(values) / len(values)
  return means


def best_threshold(
  predictions: Mapping[str, str], no_answer_scores: Mapping[str, float], gold: Mapping[str, Sequence[str]]
) -> tuple[float, dict[str, float]]:
  """The threshold on the no-answer score with the highest F1, as evaluate-v2.0.py searches for it.

  A question whose score is above the threshold is answered by ''. Questions of equal score are answered alike, which
  the official script does not see to.

  Args:
    predictions: question id -> the text that is given where the question is answered.
    no_answer_scores: question id -> any number that grows with the belief that there is no answer.
    gold: as for `scores`.

  Returns:
    The least such threshold: one of the scores, or the number just below the least of them, which answers nothing;
    and the `scores` at that threshold.

  Raises ValueError: no question, or one without a prediction or a score; a score that is NaN or -infinity.
  """
  _check(predictions, gold, 'prediction')
  _check(no_answer_scores, gold, 'no-answer score')
  gains: dict[float, list[float]] = collections.defaultdict(list)
  for question, answers in gold.items():
    score = float(no_answer_scores[question])
    if not score > -math.inf:
      raise ValueError(f'question {question}: its no-answer score is {score}: must be a number above -inf')
    gains[score].append(f1(predictions[question], answers) - f1('', answers))
  # from the threshold that answers nothing upwards: each step answers the questions of one score more
  threshold = math.nextafter(min(gains), -math.inf)
  total = best = 0.0
  for score in sorted(gains):
    total += math.fsum(gains[score])
    if total > best:
      threshold, best = score, total
  chosen = {question: '' if no_answer_scores[question] > threshold else predictions[question] for question in gold}
  return threshold, scores(chosen, gold)


def _compared(answers):
  """Gold answers as they are compared: those of which nothing is left do not count; where none is left, ''."""
  return [text for text in map(normalize_answer, answers) if text] or ['']


def _words_f1(predicted, answer):
  if not predicted or not answer:
    return float(predicted == answer)
  shared = (collections.Counter(predicted) & collections.Counter(answer)).total()
  return 2 * shared / (len(predicted) + len(answer))


def _check(given, gold, what):
  if not gold:
    raise ValueError('no question to score')
  missing = [question for question in gold if question not in given]
  if missing:
    raise ValueError(f'{len(missing)} of {len(gold)} questions lack a {what}; the first is {missing[0]}')
