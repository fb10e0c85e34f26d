"""`python -m lmjax.main --config=FILE.py[:arg,arg=value] [--workdir=DIR] [--config.a.b=value ...]`

Trains the run that the config describes; the same command again continues where it stopped. Where several hosts
are not found by themselves (TPU pods and SLURM are): --coordinator=HOST:PORT --num_processes=N --process_id=I on each.

--config_json=WORKDIR/config.json in place of --config continues a run as it was saved, without executing a config
file; with another --workdir it makes the run again.

--dry_run compiles the train step and says what it needs and whether it fits, on this machine's devices, or on others:
--dry_run=v5e:2x4 (any TPU topology), 2*v5e:4x4 (two slices), cpu:8. No data is read, and no workdir made.
"""

import os
import shlex
import sys

from lmjax import config as config_lib
from lmjax.hosts import preemption
from lmjax.schema import command_line, describe, overrides

FLAGS = {'coordinator': str, 'num_processes': int, 'process_id': int, 'config_json': str}


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  with preemption.command():
    code = command_line.run_command(run, argv)
  hosts = sys.modules.get('lmjax.hosts.watchdog')
  if code and hosts is not None:
    hosts.leave(code)
  return code


def run(argv: list[str]) -> None:
  """Reads the config, reports all of its problems at once, and trains."""
  flags = command_line.parse_command_line(argv, FLAGS, bare=('dry_run',))
  saved, asked = flags.extra.pop('config_json'), flags.extra.pop('dry_run')
  if flags.help and flags.file is None:
    print(__doc__ + '\nWith --config=FILE --help: every setting of that config, with type and meaning.')
    return
  config = command_line.load_config(flags) if saved is None else command_line.load_json(saved)
  config, problems = overrides.override(config_lib.Config, config, flags.assignments)
  problems = [*flags.problems, *problems]
  if flags.help:
    print(f'{flags.file}\n\n{describe.describe(config_lib.Config, config)}')
    return
  if asked:
    _dry_run(asked, config, problems, argv)
    return
  built, source = config_lib.load(config, problems)
  # jax and what needs it take seconds to import: a mistake above is reported without them
  from lmjax.hosts import join

  join.join(built.hosts, **flags.extra)
  from lmjax.train import run as train

  if flags.workdir is not None:
    workdir = flags.workdir
  elif saved is None:
    workdir = command_line.default_workdir(flags.file, flags.argument)
  else:
    workdir = os.path.dirname(os.path.abspath(saved))
  train(built, source, workdir)


def _dry_run(asked, config, problems, argv) -> None:
  from lmjax.dry_run import topology
  from lmjax.dry_run.fit import dry_run

  built, source = config_lib.load(config, problems)
  target = topology.find(None if asked is True else asked)
  rest = [word for word in argv if not word.replace('-', '_').startswith('__dry_run')]
  dry_run(built, source, target, shlex.join(['python', '-m', 'lmjax.main', *rest]), print)


if __name__ == '__main__':
  sys.exit(main())
