"""`python -m lmjax.main --config=FILE.py[:arg,arg=value] [--workdir=DIR] [--config.a.b=value ...]`

Trains the run that the config describes; the same command again continues where it stopped. Where several hosts
are not found by themselves (TPU pods and SLURM are): --coordinator=HOST:PORT --num_processes=N --process_id=I on each.

--config_json=WORKDIR/config.json in place of --config continues a run as it was saved, without executing a config
file; with another --workdir it makes the run again.

--dry_run compiles the train step and reports what it needs, and whether it fits on this machine's devices, or others:
--dry_run=v5e:2x4 (any TPU topology), 2*v5e:4x4 (two slices), cpu:8. No data is read, and no workdir made.

With --config=FILE --help: every setting of that config, with type and meaning.
"""

import os
import shlex
import sys

from lmjax import config as config_lib
from lmjax.hosts import preemption
from lmjax.schema import command_line

FLAGS = {'coordinator': str, 'num_processes': int, 'process_id': int, 'config_json': str, 'dry_run': bool | str}


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  with preemption.command():
    code = command_line.command(run, argv, __doc__, FLAGS, config='required', root=config_lib.Config)
  hosts = sys.modules.get('lmjax.hosts.watchdog')
  if code and hosts is not None:
    hosts.leave(code)
  return code


def run(flags: command_line.CommandLine) -> None:
  """Checks the config, reports all of its problems at once, and trains."""
  saved, target = flags.values.pop('config_json'), flags.values.pop('dry_run')
  given = None if saved is not None else [path for path, _ in flags.assignments]
  config, source = config_lib.load(flags.config, flags.problems, given=given)
  # jax and what needs it take seconds to import: a mistake above is reported without them
  if target:
    from lmjax.dry_run import fit, topology

    rest = [word for word in flags.argv if not word.replace('-', '_').startswith('__dry_run')]
    command = shlex.join(['python', '-m', 'lmjax.main', *rest])
    fit.dry_run(config, source, topology.find(None if target is True else target), command, print)
    return
  from lmjax.hosts import allocator, join

  allocator.keep_freed_memory()
  join.join(config.hosts, **flags.values)
  from lmjax.train import run as train

  if flags.workdir is None and saved is not None:
    flags.workdir = os.path.dirname(os.path.abspath(saved))
  train(config, source, flags.workdir or command_line.default_workdir(flags.file, flags.argument))


if __name__ == '__main__':
  sys.exit(main())
