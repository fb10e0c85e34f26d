"""Scores of lm-evaluation-harness: ours are those of its own class on the exported folder."""

import json
import pathlib
import shutil

import jax
import pytest

from lmjax.errors import ConfigError
from lmjax.training import reopen
from tests.conftest import ROOT
from tests.hf.exports import GOLDEN, exported, pre_trained

lm_eval = pytest.importorskip('lm_eval')

from lmjax import harness
from lmjax.models import decode

pytestmark = pytest.mark.slow
TASKS = pathlib.Path(__file__).parent / 'tasks'
NAMES = ('lmjax_choices', 'lmjax_rolling', 'lmjax_until')


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  """Where the tasks name their files from; nothing is downloaded."""
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv('HF_DATASETS_OFFLINE', '1')


def without_further_rows(folder: pathlib.Path) -> pathlib.Path:
  """A copy of a golden model, whose rows beyond its tokenizer's are 0, as those of public models are near: else
  transformers would write tokens that are none."""
  import numpy as np
  from safetensors.numpy import load_file, save_file

  from lmjax.data.tokens.tokenizer import Tokenizer

  shutil.copytree(GOLDEN / 'llama_3_1', folder)
  tensors, size = load_file(folder / 'model.safetensors'), Tokenizer.load(str(folder / 'tokenizer.json')).vocab_size
  table = tensors['lm_head.weight']
  tensors['lm_head.weight'] = np.where(np.arange(len(table))[:, None] < size, table, 0).astype(np.float32)
  save_file(tensors, folder / 'model.safetensors')
  return folder


@pytest.mark.parity
@pytest.mark.parametrize('kind', [None, 'gpt2_small', 'llama_3_1'])
def test_every_number_is_that_of_the_exported_folder(kind, raw_config, tmp_path, monkeypatch):
  pytest.importorskip('torch')
  pytest.importorskip('transformers')
  from lm_eval.models.huggingface import HFLM
  from lm_eval.tasks import TaskManager

  leaves, preset = {}, kind
  if kind == 'llama_3_1':
    preset = None
    leaves = {'init_from.path': f'hf:{without_further_rows(tmp_path / "model")}', 'data.length': 32}
  workdir = pre_trained('causal_lm', raw_config, tmp_path, preset, **leaves)
  traced, generate = [], decode.generate

  def counted(*arguments, **settings):
    traced.append(arguments[2].shape)
    return generate(*arguments, **settings)

  monkeypatch.setattr(decode, 'generate', counted)
  argv = [f'--workdir={workdir}', f'--tasks={",".join(NAMES)}', f'--include={TASKS}', '--batch=4', '--mesh=2']
  assert harness.main([*argv, f'--out={tmp_path / "ours.json"}']) == 0
  assert len(traced) <= 3, 'compilations of generation'
  ours = json.loads((tmp_path / 'ours.json').read_text())
  folder = exported(workdir, tmp_path / 'out')
  model = HFLM(pretrained=str(folder), device='cpu', batch_size=4, dtype='float32')
  manager = TaskManager(include_path=str(TASKS))
  theirs = lm_eval.simple_evaluate(model=model, tasks=list(NAMES), task_manager=manager, log_samples=True)
  for name in NAMES:
    for metric, value in theirs['results'][name].items():
      if isinstance(value, float):
        assert ours['results'][name][metric] == pytest.approx(value, rel=1e-5, abs=1e-5), (name, metric)
    for mine, other in zip(ours['samples'][name], theirs['samples'][name], strict=True):
      for a, b in zip(flat(mine['resps']), flat(other['resps']), strict=True):
        assert a == (pytest.approx(b, rel=1e-5, abs=1e-4) if isinstance(b, float) else b), (name, mine['doc'])


def flat(value) -> list:
  """The numbers and texts of nested lists; booleans as texts."""
  if isinstance(value, list | tuple):
    return [one for inner in value for one in flat(inner)]
  return [str(value) if isinstance(value, bool) else value]


def test_contexts_and_special_tokens(raw_config, tmp_path, capsys):
  """What is cut is counted; a special token that a text spells is one, as in transformers; what cannot be scored."""
  leaves = {'init_from.path': f'hf:{without_further_rows(tmp_path / "model")}', 'data.length': 32}
  opened = reopen.open_run(pre_trained('causal_lm', raw_config, tmp_path, **leaves))
  model, mesh = harness.of_run(opened, 2, 4, 'float32')
  tokenizer, first = opened.tokenizer, opened.tokenizer.frame.begin[0]
  plain = model.tok_encode('the model')
  assert plain == [first, *tokenizer.encode('the model')]
  assert model.tok_encode(f'{tokenizer.token(first)}the model') == plain
  long = plain * (model.max_length // len(plain) + 1)
  with jax.set_mesh(mesh):
    [(_, likeliest)] = model._loglikelihood_tokens([(None, long, plain)])
    assert model.cut == 1 and likeliest in (True, False)
    with pytest.raises(ConfigError, match='a continuation of [0-9]+ tokens is longer than the'):
      model._loglikelihood_tokens([(None, plain, long)])


def test_what_is_wrong_is_one_line(raw_config, tmp_path, capsys):
  def refused(*arguments):
    code = harness.main(list(arguments))
    out, err = capsys.readouterr()
    assert code == 2 and 'Traceback' not in err, err
    return err

  workdir = pre_trained('masked_lm', raw_config, tmp_path)
  capsys.readouterr()
  assert '--tasks: missing' in refused(f'--workdir={workdir}')
  assert '--tasks = no_such_task: no such task' in refused(f'--workdir={workdir}', '--tasks=no_such_task')
  task = [f'--tasks={NAMES[0]}', f'--include={TASKS}']
  broken = tmp_path / 'broken'
  broken.mkdir()
  text = (TASKS / 'choices.yaml').read_text().replace('choices.jsonl', 'nothing.jsonl').replace('lmjax_', 'broken_')
  (broken / 'broken.yaml').write_text(text)
  causal = pre_trained('causal_lm', raw_config, tmp_path / 'causal')
  capsys.readouterr()
  assert harness.main([f'--workdir={causal}', '--tasks=broken_*', f'--include={broken}']) == 3
  assert '--tasks = broken_choices: cannot be loaded (FileNotFoundError' in capsys.readouterr().err
  assert '--include = nowhere: no such folder' in refused(f'--workdir={workdir}', *task[:1], '--include=nowhere')
  assert 'masked_lm is no model of texts from left to right' in refused(f'--workdir={workdir}', *task)
