"""The command line, the arguments of config files, and loading those files."""

import random
import subprocess
import sys
import textwrap
from typing import Literal

import ml_collections
import pytest

from lmjax.errors import ConfigError
from lmjax.schema.command_line import (
  command,
  default_workdir,
  load_config_file,
  parse_argument,
  parse_command_line,
  split_config_flag,
)
from lmjax.schema.types import PositiveInt

DECLARED = dict(preset='tiny', data='pydoc', mix=None, smoke=False, length=128, rate=0.5, cap=(int | None, None))


def parsed(argument):
  return {
    name: value
    for name, value in vars(parse_argument(argument, **DECLARED)).items()
    if value != dict(DECLARED, cap=None)[name]
  }


def problems_of(call, *args, **kwargs):
  with pytest.raises(ConfigError) as caught:
    call(*args, **kwargs)
  return list(caught.value.problems)


@pytest.mark.parametrize(
  'flag, expected',
  [
    ('configs/a.py', ('configs/a.py', None)),
    ('configs/a.py:', ('configs/a.py', '')),
    ('configs/a.py:smoke', ('configs/a.py', 'smoke')),
    ('a.py:data=tfds:wiki40b/en', ('a.py', 'data=tfds:wiki40b/en')),
  ],
)
def test_a_flag_is_split_at_its_first_colon(flag, expected):
  assert split_config_flag(flag) == expected


def test_texts_may_begin_as_flags_do():
  """After `--`, where a command takes texts at all."""
  argv = ['--workdir=w', 'one', '--', '--two', '-3', '--', 'a=b']
  given = parse_command_line(argv, {}, 'refused', words=True)
  assert given.problems == [] and given.words == ['one', '--two', '-3', '--', 'a=b']
  assert parse_command_line(argv, {}, 'refused').problems


@pytest.mark.parametrize(
  'argument, expected',
  [
    (None, {}),
    ('', {}),
    ('smoke', {'smoke': True}),
    ('smoke=true', {'smoke': True}),
    ('smoke=0', {}),
    ('smoke,', {'smoke': True}),
    ('preset=gpt2_small,data=tfds:wiki40b/en', {'preset': 'gpt2_small', 'data': 'tfds:wiki40b/en'}),
    ('data=/x/{a,b}*.txt', {'data': '/x/{a,b}*.txt'}),
    ('data=/x/{a,b}*.txt,smoke', {'data': '/x/{a,b}*.txt', 'smoke': True}),
    ('smoke,data=a,b=c.txt', {'data': 'a,b=c.txt', 'smoke': True}),
    ('data=a=b.txt,preset=x', {'data': 'a=b.txt', 'preset': 'x'}),
    ('data={"a": 1, "b": [2,3]},length=7', {'data': '{"a": 1, "b": [2,3]}', 'length': 7}),
    ('data=../my docs, all/x.txt', {'data': '../my docs, all/x.txt'}),
    ('mix=pydoc:2,tfds:wiki40b/en:1,smoke', {'mix': 'pydoc:2,tfds:wiki40b/en:1', 'smoke': True}),
    ('mix=None,length=1e3,rate=1', {'length': 1000, 'rate': 1.0}),
    ('cap=7', {'cap': 7}),
    ('cap=None', {}),
    ('data=C:/x.txt', {'data': 'C:/x.txt'}),
    ('length=1,length=2', {'length': 2}),
  ],
)
def test_arguments_split_only_before_a_declared_name(argument, expected):
  assert parsed(argument) == expected


@pytest.mark.parametrize(
  'argument, expected',
  [
    ('smok', ['argument smok: unknown argument; did you mean smoke?']),
    ('presett=tiny', ['argument presett = tiny: unknown argument; did you mean preset?']),
    ('smoke,lenght=3', ['argument lenght = 3: unknown argument; did you mean length?']),
    ('data=x,smoek', ['argument smoek: unknown argument; did you mean smoke?']),
    ('data=x.txt,presset=tiny', ['argument presset = tiny: unknown argument; did you mean preset?']),
    (
      'zzz=1',
      ['argument zzz = 1: unknown argument; this config takes preset, data, mix, smoke, length, rate, cap'],
    ),
    (
      'length=128,zzz=3',
      ['argument zzz = 3: unknown argument; this config takes preset, data, mix, smoke, length, rate, cap'],
    ),
    ('preset', ['argument preset: has no value; give preset=VALUE']),
    ('data=', ['argument data: has no value; give data=VALUE']),
    ('smoke=maybe', ['argument smoke = maybe: must be a bool; give a value such as True']),
    (
      'length=ten,rate=x',
      [
        'argument length = ten: must be an int; give a value such as 300',
        'argument rate = x: must be a float; give a value such as 0.1',
      ],
    ),
    ('cap=ten', ['argument cap = ten: must be an int or None; give a value such as 300']),
  ],
)
def test_every_problem_with_the_arguments_is_reported(argument, expected):
  assert problems_of(parse_argument, argument, **DECLARED) == expected


def test_an_argument_may_be_declared_with_any_annotation():
  declared = dict(preset=(Literal['tiny', 'base'], 'tiny'), names=())
  assert parse_argument('preset=base,names=a,b', **declared).names == ('a', 'b')
  assert problems_of(parse_argument, 'preset=bas', **declared) == [
    "argument preset = bas: must be 'tiny' or 'base'; did you mean 'base'?"
  ]


def test_both_forms_of_a_flag_are_read():
  line = parse_command_line(
    [
      '--config',
      'c.py:data=tfds:x',
      '--workdir=w',
      '--config.a.b',
      '-5',
      '--config.c=x=y',
      '--batch',
      '1e1',
      '--dry_run',
      '--seed=3',
    ],
    {'batch': PositiveInt, 'seed': int, 'other': str, 'dry_run': bool | str},
  )
  assert (line.file, line.argument, line.workdir) == ('c.py', 'data=tfds:x', 'w')
  assert line.assignments == [('a.b', '-5'), ('c', 'x=y')]
  assert line.values == {'batch': 10, 'seed': 3, 'other': None, 'dry_run': True}
  assert not line.problems and not line.help


def test_a_bare_flag_takes_a_text_only_after_an_equals_sign():
  assert parse_command_line(['--config=c.py', '--dry-run', '--workdir', 'w'], {'dry_run': bool | str}).workdir == 'w'
  assert parse_command_line(['--config=c.py', '--dry_run=v5e:2x4'], {'dry_run': bool | str}).values == {
    'dry_run': 'v5e:2x4'
  }
  assert parse_command_line(['--config=c.py'], {'dry_run': bool | str}).values == {'dry_run': None}


def test_help_needs_no_config(capsys):
  for use in ('required', 'optional', 'refused'):
    for flag in ('--help', '-h'):
      assert command(pytest.fail, [flag], 'What it does.', config=use) == 0
      out, err = capsys.readouterr()
      assert out.startswith('What it does.\n--compilation_cache=DIR: ') and not err


KNOWN = '--config, --workdir, --compilation_cache, --batch'


@pytest.mark.parametrize(
  'argv, expected',
  [
    ([], ['--config: missing; name a config file, such as --config=configs/pretrain_clm.py']),
    (['--config'], ['--config: has no value; give --config=VALUE']),
    (['--config='], ['--config: has no value; give --config=VALUE']),
    (['--config=c.py', '--workdir', '--config.a=1'], ['--workdir: has no value; give --workdir=VALUE']),
    (['--config=c.py', '--config.a'], ['--config.a: has no value; give --config.a=VALUE']),
    (['--config=c.py', '--config.a', '--config.b=1'], ['--config.a: has no value; give --config.a=VALUE']),
    (['--config=c.py', '--wrkdir=x'], ['--wrkdir = x: unknown flag; did you mean --workdir?']),
    (['--config=c.py', '--wrkdir', 'x'], ['--wrkdir = x: unknown flag; did you mean --workdir?']),
    (
      ['--config=c.py', '--optim.rate=1'],
      ['--optim.rate = 1: unknown flag; did you mean --config.optim.rate?'],
    ),
    (['--config=c.py', '--confg.a=1'], ['--confg.a = 1: unknown flag; did you mean --config.a?']),
    (['--config=c.py', 'optim.rate=1'], ['optim.rate = 1: unknown flag; did you mean --config.optim.rate?']),
    (
      ['--config=c.py', '--zzz=1'],
      [f'--zzz = 1: unknown flag; the flags are {KNOWN}, and --config.PATH=VALUE for a setting'],
    ),
    (['--config=c.py', '--batch=x'], ['--batch = x: must be an int; give a value such as 300']),
    (
      ['c.py:data=x'],
      [
        '--config: missing; name a config file, such as --config=configs/pretrain_clm.py',
        'c.py:data=x: not a flag; did you mean --config=c.py:data=x?',
      ],
    ),
    (
      ['--config=c.py', 'b.py', '--batch=x', '-v', '--config.a'],
      [
        'b.py: not a flag; did you mean --config=b.py?',
        '--batch = x: must be an int; give a value such as 300',
        f'-v: unknown flag; the flags are {KNOWN}, and --config.PATH=VALUE for a setting',
        '--config.a: has no value; give --config.a=VALUE',
      ],
    ),
  ],
)
def test_every_problem_with_the_flags_is_collected(argv, expected):
  assert list(parse_command_line(argv, {'batch': int}).problems) == expected


def test_no_command_line_raises():
  choose = random.Random(0)
  pieces = [
    '--',
    '-',
    '=',
    ':',
    ',',
    'config',
    'workdir',
    'dry_run',
    'batch',
    '.',
    'a',
    '\n',
    '\udcff',
    '{',
    "'",
    ' ',
  ]
  for _ in range(500):
    argv = [''.join(choose.choices(pieces, k=choose.randrange(6))) for _ in range(choose.randrange(5))]
    line = parse_command_line(argv, {'batch': int, 'dry_run': bool | str})
    assert all(problem.isprintable() and problem for problem in line.problems)
    try:
      parse_argument(line.argument, **DECLARED)
    except ConfigError as error:
      assert all(problem.isprintable() for problem in error.problems)
    assert default_workdir('x.py', line.argument).startswith('runs/x')


def write(folder, text, name='config.py'):
  path = folder / name
  path.write_text(textwrap.dedent(text))
  return str(path)


GOOD = """
  from ml_collections import ConfigDict
  def get_config(arg='none'):
    return ConfigDict(dict(arg=arg))
"""


def test_a_config_file_is_run_with_its_argument(tmp_path):
  path = write(tmp_path, GOOD)
  assert load_config_file(path, 'smoke').arg == 'smoke'
  assert load_config_file(path, None).arg == 'none'
  path = write(tmp_path, GOOD.replace("arg='none'", 'arg'))
  assert load_config_file(path).arg is None
  path = write(tmp_path, GOOD.replace("arg='none'", '').replace('arg=arg', 'arg=1'))
  assert load_config_file(path).arg == 1
  assert problems_of(load_config_file, path, 'smoke') == [
    f"{path}: takes no argument, but got 'smoke'; give --config={path}"
  ]


def test_a_file_changed_within_a_second_is_read_again_and_clashes_with_no_module(tmp_path):
  path = write(tmp_path, GOOD.replace('arg=arg', 'arg=1'), 'json.py')
  assert load_config_file(path).arg == 1
  write(tmp_path, GOOD.replace('arg=arg', 'arg=2'), 'json.py')
  assert load_config_file(path).arg == 2
  import json

  assert hasattr(json, 'dumps') and not (tmp_path / '__pycache__').exists()


def test_a_path_is_relative_to_the_current_directory(tmp_path, monkeypatch):
  write(tmp_path, GOOD)
  monkeypatch.chdir(tmp_path)
  assert load_config_file('config.py').arg == 'none'


def test_a_frozen_config_becomes_one_that_can_be_overridden(tmp_path):
  path = write(
    tmp_path,
    GOOD.replace('return ConfigDict(', 'from ml_collections import FrozenConfigDict\n    return FrozenConfigDict('),
  )
  assert type(load_config_file(path)) is ml_collections.ConfigDict


@pytest.mark.parametrize(
  'text, expected',
  [
    ('x = 1', '{path}: has no get_config; define get_config(argument)'),
    ('def get_config(:\n  pass', '{path}:1: SyntaxError: invalid syntax; fix the config file'),
    (
      'import no_such_module',
      "{path}:1: ModuleNotFoundError: No module named 'no_such_module'; fix the config file",
    ),
    ('import sys\nsys.exit(3)', '{path}:2: SystemExit: 3; fix the config file'),
    (
      'def get_config():\n  return dict(a=1)',
      '{path}: get_config returned a dict; return an ml_collections.ConfigDict',
    ),
    (
      'def get_config():\n  return None',
      '{path}: get_config returned a NoneType; return an ml_collections.ConfigDict',
    ),
    (
      'import json\ndef get_config():\n  return helper()\ndef helper():\n  json.loads("{")',
      '{path}:5: JSONDecodeError: Expecting property name enclosed in double quotes: '
      'line 1 column 2 (char 1); fix the config file',
    ),
    (
      'def get_config():\n  raise ValueError("two\\nlines")',
      '{path}:2: ValueError: two lines; fix the config file',
    ),
  ],
)
def test_a_broken_config_file_is_one_line_with_its_place(tmp_path, text, expected):
  path = write(tmp_path, text)
  assert problems_of(load_config_file, path) == [expected.format(path=path)]


def test_a_config_error_of_the_file_passes_through(tmp_path):
  path = write(
    tmp_path,
    """
    from lmjax.schema.command_line import parse_argument
    def get_config(arg):
      parse_argument(arg, smoke=False)
  """,
  )
  assert problems_of(load_config_file, path, 'smok') == ['argument smok: unknown argument; did you mean smoke?']


def test_a_file_that_is_not_there_is_named_with_the_likeliest_one(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').mkdir()
  write(tmp_path / 'configs', GOOD, 'pretrain_clm.py')
  meant = 'did you mean configs/pretrain_clm.py?'
  for path, rule in {
    'configs/pretrain_cml.py': 'no such file',
    'pretrain_clm.py': 'no such file',
    'configs/pretrain_clm': 'must be a .py file',
    'nowhere/pretrain_clm.py': 'no such file',
  }.items():
    assert problems_of(load_config_file, path) == [f'{path}: {rule}; {meant}']
  assert problems_of(load_config_file, 'zzz.py') == ['zzz.py: no such file; give --config=FILE.py[:arg]']
  for path in ('', 'configs', 'x' * 5000 + '.py', 'a\0b.py'):
    assert len(problems_of(load_config_file, path)) == 1


def test_default_workdirs_are_readable():
  assert default_workdir('configs/pretrain_clm.py', None) == 'runs/pretrain_clm'
  assert default_workdir('configs/pretrain_clm.py', '') == 'runs/pretrain_clm'
  assert default_workdir('configs/pretrain_clm.py', 'smoke') == 'runs/pretrain_clm-smoke'
  assert default_workdir('c.py', 'preset=gpt2_small') == 'runs/c-preset=gpt2_small'
  name = default_workdir('c.py', 'preset=tiny,data=tfds:wiki40b/en')
  assert name.startswith('runs/c-preset=tiny-data=tfds-wiki40b-en-')


def test_different_arguments_have_different_workdirs_that_are_single_folders():
  arguments = [
    'a,b',
    'a-b',
    'a/b',
    'a:b',
    'a*b',
    '-a',
    'a',
    '../a',
    '*',
    'x' * 90,
    'x' * 91,
    'x' * 80,
    'é',
    'a b',
  ]
  names = [default_workdir('c.py', argument) for argument in arguments]
  assert len(set(names)) == len(names)
  assert all(name.count('/') == 1 and len(name) < 120 and name.isascii() for name in names)


def test_the_boundary_imports_no_jax():
  code = 'import sys, lmjax.schema.command_line; print({"jax", "numpy"} & set(sys.modules))'
  assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout == 'set()\n'
