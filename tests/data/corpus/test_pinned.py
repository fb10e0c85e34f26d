"""A run keeps the text that it began with."""

import json
import os
import shutil

import pytest

from lmjax import evaluate
from lmjax.errors import CheckpointError, DataError
from tests import runs
from tests.data.corpus.corpora import DOCUMENTS, write


@pytest.fixture
def begun(tmp_path, raw_config):
  """(config, workdir, how it went on) of a run of two steps, whose source and cache are its own."""

  def train(steps, workdir=tmp_path / 'run', **leaves):
    settings = {'data.sources.main.path': str(tmp_path / 'a.jsonl'), 'data.sources.main.field': 'text'}
    settings |= {
      'data.cache_dir': str(tmp_path / 'cache'),
      'train.steps': steps,
      'checkpoint.every': 1,
      'eval.every': 1,
      'optim.warmup_steps': 1,
      'writer.tensorboard': False,
    }
    raw, said = raw_config('causal_lm', **settings | leaves), []
    runs.train(raw, workdir, said.append)
    return '\n'.join(said)

  write(tmp_path / 'a.jsonl', DOCUMENTS)
  train(2)
  return train


def test_a_run_continues_on_the_text_that_it_began_with(begun, tmp_path, capsys):
  before = runs.manifest_of(tmp_path / 'run', 2)
  write(tmp_path / 'a.jsonl', [*DOCUMENTS, 'more text of another day'])
  assert 'resuming from step 2' in begun(4)
  assert 'the sources have changed since the run began: it continues on the token shards' in capsys.readouterr().out
  after = runs.manifest_of(tmp_path / 'run', 4)
  assert all(after[name] == before[name] for name in ('token_stores', 'data_fingerprint', 'tokenizer_hash'))
  os.unlink(tmp_path / 'a.jsonl')
  assert 'resuming from step 4' in begun(5)
  assert 'the sources cannot be listed' in capsys.readouterr().out


def test_every_seed_is_trained_on_the_text_of_the_first(begun, tmp_path):
  workdir = tmp_path / 'seeds'
  begun(2, workdir=workdir, **{'train.seeds': 2})
  shutil.rmtree(workdir / 'seed1')
  write(tmp_path / 'a.jsonl', [*DOCUMENTS, *(f'more text {number}' for number in range(20))])
  begun(2, workdir=workdir, **{'train.seeds': 2})
  one, other = (runs.manifest_of(workdir / f'seed{number}', 2) for number in (0, 1))
  assert one['token_stores'] == other['token_stores'] and one['tokenizer_hash'] == other['tokenizer_hash']


def test_a_run_is_evaluated_on_the_text_that_it_held_out(begun, tmp_path, capsys):
  reported = runs.metrics_of(tmp_path / 'run', 'valid')[-1]['loss']
  write(tmp_path / 'a.jsonl', DOCUMENTS[::-3])
  assert evaluate.main([f'--workdir={tmp_path / "run"}', '--json']) == 0
  printed = capsys.readouterr().out
  assert 'the sources have changed since the run began' in printed
  assert json.loads(printed.splitlines()[-1])['metrics']['valid/loss'] == pytest.approx(reported, rel=1e-5)


def test_a_run_does_not_continue_without_one_of_its_sources(begun, tmp_path):
  source = write(tmp_path / 'b.jsonl', [f'{text} in another' for text in DOCUMENTS])
  mix = {f'data.sources.mix.{name}': value for name, value in dict(path=source.path, field='text', weight=1.0).items()}
  begun(2, workdir=tmp_path / 'two', **mix)
  with pytest.raises(CheckpointError, match='data.sources.mix.* would be other data'):
    begun(3, workdir=tmp_path / 'two')


def test_shards_that_are_gone_are_made_again_from_the_same_text_alone(begun, tmp_path):
  shutil.rmtree(tmp_path / 'cache' / 'shards')
  assert 'resuming from step 2' in begun(3)
  shutil.rmtree(tmp_path / 'cache' / 'shards')
  write(tmp_path / 'a.jsonl', [*DOCUMENTS, 'more text'])
  with pytest.raises(DataError, match='are gone, and its sources have changed since'):
    begun(4)


def test_other_settings_of_the_data_are_refused_as_before(begun):
  with pytest.raises(CheckpointError, match='data.valid_fraction: .* would be other data'):
    begun(4, **{'data.valid_fraction': 0.5})


def test_a_run_with_stores_of_before_is_refused_in_a_line(begun, tmp_path):
  older = lambda manifest: manifest.update(token_stores={'main': 'ab' * 32})
  runs.edit_manifest(tmp_path / 'run', 2, older)
  with pytest.raises(CheckpointError, match='stores of an older kind, which are not read any more') as error:
    begun(4)
  assert len(str(error.value).splitlines()) == 1
