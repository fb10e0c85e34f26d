"""Evaluation passes: over held-out documents, and over labelled examples. Also a command, for any checkpoint:

python -m lmjax.evaluate --workdir=DIR               on the run's own validation and test data
    --data=FILE     on other data: text where the run is one of pre-training, labelled examples where it is not
    --fields=A,B    names of its columns or keys, where they are not those of the run's own data
    --step=N        another checkpoint than the best (fine-tuned) or newest (pre-training)
    --mesh=N        on N devices; default: all, laid out as in training
    --json          one JSON object
"""

import dataclasses
import json
import sys
from typing import Any

import jax

from lmjax.data import records
from lmjax.data.config import SourceConfig, default_field
from lmjax.errors import ConfigError
from lmjax.schema import command_line
from lmjax.schema.types import PositiveInt
from lmjax.tasks import prepare
from lmjax.tasks.fine_tuning import FineTuningData, FineTuningTask
from lmjax.training import evaluator, progress, reopen


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.run_command(run, argv)


def run(argv: list[str]) -> None:
  """Evaluates a checkpoint and prints its metrics."""
  extra = {'data': str, 'step': int, 'fields': tuple[str, ...], 'mesh': PositiveInt}
  flags = command_line.parse_command_line(argv, extra, bare=('json',), config='refused')
  if flags.help:
    print(__doc__)
    return
  if flags.problems:
    raise ConfigError(flags.problems)
  trained = reopen.load_run(flags.workdir, flags.extra['step'], flags.extra['mesh'])
  found = evaluate(trained, flags.extra['data'], flags.extra['fields'])
  if flags.extra['json']:
    print(json.dumps({'workdir': flags.workdir, 'step': trained.step, 'metrics': found}))
    return
  print(f'{flags.workdir}: {trained.config.task}, step {trained.step}')
  for name, value in found.items():
    print(f'  {name:32} {progress.number(value)}')


def evaluate(trained: reopen.TrainedRun, data: str | None = None, fields=None) -> dict[str, float]:
  """{'split/name': value} of a trained run, on its own held-out data or on a file.

  Raises:
    ConfigError: `fields` without data, or where they have no meaning.
    DataError: the data is missing or broken.
  """
  task, config = trained.task, trained.config
  if fields is not None and (data is None or not isinstance(task, FineTuningTask)):
    raise ConfigError(f'--fields = {",".join(fields)}: has no effect without --data of labelled examples; leave it out')
  with jax.set_mesh(trained.mesh):
    splits = ['valid']
    if isinstance(task, FineTuningTask):
      task, found, splits = _examples(trained, data, fields)
    elif data is None:
      found = task.load(type(task).read(config.data, trained.tokenizer, config.seed, True)[1])
    else:
      source = SourceConfig(data, default_field(data), 1.0)
      text = dataclasses.replace(task.data, sources={'data': source}, valid_fraction=1.0, valid_bytes=None)
      task = prepare.build(dataclasses.replace(config, data=text), trained.tokenizer)
      found = task.load(type(task).read(text, trained.tokenizer, config.seed, True)[1])
    evaluate_split = evaluator.make(task, found, evaluator.Runner(trained.mesh))
    values = {split: evaluate_split(trained.params, split)[0] for split in splits}
  return {f'{split}/{name}': value for split, metrics_ in values.items() for name, value in metrics_.items()}


def _examples(trained: reopen.TrainedRun, data: str | None, fields) -> tuple[Any, FineTuningData, list[str]]:
  """(task, its examples, their splits): those of the run, or of a file, on which nothing is chosen."""
  config: Any = trained.config  # its slices are those of its task
  task: Any = trained.task
  if data is None:
    _, task, found = prepare.prepare(config, trained.tokenizer)
    task.load_calibration(trained.task.calibration)
    return task, found, [split for split in ('valid', 'test') if split in found.splits]
  items, skipped = records.read_alone(data, config.data, config.task, fields, True)
  if skipped:
    print(f'lmjax: {data}: {skipped}', file=sys.stderr)
  type(task).resolve(config.objective, records.Records({'test': items, 'train': []}, {}, ''))  # known labels
  return task, FineTuningData({'test': task.rows_of(items)}, {}, ''), ['test']


if __name__ == '__main__':
  sys.exit(main())
