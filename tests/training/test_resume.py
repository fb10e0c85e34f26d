"""A run that goes on under another config: what may change is noted, what may not is refused with both values."""

import json
import re

import pytest

from lmjax import main
from lmjax.errors import CheckpointError
from lmjax.training import initialize
from tests import conftest, runs

STEPS = {'train.steps': 1, 'optim.warmup_steps': 0, 'eval.every': 3, 'checkpoint.every': 3}


@pytest.fixture(scope='module')
def saved(raw_config, tmp_path_factory):
  """A run of one step."""
  workdir = tmp_path_factory.mktemp('saved') / 'run'
  runs.train(raw_config('causal_lm', **STEPS), workdir)
  return workdir


@pytest.fixture
def workdir(saved, tmp_path):
  import shutil

  return shutil.copytree(saved, tmp_path / 'run')


@pytest.mark.slow
def test_what_may_change_is_noted(workdir, raw_config):
  said = []
  leaves = {'train.steps': 2, 'optim.learning_rate': 1e-4, 'train.accumulate': 2, 'eval.every': 2}
  leaves |= {'checkpoint.every': 2, 'model.scan': True, 'model.remat': 'full', 'train.log_every': 2, 'mesh.data': 2}
  leaves |= {'mesh.fsdp': 2}
  runs.train(raw_config('causal_lm', **(STEPS | leaves)), workdir, said.append, devices=4)
  [line] = [line for line in said if line.startswith('resuming from step 1')]
  assert f'changed since then: optim.learning_rate: {0.003} -> {0.0001}' in line
  for leaf in leaves:
    assert f'changed since then: {leaf}: ' in line, leaf


@pytest.mark.parametrize(
  'schedule, step, told',
  [
    ('cosine', 20, '0.00165; with the settings until now it would be 0.0003'),
    ('constant', 20, None),
    ('cosine', 2, None),
  ],
)
def test_a_rate_that_jumps_is_told(schedule, step, told):
  """A run that has ended, made longer: its rate goes up again to where the longer schedule is then."""
  rate = dict(learning_rate=0.003, warmup_steps=0, schedule=schedule, final_rate=0.1, decay_steps=None)
  before, now = ({'optim': rate, 'train': {'steps': steps}} for steps in (20, 40))
  said = initialize.rate_jump(before, now, step)
  assert said == [] if told is None else f'the learning rate continues at {told}: optim.schedule = cosine' in said[0]
  assert initialize.rate_jump(before, before, step) == []


REFUSED = [
  ('data.batch_size', 4, '8'),
  ('seed', 9, '0'),
  ('model.layers', 2, '1'),
  ('model.width', 16, '32'),
  ('data.rows', 'padded', "'concat'"),
  ('data.length', 16, '32'),
  ('data.valid_fraction', 0.2, '0.1'),
  ('objective.label_smoothing', 0.1, 'None'),
  ('optim.name', 'lion', 'adamw'),
  ('optim.weight_decay', 0.2, '0.1'),
]


@pytest.mark.parametrize('leaf,value,before', REFUSED, ids=[leaf for leaf, _, _ in REFUSED])
def test_what_may_not_change_is_refused(workdir, raw_config, leaf, value, before):
  files = sorted(path.name for path in workdir.rglob('*'))
  more = {'optim.eps': None} if value == 'lion' else {}
  with pytest.raises(CheckpointError, match='use the same, or choose a new --workdir') as raised:
    runs.train(raw_config('causal_lm', **(STEPS | {leaf: value} | more)), workdir)
  said = str(raised.value)
  assert leaf.rpartition('.')[2] in said and re.search(rf'(?<![\d.]){re.escape(str(value))}', said), said
  assert before in said and raised.value.exit_code == 4, said
  assert sorted(path.name for path in workdir.rglob('*')) == files


@pytest.mark.slow
def test_a_saved_config_runs_without_its_file(corpus, cache_dir, tmp_path, capsys, monkeypatch):
  """The same run, made again elsewhere, and gone on with where it is."""
  monkeypatch.chdir(tmp_path)
  small = {'data.length': 32, 'model.width': 32, 'data.cache_dir': cache_dir, 'data.tokenizer.vocab_size': 320}
  small |= {'train.steps': 2, 'eval.every': 2, 'checkpoint.every': 2, 'data.valid_fraction': 0.1}
  small |= {'data.valid_bytes': 4000, 'optim.warmup_steps': 1, 'objective.chunk': 8, 'mesh.data': None}
  file = conftest.ROOT / conftest.CONFIGS['causal_lm']
  flags = [f'--config.{path}={value}' for path, value in small.items()]
  assert main.main([f'--config={file}:smoke,data={corpus}', '--workdir=first', *flags]) == 0
  monkeypatch.setattr(main.command_line, 'load_config_file', None)  # nothing is executed
  saved = '--config_json=first/config.json'
  assert main.main([saved, '--workdir=second']) == 0
  assert runs.metrics_of('first', 'valid')[-1]['loss'] == runs.metrics_of('second', 'valid')[-1]['loss']
  capsys.readouterr()
  assert main.main([saved, '--config.train.steps=3']) == 0
  assert 'resuming from step 2\nchanged since then: train.steps: 2 -> 3' in capsys.readouterr().out
  values = json.loads((tmp_path / 'first' / 'config.json').read_text())
  assert values['train']['steps'] == 3
  del values['hosts']  # as an older lmjax wrote it
  (tmp_path / 'old.json').write_text(json.dumps(values))
  assert main.main(['--config_json=old.json', '--workdir=first', '--config.train.steps=3']) == 0


@pytest.mark.parametrize(
  'text,said',
  [
    (None, 'old.json: No such file or directory; name WORKDIR/config.json'),
    ('{', 'old.json: not JSON'),
    ('[1]', 'old.json: holds no object; name the config.json of a run'),
    ('{"task": "causal_lm"}', 'missing'),
    ('{"data": "gs://[redacted]@bucket"}', 'old.json: a secret in it is [redacted]; run the config file'),
  ],
)
def test_a_saved_config_that_cannot_be_used(tmp_path, monkeypatch, capsys, text, said):
  monkeypatch.chdir(tmp_path)
  if text is not None:
    (tmp_path / 'old.json').write_text(text)
  before = sorted(tmp_path.rglob('*'))
  assert main.main(['--config_json=old.json', '--workdir=run']) == 2
  assert said in capsys.readouterr().err
  assert sorted(tmp_path.rglob('*')) == before
