"""A task: a model, an objective, what becomes of a row, and how the result is shown.

Every task offers `read`, `resolve`, `load`, `describe`, `pipeline` (its data), `init`, `shapes`, `axes`, `loss` (its
model), `specimen`, `example` and `samples`, and the class attributes `NAME`, `BEST` (the validation metric that
checkpoints are ranked by; higher is better where `HIGHEST`), `MAIN_METRIC` and `BASELINE` (plotted) and `HAND_OFF` (see
`fine_tuning`).
"""

import dataclasses
import functools
from typing import Any

# Imports stand in the functions: `lmjax.tasks.table` must be there without jax.


@functools.cache
def _classes() -> dict[str, Any]:
  from lmjax.tasks.causal_lm import CausalLM
  from lmjax.tasks.classification import Classification
  from lmjax.tasks.extractive_qa import ExtractiveQA
  from lmjax.tasks.masked_lm import MaskedLM
  from lmjax.tasks.summarization import Summarization

  return {task.NAME: task for task in (CausalLM, MaskedLM, Classification, ExtractiveQA, Summarization)}


def __getattr__(name: str) -> Any:
  if name == 'TASKS':
    return _classes()
  raise AttributeError(name)


def build(config, tokenizer):
  """The task of a Config, for a tokenizer."""
  return _classes()[config.task](config.model, config.objective, config.samples, config.data, tokenizer)


def sketch(config, tokenizer=None):
  """A run without its data: (the Config with stand-ins for what the data decides, its task).

  Two labels, and a thousand steps, where the data is to say them. The shapes of the model and of a batch are those of
  the run, as far as its tokenizer reaches the size that it is to be trained to.

  Args:
    config: a Config.
    tokenizer: the checkpoint's, where the run starts from one.
  """
  from lmjax.data.records import Records
  from lmjax.data.tokens.tokenizer import Tokenizer, untrained

  kind, settings = _classes()[config.task], config.data.tokenizer
  if tokenizer is None:
    tokenizer = untrained(settings.vocab_size) if settings.path is None else Tokenizer.load(settings.path)
  if kind.HAND_OFF:
    found = Records({'train': kind.specimens(config.objective)}, {}, '')
    config = dataclasses.replace(config, objective=kind.resolve(config.objective, found))
    config = config.resolved(1000 * config.data.batch_size)
  return config, build(config, tokenizer)


def prepare(config, tokenizer=None, progress=False):
  """Reads the data of a run: (the Config with what the data decides, its task, its data).

  Args:
    config: a Config; leaves that are None until the data is known (labels, steps of so many epochs) are filled in.
    tokenizer: the checkpoint's, where the run starts from one.
    progress: whether to print what is done.

  Raises:
    DataError: see the sources; ConfigError: what was filled in breaks a rule.
  """
  kind = _classes()[config.task]
  tokenizer, found = kind.read(config, tokenizer, progress)
  config = dataclasses.replace(config, objective=kind.resolve(config.objective, found))
  task = build(config, tokenizer)
  data = task.load(found)
  return config.resolved(len(data.splits['train']) if kind.HAND_OFF else None), task, data
