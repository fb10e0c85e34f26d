"""Evaluation passes: over held-out documents, and over labelled examples. Also a command, for any checkpoint:

python -m lmjax.evaluate --workdir=DIR               on the run's own validation and test data
    --data=FILE     on other data: text where the run is one of pre-training, labelled examples where it is not
    --fields=A,B    names of its columns or keys, where they are not those of the run's own data
    --step=N        another checkpoint than the best (fine-tuned) or newest (pre-training)
    --json          one JSON object
"""

import dataclasses
import json
import sys
from typing import Any

from lmjax import sharding, tasks
from lmjax.data import records
from lmjax.data.config import SourceConfig, default_field
from lmjax.errors import ConfigError
from lmjax.schema import command_line
from lmjax.training import evaluator, progress, reopen


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.run_command(run, argv)


def run(argv: list[str]) -> None:
  """Evaluates a checkpoint and prints its metrics."""
  extra = {'data': str, 'step': int, 'fields': tuple[str, ...]}
  flags = command_line.parse_command_line(argv, extra, bare=('json',), config='refused')
  if flags.help:
    print(__doc__)
    return
  if flags.problems:
    raise ConfigError(flags.problems)
  trained = reopen.open_run(flags.workdir, flags.extra['step'])
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
  if fields is not None and (data is None or not trained.task.HAND_OFF):
    raise ConfigError(f'--fields = {",".join(fields)}: has no effect without --data of labelled examples; leave it out')
  config: Any = trained.config  # its slices are those of its task
  task = trained.task
  mesh = sharding.one_device_mesh()
  with sharding.using(mesh):
    if not task.HAND_OFF:
      if data is not None:
        source = SourceConfig(data, default_field(data), 1.0)
        text = dataclasses.replace(config.data, sources={'data': source}, valid_fraction=1.0, valid_bytes=None)
        config = dataclasses.replace(config, data=text)
      splits, (_, found) = ['valid'], type(task).read(config, trained.tokenizer, True)
    elif data is None:
      config, task, found = tasks.prepare(config, trained.tokenizer)
      task.use(trained.task.settings)
      splits = [split for split in ('valid', 'test') if split in found.splits]
    else:
      items, said = records.read_alone(data, config.data, config.task, fields, True)
      if said:
        print(f'lmjax: {data}: {said}', file=sys.stderr)
      type(task).resolve(config.objective, records.Records({'test': items, 'train': []}, {}, ''))  # known labels
      # 'test': nothing is tuned on it
      splits, found = ['test'], tasks.fine_tuning.Labelled({'test': task.rows_of(items)}, {}, '')
    run = evaluator.make(config, task, found, mesh)
    values = {split: run(trained.params, split)[0] for split in splits}
  return {f'{split}/{name}': value for split, metrics_ in values.items() for name, value in metrics_.items()}


if __name__ == '__main__':
  sys.exit(main())
