"""Compiled programs are kept from one command to the next; what is wrong with the folder stops nobody."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from lmjax import compilation
from tests import conftest

RULE = 'programs are compiled without it'


@pytest.fixture
def updated(monkeypatch):
  """What is set: {name: value}; nothing is."""
  settings = {}
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
  for name in compilation._SETTINGS:
    monkeypatch.delenv(name.upper(), raising=False)
  monkeypatch.setattr(compilation, '_set', settings.__setitem__)
  monkeypatch.setattr(compilation.warnings, 'showwarning', print)
  return settings


def test_a_folder_of_this_user_and_this_kind_of_cpu(updated, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  compilation.keep_programs(None)
  folder = pathlib.Path(updated.pop('jax_compilation_cache_dir'))
  assert folder.parent == tmp_path / '.cache/lmjax/programs' and updated == compilation._SETTINGS
  assert folder.stat().st_mode & 0o777 == 0o700, 'whatever the umask is'
  updated.clear()
  compilation.keep_programs(str(tmp_path / 'other'))
  assert updated['jax_compilation_cache_dir'] == str(tmp_path / 'other' / folder.name)


def test_what_was_set_before_counts(updated, tmp_path, monkeypatch):
  monkeypatch.setenv('JAX_COMPILATION_CACHE_MAX_SIZE', '1000')
  compilation.keep_programs(str(tmp_path))
  assert 'jax_compilation_cache_max_size' not in updated
  updated.clear()
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '/somewhere')
  compilation.keep_programs(None)
  assert updated == {}
  compilation.keep_programs('none')
  assert updated == {'jax_enable_compilation_cache': False}


@pytest.mark.parametrize('wrong', ['a file', 'others may write', 'no filelock'])
def test_a_folder_that_is_not_used_is_reported(updated, tmp_path, capsys, monkeypatch, wrong):
  if wrong == 'a file':
    (tmp_path / 'cache').write_text('')
  elif wrong == 'no filelock':
    monkeypatch.setattr(compilation.importlib.util, 'find_spec', lambda name: None)
  else:
    (tmp_path / 'cache' / compilation._machine()).mkdir(parents=True)
    (tmp_path / 'cache' / compilation._machine()).chmod(0o777)
  compilation.keep_programs(str(tmp_path / 'cache'))
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('lmjax: --compilation_cache = ') and line.endswith(RULE) and updated == {}


def test_half_a_program_is_removed(updated, tmp_path):
  folder = tmp_path / compilation._machine()
  folder.mkdir()
  for name in ('whole-cache', 'whole-atime', 'half-cache'):
    (folder / name).write_bytes(b'12345678')
  compilation.keep_programs(str(tmp_path))
  assert {file.name for file in folder.iterdir()} == {'whole-cache', 'whole-atime', '.lockfile'}


def test_inside_a_dry_run_nothing_is_taken_from_the_folder(tmp_path):
  """Also where jax has compiled before, and again afterwards."""
  import jax

  names = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')
  before = {name: jax.config.values[name] for name in names}
  for name, value in zip(names, (str(tmp_path), 0)):
    compilation._set_now(name, value)
  try:
    kept = []
    for number, context in enumerate((contextlib.nullcontext, compilation.without_kept_programs) * 2):
      with context():
        jax.jit(lambda x, n=number: x * x + n)(1.0)
      kept.append(len(list(tmp_path.glob('jit__lambda*-cache'))))
    assert kept == [1, 1, 2, 2]
  finally:
    for name, value in before.items():
      compilation._set_now(name, value)


def test_damage_is_reported_once(updated, tmp_path, capsys):
  compilation.keep_programs(str(tmp_path))
  show = lambda text: compilation.warnings.showwarning(UserWarning(text), UserWarning, 'file.py', 1)
  for _ in range(2):
    show("Error reading persistent compilation cache entry for 'jit_f': error: incorrect header\ncheck")
  show('another one')
  out, err = capsys.readouterr()
  assert (
    err.count('\n') == 1 and "'jit_f': error: incorrect header check; compiled again" in err and 'another one' in out
  )


def started(folder: pathlib.Path, cache: str, *flags) -> tuple[list[str], str]:
  """(losses as hexadecimal float32, what was printed on stderr) of a run in a process of its own."""
  without = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')}
  without['XLA_FLAGS'] = f'--xla_force_host_platform_device_count=2 {conftest.QUICK}'
  command = [sys.executable, '-m', 'lmjax.main', f'--config={conftest.ROOT}/configs/pretrain_clm.py:smoke', *flags]
  command += ['--config.train.steps=10']
  command += [f'--workdir={folder}', f'--compilation_cache={cache}']
  done = subprocess.run(command, env=without | {'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  lines = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
  return [np.float32(line['loss']).tobytes().hex() for line in lines], done.stderr


@pytest.mark.slow
def test_losses_do_not_depend_on_it(tmp_path):
  """Without, filling it, from it, from one whose programs are cut off, and two processes at once."""
  cache = str(tmp_path / 'cache')
  expected, _ = started(tmp_path / 'without', 'none')
  assert not (tmp_path / 'cache').exists()
  assert started(tmp_path / 'first', cache) == (expected, '')
  programs = sorted((tmp_path / 'cache').glob('*/*-cache'))
  times = {file: file.stat().st_mtime_ns for file in programs}
  assert started(tmp_path / 'second', cache) == (expected, '') and len(programs) > 3
  assert {file: file.stat().st_mtime_ns for file in (tmp_path / 'cache').glob('*/*-cache')} == times, 'compiled again'
  for file in programs:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
  losses, err = started(tmp_path / 'damaged', cache)
  assert losses == expected and len(err.splitlines()) == 1 and 'Error reading persistent compilation cache' in err
