"""Any checkpoint on any data, without training."""

import json
import shutil

import pytest

from lmjax import evaluate
from tests import runs


@pytest.fixture(scope='module', params=[pytest.param('causal_lm', marks=pytest.mark.slow), 'masked_lm'])
def pre_trained(request, raw_config, tmp_path_factory):
  return runs.pre_trained(request.param, raw_config, tmp_path_factory)


@pytest.fixture(scope='module')
def labelled(raw_config, tmp_path_factory):
  return runs.fine_tuned(raw_config, tmp_path_factory).parent


def metrics(capsys, *arguments):
  code = evaluate.main([*arguments, '--json'])
  out, err = capsys.readouterr()
  assert code == 0, err
  return json.loads(out.splitlines()[-1])['metrics']


def assert_same(found, results):
  expected = {name: value for name, value in results.items() if name.partition('/')[0] in ('valid', 'test')}
  assert found.keys() == {name for name in expected if not name.endswith('/seconds')}
  for name, value in found.items():
    assert value == pytest.approx(expected[name], rel=1e-5), name


def results_of(workdir):
  return json.loads((workdir / 'results.json').read_text())['metrics']


def test_a_pre_trained_run_scores_what_it_reported(pre_trained, capsys):
  import pathlib

  found = metrics(capsys, f'--workdir={pre_trained}')
  assert_same(found, results_of(pathlib.Path(pre_trained)))


def test_a_pre_trained_run_on_other_text(pre_trained, capsys, tmp_path):
  file = tmp_path / 'other.jsonl'
  file.write_text(''.join(json.dumps({'text': text}) + '\n' for text, _ in runs.texts(9)), encoding='utf-8')
  found = metrics(capsys, f'--workdir={pre_trained}', f'--data={file}')
  assert 0 < found['valid/loss'] < 10
  earlier = metrics(capsys, f'--workdir={pre_trained}', f'--data={file}', '--step=3')
  assert earlier['valid/loss'] != found['valid/loss']


def test_a_fine_tuned_run_scores_what_it_reported(labelled, capsys):
  assert_same(metrics(capsys, f'--workdir={labelled / "run"}'), results_of(labelled / 'run'))
  assert evaluate.main([f'--workdir={labelled / "run"}']) == 0
  assert 'test/accuracy' in capsys.readouterr().out


def test_a_fine_tuned_run_on_other_examples(labelled, capsys, tmp_path):
  file = runs.write_tsv(tmp_path / 'other.tsv', runs.texts(9, seed=2))
  found = metrics(capsys, f'--workdir={labelled / "run"}', f'--data={file}')
  assert found['test/accuracy'] == pytest.approx(results_of(labelled / 'run')['test/accuracy'])
  other = runs.write_tsv(tmp_path / 'named.tsv', runs.texts(9, seed=2), header=('words', 'verdict'))
  again = metrics(capsys, f'--workdir={labelled / "run"}', f'--data={other}', '--fields=words,verdict')
  assert again == found
  wrong = runs.write_tsv(tmp_path / 'wrong.tsv', [('a text', 'so-so')])
  assert evaluate.main([f'--workdir={labelled / "run"}', f'--data={wrong}']) == 3
  assert "label 'so-so'; must be one of bad, good" in capsys.readouterr().err


def test_files_that_have_changed_are_told(labelled, capsys, tmp_path):
  """A score of other examples must not pass for the one that training reported."""
  shutil.copytree(labelled, tmp_path / 'copy')
  config = json.loads((tmp_path / 'copy/run/config.json').read_text())
  for split in ('train', 'valid', 'test'):
    config['data'][split] = str(tmp_path / 'copy' / f'{split}.tsv')
  (tmp_path / 'copy/run/config.json').write_text(json.dumps(config))
  flags = [f'--workdir={tmp_path / "copy/run"}', '--json']
  assert evaluate.main(flags) == 0 and not capsys.readouterr().err
  file = tmp_path / 'copy/valid.tsv'
  file.write_text('\n'.join(file.read_text().splitlines()[:5]) + '\n')
  assert evaluate.main(flags) == 0
  assert 'the examples are not those that it was trained with: files have changed' in capsys.readouterr().err


def test_mistakes_are_reported(labelled, capsys, tmp_path):
  assert evaluate.main([]) == 2
  assert '--workdir: missing' in capsys.readouterr().err
  assert evaluate.main([f'--workdir={tmp_path}']) == 4
  assert evaluate.main([f'--workdir={labelled / "run"}', f'--data={tmp_path / "none.tsv"}']) == 3
  assert 'there is no such file' in capsys.readouterr().err
  assert evaluate.main([f'--workdir={labelled / "run"}', '--fields=a,b']) == 2
  assert '--fields = a,b: has no effect without --data' in capsys.readouterr().err
