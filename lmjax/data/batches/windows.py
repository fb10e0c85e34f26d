"""Long contexts in windows that overlap, and where in the original text a token of a window stands.

Legend: N tokens of a context.
"""

import bisect
import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from lmjax.data.batches.rows import Ragged
from lmjax.data.labelled.table import value
from lmjax.data.tokens.published import Frame

# Categories of Unicode that normalizers drop: marks, control and format characters.
_DROPPED = ('Mn', 'Mc', 'Me', 'Cc', 'Cf')


def windows(n: int, size: int, stride: int) -> list[tuple[int, int]]:
  """(first, end) of each window over n tokens; each begins `stride` after the one before.

  Every run of `size - stride + 1` tokens or fewer lies whole in at least one of them.

  >>> windows(10, 6, 4)
  [(0, 6), (4, 10)]
  """
  assert 1 <= stride <= size, (stride, size)
  return [(start, min(start + size, n)) for start in range(0, max(n - size + stride, 1), stride)]


def token_span(offsets_N2: np.ndarray, begin: int, end: int) -> tuple[int, int] | None:
  """First and last token that touch the characters begin .. end - 1, or None where none does.

  >>> token_span(np.array([[0, 3], [3, 7], [7, 8]]), 4, 7)
  (1, 1)
  """
  touching = np.flatnonzero((offsets_N2[:, 1] > begin) & (offsets_N2[:, 0] < end))
  return (int(touching[0]), int(touching[-1])) if touching.size else None


def character_span(text: str, offsets_N2: np.ndarray, first: int, last: int) -> tuple[int, int]:
  """Characters (begin, end) of the original text from token `first` to token `last`, without white space around them.

  A byte-level token carries the space before its word, which belongs to no answer. What a normalizer dropped after the
  last token, and no other token stands for, does: accents that combine with the letter before, control and format
  characters (soft hyphens, zero-width joiners).

  >>> text, tokens = 'cafe\\u0301 bar', np.array([[0, 4], [6, 9]])  # an accent of its own, which was stripped
  >>> character_span(text, tokens, 0, 0), character_span(text, tokens, 0, 1)
  ((0, 5), (0, 9))
  """
  begin, end = int(offsets_N2[first, 0]), int(offsets_N2[last, 1])
  following = int(offsets_N2[last + 1, 0]) if last + 1 < len(offsets_N2) else len(text)
  while end < following and not text[end].isspace() and unicodedata.category(text[end]) in _DROPPED:
    end += 1
  inside = text[begin:end]
  return begin + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())


def locate(text: str, answer: str, start: int) -> int | None:
  """Where an answer stands: at `start` if it does, else its occurrence nearest to there; None where it has none.

  >>> locate('to be or not to be', 'be', 3), locate('to be or not to be', 'be', 14), locate('to be', 'not', 0)
  (3, 16, None)
  """
  if text[start : start + len(answer)] == answer:
    return start
  before, after = text.rfind(answer, 0, max(start, 0) + len(answer)), text.find(answer, max(start, 0))
  places = [place for place in (before, after) if place >= 0]
  return min(places, key=lambda place: abs(place - start)) if places and answer else None


class TokenPlaces:
  """Finds the tokens of one context: `token_span` for many questions about it."""

  def __init__(self, offsets_N2: np.ndarray):
    self.offsets = offsets_N2
    self._is_sorted = bool((offsets_N2[1:] >= offsets_N2[:-1]).all())
    self._begins, self._ends = offsets_N2.T.tolist() if self._is_sorted else ([], [])

  def span(self, begin: int, end: int) -> tuple[int, int] | None:
    """As `token_span`."""
    if not self._is_sorted:
      return token_span(self.offsets, begin, end)
    first, last = bisect.bisect_right(self._ends, begin), bisect.bisect_left(self._begins, end) - 1
    return (first, last) if first <= last else None


@dataclasses.dataclass(frozen=True)
class Windows(Sequence):
  """Rows of questions, cut when they are asked for.

  A row is a dict: tokens (int32), question (those of them), second and stop (the places of the window's first token and
  after its last), low (the first one's number in the context), null (the place that stands for no answer), places
  (those of the answer's first and last token), and the context with its tokens' offsets.

  Attributes:
    records: the questions.
    frame, bidirectional, longest: special tokens around, where no answer stands, most tokens of a question in a row.
    questions, contexts: their tokens; each different context once.
    offsets: int32 [tokens of all contexts, 2].
    context_of: int32 [records]: the number of each record's context.
    table: int32 [rows, 6]: record, the window's first token and its end, the answer's first and last token in the
      context (-1: none), and whether the row is unfit for training.
    counts: see `lmjax.data.counts`.
    left_out: how many questions are unfit for training, by the reason.
  """

  records: Sequence[dict]
  frame: Frame
  bidirectional: bool
  longest: int
  questions: Ragged
  contexts: Ragged
  offsets: np.ndarray
  context_of: np.ndarray
  table: np.ndarray
  counts: Mapping[str, int]
  left_out: Mapping[str, int]
  _newest: dict = dataclasses.field(default_factory=dict)  # {number of a context: (its text, its offsets)}

  def __len__(self):
    return len(self.table)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    number, low, high, first, last, _ = map(int, self.table[index])
    begin, between, end = self.frame
    question = self.questions[number][: self.longest]
    context, offsets_N2 = self._context(number)
    window = self.contexts[self.context_of[number]][low:high]
    tokens = np.array([*begin, *question, *between, *window, *end], np.int32)
    second = len(begin) + len(question) + len(between)
    null = 0 if self.bidirectional else len(tokens) - 1
    places = (null, null) if first < 0 else (first - low + second, last - low + second)
    row = {'tokens': tokens, 'question': question, 'second': second, 'stop': second + high - low}
    return row | {'low': low, 'null': null, 'places': places, 'offsets': offsets_N2, 'context': context}

  def _context(self, number: int) -> tuple[str, np.ndarray]:
    """(text, offsets) of a record's context; rows of one context follow each other where they are not shuffled."""
    context = int(self.context_of[number])
    if (found := self._newest.get(context)) is None:
      begin, end = self.contexts.begins[context : context + 2]
      found = value(self.records, 'context', number), self.offsets[begin:end]
      self._newest.clear()
      self._newest[context] = found
    return found

  @property
  def skipped(self) -> np.ndarray:
    """Whether each row is unfit for training; bool [rows]."""
    return self.table[:, 5].astype(bool)

  def some(self, kept: np.ndarray) -> 'Windows':
    """The rows with these numbers."""
    return dataclasses.replace(self, table=self.table[kept])

  def arrays(self) -> tuple[dict[str, np.ndarray], dict]:
    """(arrays by name, what else it is, JSON-able), but for the records and the attributes after them."""
    arrays = {name: getattr(self, name) for name in ('offsets', 'context_of', 'table')}
    arrays |= self.questions.arrays('questions') | self.contexts.arrays('contexts')
    return arrays, {'counts': dict(self.counts), 'left_out': dict(self.left_out)}

  @classmethod
  def from_arrays(cls, arrays: Mapping[str, np.ndarray], more: Mapping, *rest) -> 'Windows':
    """What `arrays` was of, with its first four attributes."""
    ragged = (Ragged.from_arrays(name, arrays) for name in ('questions', 'contexts'))
    return cls(*rest, *ragged, *(arrays[name] for name in ('offsets', 'context_of', 'table')), **more)
