"""From rows to examples: what the model sees and what it must predict. Pure functions on NumPy arrays.

Legend: B rows, T tokens of an example, K slots for masked tokens, V vocabulary. Whatever is drawn for a row is a
function of its key alone, so that a row has the same masks in any batch.
"""

import dataclasses

import numpy as np

from lmjax.data.batches.order import as_fractions, below, draws
from lmjax.data.config import MaskingConfig
from lmjax.data.tokens.tokenizer import JOINS_WORD, STARTS_WORD, Tokenizer

# Random tries to place spans before a row is left with fewer masks than asked: a row of very short segments may have
# no place for a span.
_TRIES_A_SLOT = 16
# What numbers are drawn for.
_PLACES, _LENGTHS, _SHOWN, _REPLACED = range(4)


def causal_examples(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Inputs and the next tokens that they must predict, from rows of T + 1 tokens.

  A target that is padding, or that begins another document of a packed row, has weight 0.

  >>> rows = dict(tokens=np.array([[7, 8, 2, 5, 0]]), segments=np.array([[1, 1, 1, 2, 0]]), positions=np.zeros((1, 5)))
  >>> examples = causal_examples(rows)
  >>> examples['inputs'].tolist(), examples['targets'].tolist(), examples['weights'].tolist()
  ([[7, 8, 2, 5]], [[8, 2, 5, 0]], [[1.0, 1.0, 0.0, 0.0]])

  Returns:
    inputs, targets, segments, positions: int32 [B, T]. weights: float32 [B, T], 0 or 1.
  """
  tokens, segments, positions = (np.asarray(rows[key], np.int32) for key in ('tokens', 'segments', 'positions'))
  weights_BT = ((segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)).astype(np.float32)
  examples = {'inputs': tokens[:, :-1], 'targets': tokens[:, 1:], 'weights': weights_BT}
  return examples | {'segments': segments[:, :-1], 'positions': positions[:, :-1]}


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


def masked_examples(
  rows: dict[str, np.ndarray], keys_B: np.ndarray, slots: int, masking: MaskingConfig, vocabulary: MaskVocabulary
) -> dict[str, np.ndarray]:
  """Hides some tokens of each row (Devlin et al., BERT, 2019) and lists them in a fixed number of slots.

  `round(masking.rate * maskable tokens)` tokens are hidden, at least one if any may be; special tokens and padding
  are not. Words and spans are drawn until that number is reached; one that would need more than `slots` is not
  begun. A row in which nothing can be hidden has weight 0 everywhere.

  With slots 2 and [MASK] = 3, where the draw falls on the tokens at 1 and 2 and shows the first one as [MASK]
  and keeps the other:
    tokens 4 7 8 9 -> inputs 4 3 8 9, slots 1 2, targets 7 8, weights 1 1, shown 1 0

  Args:
    rows: tokens, segments and positions, int32 [B, T].
    keys_B: uint64, decide what is drawn for each row.
    slots: K (`masking.slots`).
    masking, vocabulary: the settings, and the tokenizer's.

  Returns:
    inputs, segments, positions: int32 [B, T]. slots: int32 [B, K], places of hidden tokens in ascending order, then 0
      for each unused slot. targets: int32 [B, K]. weights: float32 [B, K], 0 for unused slots. shown: float32 [B, K], 1
      where the place shows [MASK].
  """
  tokens_BT, segments_BT = np.asarray(rows['tokens'], np.int32), np.asarray(rows['segments'], np.int32)
  maskable_BT = (segments_BT > 0) & ~vocabulary.special[tokens_BT]
  maskable_B = maskable_BT.sum(1)
  wanted_B = np.minimum(np.maximum(np.rint(masking.rate * maskable_B).astype(np.int64), 1), slots)
  wanted_B[maskable_B == 0] = 0
  if masking.unit == 'token':
    hidden_BT = _draw_tokens(keys_B, maskable_BT, wanted_B)
  elif masking.unit == 'word':
    words_BT = word_numbers(tokens_BT, segments_BT, vocabulary.first, vocabulary.last)
    hidden_BT = _draw_words(keys_B, words_BT, maskable_BT, wanted_B, slots)
  else:
    hidden_BT = _draw_spans(keys_B, segments_BT, maskable_BT, wanted_B, slots, masking)
  return _shown(tokens_BT, hidden_BT, keys_B, slots, masking, vocabulary) | {
    'segments': segments_BT,
    'positions': np.asarray(rows['positions'], np.int32),
  }


def _shown(tokens_BT, hidden_BT, keys_B, slots: int, masking: MaskingConfig, vocabulary: MaskVocabulary) -> dict:
  """What `masked_examples` returns, but for segments and positions."""
  row_N, place_N = np.nonzero(hidden_BT)
  slot_N = np.arange(len(row_N)) - np.searchsorted(row_N, row_N)
  draw_N = as_fractions(draws(keys_B, _SHOWN, slots))[row_N, slot_N]
  number_N = below(draws(keys_B, _REPLACED, slots), len(vocabulary.random_ids))[row_N, slot_N]
  is_mask_N = draw_N < masking.mask_share
  is_random_N = ~is_mask_N & (draw_N < masking.mask_share + masking.random_share)
  targets_N = tokens_BT[row_N, place_N]
  kept_or_random_N = np.where(is_random_N, vocabulary.random_ids[number_N], targets_N)
  inputs_BT = tokens_BT.copy()
  inputs_BT[row_N, place_N] = np.where(is_mask_N, vocabulary.mask, kept_or_random_N)

  def in_slots(values_N, dtype) -> np.ndarray:
    values_BK = np.zeros((len(tokens_BT), slots), dtype)
    values_BK[row_N, slot_N] = values_N
    return values_BK

  return {
    'inputs': inputs_BT,
    'slots': in_slots(place_N, np.int32),
    'targets': in_slots(targets_N, np.int32),
    'weights': in_slots(1, np.float32),
    'shown': in_slots(is_mask_N, np.float32),
  }


def word_numbers(ids_BT: np.ndarray, segments_BT: np.ndarray, first_V: np.ndarray, last_V: np.ndarray) -> np.ndarray:
  """Numbers the words of each row 0, 1, ...; int64 [B, T]. No word continues from one segment into the next.

  A token begins a word if it begins with white space, or if the class (letter, digit, other) of its first character is
  not that of the last character before it; a WordPiece token that begins with '##' never does.
  Tokens ' un', 'help', 'ful', '!', '!', ' 3', '4' give 0 0 0 1 1 2 2.
  """
  first_BT, last_BT = first_V[ids_BT], last_V[ids_BT]
  starts_BT = np.zeros(ids_BT.shape, bool)
  following_BT, before_BT = first_BT[:, 1:], last_BT[:, :-1]
  starts_BT[:, 1:] = (following_BT == STARTS_WORD) | ((following_BT != before_BT) & (following_BT != JOINS_WORD))
  starts_BT[:, 1:] |= segments_BT[:, 1:] != segments_BT[:, :-1]
  return np.cumsum(starts_BT, axis=1)


def _in_random_order(scores_BT: np.ndarray, maskable_BT: np.ndarray) -> np.ndarray:
  """int64 [B, T]: places by ascending random score, those of equal scores in their order; not maskable ones last."""
  length = scores_BT.shape[1]
  bits = np.uint64(max(length - 1, 1).bit_length())
  # with the place in its lowest bits a score is sorted many times as fast as by argsort
  numbers_BT = (scores_BT >> bits << bits) | np.arange(length, dtype=np.uint64)
  numbers_BT[~maskable_BT] |= ~np.uint64(0) << bits
  return (np.sort(numbers_BT, axis=1) & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def _hidden(order_BT: np.ndarray, chosen_BT: np.ndarray) -> np.ndarray:
  """bool [B, T], by place, of what is chosen by order."""
  hidden_BT = np.zeros(order_BT.shape, bool)
  np.put_along_axis(hidden_BT, order_BT, chosen_BT, axis=1)
  return hidden_BT


def _draw_tokens(keys_B, maskable_BT, wanted_B) -> np.ndarray:
  """bool [B, T]: so many tokens of each row."""
  order_BT = _in_random_order(draws(keys_B, _PLACES, maskable_BT.shape[1]), maskable_BT)
  return _hidden(order_BT, np.arange(maskable_BT.shape[1]) < wanted_B[:, None])


def _draw_words(keys_B, words_BT, maskable_BT, wanted_B, slots: int) -> np.ndarray:
  """bool [B, T]: whole words in a random order until `wanted` tokens are reached, never more than `slots`."""
  length = words_BT.shape[1]
  scores_BT = np.take_along_axis(draws(keys_B, _PLACES, length), words_BT, axis=1)
  order_BT = _in_random_order(scores_BT, maskable_BT)
  # W: words in that order; what may not be masked comes last, and is of no word
  word_BT = np.take_along_axis(words_BT, order_BT, axis=1)
  is_word_BT = np.arange(length) < maskable_BT.sum(1)[:, None]
  begins_BT = is_word_BT.copy()
  begins_BT[:, 1:] &= word_BT[:, 1:] != word_BT[:, :-1]
  number_BT = np.maximum(np.cumsum(begins_BT, axis=1) - 1, 0)
  row_N, place_N = np.nonzero(is_word_BT)
  sizes_BW = np.zeros(words_BT.shape, np.int64)
  np.add.at(sizes_BW, (row_N, number_BT[row_N, place_N]), 1)
  taken_BW = sizes_BW > 0
  rows = np.arange(len(words_BT))
  while len(rows):  # until each row has room for all its words up to `wanted`
    counts_RW = np.cumsum(sizes_BW[rows] * taken_BW[rows], axis=1)
    before_RW = counts_RW - sizes_BW[rows] * taken_BW[rows]
    too_long_RW = taken_BW[rows] & (before_RW < wanted_B[rows, None]) & (counts_RW > slots)
    first_R = np.argmax(too_long_RW, axis=1)
    has_R = too_long_RW.any(1)
    rows, first_R, before_RW = rows[has_R], first_R[has_R], before_RW[has_R]
    # no word after it that is as long will fit either
    left_R = slots - before_RW[np.arange(len(rows)), first_R]
    is_after_RW = np.arange(length) >= first_R[:, None]
    taken_BW[rows] &= ~(is_after_RW & (sizes_BW[rows] > left_R[:, None]))
  before_BW = np.cumsum(sizes_BW * taken_BW, axis=1) - sizes_BW * taken_BW
  taken_BW &= before_BW < wanted_B[:, None]
  return _hidden(order_BT, is_word_BT & np.take_along_axis(taken_BW, number_BT, axis=1))


def _draw_spans(keys_B, segments_BT, maskable_BT, wanted_B, slots: int, masking: MaskingConfig) -> np.ndarray:
  """bool [B, T]: spans of geometric length (Joshi et al., SpanBERT, 2020), which neither overlap nor touch padding,
  special tokens or another segment."""
  n_places = maskable_BT.shape[1]
  offset_S = np.arange(min(masking.max_span, n_places))
  order_BT = np.argsort(~maskable_BT, axis=1, kind='stable')  # maskable places first
  maskable_B, free_BT, count_B = maskable_BT.sum(1), maskable_BT.copy(), np.zeros(len(maskable_BT), np.int64)
  tries = _TRIES_A_SLOT * int(wanted_B.max(initial=0))
  sizes_BN = _geometric(as_fractions(draws(keys_B, _LENGTHS, tries)), masking.mean_span)
  starts_BN = draws(keys_B, _PLACES, tries + 1)
  start_of = lambda rows, number: order_BT[rows, below(starts_BN[rows, number], maskable_B[rows])]
  for number in range(tries):
    rows = np.flatnonzero((count_B < wanted_B) & (number < _TRIES_A_SLOT * wanted_B))
    if not len(rows):
      break
    size_R, start_R = np.minimum(sizes_BN[rows, number], masking.max_span), start_of(rows, number)
    fits_R = (start_R + size_R <= n_places) & (count_B[rows] + size_R <= slots)
    rows, size_R, start_R = rows[fits_R], size_R[fits_R], start_R[fits_R]
    place_RS = np.minimum(start_R[:, None] + offset_S, n_places - 1)
    may_be_RS = free_BT[rows[:, None], place_RS]
    may_be_RS &= segments_BT[rows[:, None], place_RS] == segments_BT[rows, start_R][:, None]
    is_beyond_RS = offset_S >= size_R[:, None]
    chosen_R = (may_be_RS | is_beyond_RS).all(1)
    index_N, offset_N = np.nonzero(~is_beyond_RS & chosen_R[:, None])
    free_BT[rows[index_N], place_RS[index_N, offset_N]] = False
    count_B[rows[chosen_R]] += size_R[chosen_R]
  rows = np.flatnonzero((wanted_B > 0) & (count_B == 0))  # no run of theirs is as long as the spans drawn
  free_BT[rows, start_of(rows, tries)] = False
  return maskable_BT & ~free_BT


def _geometric(fractions: np.ndarray, mean: float) -> np.ndarray:
  """int64, 1 or more, of geometric distribution with that mean; at most 2^62."""
  if mean <= 1:
    return np.ones(fractions.shape, np.int64)
  return (1 + np.minimum(np.log1p(-fractions) / np.log1p(-1 / mean), 2.0**62)).astype(np.int64)
