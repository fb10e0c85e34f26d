"""The README's commands are those that are run."""

import re
import shlex

import pytest

from lmjax import config as config_lib
from lmjax import main
from lmjax.models import presets
from lmjax.schema import command_line, overrides
from tests import runs
from tests.conftest import ROOT

README = (ROOT / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```\w*\n(.*?)^```$', README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def between(name):
  return re.search(rf'<!-- {name} -->\n```\n(.*?)\n```\n<!-- /{name} -->', README, flags=re.DOTALL)[1]


def test_two_commands_complete_in_themselves():
  for name, ends in (('run', '--config=configs/pretrain_clm.py'), ('tests', 'pytest -n 2')):
    command = between(name)
    assert '\n' not in command and command.startswith('python3 -m venv ') and command.endswith(ends)


@pytest.fixture(scope='module')
def folder(raw_config, tmp_path_factory):
  """Where somebody stands who has run the first commands: the runs that fine-tuning starts from are there."""
  made = tmp_path_factory.mktemp('reader')
  (made / 'runs').mkdir()
  for task, name in (('causal_lm', 'pretrain_clm'), ('masked_lm', 'pretrain_mlm')):
    (made / 'runs' / name).symlink_to(runs.pre_trained(task, raw_config, tmp_path_factory))
  (made / 'models').mkdir()
  (made / 'models' / 'minilm').symlink_to(ROOT / 'tests/hf/golden/bert')
  return made


@pytest.mark.parametrize('line', [line for line in COMMANDS if '-m lmjax.main' in line])
def test_configs_in_the_readme_build(line, folder, monkeypatch):
  monkeypatch.chdir(folder)
  words = shlex.split(line)
  flags = command_line.parse_command_line(words[words.index('lmjax.main') + 1 :], main.FLAGS)
  assert not flags.problems
  if saved := flags.values['config_json']:
    raw = command_line.load_json(saved)
  else:
    raw = command_line.load_config_file(str(ROOT / flags.file), flags.argument)
  raw, problems = overrides.override(config_lib.Config, raw, flags.assignments)
  assert not problems
  config_lib.build(raw)


def test_every_preset_is_named_and_builds():
  for name, preset in presets.PRESETS.items():
    if not name.startswith('mini'):
      assert f'`{name}`' in README
    causal = preset['model']['attention'] == 'causal'
    file = 'configs/pretrain_clm.py' if causal else 'configs/pretrain_mlm.py'
    config = config_lib.build(command_line.load_config_file(str(ROOT / file), f'preset={name}'))
    config_lib.check_devices(config, 8)
    assert config.model.layers == preset['model']['layers']


def test_config_files_are_records_and_short_in_all():
  texts = {file.name: file.read_text(encoding='utf-8') for file in (ROOT / 'configs').glob('*.py')}
  assert len(texts) == 9 and sum(text.count('\n') for text in texts.values()) <= 385
  texts.pop('common.py')
  for name, text in texts.items():
    assert f'--config=configs/{name}' in text, 'its header gives the command'
    assert 'Measured (' in text, 'and hardware, time and score'


@pytest.mark.parametrize('page, fewest', [('reliability', 30), ('real_files', 8)])
def test_every_promise_names_a_test_that_exists(page, fewest):
  text = (ROOT / f'docs/{page}.md').read_text(encoding='utf-8')
  named = re.findall(r'`(tests/[\w/]+\.py)(?:::(\w+))?`', text)
  assert len(named) > fewest
  for file, test in named:
    assert f'def {test}' in (ROOT / file).read_text(encoding='utf-8'), (file, test)
