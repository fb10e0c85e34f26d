"""Long contexts in windows that overlap, and where in the original text a token of a window stands.

Legend: N tokens of a context.
"""

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from lmjax.data.tokens.published import Frame
from lmjax.data.tokens.tokenizer import Encoded

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


@dataclasses.dataclass(frozen=True)
class Windows(Sequence):
  """Rows of questions, cut when they are asked for.

  A row is a dict: tokens (int32), question (those of them), second and stop (the places of the window's first token and
  after its last), low (the first one's number in the context), null (the place that stands for no answer), places
  (those of the answer's first and last token), and the context with its tokens' offsets.

  Attributes:
    table: int32 [rows, 6]: record, the window's first token and its end, the answer's first and last token in the
      context (-1: none), and whether the row is unfit for training.
    counts: see `lmjax.data.counts`.
    left_out: how many questions are unfit for training, by the reason.
  """

  records: list[dict]
  questions: list[np.ndarray]
  question_sizes: list[int]
  contexts: dict[str, tuple[Encoded, np.ndarray]]
  frame: Frame
  bidirectional: bool
  table: np.ndarray
  counts: Mapping[str, int]
  left_out: Mapping[str, int]

  def __len__(self):
    return len(self.table)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return [self[i] for i in range(*index.indices(len(self)))]
    number, low, high, first, last, _ = map(int, self.table[index])
    begin, between, end = self.frame
    question, context = self.questions[number], self.records[number]['context']
    encoded, offsets_N2 = self.contexts[context]
    tokens = np.array([*begin, *question, *between, *encoded.ids[low:high], *end], np.int32)
    second = len(begin) + len(question) + len(between)
    null = 0 if self.bidirectional else len(tokens) - 1
    places = (null, null) if first < 0 else (first - low + second, last - low + second)
    row = {'tokens': tokens, 'question': question, 'second': second, 'stop': second + high - low}
    return row | {'low': low, 'null': null, 'places': places, 'offsets': offsets_N2, 'context': context}

  @property
  def skipped(self) -> np.ndarray:
    """Whether each row is unfit for training; bool [rows]."""
    return self.table[:, 5].astype(bool)

  def some(self, kept: np.ndarray) -> 'Windows':
    """The rows with these numbers."""
    return dataclasses.replace(self, table=self.table[kept])
