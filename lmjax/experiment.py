"""`python -m lmjax.experiment --config=experiments/NAME.py[:arg,arg=value] [--workdir=DIR] [--config.a.b=value ...]`

Runs a study: every stage is a run in WORKDIR/STAGE, and comparisons of what the stages gave become WORKDIR/report.md.
The same command again continues where it stopped; when all stages are done, it makes the report again. One host.

With --config=FILE --help: every setting of that experiment, with type and meaning.
"""

import os
import shlex
import sys

from lmjax.schema import command_line
from lmjax.study.config import ExperimentConfig


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.command(run, argv, __doc__, config='required', root=ExperimentConfig)


def run(flags: command_line.CommandLine) -> None:
  """Reports all problems of the experiment at once, runs its stages and writes its report."""
  # jax and what needs it take seconds to import: `--help` does without
  from lmjax.hosts import allocator
  from lmjax.study import comparison, stages

  allocator.keep_freed_memory()
  workdir = flags.workdir or command_line.default_workdir(flags.file, flags.argument)
  if '://' in workdir:
    flags.problems.append(f'--workdir = {workdir}: must be a local folder; copy it when the experiment has ended')
  config, ready = stages.prepare(flags.config, workdir, flags.problems)
  stages.run_stages(ready, workdir, config.comparisons)
  command = f'python -m lmjax.experiment {shlex.join(flags.argv)}'
  comparison.write_report(workdir, command, [stage.name for stage in ready], config.comparisons)
  print(f'report, numbers and pictures: {os.path.join(workdir, "")}{{report.md, results.json, *.png}}', flush=True)


if __name__ == '__main__':
  sys.exit(main())
