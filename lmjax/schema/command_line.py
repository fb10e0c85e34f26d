"""The command line as it is typed, and the config file it names; what the settings mean is not its business.

    --config=FILE.py[:arg,name=value] [--workdir=DIR] [--config.a.b=value ...]

absl's flags are not used: they stop at the first mistake, with a traceback around those of a config file.
"""

import builtins
import dataclasses
import difflib
import functools
import hashlib
import inspect
import itertools
import json
import os
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

from ml_collections import ConfigDict, FrozenConfigDict

from lmjax.compilation import FOLDER, keep_programs
from lmjax.console import SHOWN, print_line, silence
from lmjax.errors import ConfigError, DataError, LmjaxError
from lmjax.schema.describe import describe, parts_of
from lmjax.schema.overrides import Refusal, override, read
from lmjax.schema.validate import line

# Earlier names of flags, of which some are too unlike the new ones to be found by spelling.
RENAMED = {'processes': 'num_processes', 'process': 'process_id', 'words': 'neighbors', 'pairs': 'minimal_pairs'}
COMMON = 'common'  # what the configs of a folder share
_LONGEST_NAME = 80
_NUMBERS = {int, float, bool, type(None)}
_serial = itertools.count()

_COMMON_HELP = f'--compilation_cache=DIR: where compiled programs are kept, {FOLDER} by default; none: nowhere'

UseOfConfig = Literal['required', 'optional', 'refused', 'none']


@dataclasses.dataclass
class CommandLine:
  """A parsed command line."""

  file: str | None  # what stands before the first `:` of --config
  argument: str | None  # what follows it, None where there is no `:`
  workdir: str | None  # None where it is not given
  compilation_cache: str | None  # None where it is not given
  assignments: list  # (path, text) of every `--config.PATH=TEXT`, in order
  values: dict  # of the other flags by name, None where not given
  words: list  # what is no flag, where that is allowed
  help: bool  # whether `--help` or `-h` is there
  problems: list  # one line each
  argv: list  # as it was typed
  config: ConfigDict | None = None  # what the file holds, with the assignments; see `command`


def command(run, argv, doc: str, flags=None, config: UseOfConfig = 'refused', root=None, words=False) -> int:
  """Runs `run(CommandLine)` of a command, or prints help; see `run_command`.

  A command that has no config is not run where its flags have problems; one that has reports them with its own.

  Args:
    argv: as `parse_command_line` takes it, with `flags`, `config` and `words`; None: those of this process.
    doc: printed for `--help`.
    root: the class of its config.
  """

  def run_parsed(argv):
    given = parse_command_line(argv, flags, config, words)
    saved = given.values.get('config_json')
    has_config = given.file is not None or saved is not None
    if given.help and given.file is None:
      print(f'{doc}\n{_COMMON_HELP}')
      return
    keep_programs(given.compilation_cache)
    if given.problems and (config in ('refused', 'none') or not has_config):
      raise ConfigError(given.problems)
    if has_config:
      try:
        raw = load_json(saved) if given.file is None else load_config_file(given.file, given.argument)
      except ConfigError as error:
        raise ConfigError([*given.problems, *error.problems]) from error
      given.config, problems = override(root, raw, given.assignments)
      given.problems += problems
    if given.help:
      print(f'{given.file}\n\n{describe(root, given.config)}')
    else:
      run(given)

  return run_command(run_parsed, argv)


def run_command(run, argv) -> int:
  """Runs `run(argv)`; returns 0, the exit code of an LmjaxError, whose lines go to stderr, or 130 for Ctrl-C."""
  try:
    run(sys.argv[1:] if argv is None else argv)
    sys.stdout.flush()  # here, where a reader that is gone is no error
    return 0
  except LmjaxError as error:
    for problem in str(error).splitlines():
      print_line(f'lmjax: {problem}', sys.stderr)
    return error.exit_code
  except KeyboardInterrupt:
    print_line('lmjax: interrupted; the same command continues from what was saved', sys.stderr)
    return 130
  except BrokenPipeError:
    silence(sys.stdout)  # the reader has seen enough (`| head`)
    return 0


def parse_command_line(argv, flags=None, config: UseOfConfig = 'required', words=False) -> CommandLine:
  """Parses the arguments after the program's name. Never raises on what a user types.

  Args:
    argv: `--flag=value` or `--flag value` each.
    flags: name -> annotation of further flags, as in a config dataclass; those that may be a bool need no value.
    config: whether `--config` and its settings are required, optional (in place of `--workdir`) or refused; with
      'none' a workdir is not required either.
    words: whether there may be arguments that are no flags; those after `--` are none.
  """
  end = argv.index('--') if words and '--' in argv else len(argv)
  kinds = {'config': str, 'workdir': str, 'compilation_cache': str, **(flags or {})}
  bare = {name for name, annotation in kinds.items() if bool in parts_of(annotation)}
  values, assignments, problems, texts, wants_help = dict.fromkeys(kinds), [], [], [], False
  for flag, text in _flags(argv[:end], bare):
    name = flag.removeprefix('--').replace('-', '_')
    if flag in ('--help', '-h'):
      wants_help = True
    elif flag.startswith('--config.') and text is not None:
      assignments.append((flag.removeprefix('--config.'), text))
    elif words and not flag.startswith('-'):
      texts.append(flag if text is None else f'{flag}={text}')
    elif flag.startswith('--config.') or flag.startswith('--') and name in kinds:
      text = 'true' if name in bare and not text else text
      values[name] = _read(flag, flag, kinds.get(name), text, problems)
    else:
      problems.append(_unknown_flag(flag, text, kinds))
  texts += argv[end + 1 :]
  file, workdir, cache = (values.pop(name) for name in ('config', 'workdir', 'compilation_cache'))
  saved = values.get('config_json')
  if config in ('refused', 'none') and (file is not None or assignments):
    name, text = ('--config', file) if file is not None else (f'--config.{assignments[0][0]}', assignments[0][1])
    flag = name.rpartition('.')[2]  # a setting that the command takes by a flag of its own
    remedy = f'give --{flag}' if flag in values else 'leave it out'
    problems.append(line(name, text, 'has no effect: a run has its own config', remedy))
  if config == 'refused' and not workdir:
    problems.append('--workdir: missing; name the folder of a run')
  if config == 'optional' and (file is None) == (workdir is None):
    problems.append('--config, --workdir: exactly one is needed; --config=FILE --batch=S, or --workdir=DIR')
  if config == 'required' and file is None and saved is None:
    problems.insert(0, '--config: missing; name a config file, such as --config=configs/pretrain_clm.py')
  if saved is not None and file is not None:
    problems.append(line('--config_json', saved, f'--config = {file} is given as well', 'leave one out'))
  if texts and values.get('file') is not None:
    problems.append(line('--file', values['file'], 'not with texts on the command line', 'leave one of them out'))
  file, argument = split_config_flag(file) if file else (None, None)
  return CommandLine(
    file, argument, workdir or None, cache or None, assignments, values, texts, wants_help, problems, argv
  )


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
    **declared: name=default, of the type of the default (`str | None` for None); or name=(annotation, default).

  Raises ConfigError: with every problem.
  """
  kinds: dict[Any, Any] = {type(None): str | None, tuple: tuple[str, ...]}
  # a tuple with something in it is (annotation, default)
  pairs = {name: d if isinstance(d, tuple) and d else (kinds.get(type(d), type(d)), d) for name, d in declared.items()}
  annotations, values = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
  problems: list[str] = []
  for name, text in _arguments(argument or '', annotations):
    if name in annotations:
      values[name] = _read(f'argument {name}', name, annotations[name], text, problems)
    else:
      close = difflib.get_close_matches(name, annotations, 1)
      remedy = f'did you mean {close[0]}?' if close else f'this config takes {", ".join(annotations) or "none"}'
      problems.append(line(f'argument {name}', text, 'unknown argument', remedy))
  if problems:
    raise ConfigError(problems)
  return SimpleNamespace(**values)


def _read(shown: str, flag: str, annotation, text: str | None, problems: list[str]) -> Any:
  """The value of a flag or an argument; '' where it has none, or a wrong one, which is a problem."""
  try:
    if text:
      return read(annotation, text)
    problems.append(line(shown, None, 'has no value', f'give {flag}=VALUE'))
  except Refusal as refusal:
    problems.append(line(shown, text, *refusal.args))
  return ''


def load_config_file(path, argument=None):
  """The ConfigDict that `get_config` of a .py file returns, called with the argument if there is one.

  Raises ConfigError: no such file, no `get_config`, or an exception in it, with the line where it happened. A
  ConfigError of its own passes through.
  """
  file = Path(path)
  if file.suffix != '.py' or not os.path.isfile(path):
    raise ConfigError(line(path, None, *_no_file(path, file)))
  module = ModuleType(f'_lmjax_config_{next(_serial)}')
  module.__dict__['__builtins__'] = vars(builtins) | {'__import__': functools.partial(_import, file)}
  sys.modules[module.__name__] = module  # Where dataclasses look up the annotations of the file's classes.
  _guarded(path, lambda: _execute(path, module))
  get_config = getattr(module, 'get_config', None)
  if not callable(get_config):
    raise ConfigError(line(path, None, *_no_config(file)))
  parameters = inspect.signature(get_config).parameters.values()
  if argument is not None and not parameters:
    raise ConfigError(line(path, None, f'takes no argument, but got {argument!r}', f'give --config={path}'))
  passed = argument is not None or any(parameter.default is parameter.empty for parameter in parameters)
  config = _guarded(path, lambda: get_config(*([argument] if passed else [])))
  if not isinstance(config, ConfigDict):
    rule = f'get_config returned a {type(config).__name__}'
    raise ConfigError(line(path, None, rule, 'return an ml_collections.ConfigDict'))
  return ConfigDict(config) if isinstance(config, FrozenConfigDict) else config


def _execute(path, module: ModuleType) -> None:
  """Runs a file in a module. Compiled here, not imported: cached bytecode can be that of an earlier version."""
  module.__file__ = str(path)
  exec(compile(Path(path).read_bytes(), str(path), 'exec'), module.__dict__)


def _import(config: Path, name: str, *rest):
  """`import` of a config file: `common` is the common.py next to it, in any working directory, and no other module."""
  if name != COMMON:
    return builtins.__import__(name, *rest)
  file, module = config.parent / f'{COMMON}.py', ModuleType(name)
  if not file.is_file():
    rule = f'imports {COMMON}, and there is no {file.name} next to it'
    raise ConfigError(f'{config}: {rule}; copy that file too, from the folder that the config came from')
  _execute(file, module)
  return module


def load_json(path: str) -> dict:
  """The config that a run has written, WORKDIR/config.json: data, of which nothing is executed.

  Raises ConfigError: no such file, or not what a run writes.
  """

  def problem(rule: str, remedy: str = 'name the config.json of a run') -> ConfigError:
    return ConfigError(line('--config_json', path, rule, remedy))

  try:
    values = json.loads(Path(path).read_bytes())
  except OSError as error:
    raise problem(error.strerror or 'cannot be read', 'name WORKDIR/config.json') from error
  except ValueError as error:
    raise problem(f'not JSON ({error})') from error
  if not isinstance(values, dict):
    raise problem('holds no object')
  if SHOWN in json.dumps(values):
    raise problem(f'a secret in it is {SHOWN}', 'run the config file that it came from')
  return values


def read_text(flag: str, file: str | None) -> str:
  """The text of the file that a flag names, or of standard input, its lines ended by \\n and no byte order mark.

  Raises DataError: it cannot be read.
  """
  try:
    if file is None:
      data = sys.stdin.buffer.read()
    else:
      with open(file, 'rb') as opened:
        data = opened.read()
    return data.decode('utf-8-sig').replace('\r\n', '\n').replace('\r', '\n')
  except OSError as error:
    raise DataError(f'{flag} = {file}: {error.strerror}; give a readable file') from error
  except UnicodeDecodeError as error:
    where = 'standard input' if file is None else f'{flag} = {file}'
    raise DataError(f'{where}: not UTF-8 ({error.reason} at byte {error.start}); convert it') from error


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
  if '.' in name and (flag_of := name.rpartition('.')[2]) in known:
    remedy = f'did you mean --{flag_of}?'
  elif '.' in name:
    remedy = f'did you mean --config.{name.partition(".")[2] if close == ["config"] else name}?'
  elif close:
    remedy = f'did you mean --{close[0]}?'
  else:
    remedy = f'the flags are {", ".join(f"--{other}" for other in known)}, and --config.PATH=VALUE for a setting'
  return line(flag, text, 'unknown flag', remedy)


def _arguments(argument, annotations):
  """(name, text or None) of each argument; a piece that begins none belongs to the text before it."""
  pieces: list[list] = []
  open_text = False
  for piece in argument.split(','):
    name, equals, text = piece.partition('=')
    word = name.strip()
    known = word in annotations
    is_bool = known and annotations[word] is bool
    slip = word.isidentifier() and not known and difflib.get_close_matches(word, annotations, 1, 0.8)
    if open_text and not (equals and known or is_bool and not equals or slip):
      pieces[-1][1] += f',{piece}'
    elif piece.strip():
      pieces.append([word, text if equals else 'true' if is_bool else None])
      # A number ends at its comma, a text may continue.
      open_text = bool(equals) and not (known and _NUMBERS.issuperset(parts_of(annotations[word])))
  return pieces


def _no_file(path, file: Path) -> tuple[str, str]:
  """(rule, remedy) of a path that is no config file."""
  folders = [folder for folder in (Path('configs'), file.parent) if os.path.isdir(folder)]
  stems = {other.stem: other for folder in folders for other in folder.glob('*.py') if other.is_file()}
  close = difflib.get_close_matches(file.stem, stems.keys() - {'__init__', COMMON}, 1)
  rule = 'no such file' if file.suffix == '.py' and not os.path.isdir(path) else 'must be a .py file'
  return rule, f'did you mean {stems[close[0]]}?' if close else 'give --config=FILE.py[:arg]'


def _no_config(file: Path) -> tuple[str, str]:
  """(rule, remedy) of a file that can be executed and is no config."""
  if file.stem != COMMON:
    return 'has no get_config', 'define get_config(argument)'
  others = sorted(str(other) for other in file.parent.glob('*.py') if other.stem != file.stem)
  return 'is no run but what the configs next to it share', f'name one of them, such as {[*others, "FILE.py"][0]}'


def _guarded(path, call) -> Any:
  """Runs code of a config file; what it raises becomes a ConfigError with its place."""
  try:
    return call()
  except ConfigError:
    raise
  except (Exception, SystemExit) as error:
    files = (str(path), str(Path(path).parent / f'{COMMON}.py'))
    frames = traceback.extract_tb(error.__traceback__)
    places = [f'{frame.filename}:{frame.lineno}' for frame in frames if frame.filename in files]
    message = str(error)
    if isinstance(error, SyntaxError) and error.filename in files:
      places, message = [f'{error.filename}:{error.lineno}'], error.msg
    where, rule = [path, *places][-1], f'{type(error).__name__}: {" ".join(message.split())}'
    raise ConfigError(line(where, None, rule, 'fix the config file')) from error
