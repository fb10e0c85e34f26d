"""A source of many windows: what one window gives, in parts; the same batches on any number of hosts."""

import dataclasses

import numpy as np
import pytest

from lmjax.data.batches import pipeline, shuffle
from lmjax.data.batches.masking import causal_examples
from lmjax.data.batches.packing import RowSpec
from lmjax.data.corpus import unit
from lmjax.data.corpus.standing import Shards
from lmjax.data.corpus.store import open_or_build
from lmjax.data.tokens.trainer import train_tokenizer
from tests.data.corpus.corpora import DOCUMENTS, config_of, write

BATCH = 64


@pytest.fixture(scope='module')
def tokenizer():
  return train_tokenizer(DOCUMENTS, 320, 20_000)


@pytest.fixture
def make(tmp_path, tokenizer, monkeypatch):
  """Pipelines of 18 shards in 6 windows."""
  monkeypatch.setattr(unit, '_SHARD_BYTES', 4_000)
  monkeypatch.setattr(shuffle, '_WINDOW_TOKENS', 3_000)
  source = write(tmp_path / 'a.jsonl', [f'{text}{number}' for number in range(4) for text in DOCUMENTS])

  base = dataclasses.replace(config_of(tmp_path / 'cache', {'corpus': source}), batch_size=BATCH)
  stores = open_or_build(base, tokenizer)

  def make(rows='concat', length=32, **hosts):
    config = dataclasses.replace(base, rows=rows)
    spec = RowSpec(length + 1, length, (tokenizer.bos,), (tokenizer.eos,), (), (), tokenizer.pad)
    transform = lambda rows, keys: causal_examples(rows)
    return pipeline.make(config, stores, spec, transform, seed=0, total_steps=100, **hosts)

  return make


@pytest.mark.parametrize('rows', ['concat', 'packed', 'padded'])
def test_each_row_comes_once_an_epoch(make, rows):
  made = make(rows)
  [windows] = made._rows_of.values()
  [count] = made.rows_per_epoch.values()
  assert len(windows._windows) > 4
  steps = -(-2 * count // BATCH)
  found = [row for step in range(steps) for row in made.rows(step)][: 2 * count]
  for epoch in (0, 1):
    assert {e for _, e, _ in found[epoch * count : (epoch + 1) * count]} == {epoch}
    order = [row for _, _, row in found[epoch * count : (epoch + 1) * count]]
    assert sorted(order) == list(range(count)) != order
  assert [row for _, _, row in found[:count]] != [row for _, _, row in found[count:]]


def test_the_lengths_of_a_corpus_are_read_once(make, monkeypatch):
  first = make('padded').rows_per_epoch
  monkeypatch.setattr(Shards, 'columns', lambda self: 1 / 0)
  assert make('padded').rows_per_epoch == first
  with pytest.raises(ZeroDivisionError):
    make('padded', length=16)


def test_an_epoch_has_all_text_of_every_window(make):
  made = make('padded')
  [store] = [windows._store for windows in made._rows_of.values()]
  [count] = made.rows_per_epoch.values()
  tokens = np.zeros(store.tokenizer.vocab_size, np.int64)
  documents = store.train(list(range(len(store.row.shards))))
  for index in range(len(documents.lengths)):
    tokens += np.bincount(documents.ids(index), minlength=len(tokens))
  batches = [made.batch(step) for step in range(count // BATCH)]
  seen = sum(np.bincount(batch['targets'][batch['weights'] > 0], minlength=len(tokens)) for batch in batches)
  own = np.arange(len(tokens)) != store.tokenizer.eos
  left_out = tokens[own].sum() - seen[own].sum()  # in the rows that fill no batch
  assert (seen[own] <= tokens[own]).all() and 0 <= left_out < 33 * BATCH


def test_batches_are_the_same_on_1_2_4_and_64_hosts(make):
  whole = make()
  for hosts in (2, 4, 64):
    parts = [make(hosts=hosts, host=host) for host in range(hosts)]
    for step in (0, 17, 18, 99):
      batch = whole.batch(step)
      for key, array in batch.items():
        assert np.array_equal(array, np.concatenate([part.batch(step)[key] for part in parts])), (hosts, step, key)
