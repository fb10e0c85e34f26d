"""From a Config to its task and its data."""

import dataclasses
import importlib
from typing import Any

from lmjax.data.corpus.manifest import Pin
from lmjax.data.records import Records
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import untrained
from lmjax.tasks.base import Task
from lmjax.tasks.fine_tuning import FineTuningTask
from lmjax.tasks.table import TASKS


def class_of(task: str, objective=None) -> Any:
  """The class of a task, by its row in the table and, where that names several, by the target of its objective."""
  slices = TASKS[task]
  module, name = slices.targets.get(getattr(objective, 'target', None), slices.program).split('.')
  return getattr(importlib.import_module(f'lmjax.tasks.{module}'), name)


def build(config, tokenizer: Tokenizer) -> Task:
  """The task of a Config, for a tokenizer."""
  return class_of(config.task, config.objective)(config.model, config.objective, config.samples, config.data, tokenizer)


def prepare(
  config, tokenizer: Tokenizer | None = None, progress: bool = False, pin: Pin | None = None
) -> tuple[Any, Task, Any]:
  """Reads the data of a run: (the Config with what the data decides, its task, its data).

  Settings that are None until the data is known (labels, steps of so many epochs) are filled in. `tokenizer` is that
  of the checkpoint that the run starts from, `pin` what it began with if it resumes; `progress` prints what is done.

  Raises DataError: see the sources; ConfigError: what was filled in breaks a rule.
  """
  kind = class_of(config.task, config.objective)
  tokenizer, read = kind.read(config.data, tokenizer, config.seed, progress, pin)
  config = dataclasses.replace(config, objective=kind.resolve(config.objective, read))
  task = build(config, tokenizer)
  data = task.load(read)
  return config.resolved(task.rows(data)), task, data


def is_shaped_by_data(task: str) -> bool:
  """Whether data tells the shapes of the model: how many labels there are."""
  return issubclass(class_of(task), FineTuningTask)


def without_data(config, tokenizer: Tokenizer | None = None) -> tuple[Any, Task]:
  """A run without its data: (the Config, with two labels and a thousand steps where the data decides them, its task).

  The shapes of the model and of a batch are those of the run, if its tokenizer reaches the size asked for.
  """
  kind, settings = class_of(config.task, config.objective), config.data.tokenizer
  if tokenizer is None:
    tokenizer = untrained(settings.vocab_size) if settings.path is None else Tokenizer.load(settings.path)
  if issubclass(kind, FineTuningTask):
    records = Records({'train': kind.example_records(config.objective)}, {}, {})
    config = dataclasses.replace(config, objective=kind.resolve(config.objective, records))
    config = config.resolved(1000 * config.data.batch_size)
  return config, build(config, tokenizer)
