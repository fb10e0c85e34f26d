"""The stages of a study: their order, what each is, running those that are not done."""

import collections
import dataclasses
import difflib
import graphlib
import hashlib
import os
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from lmjax import config as config_lib
from lmjax import train as train_lib
from lmjax.data.sources import files as source_files
from lmjax.errors import ConfigError, DataError, LmjaxError
from lmjax.hf.source import open_source
from lmjax.schema import command_line, describe, overrides, validate
from lmjax.study import comparison
from lmjax.study.config import ComparisonConfig, ExperimentConfig, StageConfig
from lmjax.tasks.table import TASKS
from lmjax.workdir import files

# Of the lines of a stage, those that a person should see at once; all are in its log.txt.
IMPORTANT = re.compile(r'^(seed \d|resuming from|checkpoint \d+ rejected)| skipped: |training ends$')


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage that is ready to run."""

  name: str  # of its folder in the workdir
  config: Any  # its Config; None where it has problems
  # changes when the run does, or one that it builds on; kept in its folder, so that no changed stage is taken for done
  digest: str


def prepare(raw, workdir: str, problems=()) -> tuple[ExperimentConfig, list[Stage]]:
  """The experiment, and its stages in an order in which each follows the one that it starts from.

  Args:
    raw: the experiment's ConfigDict.
    workdir: of the experiment; what its stages were when they ran there is compared with what they are now.
    problems: lines from the command line, to be reported together with these.

  Raises:
    ConfigError: with all problems of the experiment and of every stage, as far as they can be known.
    DataError: files of text or examples are missing, all of them named.
  """
  config, refused = validate.check(ExperimentConfig, raw)
  problems = [*problems, *refused]
  if config is None:
    raise ConfigError(problems)
  # not the order of the file: a ConfigDict sorts its keys
  order, refused = order_of({name: stage.init_from for name, stage in config.stages.items()})
  problems += refused
  stages: dict[str, Stage] = {}
  stages_with = collections.defaultdict(list)  # many stages may share a problem, that of their config file for one
  for name in order:
    source = stages.get(config.stages[name].init_from)
    stages[name], refused = prepare_stage(name, config.stages[name], source, workdir)
    for line in refused:
      stages_with[line].append(name)
  problems += [f'stage {", ".join(names)}: {line}' for line, names in stages_with.items()]
  problems += comparison_problems(config, stages)
  missing = missing_files(stages.values())
  if problems:
    raise ConfigError([*problems, *missing])
  if missing:
    raise DataError('\n'.join(missing))
  return config, list(stages.values())


def order_of(sources: Mapping[str, str | None]) -> tuple[list[str], list[str]]:
  """Names ordered so that each follows its source, and a line for each source that is unknown or in a circle.

  >>> order_of({'a': 'b', 'b': None})
  (['b', 'a'], [])
  """
  graph = {name: [source] if source in sources else [] for name, source in sources.items()}
  problems = [
    validate.line(f'stages.{name}.init_from', source, 'no such stage', _closest(source, sources))
    for name, source in sources.items()
    if source is not None and source not in sources
  ]
  while True:
    try:
      return list(graphlib.TopologicalSorter(graph).static_order()), problems
    except graphlib.CycleError as error:
      # each stage of the circle comes before the one that starts from it
      circle = error.args[1]
      text = ', which is from '.join(reversed(circle))
      problems.append(f'stages: a circle of init_from: {text}; let one of them start from None')
      graph |= {name: [] for name in circle}


def _closest(name: str, names) -> str:
  close = difflib.get_close_matches(name, names, 1)
  return f'did you mean {close[0]}?' if close else f'choose one of {", ".join(names)}'


def prepare_stage(name: str, config: StageConfig, source: Stage | None, workdir: str) -> tuple[Stage, list[str]]:
  """A stage, its Config built before its source has run, and its problems: one line each, without its name."""
  unknown, problems = Stage(name, None, ''), []
  assignments = [tuple(text.split('=', 1)) for text in config.overrides if '=' in text]
  if config.init_from is not None:
    assignments.append(('init_from.path', os.path.join(workdir, config.init_from)))
  try:
    raw = command_line.load_config_file(*command_line.split_config_flag(config.config))
    raw, problems = overrides.override(config_lib.Config, raw, assignments)
    if config.init_from is not None and (source is None or source.config is None):
      return unknown, problems  # what it would inherit is not known
    if source is not None and source.config.train.seeds > 1:
      rule, remedy = f'has train.seeds = {source.config.train.seeds}, a checkpoint each', 'set it to 1 there'
      problems.append(validate.line('init_from', source.name, rule, remedy))
    model = None if source is None else describe.to_dict(source.config.model)
    built, _ = config_lib.load(raw, model=model, given=[path for path, _ in assignments])
    config_lib.check_devices(built, jax.device_count())
  except LmjaxError as error:
    return unknown, [*problems, *str(error).splitlines()]
  settings = describe.settings(built)
  if source is not None:
    settings['init_from.path'] = source.digest  # not its folder, so that the workdir can be moved
  digest = hashlib.blake2b(files.canonical_json(settings), digest_size=16).hexdigest()
  folder = os.path.join(workdir, name)
  if _has(folder, 'stage.json') and comparison.read_json(folder, 'stage.json').get('digest') != digest:
    remedy = f'remove its folder in {workdir} to run it again, or choose a new --workdir'
    problems.append(f'it, or a stage that it builds on, is not what it was when it ran; {remedy}')
  return Stage(name, built, digest), problems


def comparison_problems(config: ExperimentConfig, stages: Mapping[str, Stage]) -> list[str]:
  """A line for each stage that a comparison names and that is not there, or does not give its metric."""
  problems = []
  for title, compared in config.comparisons.items():
    for label, arm in compared.arms.items():
      path = f'comparisons.{title}.arms.{label}.stages'
      for name in arm.stages:
        built = stages[name].config if name in stages else None
        if name not in config.stages:
          problems.append(validate.line(path, name, 'no such stage', _closest(name, config.stages)))
        elif built is not None and compared.metric.startswith('test/') and not getattr(built.data, 'test', None):
          rule = f'has no test set, and comparisons.{title}.metric is {compared.metric}'
          problems.append(validate.line(path, name, rule, 'set data.test there, or compare on valid/'))
  return problems


def missing_files(stages) -> list[str]:
  """A line for each path of text or examples that is not there. TFDS and the Hub are asked when their stage runs."""
  problems = {}
  for stage in stages:
    if stage.config is None:
      continue
    data: Any = stage.config.data
    is_text = TASKS[stage.config.task].is_pre_training
    paths = [source.path for source in data.sources.values()] if is_text else [data.train, data.valid, data.test]
    for path in paths:
      if path in (None, 'pydoc', 'demo', *problems) or path.startswith(('tfds:', 'hf:')):
        continue
      try:
        source_files.expand(path)
      except DataError as error:
        problems[path] = f'stage {stage.name}: {error}'
  return list(problems.values())


def run_stages(stages: list[Stage], workdir: str, comparisons: Mapping[str, ComparisonConfig]) -> None:
  """Runs what is not done, in order; ends with the first that fails, or lacks the metric that it is compared in."""
  for number, stage in enumerate(stages, 1):
    folder, place = os.path.join(workdir, stage.name), f'stage {number} of {len(stages)}: {stage.name}'
    if is_done(folder):
      print(f'{place}: was done before', flush=True)
    else:
      print(f'{place}: running; its lines are in {os.path.join(folder, "log.txt")}', flush=True)
      began = time.perf_counter()
      run_stage(stage, folder)
      print(f'{place}: done in {time.perf_counter() - began:.0f} s', flush=True)
    for compared in comparisons.values():  # a misspelt name costs one stage, not all
      if any(stage.name in arm.stages for arm in compared.arms.values()):
        comparison.Stage.read(workdir, stage.name).values(compared.metric)


def run_stage(stage: Stage, folder: str) -> None:
  """Runs one, or continues it; its lines go to log.txt."""
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise ConfigError(f'{folder}: cannot be made ({error.strerror}); name another --workdir') from error
  files.write_json(os.path.join(folder, 'stage.json'), {'digest': stage.digest})
  try:
    init_from = stage.config.init_from
    source = None if init_from.path is None else open_source(init_from)
    with open(os.path.join(folder, 'log.txt'), 'a', encoding='utf-8') as log:
      train_lib.run(stage.config, source, folder, lambda line: _log(line, log))
  except LmjaxError as error:
    error.args = (f'{error}\nstage {stage.name} failed; once this is fixed, the same command continues from there',)
    raise


def is_done(folder: str) -> bool:
  """Whether a stage has ended in this folder."""
  there = _has(folder, 'stage.json') and _has(folder, 'results.json')
  return there and comparison.read_json(folder, 'results.json')['status'] == 'done'


def _has(folder: str, name: str) -> bool:
  return os.path.exists(os.path.join(folder, name))


def _log(line: str, file) -> None:
  file.write(line + '\n')
  file.flush()
  if IMPORTANT.search(line):
    print(f'  {line}', flush=True)
