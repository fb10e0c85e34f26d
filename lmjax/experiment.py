"""`python -m lmjax.experiment --config=experiments/NAME.py[:arg,arg=value] [--workdir=DIR] [--config.a.b=value ...]`

Runs a study: every stage is a run in WORKDIR/STAGE, and comparisons of what the stages gave become WORKDIR/report.md.
The same command again continues where it stopped; when all stages are done, it makes the report again. One host.
"""

import os
import shlex
import sys

from lmjax.schema import command_line, describe, overrides
from lmjax.study.config import ExperimentConfig


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.run_command(run, argv)


def run(argv: list[str]) -> None:
  """Reads the experiment, reports all of its problems at once, runs its stages and writes its report."""
  flags = command_line.parse_command_line(argv)
  if flags.help and flags.file is None:
    print(__doc__ + '\nWith --config=FILE --help: every setting of that experiment, with type and meaning.')
    return
  raw = command_line.load_config(flags)
  raw, problems = overrides.override(ExperimentConfig, raw, flags.assignments)
  if flags.help:
    print(f'{flags.file}\n\n{describe.describe(ExperimentConfig, raw)}')
    return
  # jax and what needs it take seconds to import: `--help` does without
  from lmjax.study import comparison, stages

  workdir = flags.workdir or command_line.default_workdir(flags.file, flags.argument)
  if '://' in workdir:
    problems = [*problems, f'--workdir = {workdir}: must be a local folder; copy it when the experiment has ended']
  config, ready = stages.prepare(raw, workdir, [*flags.problems, *problems])
  with stages.compilation_cached(os.path.join(workdir, 'xla_cache')):
    stages.run_stages(ready, workdir, config.comparisons)
  command = f'python -m lmjax.experiment {shlex.join(argv)}'
  comparison.write_report(workdir, command, [stage.name for stage in ready], config.comparisons)
  print(f'report, numbers and pictures: {os.path.join(workdir, "")}{{report.md, results.json, *.png}}', flush=True)


if __name__ == '__main__':
  sys.exit(main())
