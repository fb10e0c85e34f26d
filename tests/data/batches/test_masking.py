"""Transforms: next tokens within a document; masks with the right statistics, whole words, spans and slots."""

import numpy as np
import pytest

from lmjax.data.batches.masking import (
  MaskingConfig,
  MaskVocabulary,
  causal_examples,
  masked_examples,
  word_numbers,
)

V, MASK, SPECIALS = 1_000, 3, 7
# Ids from 7: every fourth token begins with a space, so words are runs of 1 to 4 tokens.
FIRST = np.where(np.arange(V) % 4 == 0, 0, 1).astype(np.uint8)
FIRST[:SPECIALS] = 0
LAST = np.ones(V, np.uint8)
LAST[:SPECIALS] = 3
VOCABULARY = MaskVocabulary(MASK, np.arange(V) < SPECIALS, np.arange(SPECIALS, V), FIRST, LAST)


def config(unit='token', rate=0.15, shares=(0.8, 0.1, 0.1), mean_span=None, max_span=None):
  if unit == 'span' and mean_span is None:
    mean_span, max_span = 3.0, 10
  return MaskingConfig(unit, rate, *shares, mean_span, max_span)


def row_of(rng, length=128, padding=10):
  tokens = rng.integers(SPECIALS, V, length).astype(np.int32)
  tokens[[0, 40, 80]] = (4, 2, 5)
  segments = np.ones(length, np.int32)
  segments[length - padding :] = 0
  tokens[length - padding :] = 0
  return {'tokens': tokens, 'segments': segments, 'positions': np.arange(length, dtype=np.int32)}


def examples(masking, count=400, **row):
  sources = [row_of(np.random.default_rng(seed), **row) for seed in range(count)]
  return zip(sources, masked(sources, masking.slots(row.get('length', 128)), masking))


def masked(rows, slots, masking, first_key=0):
  """The example of each row."""
  stacked = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
  batch = masked_examples(
    stacked, np.arange(first_key, first_key + len(rows), dtype=np.uint64), slots, masking, VOCABULARY
  )
  return [{key: value[i] for key, value in batch.items()} for i in range(len(rows))]


def test_causal_targets_are_the_next_tokens_of_the_same_document():
  row = {
    'tokens': np.array([7, 8, 2, 5, 6, 0, 0]),
    'segments': np.array([1, 1, 1, 2, 2, 0, 0]),
    'positions': np.array([0, 1, 2, 0, 1, 0, 1]),
  }
  example = {key: value[0] for key, value in causal_examples({key: value[None] for key, value in row.items()}).items()}
  assert example['inputs'].tolist() == [7, 8, 2, 5, 6, 0]
  assert example['targets'].tolist() == [8, 2, 5, 6, 0, 0]
  assert example['weights'].tolist() == [1, 1, 0, 1, 0, 0]
  assert example['segments'].tolist() == [1, 1, 1, 2, 2, 0]
  assert example['positions'].tolist() == [0, 1, 2, 0, 1, 0]
  assert example['weights'].dtype == np.float32 and example['inputs'].dtype == np.int32


@pytest.mark.parametrize('unit', ['token', 'word', 'span'])
def test_slots_hold_what_was_hidden_and_nothing_else_changes(unit):
  for row, example in examples(config(unit)):
    used = int(example['weights'].sum())
    slots = example['slots'][:used]
    assert used >= 1 and (np.diff(slots) > 0).all()
    assert not example['slots'][used:].any() and not example['targets'][used:].any()
    assert not example['weights'][used:].any() and not example['shown'][used:].any()
    assert (example['targets'][:used] == row['tokens'][slots]).all()
    assert (row['segments'][slots] > 0).all() and (row['tokens'][slots] >= SPECIALS).all()
    others = np.setdiff1d(np.arange(128), slots)
    assert (example['inputs'][others] == row['tokens'][others]).all()
    assert ((example['inputs'][slots] == MASK) == example['shown'][:used].astype(bool)).all()
    assert (example['inputs'] < V).all() and (example['inputs'][slots] >= MASK).all()
    assert example['slots'].shape == (20,) and example['slots'].dtype == np.int32
    assert example['weights'].dtype == example['shown'].dtype == np.float32


@pytest.mark.parametrize('shares', [(0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.2, 0.3, 0.5)])
def test_shares_are_kept_within_sampling_error(shares):
  shown = kept = total = 0
  random_ids = []
  for row, example in examples(config(shares=shares), 1_000):
    used = int(example['weights'].sum())
    slots = example['slots'][:used]
    masked = example['shown'][:used].astype(bool)
    same = example['inputs'][slots] == row['tokens'][slots]
    shown, kept, total = shown + masked.sum(), kept + same.sum(), total + used
    random_ids += example['inputs'][slots][~masked & ~same].tolist()
  random_share = len(random_ids) / total
  # A random token is the old one once in 993 times. Four standard errors.
  for found, wanted in zip((shown / total, random_share, kept / total), shares):
    assert abs(found - wanted) <= 4 * np.sqrt(wanted * (1 - wanted) / total) + 2e-3 * shares[1]
  if shares[1] > 0.3:
    assert min(random_ids) < 20 and max(random_ids) > 980 and min(random_ids) >= SPECIALS


def test_the_number_of_masks_is_the_rate_of_what_may_be_masked():
  for row, example in examples(config(rate=0.15)):
    maskable = ((row['segments'] > 0) & (row['tokens'] >= SPECIALS)).sum()
    assert example['weights'].sum() == round(0.15 * maskable)
  for unit in ('word', 'span'):
    counts = [example['weights'].sum() for _, example in examples(config(unit, rate=0.15), 1_000)]
    assert max(counts) <= 20
    assert abs(np.mean(counts) - 0.15 * 115) < 1.5


def test_every_position_is_masked_as_often_as_another():
  for unit in ('token', 'word'):
    counts = np.zeros(128)
    for _, example in examples(config(unit), 2_000):
      counts[example['slots'][example['weights'] > 0]] += 1
    inside = np.delete(counts, [0, 40, 80, *range(118, 128)])
    assert inside.min() > 0.75 * inside.mean() and inside.max() < 1.25 * inside.mean()


def test_words_are_hidden_whole_or_not_at_all():
  for row, example in examples(config('word')):
    hidden = np.zeros(128, bool)
    hidden[example['slots'][example['weights'] > 0]] = True
    [words] = word_numbers(row['tokens'][None], row['segments'][None], FIRST, LAST)
    for word in np.unique(words):
      assert hidden[words == word].all() or not hidden[words == word].any()


def test_a_word_that_would_overflow_is_not_begun():
  # One word of 30 tokens and one of 2; room for 4 only, so the long one never is.
  tokens = np.array([8] + [9] * 29 + [8, 9], np.int32)
  row = {'tokens': tokens, 'segments': np.ones(32, np.int32), 'positions': np.arange(32)}
  masking = config('word', rate=0.12)
  assert masking.slots(32) == 4
  for example in masked([row] * 50, 4, masking):
    assert example['slots'].tolist() == [30, 31, 0, 0] and example['weights'].tolist() == [1, 1, 0, 0]
  [example] = masked([{key: value[:30] for key, value in row.items()}], 4, masking)
  assert not example['weights'].any() and (example['inputs'] == tokens[:30]).all()


def test_spans_have_geometric_lengths_and_stay_within_a_segment():
  lengths = []
  masking = config('span', rate=0.02, mean_span=3.0, max_span=8)  # so few that spans seldom touch
  rows = [row_of(np.random.default_rng(seed), length=512) for seed in range(3_000)]
  for row in rows:
    row['segments'][256:500] = 2
  for example in masked(rows, 30, masking):
    places = example['slots'][example['weights'] > 0]
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    lengths += [len(run) for run in runs]
    assert not any(run[0] < 256 <= run[-1] for run in runs if len(run) <= 8)
  counts = np.bincount(lengths, minlength=20)[1:]
  geometric = (1 / 3) * (2 / 3) ** np.arange(7)
  geometric = np.append(geometric, 1 - geometric.sum())
  assert np.abs(counts[:8] / counts.sum() - geometric).max() < 0.03
  assert counts[8:].sum() < 0.05 * counts.sum()


def test_a_span_too_long_for_the_row_still_leaves_one_mask():
  row = {
    'tokens': np.array([10, 2, 11, 2, 12, 2], np.int32),
    'segments': np.ones(6, np.int32),
    'positions': np.arange(6),
  }
  masking = config('span', rate=0.5, mean_span=1e9, max_span=5)
  [example] = masked([row], 3, masking)
  assert example['weights'].sum() == 1 and example['slots'][0] in (0, 2, 4)


@pytest.mark.parametrize('unit', ['token', 'word', 'span'])
def test_a_row_where_nothing_may_be_masked_weighs_nothing(unit):
  row = {'tokens': np.array([4, 2, 5, 0]), 'segments': np.array([1, 1, 1, 0]), 'positions': np.arange(4)}
  [example] = masked([row], 2, config(unit, rate=0.5))
  assert example['inputs'].tolist() == [4, 2, 5, 0]
  assert not any(example[key].any() for key in ('slots', 'targets', 'weights', 'shown'))


@pytest.mark.parametrize('unit', ['token', 'word', 'span'])
def test_at_least_one_mask_in_a_short_row(unit):
  row = {'tokens': np.array([4, 9, 5, 0]), 'segments': np.array([1, 1, 1, 0]), 'positions': np.arange(4)}
  [example] = masked([row], 1, config(unit, rate=0.01))
  assert example['slots'].tolist() == [1] and example['weights'].tolist() == [1] and example['targets'].tolist() == [9]


@pytest.mark.parametrize('rate,masks', [(0.1, 11.5), (0.2, 23), (0.3, 34.5)])
def test_the_rate_is_the_share_of_masked_tokens_and_slots_hold_them(rate, masks):
  masking = config(rate=rate)
  assert masking.slots(100) == round(100 * rate)
  assert np.mean([example['weights'].sum() for _, example in examples(masking, 50)]) == pytest.approx(masks, abs=0.6)


def test_slots_are_rounded_up_but_not_for_what_floating_point_adds():
  assert config(rate=0.15).slots(128) == 20 and config(rate=0.07).slots(100) == 7


@pytest.mark.parametrize('unit', ['token', 'word', 'span'])
def test_masks_are_a_function_of_the_row_and_its_key(unit):
  rows = [row_of(np.random.default_rng(seed)) for seed in range(30)]
  together = masked(rows, 20, config(unit))
  for number in (0, 7, 29):
    [alone] = masked(rows[number : number + 1], 20, config(unit), first_key=number)
    assert all(np.array_equal(alone[key], together[number][key]) for key in alone)
  [other] = masked(rows[:1], 20, config(unit), first_key=99)
  assert not np.array_equal(other['slots'], together[0]['slots'])


def test_word_numbers_worked_example():
  #                 ' un' 'help' 'ful' '!'  '!'  ' 3' '4'  '##x'
  first = np.array([0, 1, 1, 3, 3, 0, 2, 4], np.uint8)
  last = np.array([1, 1, 1, 3, 3, 2, 2, 1], np.uint8)
  segments = np.array([[1] * 8, [1, 1, 2, 2, 2, 2, 2, 0]])
  numbers = word_numbers(np.stack([np.arange(8)] * 2), segments, first, last)
  assert numbers.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 2, 2, 3, 3, 4]]


def test_config_rules():
  assert not list(config().problems()) and not list(config('span').problems())
  for masking, leaves in [
    (config(shares=(0.8, 0.1, 0.2)), ['keep_share']),
    (config('word', mean_span=3.0), ['mean_span']),
    (MaskingConfig('span', 0.1, 0.8, 0.1, 0.1, None, None), ['mean_span', 'max_span']),
    (config('span', mean_span=0.5, max_span=3), ['mean_span']),
  ]:
    assert [problem[0] for problem in masking.problems()] == leaves
