"""The loss and the main metric as a picture."""

import pytest

from lmjax.reports import pictures


@pytest.fixture
def lines():
  """Those of metrics.jsonl of a run of six steps."""
  train = [{'step': step, 'split': 'train', 'loss': 7.0 - step} for step in range(1, 7)]
  levels = {'bits_per_byte': 3.0, 'gzip_bits_per_byte': 2.9}
  return train + [{'step': step, 'split': 'valid', 'loss': 7.1 - step, **levels} for step in (3, 6)]


def test_curves_are_drawn(lines):
  picture = pictures.plot_curves(lines, 'bits_per_byte', 'gzip_bits_per_byte')
  assert picture.startswith(b'\x89PNG') and len(picture) > 10_000


def test_a_baseline_is_drawn_where_there_is_one(lines):
  drawn = [pictures.plot_curves(lines, 'bits_per_byte', name) for name in ('gzip_bits_per_byte', 'lead_rougeL', None)]
  assert drawn[0] != drawn[1] == drawn[2]


def test_a_line_without_a_finite_loss_is_left_out(lines):
  without = pictures.plot_curves([*lines, {'step': 7, 'split': 'train', 'loss': None}], 'bits_per_byte', None)
  assert without == pictures.plot_curves(lines, 'bits_per_byte', None)


def test_no_points_no_picture():
  assert pictures.plot_curves([], 'accuracy', None) is None
