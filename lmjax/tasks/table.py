"""The tasks without their programs: of each, what it reads, the slices that it chooses, and its rules between slices.

Imports no jax: a config is checked by this half of a task before jax is imported; `program` names the other half.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from lmjax.data.config import FIELDS, DataConfig, RecordKind, RecordsConfig
from lmjax.objectives.config import CausalConfig, ClassificationConfig, ConditionalConfig, MaskedConfig, SpanConfig
from lmjax.tasks.config import CausalSamples, ExampleSamples, MaskedSamples

Problems = Iterator[tuple[str, str, str]]  # (path, rule, remedy)


def _pre_training_rules(config, attention: str) -> Problems:
  m, t, e, c = config.model, config.train, config.eval, config.checkpoint
  if m.attention != attention:
    yield 'model.attention', f'must be {attention} for {config.task}', 'take a preset of that kind'
  if t.epochs is not None:
    yield 'train.epochs', 'has no effect when pre-training', 'set it to None, and give train.steps'
  numbers = {'train.steps': t.steps, 'eval.every': e.every, 'checkpoint.every': c.every}
  numbers['optim.warmup_steps'] = config.optim.warmup_steps
  missing = [path for path, value in numbers.items() if value is None]
  if missing:
    yield missing[0], 'must be given when pre-training, which has no epochs', 'give a number of batches'
  elif c.keep_best and c.every % e.every:
    rule = f'must be a multiple of eval.every = {e.every}, since keep_best goes by the evaluation'
    yield 'checkpoint.every', rule, 'change one of them, or set checkpoint.keep_best to 0'


def _causal_rules(config) -> Problems:
  yield from _pre_training_rules(config, 'causal')
  m, d, o, s = config.model, config.data, config.objective, config.samples
  if d.cls_sep:
    yield 'data.cls_sep', 'has no effect on causal_lm, whose documents begin with [BOS]', 'set it to False'
  if o.chunk >= d.length:
    rule = f'must be below data.length = {d.length}, or the logits of whole rows would be held'
    yield 'objective.chunk', rule, f'try {max(d.length // 4, 1)}'
  if m.max_length is not None and 1 + s.prompt_tokens + s.new_tokens > m.max_length:
    rule = f'with samples.prompt_tokens and [BOS] must fit into model.max_length = {m.max_length}'
    yield 'samples.new_tokens', rule, 'shorten it'


def _fine_tuning_rules(config) -> Problems:
  d, c = config.data, config.checkpoint
  if c.every not in (None, config.eval.every):
    rule = f'must be eval.every = {config.eval.every}: the best checkpoint is restored at the end'
    yield 'checkpoint.every', rule, 'set it to None'
  if not c.keep_best:
    yield 'checkpoint.keep_best', 'must be 1 or more: the best checkpoint is restored at the end', 'set it to 1'
  choices = FIELDS[TASKS[config.task].records]
  if d.fields is not None and len(d.fields) not in map(len, choices):
    wanted = ' or '.join(map(', '.join, choices))
    yield 'data.fields', f'must name {wanted}, in this order', 'or None for their usual names'


def _classification_rules(config) -> Problems:
  yield from _fine_tuning_rules(config)
  if config.data.separator is not None and config.objective.target != 'many':
    yield 'data.separator', f'has no effect with objective.target = {config.objective.target}', 'set it to None'
  if config.objective.pooling == 'cls' and config.model.attention == 'causal':
    yield 'objective.pooling', 'sees nothing but the first token with causal attention', 'choose last or mean'
  if config.data.length < 4:
    yield 'data.length', 'must be 4 or more, or no text fits in', 'raise it'


def _extractive_qa_rules(config) -> Problems:
  yield from _fine_tuning_rules(config)
  d, o = config.data, config.objective
  if d.separator is not None:
    yield 'data.separator', 'has no effect on extractive_qa', 'set it to None'
  if d.fields is not None:
    yield 'data.fields', "has no effect on extractive_qa, which reads SQuAD's format", 'set it to None'
  context_tokens = d.length - o.max_question - 3
  longest = context_tokens + 1 - o.max_answer
  if longest < 1:
    rule = f'leaves no room for an answer of {o.max_answer} tokens next to a question of {o.max_question}'
    yield 'data.length', rule, 'raise it, or lower objective.max_question or objective.max_answer'
  elif o.stride > longest:
    rule = f'must be {longest} or less, or an answer of {o.max_answer} tokens may lie in no window whole'
    yield 'objective.stride', rule, 'lower it, or objective.max_answer, or raise data.length'


def _summarization_rules(config) -> Problems:
  yield from _fine_tuning_rules(config)
  m, d, o = config.model, config.data, config.objective
  if d.separator is not None:
    yield 'data.separator', 'has no effect on summarization', 'set it to None'
  if m.attention != 'causal':
    rule = 'must be causal for summarization, which writes from left to right'
    yield 'model.attention', rule, 'start from a causal checkpoint, or see init_from.convert'
  # a piece must be longer than its summary, and the summaries of two pieces fit
  if d.length - o.max_summary - 2 < 2 * o.max_summary:
    rule = f'must be at most a third of data.length = {d.length}, or little of a document is read'
    yield 'objective.max_summary', rule, f'try {(d.length - 2) // 3}'


class TaskSlices(NamedTuple):
  """One task: where its class is, what it reads, its classes of two slices, and its rules between slices."""

  program: str  # module and class in `lmjax.tasks`: a name, since that half of a task imports jax
  records: RecordKind | None  # the labelled examples that it fine-tunes on; None: it pre-trains on text
  objective: type
  samples: type
  rules: Callable[[Any], Problems]  # those that the Config breaks
  targets: Mapping[str | None, str] = {}  # the program by `objective.target`, where it is another

  @property
  def is_pre_training(self) -> bool:
    """One of the two kinds of task; the other is fine-tuning."""
    return self.records is None

  @property
  def data(self) -> type:
    """The class of the data slice."""
    return DataConfig if self.is_pre_training else RecordsConfig


_masked_rules = functools.partial(_pre_training_rules, attention='bidirectional')

TASKS = {
  'causal_lm': TaskSlices('causal_lm.CausalLM', None, CausalConfig, CausalSamples, _causal_rules),
  'masked_lm': TaskSlices('masked_lm.MaskedLM', None, MaskedConfig, MaskedSamples, _masked_rules),
  'classification': TaskSlices(
    'classification.Classification',
    'classification',
    ClassificationConfig,
    ExampleSamples,
    _classification_rules,
    targets={'number': 'regression.Regression', 'many': 'multi_label.MultiLabel'},
  ),
  'extractive_qa': TaskSlices(
    'extractive_qa.ExtractiveQA', 'extractive_qa', SpanConfig, ExampleSamples, _extractive_qa_rules
  ),
  'summarization': TaskSlices(
    'summarization.Summarization', 'summarization', ConditionalConfig, ExampleSamples, _summarization_rules
  ),
}
