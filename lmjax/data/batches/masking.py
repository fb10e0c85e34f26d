"""From a row to an example: what the model sees and what it must predict. Pure functions on NumPy arrays.

Legend: T tokens of an example, K slots for masked tokens, V vocabulary.
"""

import dataclasses

import numpy as np

from lmjax.data.config import MaskingConfig
from lmjax.data.tokens.tokenizer import JOINS_WORD, STARTS_WORD, Tokenizer

# Random tries to place spans before a row is left with fewer masks than asked: a row of very short segments may have
# no place for a span.
_TRIES_A_SLOT = 16


def causal_example(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Inputs and the next tokens that they must predict, from a row of T + 1 tokens.

  A target that is padding, or that begins another document of a packed row, has weight 0.

  >>> row = dict(tokens=np.array([7, 8, 2, 5, 0]), segments=np.array([1, 1, 1, 2, 0]), positions=np.arange(5))
  >>> example = causal_example(row)
  >>> example['inputs'].tolist(), example['targets'].tolist(), example['weights'].tolist()
  ([7, 8, 2, 5], [8, 2, 5, 0], [1.0, 1.0, 0.0, 0.0])

  Returns:
    inputs, targets, segments, positions: int32 [T]. weights: float32 [T], 0 or 1.
  """
  tokens, segments, positions = (np.asarray(row[key], np.int32) for key in ('tokens', 'segments', 'positions'))
  weights_T = ((segments[1:] == segments[:-1]) & (segments[1:] > 0)).astype(np.float32)
  example = {'inputs': tokens[:-1], 'targets': tokens[1:], 'weights': weights_T}
  return example | {'segments': segments[:-1], 'positions': positions[:-1]}


@dataclasses.dataclass(frozen=True)
class MaskVocabulary:
  """What masking needs to know of a tokenizer."""

  mask: int  # id of [MASK]
  special: np.ndarray  # bool [V], tokens that are never masked
  random_ids: np.ndarray  # int64 [R], ids that random replacement draws from
  first: np.ndarray  # uint8 [V], class of each token's first character; see `Tokenizer.word_classes`
  last: np.ndarray  # uint8 [V], of its last

  @classmethod
  def of(cls, tokenizer: Tokenizer) -> 'MaskVocabulary':
    """Reads it off a tokenizer; DataError where that has no mask token."""
    special_V = np.zeros(tokenizer.vocab_size, bool)
    special_V[tokenizer.special_ids] = True
    return cls(tokenizer.require('mask'), special_V, tokenizer.random_ids(), *tokenizer.word_classes())


def masked_example(
  row: dict[str, np.ndarray], rng: np.random.Generator, slots: int, masking: MaskingConfig, vocabulary: MaskVocabulary
) -> dict[str, np.ndarray]:
  """Hides some tokens of a row (Devlin et al., BERT, 2019) and lists them in a fixed number of slots.

  `round(masking.rate * maskable tokens)` tokens are hidden, at least one if any may be; special tokens and padding
  are not. Words and spans are drawn until that number is reached; one that would need more than `slots` is not
  begun. A row in which nothing can be hidden has weight 0 everywhere.

  With slots 2 and [MASK] = 3, where the draw falls on the tokens at 1 and 2 and shows the first one as [MASK]
  and keeps the other:
    tokens 4 7 8 9 -> inputs 4 3 8 9, slots 1 2, targets 7 8, weights 1 1, shown 1 0

  Args:
    row: tokens, segments and positions, int32 [T].
    rng: draws the tokens and what is shown for them.
    slots: K (`masking.slots`).
    masking, vocabulary: the settings, and the tokenizer's.

  Returns:
    inputs, segments, positions: int32 [T]. slots: int32 [K], places of hidden tokens in ascending order, then 0 for
      each unused slot. targets: int32 [K]. weights: float32 [K], 0 for unused slots. shown: float32 [K], 1 where the
      place shows [MASK].
  """
  tokens_T, segments_T = np.asarray(row['tokens'], np.int32), np.asarray(row['segments'], np.int32)
  maskable_T = (segments_T > 0) & ~vocabulary.special[tokens_T]
  maskable = int(maskable_T.sum())
  wanted = min(max(1, round(masking.rate * maskable)), slots) if maskable else 0
  if masking.unit == 'token':
    places = rng.permutation(np.flatnonzero(maskable_T))[:wanted]
  elif masking.unit == 'word':
    places = _draw_words(
      rng, word_numbers(tokens_T, segments_T, vocabulary.first, vocabulary.last), maskable_T, wanted, slots
    )
  else:
    places = _draw_spans(rng, segments_T, maskable_T, wanted, slots, masking)
  places_N = np.sort(places).astype(np.int32)
  inputs_T, is_mask_N = _replaced(rng, tokens_T, places_N, masking, vocabulary)

  def in_slots(values_N, dtype) -> np.ndarray:
    values_K = np.zeros(slots, dtype)
    values_K[: len(places_N)] = values_N
    return values_K

  return {
    'inputs': inputs_T,
    'slots': in_slots(places_N, np.int32),
    'targets': in_slots(tokens_T[places_N], np.int32),
    'weights': in_slots(1, np.float32),
    'shown': in_slots(is_mask_N, np.float32),
    'segments': segments_T,
    'positions': np.asarray(row['positions'], np.int32),
  }


def _replaced(rng, tokens_T, places_N, masking: MaskingConfig, vocabulary: MaskVocabulary):
  """(tokens [T] with [MASK], a random token or their own at the hidden places; bool [N], where that is [MASK])."""
  draw_N = rng.random(len(places_N))
  random_N = vocabulary.random_ids[rng.integers(0, len(vocabulary.random_ids), len(places_N))]
  is_mask_N = draw_N < masking.mask_share
  is_random_N = ~is_mask_N & (draw_N < masking.mask_share + masking.random_share)
  inputs_T = tokens_T.copy()
  inputs_T[places_N] = np.where(is_mask_N, vocabulary.mask, np.where(is_random_N, random_N, tokens_T[places_N]))
  return inputs_T, is_mask_N


def word_numbers(ids_T: np.ndarray, segments_T: np.ndarray, first_V: np.ndarray, last_V: np.ndarray) -> np.ndarray:
  """Numbers the words of a row 0, 1, ...; int64 [T]. No word continues from one segment into the next.

  A token begins a word if it begins with white space, or if the class (letter, digit, other) of its first character is
  not that of the last character before it; a WordPiece token that begins with '##' never does.
  Tokens ' un', 'help', 'ful', '!', '!', ' 3', '4' give 0 0 0 1 1 2 2.
  """
  first_T, last_T = first_V[ids_T], last_V[ids_T]
  starts_T = np.zeros(len(ids_T), bool)
  starts_T[1:] = (first_T[1:] == STARTS_WORD) | ((first_T[1:] != last_T[:-1]) & (first_T[1:] != JOINS_WORD))
  starts_T[1:] |= segments_T[1:] != segments_T[:-1]
  return np.cumsum(starts_T)


def _draw_words(rng, words_T, maskable_T, wanted: int, slots: int) -> np.ndarray:
  """Places of whole words in a random order until `wanted` tokens are reached, never more than `slots`."""
  hidden_T, count = np.zeros(len(maskable_T), bool), 0
  places = np.flatnonzero(maskable_T)
  # Runs of equal word numbers: a special token has a word of its own, so none stands inside a word.
  bounds = np.concatenate([[0], np.flatnonzero(np.diff(words_T[places])) + 1, [len(places)]])
  for word in rng.permutation(len(bounds) - 1):
    run = places[bounds[word] : bounds[word + 1]]
    if count + len(run) <= slots:
      hidden_T[run] = True
      count += len(run)
    if count >= wanted:
      break
  return np.flatnonzero(hidden_T)


def _draw_spans(rng, segments_T, maskable_T, wanted: int, slots: int, masking: MaskingConfig) -> np.ndarray:
  """Places of spans of geometric length (Joshi et al., SpanBERT, 2020), which neither overlap nor touch padding,
  special tokens or another segment."""
  starts = np.flatnonzero(maskable_T)
  hidden_T, count = np.zeros(len(maskable_T), bool), 0
  for _ in range(_TRIES_A_SLOT * wanted):
    if count >= wanted:
      break
    length = min(int(rng.geometric(1 / masking.mean_span)), masking.max_span)
    start = int(starts[rng.integers(len(starts))])
    span = slice(start, start + length)
    fits = start + length <= len(hidden_T) and count + length <= slots
    if fits and (maskable_T & ~hidden_T)[span].all() and (segments_T[span] == segments_T[start]).all():
      hidden_T[span] = True
      count += length
  if wanted and not count:  # no run of the row is as long as the spans drawn
    hidden_T[starts[rng.integers(len(starts))]] = True
  return np.flatnonzero(hidden_T)
