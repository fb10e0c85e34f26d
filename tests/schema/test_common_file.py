"""`import common` in a config file: the common.py next to it, wherever the command is run, and nothing else."""

import shutil
import sys
import types

import pytest

from lmjax import main
from lmjax.errors import ConfigError
from lmjax.schema.command_line import load_config_file
from tests.conftest import ROOT

CONFIG = """import common
from ml_collections import ConfigDict


def get_config(argument=None):
  return ConfigDict(dict(value=common.value(), argument=argument))
"""
LATE = CONFIG.replace('import common\n', '').replace('  return', '  import common\n  return')


def write(folder, value, config=CONFIG):
  folder.mkdir(exist_ok=True)
  (folder / 'config.py').write_text(config)
  (folder / 'common.py').write_text(f'def value():\n  return {value}\n')
  return str(folder / 'config.py')


@pytest.fixture(autouse=True)
def nothing_remains():
  """Loading a config leaves the import system as it was."""
  path, finders = list(sys.path), list(sys.meta_path)
  modules = sys.modules.get('common')
  yield
  assert (sys.path, sys.meta_path, sys.modules.get('common')) == (path, finders, modules)


@pytest.mark.parametrize('config', [CONFIG, LATE], ids=['at the top', 'in get_config'])
def test_it_is_found_from_any_working_directory(tmp_path, monkeypatch, config):
  path = write(tmp_path / 'mine', 1, config)
  (tmp_path / 'common.py').write_text('def value():\n  return 2\n')  # of the working directory: not the one
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(tmp_path))
  for name in (path, 'mine/config.py'):
    assert load_config_file(name, 'x').to_dict() == {'value': 1, 'argument': 'x'}
  monkeypatch.chdir(tmp_path / 'mine')
  assert load_config_file('config.py').value == 1


def test_two_folders_do_not_mix_and_nothing_is_cached(tmp_path):
  paths = [write(tmp_path / str(value), value) for value in (1, 2)]
  assert [load_config_file(path).value for path in (*paths, *paths)] == [1, 2, 1, 2]
  write(tmp_path / '1', 3)  # within the same second, and as long
  assert load_config_file(paths[0]).value == 3
  assert not list(tmp_path.rglob('__pycache__'))


def test_another_module_of_that_name_is_left_alone(tmp_path, monkeypatch):
  other = types.ModuleType('common')
  monkeypatch.setitem(sys.modules, 'common', other)
  assert load_config_file(write(tmp_path / 'mine', 1)).value == 1
  assert sys.modules['common'] is other
  (tmp_path / 'mine' / 'common.py').unlink()
  with pytest.raises(ConfigError, match='there is no common.py next to it'):
    load_config_file(str(tmp_path / 'mine' / 'config.py'))


def refused(capsys, path) -> str:
  """The one line of a command that is refused."""
  assert main.main([f'--config={path}']) == 2
  [line] = capsys.readouterr().err.splitlines()
  return line.removeprefix(f'lmjax: {path}')


def test_a_config_that_was_copied_alone_is_one_line(tmp_path, capsys):
  path = shutil.copy(ROOT / 'configs/pretrain_clm.py', tmp_path / 'mine.py')
  assert refused(capsys, path) == (
    ': imports common, and there is no common.py next to it; copy that file too, from the folder that the config '
    'came from'
  )
  shutil.copy(ROOT / 'configs/common.py', tmp_path)
  assert load_config_file(str(path), 'smoke').task == 'causal_lm'


def test_what_is_shared_is_no_run(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  assert refused(capsys, 'configs/common.py') == (
    ': is no run but what the configs next to it share; name one of them, such as configs/finetune_qa.py'
  )
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'configs', 1)
  assert 'did you mean' not in refused(capsys, 'configs/comon.py')


@pytest.mark.parametrize(
  'text,place,rule',
  [
    ('def value(:\n', 1, 'SyntaxError: invalid syntax'),
    ('\nx = 1 / 0\n', 2, 'ZeroDivisionError: division by zero'),
    ('def value():\n  return {}["a"]\n', 2, "KeyError: 'a'"),
    ('import nowhere\n', 1, "ModuleNotFoundError: No module named 'nowhere'"),
  ],
)
def test_a_mistake_in_it_is_one_line_with_its_place(tmp_path, capsys, text, place, rule):
  path = write(tmp_path / 'mine', 1)
  (tmp_path / 'mine' / 'common.py').write_text(text)
  assert main.main([f'--config={path}']) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line == f'lmjax: {tmp_path}/mine/common.py:{place}: {rule}; fix the config file'
