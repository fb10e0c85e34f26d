"""Evaluation passes: over held-out documents, and over labelled examples. Also a command, for any checkpoint:

python -m lmjax.evaluate --workdir=DIR               on the run's own validation and test data
    --data=FILE     on other data: text where the run is one of pre-training, labelled examples where it is not
    --fields=A,B    names of its columns or keys, where they are not those of the run's own data
    --bad_text=P    what to do about text that is not UTF-8: raise, replace or skip; default: as in training
    --step=N        another checkpoint than the best (fine-tuned) or newest (pre-training)
    --mesh=N        on N devices; default: all, laid out as in training
    --json          one JSON object
"""

import dataclasses
import json
import math
import sys
from typing import Any

import jax

from lmjax.data import records
from lmjax.data.config import BadText, SourceConfig, default_field
from lmjax.data.counts import check_known
from lmjax.errors import ConfigError
from lmjax.hosts import allocator
from lmjax.schema import command_line
from lmjax.schema.types import PositiveInt
from lmjax.tasks import prepare
from lmjax.tasks.fine_tuning import FineTuningData, FineTuningTask
from lmjax.tasks.table import TASKS
from lmjax.training import evaluator, initialize, progress, reopen

FLAGS = {'bad_text': BadText, 'data': str, 'step': int, 'fields': tuple[str, ...], 'mesh': PositiveInt, 'json': bool}


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.command(run, argv, __doc__, FLAGS)


def run(flags: command_line.CommandLine) -> None:
  """Evaluates a checkpoint and prints its metrics."""
  allocator.keep_freed_memory()
  trained = reopen.load_run(flags.workdir, flags.values['step'], flags.values['mesh'])
  values = evaluate(
    reopen.with_bad_text(trained, flags.values['bad_text']), flags.values['data'], flags.values['fields']
  )
  if undefined := [name for name, value in values.items() if math.isnan(value)]:
    print(
      f'lmjax: undefined, since all is the same or there is nothing to count: {", ".join(undefined)}', file=sys.stderr
    )
  if flags.values['json']:
    found = {name: None if math.isnan(value) else value for name, value in values.items()}  # JSON has no NaN
    print(json.dumps({'workdir': flags.workdir, 'step': trained.step, 'metrics': found}))
    return
  print(f'{flags.workdir}: {trained.config.task}, step {trained.step}')
  for name, value in values.items():
    print(f'  {name:32} {progress.number(value)}')


def evaluate(trained: reopen.TrainedRun, data: str | None = None, fields=None) -> dict[str, float]:
  """{'split/name': value} of a trained run, on its own held-out data or on a file.

  Raises ConfigError for `fields` that have no meaning, DataError where the data is missing or broken.
  """
  task, config = trained.task, trained.config
  if fields is not None and (data is None or not isinstance(task, FineTuningTask)):
    raise ConfigError(f'--fields = {",".join(fields)}: has no effect without --data of labelled examples; leave it out')
  with jax.set_mesh(trained.mesh):
    if isinstance(task, FineTuningTask):
      task, loaded, splits = _examples(trained, data, fields)
    else:
      if data is not None:
        sources = {'data': SourceConfig(data, default_field(data), 1.0)}
        text = dataclasses.replace(config.data, sources=sources, valid_fraction=1.0, valid_bytes=None)
        config = dataclasses.replace(config, data=text)
        task = prepare.build(config, trained.tokenizer)
      pin = initialize.pinned(trained.workdir, config.data) if data is None else None  # what it did not train on
      loaded = task.load(type(task).read(config.data, trained.tokenizer, config.seed, True, pin)[1])
      splits = ['valid']
    evaluate_split = evaluator.make(task, loaded, evaluator.Runner(trained.mesh))
    values = {split: evaluate_split(trained.params, split)[0] for split in splits}
  return {f'{split}/{name}': value for split, metrics_ in values.items() for name, value in metrics_.items()}


def _examples(trained: reopen.TrainedRun, data: str | None, fields) -> tuple[Any, FineTuningData, list[str]]:
  """(task, its examples, their splits): those of the run, or of a file, on which nothing is chosen."""
  config: Any = trained.config  # its slices are those of its task
  task: Any = trained.task
  if data is None:
    _, task, examples = prepare.prepare(config, trained.tokenizer)
    task.load_calibration(trained.task.calibration)
    if trained.data_fingerprint not in (None, task.pipeline(examples, config.seed, 1).fingerprint):
      print('lmjax: the examples are not those that it was trained with: files have changed since', file=sys.stderr)
    return task, examples, [split for split in ('valid', 'test') if split in examples.splits]
  kind = task.RECORDS or TASKS[config.task].records
  items, skipped = records.read_alone(data, config.data, kind, fields, True)
  if skipped:
    print(f'lmjax: {data}: {skipped}', file=sys.stderr)
  type(task).resolve(config.objective, records.Records({'test': items, 'train': []}, {}, {}))  # known labels
  examples = task.rows_of(items)
  if unread := task.unread(examples):
    print(f'lmjax: {data}: {unread}', file=sys.stderr)
  check_known(data, task.counts_of(examples), config.data.max_unknown)
  return task, FineTuningData({'test': examples}, {}, {}), ['test']


if __name__ == '__main__':
  sys.exit(main())
