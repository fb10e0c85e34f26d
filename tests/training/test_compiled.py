"""How much a run computes again: settled once, by what the compiler says."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from lmjax import optim
from lmjax.tasks import prepare
from lmjax.training import compiled as compiled_lib
from tests import runs

AUTO = {'model.remat': 'auto', 'train.steps': 3, 'eval.every': 3, 'checkpoint.every': 3}


@pytest.fixture
def tried(make_config, tokenizer, monkeypatch):
  """`tried(memory, needed)` -> (the kind that was settled, all that were compiled), for devices that are no CPUs.

  `needed` has the peak of each kind that the compiler would report.
  """
  config = make_config('causal_lm', **AUTO | {'model.attention_implementation': 'blockwise'})
  task = prepare.build(config, tokenizer)
  tx = optim.make(config.optim, task.shapes())
  device = SimpleNamespace(platform='tpu')
  mesh = SimpleNamespace(devices=np.array([device]), shape={'data': 1, 'fsdp': 1, 'tensor': 1}, size=1)
  monkeypatch.setattr(
    compiled_lib.state_lib, 'abstract_state', lambda *rest: compiled_lib.state_lib.TrainState((), (), (), ())
  )

  def settle(memory, needed):
    kinds = []

    def compile_(task, *, abstract, memory, **rest):
      kinds.append(task.model.backbone.config.remat)
      return compiled_lib.Compiled(task, abstract, mesh, object(), needed[kinds[-1]], memory, 0.0)

    monkeypatch.setattr(compiled_lib, '_compile', compile_)
    lines = []
    found = compiled_lib.compile_run(task, tx, config.optim, config.train, mesh, memory, lines.append)
    assert [line.split()[2].rstrip(':') for line in lines] == kinds[: len(lines)]
    return found.task.model.backbone.config.remat, kinds

  return settle, config


def test_the_least_that_fits(tried):
  settle, config = tried
  tokens = config.data.batch_size * config.data.length * config.model.layers
  kept = {kind: tokens * compiled_lib.kept_bytes(config.model, kind, scores=0) for kind in compiled_lib.TRIED}
  assert sorted(kept, key=kept.get, reverse=True) == list(compiled_lib.TRIED)
  for kind in compiled_lib.TRIED[:-1]:  # room for what it keeps, and no more
    assert settle(kept[kind] / compiled_lib._WORTH_TRYING, dict.fromkeys(compiled_lib.TRIED, 1.0)) == (kind, [kind])
  assert settle(1.0, dict.fromkeys(compiled_lib.TRIED, 2.0)) == ('full', ['full']), 'it does not fit; that is reported'
  assert settle(None, dict.fromkeys(compiled_lib.TRIED, 1.0)) == ('full', ['full'])


def test_two_programs_at_most(tried):
  """Where the estimate was too low."""
  settle, config = tried
  assert settle(1e9, {'none': 2e9, 'full': 5e8}) == ('full', ['none', 'full'])
  size = lambda kind: tokens * compiled_lib.kept_bytes(config.model, kind, scores=0)
  tokens = config.data.batch_size * config.data.length * config.model.layers
  memory = size('none') / compiled_lib._WORTH_TRYING
  more = memory * compiled_lib._WORTH_TRYING - size('attention')  # what the compiler needs more
  needed = {'none': size('none') + more, 'attention': size('attention') + more}
  assert needed['none'] > memory and settle(memory, needed) == ('attention', ['none', 'attention'])


def test_it_is_kept_with_the_run(raw_config, tmp_path):
  """On CPU devices nothing is computed again; a run that did continues to do so."""
  lines = []
  runs.train(raw_config('causal_lm', **AUTO), tmp_path / 'run', lines.append)
  settled = lambda: json.loads((tmp_path / 'run/config.json').read_text())['model']['remat']
  assert settled() == runs.manifest_of(tmp_path / 'run')['model']['remat'] == 'none'
  assert any('remat none' in line for line in lines)
  runs.train(raw_config('causal_lm', **AUTO | {'model.remat': 'attention', 'train.steps': 6}), tmp_path / 'run')
  runs.train(raw_config('causal_lm', **AUTO | {'train.steps': 9}), tmp_path / 'run')
  assert settled() == runs.manifest_of(tmp_path / 'run')['model']['remat'] == 'attention'
  (tmp_path / 'run/checkpoints/9/manifest/manifest.json').write_text('{}')
  runs.train(raw_config('causal_lm', **AUTO | {'train.steps': 12}), tmp_path / 'run')
  assert settled() == 'attention', 'of the newest that is intact'
