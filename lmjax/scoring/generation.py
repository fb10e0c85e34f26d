"""Generated text against references: ROUGE, BLEU, chrF and the lead baseline. All scores lie in [0, 1].

No text at all, or lists of different lengths, are a ValueError. The libraries are imported where they are used: they
take seconds to load.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

ROUGE_TYPES = ('rouge1', 'rouge2', 'rougeL', 'rougeLsum')

# A full stop after one of these does not end a sentence; nor does one after a single letter or dotted letters (U.S.).
ABBREVIATIONS = frozenset(
  'al art ch cl co corp dr ed eq fig gen gov hon inc ltd mr mrs ms mt no nos par para pp prof pub rep rev sec secs '
  'sen ser st stat subsec vol vs jan feb mar apr jun jul aug sept oct nov dec'.split()
)
_ENDS = re.compile(r'[.!?]["\'”’)\]]*$')
_DOTTED = re.compile(r'[^\W\d](\.[^\W\d])*\.?')
_LONGEST_NOT_STEMMED = 3  # characters
_OPENING = '"\'“‘([«'
# Marks that end a sentence whatever follows, with what closes a quotation: of East Asian and Indic scripts, Urdu, ...
_ENDS_ALWAYS = re.compile(r'[。｡！？।॥۔؟።။។]+["\'”’」』）】)\]]*')
# Scripts without spaces between words: kana, Han, Thai, Lao, Burmese, Khmer.
_NO_SPACES = re.compile(
  '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff'
  '\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]'
)


def sentences(text: str) -> list[str]:
  """Splits text into sentences, without their surrounding white space.

  A sentence ends at a newline, or at . ! ? (and closing quotes or brackets) before white space and a capital, a letter
  of a script without them, a digit, a quote or an opening bracket; not after an abbreviation (`ABBREVIATIONS`, single
  letters, dotted letters). It ends at 。！？। and their like, whatever follows.

  >>> sentences('See Sec. 2 of the U.S. Code. It is short.'), sentences('法院驳回上诉。维持原判。')
  (['See Sec. 2 of the U.S. Code.', 'It is short.'], ['法院驳回上诉。', '维持原判。'])
  """
  parts = []
  for line in _ENDS_ALWAYS.sub(lambda end: end[0] + '\n', text).splitlines():
    start, words = 0, list(re.finditer(r'\S+', line))
    for word, following in zip(words, words[1:]):
      first = following[0][0]
      begins = first.isupper() or first.isdigit() or first in _OPENING or unicodedata.category(first) == 'Lo'
      if begins and _ENDS.search(word[0]) and not _is_abbreviation(word[0]):
        parts.append(line[start : word.end()])
        start = word.end()
    parts.append(line[start:])
  return [part.strip() for part in parts if part.strip()]


def lead(document: str, sentences_count: int) -> str:
  """The first sentences of a document, one a line: the lead baseline of summarisation."""
  return '\n'.join(sentences(document)[:sentences_count])


class Words:
  """What ROUGE counts: runs of letters, marks and digits of the NFC text in lower case, stemmed where they are ASCII.

  In scripts without spaces each character, with its marks, is one. On ASCII text these are `rouge-score`'s own.
  """

  def __init__(self):
    from nltk.stem import porter

    self._stem = porter.PorterStemmer().stem

  def tokenize(self, text: str) -> list[str]:
    """The words of a text.

    >>> Words().tokenize('Суд отклонил иски. 不服')
    ['суд', 'отклонил', 'иски', '不', '服']
    """
    words, here, alone = [], '', False
    for char in unicodedata.normalize('NFC', text.lower()):
      kind = unicodedata.category(char)
      if kind[0] == 'M' and here:
        here += char
        continue
      is_alone = bool(_NO_SPACES.match(char))
      is_word = kind[0] in 'LM' or kind == 'Nd'
      if here and (alone or is_alone or not is_word):
        words.append(here)
        here = ''
      if is_word:
        here, alone = here + char, is_alone
    words += [here] if here else []
    return [self._stem(word) if len(word) > _LONGEST_NOT_STEMMED and word.isascii() else word for word in words]


def rouge_each(predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
  """F-measures of each pair, of `Words` (Lin 2004, https://aclanthology.org/W04-1013/; package `rouge-score`).

  Returns:
    'rouge1', 'rouge2', 'rougeL' and 'rougeLsum' (over `sentences`): float64 [N].
  """
  _check(predictions, references)
  from rouge_score import rouge_scorer

  scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES), tokenizer=Words())  # its own knows a to z alone
  pairs = zip(references, predictions)
  results = [scorer.score(*('\n'.join(sentences(text)) for text in pair)) for pair in pairs]
  return {name: np.array([result[name].fmeasure for result in results]) for name in ROUGE_TYPES}


def rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
  """The means of `rouge_each`."""
  return {name: float(values.mean()) for name, values in rouge_each(predictions, references).items()}


def scores(names: Sequence[str], predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
  """The scores of the named families: 'rouge' gives four, 'bleu' and 'chrf' one each.

  BLEU (Post 2018, https://aclanthology.org/W18-6319/) and chrF2 (Popović 2015, https://aclanthology.org/W15-3049/) are
  those of the whole corpus with sacreBLEU's defaults.
  """
  values = {}
  for name in names:
    values |= rouge(predictions, references) if name == 'rouge' else {name: _corpus(name, predictions, references)}
  return values


def _corpus(name: str, predictions: Sequence[str], references: Sequence[str]) -> float:
  _check(predictions, references)
  import sacrebleu

  percent = getattr(sacrebleu, f'corpus_{name}')(list(predictions), [list(references)]).score
  return min(1.0, percent / 100)  # sacreBLEU's 100 is a rounding error too high at times


def score_each(name: str, predictions: Sequence[str], references: Sequence[str]) -> list[float]:
  """'bleu' or 'chrf' of each text by itself: BLEU of the n-grams that a text is long enough for."""
  _check(predictions, references)
  import sacrebleu

  score = getattr(sacrebleu, f'sentence_{name}')
  return [min(1.0, score(p, [r]).score / 100) for p, r in zip(predictions, references)]


def rouge_by_length(
  predictions: Sequence[str], references: Sequence[str], lengths: Sequence[int], edges: Sequence[int]
) -> list[dict]:
  """Mean ROUGE-L for groups of documents of similar length.

  Args:
    predictions: one text for each document.
    references: the same.
    lengths: of the documents, in words.
    edges: ascending: they part the lengths into [0, edges[0]), [edges[0], edges[1]), ..., [edges[-1], infinity).

  Returns:
    A row for each group that has documents: {'from', 'below' (None: no limit), 'examples', 'rougeL'}.
  """
  if len(lengths) != len(predictions):
    raise ValueError(f'{len(lengths)} lengths for {len(predictions)} predictions: they must be as many')
  values = rouge_each(predictions, references)['rougeL']
  group, limits, rows = np.searchsorted(edges, lengths, side='right'), [0, *edges, None], []
  for number in np.unique(group).tolist():
    mine = values[group == number]
    limit = {'from': limits[number], 'below': limits[number + 1]}
    rows.append(limit | {'examples': len(mine), 'rougeL': float(mine.mean())})
  return rows


def _is_abbreviation(word):
  word = word.lstrip(_OPENING)
  return word[:-1].lower() in ABBREVIATIONS or bool(_DOTTED.fullmatch(word) and word.endswith('.'))


def _check(predictions, references):
  if len(predictions) != len(references) or not len(predictions):
    raise ValueError(f'{len(predictions)} predictions and {len(references)} references: as many of each, and 1 or more')
