"""Generated text against references: ROUGE, BLEU, chrF and the lead baseline. All scores lie in [0, 1].

No text at all, or lists of different lengths, are a ValueError. The libraries are imported where they are used: they
take seconds to load.
"""

import re
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
_OPENING = '"\'“‘([«'


def sentences(text: str) -> list[str]:
  """Splits text into sentences, without their surrounding white space.

  A sentence ends at a newline, or at . ! ? (and closing quotes or brackets) before white space and a capital, a digit,
  a quote or an opening bracket; not after an abbreviation (`ABBREVIATIONS`, single letters, dotted letters).

  >>> sentences('See Sec. 2 of the U.S. Code. It is short.')
  ['See Sec. 2 of the U.S. Code.', 'It is short.']
  """
  parts = []
  for line in text.splitlines():
    start, words = 0, list(re.finditer(r'\S+', line))
    for word, following in zip(words, words[1:]):
      first = following[0][0]
      begins = first.isupper() or first.isdigit() or first in _OPENING
      if begins and _ENDS.search(word[0]) and not _is_abbreviation(word[0]):
        parts.append(line[start : word.end()])
        start = word.end()
    parts.append(line[start:])
  return [part.strip() for part in parts if part.strip()]


def lead(document: str, sentences_count: int) -> str:
  """The first sentences of a document, one a line: the lead baseline of summarisation."""
  return '\n'.join(sentences(document)[:sentences_count])


def rouge_each(predictions: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
  """F-measures of each pair, with stemming (Lin 2004, https://aclanthology.org/W04-1013/; package `rouge-score`).

  Returns:
    'rouge1', 'rouge2', 'rougeL' and 'rougeLsum' (over `sentences`): float64 [N].
  """
  _check(predictions, references)
  from rouge_score import rouge_scorer, tokenizers

  # a tokenizer of our own making: the scorer would log a line about its default one
  scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES), tokenizer=tokenizers.DefaultTokenizer(use_stemmer=True))
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
