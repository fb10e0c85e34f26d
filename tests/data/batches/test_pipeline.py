"""Batches: a pure function of (seed, step) on any number of hosts, for mixtures, epochs and evaluation."""

import dataclasses
import hashlib
import json
import lzma
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from lmjax.data.batches import pipeline
from lmjax.data.batches.masking import MaskVocabulary, causal_examples, masked_examples
from lmjax.data.batches.packing import RowSpec
from lmjax.data.config import DataConfig, MaskingConfig, SourceConfig, TokenizerConfig
from lmjax.data.corpus.store import open_or_build
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.errors import DataError

LENGTH, STEPS = 32, 60
MASKING = MaskingConfig('token', 0.3, 0.8, 0.1, 0.1, None, None)


@dataclasses.dataclass
class Run:
  config: DataConfig
  stores: dict
  tokenizer: object

  def spec(self, objective='causal', rows='concat'):
    tok = self.tokenizer
    if objective == 'masked' and rows == 'packed':
      return RowSpec(LENGTH, LENGTH, (tok.bos,), (tok.eos,), (), (), tok.pad)
    if objective == 'causal':
      return RowSpec(LENGTH + 1, LENGTH, (tok.bos,), (tok.eos,), (), (), tok.pad)
    return RowSpec(LENGTH, LENGTH - 2, (), (tok.eos,), (tok.cls,), (tok.sep,), tok.pad)

  def transform(self, objective='causal'):
    if objective == 'causal':
      return lambda rows, keys: causal_examples(rows)
    vocabulary, slots = MaskVocabulary.of(self.tokenizer), MASKING.slots(LENGTH)
    return lambda rows, keys: masked_examples(rows, keys, slots, MASKING, vocabulary)

  def make(self, objective='causal', config=None, seed=0, **hosts):
    config = config or self.config
    return pipeline.make(
      config,
      self.stores,
      self.spec(objective, config.rows),
      self.transform(objective),
      seed=seed,
      total_steps=STEPS,
      **hosts,
    )

  def valid(self, name, objective='causal', config=None, batch_size=8, **hosts):
    config = config or self.config
    return pipeline.valid_batches(
      config,
      self.stores[name],
      self.spec(objective, config.rows),
      self.transform(objective),
      batch_size=batch_size,
      **hosts,
    )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('pipeline')
  rng = np.random.default_rng(0)
  sources = {}
  for name, letters, count, weight in [('near', 'abcd', 150, 3.0), ('far', 'wxyz', 30, 1.0)]:
    texts = [' '.join(''.join(rng.choice(list(letters), 4)) for _ in range(rng.integers(5, 60))) for _ in range(count)]
    path = folder / f'{name}.jsonl'
    path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
    sources[name] = SourceConfig(str(path), 'text', weight)
  lines = [line for source in sources.values() for line in open(source.path)]
  tokenizer = train_tokenizer(lines, 320, 10**6)
  settings = {'valid_fraction': 0.2, 'bad_text': 'raise', 'cache_dir': str(folder / 'cache')}
  config = DataConfig(
    sources, TokenizerConfig(None, 320, 10**6, False), 'concat', LENGTH, 8, False, valid_bytes=None, **settings
  )
  stores = open_or_build(config, tokenizer)
  return Run(config, stores, tokenizer)


def same(one, two):
  return set(one) == set(two) and all(np.array_equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
  'objective,rows',
  [
    ('causal', 'concat'),
    ('causal', 'padded'),
    ('masked', 'packed'),
    pytest.param('causal', 'packed', marks=pytest.mark.slow),
    pytest.param('masked', 'concat', marks=pytest.mark.slow),
    pytest.param('masked', 'padded', marks=pytest.mark.slow),
  ],
)
def test_batches_are_the_same_for_any_number_of_hosts(run, objective, rows):
  config = dataclasses.replace(run.config, rows=rows)
  whole = run.make(objective, config)
  for hosts in (2, 8):
    parts = [run.make(objective, config, hosts=hosts, host=host) for host in range(hosts)]
    for step in (7, STEPS - 1):
      batch = whole.batch(step)
      split = [part.batch(step) for part in parts]
      assert same(batch, {key: np.concatenate([part[key] for part in split]) for key in batch})
      assert all(part['inputs'].shape == (8 // hosts, LENGTH) for part in split)
      assert parts[0].rows(step) == whole.rows(step)


def test_grain_gives_the_same_batches_from_any_step_on(run):
  made = run.make('masked')
  for start in (0, 23, STEPS - 1):
    found = list(made.iterate(start))
    assert len(found) == STEPS - start
    for offset in (0, len(found) // 2, len(found) - 1):
      assert same(found[offset], run.make('masked').batch(start + offset))
  assert list(made.iterate(STEPS)) == []


def test_batches_are_the_same_in_another_process(run):
  code = f"""
import hashlib, json, sys
sys.path[:0] = {[str(pathlib.Path(__file__).parent.parent.parent.parent)]!r}
from tests.data.batches import test_pipeline as t
from lmjax.data.config import SourceConfig
from lmjax.data.config import TokenizerConfig
from lmjax.data.tokens.trainer import train_tokenizer
facts = json.load(sys.stdin)
sources = {{name: SourceConfig(**source) for name, source in facts.pop('sources').items()}}
config = t.DataConfig(sources, TokenizerConfig(**facts.pop('tokenizer')), **facts)
lines = [line for source in sources.values() for line in open(source.path)]
tokenizer = train_tokenizer(lines, 320, 10**6)
stores = t.open_or_build(config, tokenizer)
print(t.digest(t.Run(config, stores, tokenizer).make('masked').batch(5)))
"""
  env = os.environ | {'PYTHONHASHSEED': '3'}
  facts = json.dumps(dataclasses.asdict(run.config))
  other = subprocess.run([sys.executable, '-c', code], input=facts, capture_output=True, text=True, env=env, check=True)
  assert other.stdout.strip() == digest(run.make('masked').batch(5))


def digest(batch):
  return hashlib.sha256(b''.join(np.ascontiguousarray(batch[key]).tobytes() for key in sorted(batch))).hexdigest()


def test_each_row_comes_once_an_epoch_and_in_a_new_order_in_the_next(run):
  made = run.make()
  seen = {}
  for step in range(200):
    for name, epoch, row in made.rows(step):
      seen.setdefault((name, epoch), []).append(row)
  for name, count in made.rows_per_epoch.items():
    assert sorted(seen[name, 0]) == sorted(seen[name, 1]) == list(range(count))
    assert seen[name, 0] != seen[name, 1] and seen[name, 0] != list(range(count))


def test_a_mixture_keeps_its_weights_and_names_its_rows(run):
  made = run.make()
  names = [name for step in range(100) for name, _, _ in made.rows(step)]
  assert abs(names.count('near') - 600) <= 1
  batch = made.batch(3)
  for (name, _, _), documents, inputs in zip(made.rows(3), made.documents(3), batch['inputs']):
    text = run.tokenizer.decode(inputs)
    assert set(text) <= set('abcd ' if name == 'near' else 'wxyz ')
    assert documents[0][1] == 0
    stored = run.stores[name].train([0])
    last, place = documents[-1]
    if place and place + stored.lengths[last] < LENGTH:
      assert inputs[place : place + stored.lengths[last]].tolist() == stored.ids(last).tolist()


def test_seed_changes_documents_rows_and_masks(run):
  one, two = run.make('masked', seed=0), run.make('masked', seed=1)
  assert not np.array_equal(one.batch(0)['inputs'], two.batch(0)['inputs'])
  assert one.rows(0) != two.rows(0) and one.documents(0) != two.documents(0)


def test_epochs_differ_and_runs_do_not(run):
  """Documents meet others, rows hold other tokens and other masks; all of them a function of the step."""
  made, again = run.make('masked'), run.make('masked')
  for step in (0, STEPS // 2, STEPS - 1):
    assert same(made.batch(step), again.batch(step)) and made.documents(step) == again.documents(step)
  neighbours = [set(), set()]
  for step in range(200):
    for (name, epoch, _), documents in zip(made.rows(step), made.documents(step)):
      if name == 'near' and epoch < 2:
        numbers = [document for document, _ in documents]
        neighbours[epoch] |= {frozenset(pair) for pair in zip(numbers, numbers[1:]) if pair[0] != pair[1]}
  shared = neighbours[0] & neighbours[1]
  assert min(map(len, neighbours)) > 50 and len(shared) < 0.2 * len(neighbours[0])


def test_the_masking_rate_is_that_of_the_config_at_every_step(run):
  made = run.make('masked')
  counts = [made.batch(step)['weights'].sum(1).mean() for step in (0, STEPS // 2, STEPS - 1)]
  assert counts == pytest.approx([9, 9, 9], abs=0.7)


def test_all_training_text_is_in_the_rows_of_an_epoch_and_no_held_out_text(run):
  # 4 letters of 4, drawn 20 times or so: a document is in the rows if its first words are
  made, rows = run.make(), {name: {} for name in run.stores}
  for step in range(200):
    batch = made.batch(step)
    for (name, epoch, row), inputs in zip(made.rows(step), batch['inputs']):
      if epoch == 1:
        rows[name][row] = run.tokenizer.decode(inputs)
  for name, store in run.stores.items():
    assert len(rows[name]) == made.rows_per_epoch[name]
    text = ''.join(rows[name][row] for row in sorted(rows[name]))
    for documents, wanted in ((store.train([0]), True), (store.held_out.documents, False)):
      starts = [run.tokenizer.decode(documents.ids(i)[:12]) for i in range(len(documents.lengths))]
      found = np.mean([start in text for start in starts])
      assert found > 0.95 if wanted else found < 0.05


@pytest.mark.parametrize('objective', ['causal', 'masked'])
def test_evaluation_reads_all_held_out_text_once(run, objective):
  for rows in ('concat', 'padded', 'packed'):
    config = dataclasses.replace(run.config, rows=rows)
    for name, store in run.stores.items():
      batches = list(run.valid(name, objective, config))
      assert len(batches) == len(run.valid(name, objective, config))
      assert all(batch['inputs'].shape == (8, LENGTH) for batch in batches)
      if objective == 'causal':
        bytes_V = run.tokenizer.token_bytes()
        counted = sum((bytes_V[batch['targets']] * batch['weights']).sum() for batch in batches)
        first = 0
        if rows == 'concat':  # the very first token of the stream has nothing before it
          first = bytes_V[store.held_out.documents.ids(0)[0]]
        assert counted + first == len(pipeline.valid_text(config, store)) == store.held_out.n_bytes.sum()


def test_evaluation_is_the_same_for_any_number_of_hosts_and_its_filling_weighs_nothing(run):
  for objective in ('causal', 'masked'):
    whole = run.valid('far', objective, batch_size=12)
    assert len(whole.layout) % 12, 'the last batch should have rows to fill up'
    parts = [run.valid('far', objective, batch_size=12, hosts=4, host=host) for host in range(4)]
    assert {len(part) for part in parts} == {len(whole)}
    for index, batch in enumerate(whole):
      split = [part.batch(index) for part in parts]
      assert same(batch, {key: np.concatenate([part[key] for part in split]) for key in batch})
    filling = np.array(whole.rows(len(whole) - 1)) >= len(whole.layout)
    assert not batch['weights'][filling].any() and batch['weights'][~filling].any(1).all()
    if objective == 'masked':
      assert not batch['shown'][filling].any()
    assert same(run.valid('far', objective, batch_size=12).batch(0), whole.batch(0))


def test_evaluation_can_be_cut_to_so_many_bytes(run):
  store = run.stores['near']
  whole = pipeline.valid_text(run.config, store)
  for limit in (1, 600, 1_500, 10**9):
    config = dataclasses.replace(run.config, valid_bytes=limit)
    text, found = pipeline.valid_text(config, store), pipeline.held_out(config, store)
    assert whole.startswith(text) and (limit - 10 < len(text) <= limit or text == whole or limit == 1)
    assert found.n_bytes.sum() == len(text) and (found.documents.lengths > 0).all()
    tokens = sum(len(document) for document in [run.tokenizer.encode(text.decode())])
    assert pipeline.valid_bytes_per_token(config, store) == pytest.approx(len(text) / tokens, rel=0.1)
  # the first document is kept whole where no token ends before the limit
  config = dataclasses.replace(run.config, valid_bytes=1)
  first = store.held_out.documents.ids(0)
  assert pipeline.valid_text(config, store).decode() in (run.tokenizer.decode(first), run.tokenizer.decode(first[:1]))


def test_a_document_is_cut_between_two_characters(tmp_path, run):
  texts = [f'{number} ' + '\u6587\u5b57\U0001f642' * 40 for number in range(20)]
  path = tmp_path / 'wide.jsonl'
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in texts))
  changes = {'sources': {'wide': SourceConfig(str(path), 'text', 1.0)}, 'cache_dir': str(tmp_path / 'cache')}
  for limit in range(100, 112):
    config = dataclasses.replace(run.config, valid_fraction=0.5, valid_bytes=limit, **changes)
    store = open_or_build(config, run.tokenizer)['wide']
    text, found = pipeline.valid_text(config, store), pipeline.held_out(config, store)
    assert limit - 4 < len(text) <= limit and text.decode() and found.n_bytes.sum() == len(text)


def test_what_a_run_reads_is_planned_and_limited(run):
  made = run.make()
  plan, rows = made.plan(), [name for step in range(STEPS) for name, _, _ in made.rows(step)]
  for name, one in plan.items():
    assert one['share'] == pytest.approx(rows.count(name) / len(rows), abs=0.01)
    assert one['epochs'] == pytest.approx(rows.count(name) / made.rows_per_epoch[name], rel=0.02)
  sources = {name: dataclasses.replace(source, max_epochs=1.0) for name, source in run.config.sources.items()}
  assert max(one['epochs'] for one in plan.values()) > 1
  limit = r'data.sources.near.max_epochs = 1: the run would read it 1.1 times; .* lower its weight to (0\.\d+) of what'
  with pytest.raises(DataError, match=limit) as error:
    run.make(config=dataclasses.replace(run.config, sources=sources))
  factor = float(re.search(limit, str(error.value))[1])
  sources = {'near': dataclasses.replace(sources['near'], weight=3.0 * factor), 'far': run.config.sources['far']}
  assert 0.98 < run.make(config=dataclasses.replace(run.config, sources=sources)).plan()['near']['epochs'] <= 1.001
  alone = dataclasses.replace(run.config, sources={'near': dataclasses.replace(sources['near'], weight=1.0)})
  with pytest.raises(DataError, match='must not be read more often; train for fewer steps, add text, or raise it'):
    run.make(config=alone)


def test_temperature_draws_by_size(run):
  tokens = [store.train_tokens for store in run.stores.values()]
  even = {name: dataclasses.replace(source, weight=1.0) for name, source in run.config.sources.items()}
  for temperature, power in ((1.0, 1.0), (2.0, 0.5), (1e9, 0.0)):
    config = dataclasses.replace(run.config, sources=even, temperature=temperature)
    shares = [one['share'] for one in run.make(config=config).plan().values()]
    expected = np.array(tokens) ** power
    np.testing.assert_allclose(shares, expected / expected.sum(), atol=1e-4)


def test_weights_and_temperatures_of_any_size(run):
  for weight, temperature in ((1e308, None), (1e-300, 0.01), (1.0, 0.001)):
    sources = {name: dataclasses.replace(source, weight=weight) for name, source in run.config.sources.items()}
    plan = run.make(config=dataclasses.replace(run.config, sources=sources, temperature=temperature)).plan()
    assert sum(one['share'] for one in plan.values()) == pytest.approx(1)
    assert (plan['near']['share'] == plan['far']['share']) == (temperature is None)


def test_fingerprint_follows_what_batches_hold(run):
  base = run.make()
  assert base.fingerprint == run.make(hosts=2, host=1).fingerprint
  near = run.config.sources['near']
  heavier = dataclasses.replace(near, weight=9.0)
  changed = [
    run.make(seed=1),
    run.make('masked'),
    run.make(config=dataclasses.replace(run.config, rows='packed')),
    run.make(config=dataclasses.replace(run.config, batch_size=16)),
    run.make(config=dataclasses.replace(run.config, sources={'near': near})),
    run.make(config=dataclasses.replace(run.config, sources=run.config.sources | {'near': heavier})),
  ]
  assert len({made.fingerprint for made in [base, *changed]}) == 7


def test_ids_out_of_the_vocabulary_are_errors(run):
  for wrong in (-1, run.tokenizer.vocab_size):

    def spoil(rows, keys, wrong=wrong):
      batch = causal_examples(rows)
      batch['targets'] = np.full_like(batch['targets'], wrong)
      return batch

    made = pipeline.make(run.config, run.stores, run.spec(), spoil, seed=0, total_steps=STEPS)
    with pytest.raises(DataError, match=f'targets hold id {wrong}'):
      made.batch(0)
    with pytest.raises(DataError, match=f'targets hold id {wrong}'):
      next(made.iterate(0))


def test_too_little_text_and_uneven_hosts_are_errors(run):
  spec = RowSpec(10**6 + 1, 10**6, (), (run.tokenizer.eos,), (), (), 0)
  with pytest.raises(DataError, match='one row takes 1,000,001'):
    pipeline.make(run.config, run.stores, spec, run.transform(), seed=0, total_steps=1)
  with pytest.raises(DataError, match='multiple of the 3 hosts'):
    run.make(hosts=3)
  with pytest.raises(DataError, match='multiple of the 3 hosts'):
    run.valid('near', hosts=3)


def test_config_rules(run):
  assert not list(run.config.problems())
  for change, leaf in [
    ({'sources': {}}, 'sources'),
    ({'sources': {'a/b': dataclasses.replace(run.config.sources['near'], weight=1.0)}}, 'sources'),
    ({'cls_sep': True, 'rows': 'packed'}, 'cls_sep'),
    ({'cls_sep': True, 'length': 2}, 'length'),
    ({'cache_dir': ''}, 'cache_dir'),
  ]:
    assert [problem[0] for problem in dataclasses.replace(run.config, **change).problems()] == [leaf]


@pytest.mark.slow
def test_a_corpus_of_novels_comes_back_as_it_was(tmp_path):
  from tests.conftest import REAL_DATA  # here, since a process of its own imports this file without its folder

  path = REAL_DATA / 'pretrain' / 'gutenberg.jsonl.xz'
  if not path.exists():
    pytest.skip(f'{path} is not there')
  from lmjax.data.corpus import tokenizers

  sources, trained = {'novels': SourceConfig(str(path), 'text', 1.0)}, TokenizerConfig(None, 4_096, 1_000_000, False)
  config = DataConfig(sources, trained, 'concat', LENGTH, 8, False, 0.05, None, 'raise', str(tmp_path))
  tokenizer = tokenizers.prepare(config)
  store = open_or_build(config, tokenizer)['novels']
  assert store.counts['examples'] == 21
  texts = [json.loads(line)['text'] for line in lzma.open(path, 'rt', encoding='utf-8')]
  kept = [store.train([number]) for number in range(len(store.row.shards))] + [store.held_out.documents]
  found = [tokenizer.decode(documents.ids(i)) for documents in kept for i in range(len(documents.lengths))]
  assert sorted(found) == sorted(texts)
