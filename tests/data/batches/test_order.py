"""The keyed permutation is a bijection; the quota of a mixture is kept at every row."""

import time

import numpy as np
import pytest

from lmjax.data.batches.order import MixtureSchedule, as_fractions, below, draws, key_of, mix, permutation, permute


@pytest.mark.parametrize('n', [*range(1, 70), 255, 256, 257, 1_000, 65_537])
def test_every_row_comes_once(n):
  for key in (0, key_of(n), 2**64 - 1):
    assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


@pytest.mark.parametrize('n', [0, 1, 1_000, 65_536, 200_001])
def test_a_whole_permutation_is_made_some_at_a_time(n):
  found = permutation(n, 7)
  assert found.dtype == np.int32 and np.array_equal(found, permute(np.arange(n), n, 7) if n else [])


def test_permutation_is_a_function_of_index_and_key_alone():
  whole = permute(np.arange(1_000), 1_000, 7)
  assert [int(permute(index, 1_000, 7)) for index in (0, 999, 500)] == whole[[0, 999, 500]].tolist()
  assert permute(np.zeros((0,), np.int64), 5, 1).shape == (0,)
  assert np.array_equal(permute(np.arange(6).reshape(2, 3), 6, 1).reshape(-1), permute(np.arange(6), 6, 1))
  assert (permute(np.arange(1_000), 1_000, 8) != whole).mean() > 0.9


def test_permutation_looks_random():
  n, keys = 50, 4_000
  found = np.stack([permute(np.arange(n), n, key_of('test', key)) for key in range(keys)])
  # Each index goes to each place about keys / n = 80 times: chi-squared per degree of freedom is 1.
  counts = np.stack([np.bincount(found[:, index], minlength=n) for index in range(n)])
  chi_squared = ((counts - keys / n) ** 2 / (keys / n)).sum() / (n - 1) ** 2
  assert 0.85 < chi_squared < 1.15
  neighbours = (np.diff(found, axis=1) == 1).mean()
  assert neighbours < 2.5 / n


def test_permutation_takes_no_memory_for_large_n():
  n = 10**15
  started = time.monotonic()
  found = permute(np.arange(n - 1_000, n), n, 3)
  assert len(set(found.tolist())) == 1_000 and found.min() >= 0 and found.max() < n
  assert time.monotonic() - started < 1


def test_keys_are_stable_and_distinct():
  # A run resumed under a later release must see the same rows, so the keys may never change.
  assert key_of(0, 'pydoc', 1) == 10627310593329925715
  keys = {key_of(seed, name, epoch) for seed in range(20) for name in ('a', 'b', '1') for epoch in range(20)}
  assert len(keys) == 1_200
  assert key_of(1, 23) != key_of(12, 3) and key_of('1') != key_of(1) and key_of(np.int64(4)) == key_of(4)
  assert mix(np.array([1], np.uint64), 5).dtype == np.uint64


def test_draws_are_even_and_have_nothing_to_do_with_each_other():
  keys = np.array([0, 1, 2**64 - 1], np.uint64)
  found = np.stack([as_fractions(draws(keys, stream, 20_000)) for stream in (0, 1)])
  assert found.shape == (2, 3, 20_000) and found.min() >= 0 and found.max() < 1
  counts = np.apply_along_axis(lambda numbers: np.histogram(numbers, 50, (0, 1))[0], -1, found)
  assert 0.6 < ((counts - 400) ** 2 / 400).sum(-1).mean() / 49 < 1.4
  assert np.abs(np.corrcoef(found.reshape(6, -1)) - np.eye(6)).max() < 0.03
  assert np.abs(np.corrcoef(found[0, 0, :-1], found[0, 0, 1:])[0, 1]) < 0.03
  # that of one key and a number does not depend on how many others there are
  assert (draws(keys[1:2], 1, 5) == draws(keys, 1, 9)[1, :5]).all()
  assert np.bincount(below(draws(keys, 0, 20_000), 3).ravel(), minlength=3) == pytest.approx([20_000] * 3, rel=0.03)


@pytest.mark.parametrize(
  'weights', [[1.0], [1, 1], [2, 1], [0.7, 0.2, 0.1], [5, 1, 1, 1, 3, 2, 2.5], [1, 1e-9], range(1, 201)]
)
def test_quota_is_kept_within_one_row_at_every_point(weights):
  mixture = MixtureSchedule(weights)
  rows = 3 * mixture.slots + 5
  sources, numbers = mixture.locate(np.arange(rows))
  shares = np.array(weights) / sum(weights)
  assert np.abs(mixture.counts / mixture.slots - shares).max() < len(weights) / 65_536
  assert mixture.counts.min() >= 1
  for source in range(len(weights)):
    mine = sources == source
    ideal = np.arange(1, rows + 1) * (mixture.counts[source] / mixture.slots)
    assert np.abs(np.cumsum(mine) - ideal).max() < 1 + 1e-6
    assert np.array_equal(numbers[mine], np.arange(mine.sum()))


def test_quota_finds_a_far_row_at_once():
  mixture = MixtureSchedule([2, 1])
  started = time.monotonic()
  source, number = mixture.locate(np.array([10**14]))
  assert time.monotonic() - started < 0.1
  assert abs(int(number[0]) / 10**14 - [2 / 3, 1 / 3][int(source[0])]) < 1e-4
