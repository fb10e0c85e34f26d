"""The command line as it is typed, and the config file it names; what the settings mean is not its business.

    --config=FILE.py[:arg,name=value] [--workdir=DIR] [--config.a.b=value ...]

absl's flags are not used: they stop at the first mistake, with a traceback around those of a config file.
"""

import dataclasses
import difflib
import hashlib
import inspect
import itertools
import json
import os
import re
import sys
import traceback
import typing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

from ml_collections import ConfigDict, FrozenConfigDict

from lmjax.console import SHOWN, silence, tell
from lmjax.errors import ConfigError, LmjaxError
from lmjax.schema import common_file
from lmjax.schema.describe import parts_of
from lmjax.schema.overrides import Refusal, read
from lmjax.schema.validate import line

# Earlier names of flags, of which some are too unlike the new ones to be found by spelling.
RENAMED = {'processes': 'num_processes', 'process': 'process_id', 'words': 'neighbors', 'pairs': 'minimal_pairs'}
_LONGEST_NAME = 80
_serial = itertools.count()


@dataclasses.dataclass(frozen=True)
class CommandLine:
  """A parsed command line.

  Attributes:
    file: the config file, None where it is not given.
    argument: what follows the first `:` of the flag, None where there is no `:`.
    workdir: None where it is not given.
    assignments: (path, text) of every `--config.PATH=TEXT`, in order.
    extra: the other flags by name; None where not given, False or True (or a text) for a bare one.
    words: what is no flag, where that is allowed.
    help: whether `--help` or `-h` is there.
    problems: one line each.
  """

  file: str | None
  argument: str | None
  workdir: str | None
  assignments: tuple
  extra: dict
  words: tuple
  help: bool
  problems: tuple


def parse_command_line(
  argv, extra=None, bare=(), config: Literal['required', 'optional', 'refused'] = 'required', words=False
):
  """Parses the arguments after the program's name. Never raises on what a user types.

  Args:
    argv: `--flag=value` or `--flag value` each.
    extra: name -> annotation of further flags that take a value, as in a config dataclass.
    bare: names of further flags that need none: `--dry_run`, or `--dry_run=TEXT`.
    config: whether `--config` is required, optional or refused, with its settings; refused: `--workdir` is required.
    words: whether there may be arguments that are no flags.

  Returns:
    A `CommandLine`; its `problems` are meant to be reported along with those of the config.
  """
  kinds = {'config': str, 'workdir': str, **(extra or {})}
  values, assignments, problems, texts = dict.fromkeys(kinds) | dict.fromkeys(bare, False), [], [], []
  wants_help = False
  for flag, text in _flags(argv, bare):
    name = flag.removeprefix('--').replace('-', '_')
    if flag in ('--help', '-h'):
      wants_help = True
    elif flag.startswith('--config.'):
      path = flag.removeprefix('--config.')
      if text is None:
        problems.append(line(flag, None, 'has no value', f'give {flag}=VALUE'))
      else:
        assignments.append((path, text))
    elif words and not flag.startswith('-'):
      texts.append(flag if text is None else f'{flag}={text}')
    elif not flag.startswith('--') or name not in values:
      problems.append(_unknown_flag(flag, text, values))
    elif name in bare:
      values[name] = {None: True, '': True, 'true': True, 'false': False}.get(text, text)
    elif not text:
      problems.append(line(flag, None, 'has no value', f'give {flag}=VALUE'))
      values[name] = values[name] or ''
    else:
      try:
        values[name] = read(kinds[name], text)
      except Refusal as refusal:
        problems.append(line(flag, text, refusal.rule, refusal.remedy))
  file, workdir = values.pop('config'), values.pop('workdir')
  if config == 'refused' and (file is not None or assignments):
    given = '--config' if file is not None else f'--config.{assignments[0][0]}'
    problems.append(line(given, file or assignments[0][1], 'has no effect: a run has its own config', 'leave it out'))
  if config == 'refused' and not workdir and not wants_help:
    problems.append('--workdir: missing; name the folder of a run')
  if values.get('config_json') is not None and file is not None:
    problems.append(
      line('--config_json', values['config_json'], f'--config = {file} is given as well', 'leave one out')
    )
  if file is None and config == 'required' and not wants_help and values.get('config_json') is None:
    problems.insert(0, '--config: missing; name a config file, such as --config=configs/pretrain_clm.py')
  file, argument = split_config_flag(file) if file else (None, None)
  flags = tuple(assignments), values, tuple(texts)
  return CommandLine(file, argument, workdir or None, *flags, wants_help, tuple(problems))


def load_config(flags: CommandLine) -> ConfigDict:
  """The ConfigDict of the file that `--config` names.

  Raises:
    ConfigError: no `--config`, or a file that cannot be loaded, with the problems of the command line before it.
  """
  if flags.file is None:
    raise ConfigError(flags.problems)
  try:
    return load_config_file(flags.file, flags.argument)
  except ConfigError as error:
    raise ConfigError([*flags.problems, *error.problems]) from error


def run_command(run, argv) -> int:
  """Runs `run(argv)`; what a user can fix becomes lines on stderr and an exit code, without a traceback.

  Returns:
    0, the exit code of an LmjaxError, or 130 for Ctrl-C.
  """
  try:
    run(sys.argv[1:] if argv is None else argv)
    return 0
  except LmjaxError as error:
    for problem in str(error).splitlines():
      tell(f'lmjax: {problem}', sys.stderr)
    return error.exit_code
  except KeyboardInterrupt:
    tell('lmjax: interrupted; the same command continues from the newest checkpoint', sys.stderr)
    return 130
  except BrokenPipeError:
    silence(sys.stdout)  # the reader has seen enough (`| head`)
    return 0


def split_config_flag(flag):
  """`FILE.py[:argument]` at its first colon: (file, argument or None)."""
  file, colon, argument = flag.partition(':')
  return file, argument if colon else None


def parse_argument(argument, **declared):
  """The typed arguments of a config file, for its `get_config(argument)`.

  `parse_argument('smoke,data=/x/{a,b}*.txt', data='pydoc', length=128, mix=None, smoke=False)` has
  `.smoke == True`, `.data == '/x/{a,b}*.txt'`, `.length == 128` and `.mix is None`.

  Args:
    argument: text after the first `:` of the flag, or None. A comma begins a new argument only before
      `name=` of a declared name or before a bare word declared as a bool; each splits at its first `=`.
    **declared: name=default. The type is that of the default, `str | None` for None; or write
      name=(annotation, default), such as `(int | None, None)`.

  Returns:
    SimpleNamespace with a value for every declared name.

  Raises:
    ConfigError: with every problem.
  """
  typed = {name: _declaration(default) for name, default in declared.items()}
  values = {name: default for name, (_, default) in typed.items()}
  problems = []
  for name, text in _arguments(argument or '', typed):
    if name not in typed:
      close = difflib.get_close_matches(name, typed, 1)
      remedy = f'did you mean {close[0]}?' if close else f'this config takes {", ".join(typed) or "none"}'
      problems.append(line(f'argument {name}', text, 'unknown argument', remedy))
    elif not text:
      problems.append(line(f'argument {name}', None, 'has no value', f'give {name}=VALUE'))
    else:
      try:
        values[name] = read(typed[name][0], text)
      except Refusal as refusal:
        problems.append(line(f'argument {name}', text, refusal.rule, refusal.remedy))
  if problems:
    raise ConfigError(problems)
  return SimpleNamespace(**values)


def load_config_file(path, argument=None):
  """The ConfigDict of a config file's `get_config`.

  Args:
    path: a .py file, relative to the current directory.
    argument: passed to `get_config`; None where there is none.

  Raises:
    ConfigError: no such file, no `get_config`, or an exception in it, with the line where it happened.
      A ConfigError of its own passes through.
  """
  file = Path(path)
  if file.suffix != '.py' or not os.path.isfile(path):
    raise ConfigError(_no_file(path, file))
  module = ModuleType(f'_lmjax_config_{next(_serial)}')
  module.__file__ = str(path)
  sys.modules[module.__name__] = module  # Where dataclasses look up the annotations of the file's classes.
  with common_file.importable(file):
    # Compiled here, not imported: bytecode cached by time stamp can be that of an earlier version.
    _guarded(path, lambda: exec(compile(file.read_bytes(), str(path), 'exec'), module.__dict__))
    get_config = getattr(module, 'get_config', None)
    if not callable(get_config):
      raise ConfigError(_no_config(path, file))
    config = _guarded(path, lambda: get_config(*_call_arguments(path, get_config, argument)))
  if not isinstance(config, ConfigDict):
    rule = f'get_config returned a {type(config).__name__}'
    raise ConfigError(line(path, None, rule, 'return an ml_collections.ConfigDict'))
  return ConfigDict(config) if isinstance(config, FrozenConfigDict) else config


def load_json(path: str) -> dict:
  """The config that a run has written, WORKDIR/config.json: data, of which nothing is executed.

  Raises:
    ConfigError: no such file, or not what a run writes.
  """
  flag = '--config_json'
  try:
    values = json.loads(Path(path).read_bytes())
  except OSError as error:
    raise ConfigError(line(flag, path, error.strerror or 'cannot be read', 'name WORKDIR/config.json')) from error
  except ValueError as error:
    raise ConfigError(line(flag, path, f'not JSON ({error})', 'name the config.json of a run')) from error
  if not isinstance(values, dict):
    raise ConfigError(line(flag, path, 'holds no object', 'name the config.json of a run'))
  if SHOWN in json.dumps(values):
    rule = f'a secret in it is {SHOWN}'
    raise ConfigError(line(flag, path, rule, 'run the config file that it came from'))
  return values


def default_workdir(file, argument):
  """`runs/<config name>`, with the arguments after a dash: `runs/pretrain_clm-smoke`.

  Where characters had to be replaced or the name cut, a short hash keeps different arguments apart.
  """
  name = f'runs/{Path(file).stem}'
  if not argument:
    return name
  safe = re.sub(r'[^\w.=+-]+', '-', argument, flags=re.ASCII).strip('-')
  if safe != argument or len(safe) > _LONGEST_NAME:
    digest = hashlib.sha256(argument.encode('utf-8', 'surrogatepass')).hexdigest()[:8]
    safe = f'{safe[:_LONGEST_NAME]}-{digest}'
  return f'{name}-{safe}'


def _flags(argv, bare):
  """(flag, text or None) pairs. A flag without `=` takes the next argument unless that is a flag too."""
  rest = list(argv)
  while rest:
    flag, equals, text = rest.pop(0).partition('=')
    takes_next = flag.startswith('--') and flag.removeprefix('--').replace('-', '_') not in (*bare, 'help')
    if equals or not flag.startswith('-'):
      yield flag, text if equals else None
    elif takes_next and rest and not rest[0].startswith('--'):
      yield flag, rest.pop(0)
    else:
      yield flag, None


def _unknown_flag(flag, text, known):
  """The problem with a flag that nobody declared, or with a bare word."""
  name = flag.lstrip('-')
  close = difflib.get_close_matches(name.partition('.')[0].replace('-', '_'), [*known, 'help'], 1)
  if RENAMED.get(name) in known:
    close = [RENAMED[name]]
  if not flag.startswith('-') and flag.partition(':')[0].endswith('.py'):
    typed = flag if text is None else f'{flag}={text}'
    return line(typed, None, 'not a flag', f'did you mean --config={typed}?')
  if '.' in name:
    path = name.partition('.')[2] if close == ['config'] else name
    return line(flag, text, 'unknown flag', f'did you mean --config.{path}?')
  if close:
    return line(flag, text, 'unknown flag', f'did you mean --{close[0]}?')
  flags = ', '.join(f'--{other}' for other in known)
  return line(flag, text, 'unknown flag', f'the flags are {flags}, and --config.PATH=VALUE for a setting')


def _declaration(default):
  """(annotation, default) of one declared argument."""
  if isinstance(default, tuple) and len(default) == 2:
    annotation, value = default
    if isinstance(annotation, type) or typing.get_origin(annotation) is not None:
      return annotation, value
  if isinstance(default, tuple):
    return tuple[str, ...], default
  return str | None if default is None else type(default), default


def _arguments(argument, typed):
  """(name, text or None) of each argument; a piece that begins none belongs to the text before it."""
  found, open_text = [], False
  for piece in argument.split(','):
    name, equals, text = piece.partition('=')
    word = name.strip()
    known = word in typed
    is_bool = known and typed[word][0] is bool
    slip = word.isidentifier() and not known and difflib.get_close_matches(word, typed, 1, 0.8)
    if open_text and not (equals and known or is_bool and not equals or slip):
      found[-1][1] += f',{piece}'
    elif piece.strip():
      found.append([word, text if equals else 'true' if is_bool else None])
      # A number ends at its comma, a text may go on.
      open_text = bool(equals) and not (known and {int, float, bool, type(None)}.issuperset(parts_of(typed[word][0])))
  return found


def _no_file(path, file):
  """Why a path is no config file, with the likeliest one that is."""
  around = [folder for folder in (file.parent, Path('configs')) if os.path.isdir(folder)]
  found = [other for folder in around for other in folder.glob('*.py') if other.is_file()]
  others = {str(other) for other in found if other.stem not in ('__init__', common_file.NAME)}
  stems = {Path(other).stem: other for other in sorted(others, reverse=True)}
  close = difflib.get_close_matches(file.stem, stems, 1)
  rule = 'no such file' if file.suffix == '.py' and not os.path.isdir(path) else 'must be a .py file'
  remedy = f'did you mean {stems[close[0]]}?' if close else 'give --config=FILE.py[:arg]'
  return line(path, None, rule, remedy)


def _no_config(path, file):
  """Why a file that can be executed is no config."""
  if file.stem != common_file.NAME:
    return line(path, None, 'has no get_config', 'define get_config(argument)')
  others = sorted(str(other) for other in file.parent.glob('*.py') if other.stem != file.stem)
  remedy = f'name one of them, such as {others[0]}' if others else 'name a config'
  return line(path, None, 'is no run but what the configs next to it share', remedy)


def _call_arguments(path, get_config, argument):
  parameters = inspect.signature(get_config).parameters.values()
  if argument is not None and not parameters:
    raise ConfigError(line(path, None, f'takes no argument, but got {argument!r}', f'give --config={path}'))
  required = [parameter for parameter in parameters if parameter.default is parameter.empty]
  return (argument,) if argument is not None or required else ()


def _guarded(path, call) -> Any:
  """Runs code of a config file; what it raises becomes a ConfigError with its place."""
  try:
    return call()
  except ConfigError:
    raise
  except (Exception, SystemExit) as error:
    files = (str(path), str(Path(path).parent / f'{common_file.NAME}.py'))
    frames = traceback.extract_tb(error.__traceback__)
    places = [f'{frame.filename}:{frame.lineno}' for frame in frames if frame.filename in files]
    message = str(error)
    if isinstance(error, SyntaxError) and error.filename in files:
      places, message = [f'{error.filename}:{error.lineno}'], error.msg
    where = places[-1] if places else path
    rule = f'{type(error).__name__}: {" ".join(message.split())}'
    raise ConfigError(line(where, None, rule, 'fix the config file')) from error
