"""Tokenises the text of a config into its cache, where training finds it.

python -m lmjax.prepare --config=FILE.py[:arg] [--config.data.cache_dir=DIR|gs://...]
    --task=I --tasks=N     task I of N, from 0: in a job array, or on a pod; the last that ends writes the corpus
    --runner=DirectRunner|DataflowRunner|FlinkRunner|...  on machines of Apache Beam (pip install 'lmjax[beam]'), whose
                           options follow after --, as -- --direct_running_mode=multi_processing
    --list                 what the cache holds, and nothing else
    --remove_unused=DAYS   removes what no command has opened for so many days, and nothing else
"""

import contextlib
import functools
import logging
import sys
import time
from collections.abc import Sequence
from typing import Annotated, Any

from annotated_types import Ge

from lmjax import config as config_lib
from lmjax.data.config import DataConfig
from lmjax.errors import ConfigError, reason
from lmjax.hf.source import Source
from lmjax.schema import command_line
from lmjax.schema.types import PositiveInt

FLAGS = {
  'task': Annotated[int, Ge(0)],
  'tasks': PositiveInt,
  'runner': str,
  'list': bool,
  'remove_unused': Annotated[float, Ge(0)],
}


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  argv = sys.argv[1:] if argv is None else argv
  end = argv.index('--') if '--' in argv else len(argv)
  call = functools.partial(run, options=argv[end + 1 :])
  return command_line.command(call, argv[:end], __doc__, FLAGS, config='required', root=config_lib.Config)


def run(flags: command_line.CommandLine, options: Sequence[str]) -> None:
  """Makes the corpus, or its share of it; or shows or clears the cache."""
  given = flags.values
  if (given['task'] is None) != (given['tasks'] is None):
    flags.problems.append('--task, --tasks: one is given without the other; give both, as --task=0 --tasks=8')
  elif given['task'] is not None and given['task'] >= given['tasks']:
    flags.problems.append(f'--task = {given["task"]}: the tasks are 0 to {given["tasks"] - 1}; give one of them')
  if given['runner'] is None and options:
    flags.problems.append(f'-- {" ".join(options)}: options of Beam without --runner; give --runner=NAME, or no --')
  if given['runner'] is not None and given['task'] is not None:
    flags.problems.append('--runner, --task: the runner shares the works itself; leave one out')
  if given['list'] and given['remove_unused'] is not None:
    flags.problems.append('--list, --remove_unused: the one shows what the other removes; give one of them')
  config, source = config_lib.load(flags.config, flags.problems, given=[path for path, _ in flags.assignments])
  if not isinstance(config.data, DataConfig):
    raise ConfigError(f'task = {config.task}: its records are not tokenised beforehand; leave this command out')
  if given['list'] or given['remove_unused'] is not None:
    show(config.data, given['remove_unused'])
  else:
    with _elsewhere(given['runner'], options, config.data.cache_dir) as elsewhere:
      prepare(config.data, source, given['task'] or 0, given['tasks'] or 1, elsewhere)


def _elsewhere(runner: str | None, options: Sequence[str], cache_dir: str) -> contextlib.AbstractContextManager:
  """Gives the machines of a runner of Beam; None without one. Raises ConfigError: Beam is not installed, or refuses."""
  if runner is None:
    return contextlib.nullcontext()
  logging.disable(logging.WARNING)  # it complains of libraries that it does without
  try:
    from lmjax.data.corpus import beam
  except ImportError as error:
    rule, remedy = 'Apache Beam is not installed', "pip install 'lmjax[beam]'"
    raise ConfigError(f'--runner = {runner}: {rule} ({reason(error)}); {remedy}') from error
  finally:
    logging.disable(logging.NOTSET)
  return beam.Pipelines(runner, options, cache_dir)


def prepare(data: DataConfig, source: Source | None, task: int, tasks: int, elsewhere: Any) -> None:
  """Makes what is not there of the tokenizer, unless it comes with the `source` of weights, and of the corpus.

  `elsewhere`: see `manifest.find`.
  """
  from lmjax.data.corpus import build, manifest, tokenizers
  from lmjax.training import initialize

  began = time.monotonic()
  tokenizer = initialize.tokenizer_of(source, data.tokenizer) or tokenizers.prepare(data)
  share = build.Share(task, tasks, takes_over=False)
  corpus = manifest.find(data, tokenizer, share, progress=True, elsewhere=elsewhere)
  if corpus is None:
    print(f'task {task} of {tasks}: its share is done; the task that ends last writes the corpus')
    return
  for name, row in corpus.sources.items():
    tokens = sum(one.train[1] for one in row.shards)
    size = f'{row.counts["train"]:,} documents, {tokens:,} tokens to train on'
    print(f'{name}: {size}, in {len(row.shards):,} shards')
  print(f'corpus {corpus.id} is in {data.cache_dir} ({time.monotonic() - began:.1f} s)')


def show(data: DataConfig, days: float | None) -> None:
  """Prints what a cache holds, or what was removed of it."""
  from lmjax.data.corpus import inventory
  from lmjax.data.corpus.cache import Cache

  cache = Cache(data.cache_dir)
  if days is not None:
    count, size = inventory.remove_unused(cache, days)
    print(f'{cache.folder}: {count:,} files with {size / 1e6:,.1f} MB were removed')
    return
  for line in inventory.lines(cache):
    print(line)


if __name__ == '__main__':
  sys.exit(main())
