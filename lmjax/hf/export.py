"""A run as a folder of Hugging Face's format: what transformers, and what reads its folders, load with nothing added.

`plan` reads metadata alone, and refuses what no architecture computes; `Export.write` needs the parameters.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lmjax import paths
from lmjax.data.tokens.published import Frame
from lmjax.errors import CheckpointError, ConfigError
from lmjax.hf import sentence, tokens, writer
from lmjax.hf.express import Architecture, Wanted, express
from lmjax.hf.family import CLASSIFIER, TOKEN_TABLE
from lmjax.hf.table import Line, of_task
from lmjax.models import lora
from lmjax.schema import validate
from lmjax.tasks.causal_lm import CausalLM
from lmjax.tasks.classification import TextLabels
from lmjax.tasks.extractive_qa import ExtractiveQA
from lmjax.tasks.language_model import LanguageModelTask
from lmjax.tasks.masked_lm import MaskedLM
from lmjax.tasks.summarization import Summarization

GENERATION = 'generation_config.json'
# The layer before an output embedding, and the variance (its square) next to which a norm's epsilon is nothing.
_DENSE, _LARGE = 'head/transform/dense/kernel', 64.0
_KINDS = {
  'class': 'single_label_classification',
  'number': 'regression',
  'many': 'multi_label_classification',
}


class Export(NamedTuple):
  """What a run becomes."""

  task: Any  # a `Task`
  architecture: Architecture
  lines: list[Line]
  files: dict[str, bytes]  # all but the weights and the card

  @property
  def summary(self) -> str:
    """What it is, for people."""
    return self.architecture.values['architectures'][0]

  def write(self, params: dict, folder: pathlib.Path, dtype: str) -> None:
    """Writes all files but the card.

    Raises CheckpointError: an array has no place in the architecture, or a number none in that dtype.
    """
    config = self.task.model.backbone.config
    if config.lora is not None:
      params = lora.merge(params, config.lora)
    flat = in_own_units(self.task, paths.flatten(params))
    if any(line.ours == _DENSE for line in self.lines) and _DENSE not in flat:
      flat = with_plain_transform(flat)
    if unlike := {line.ours for line in self.lines} ^ set(flat):
      raise CheckpointError(
        f'{sorted(unlike)[0]}: has no place in {self.summary}; this is a defect of lmjax, report it'
      )
    writer.write(folder, writer.tensors_of(self.lines, flat), dtype)
    for name, content in self.files.items():
      (folder / name).parent.mkdir(exist_ok=True)
      (folder / name).write_bytes(content)


def in_own_units(task: Any, flat: dict[str, Any]) -> dict[str, Any]:
  """Parameters by path; of a regression, which learns numbers in units of their deviation, with a last layer that
  gives the numbers."""
  if not (isinstance(task, TextLabels) and task.objective.target == 'number'):
    return flat
  mean, deviation = task.objective.scale
  kernel, bias = (np.asarray(flat[f'{CLASSIFIER}/{name}'], np.float64) for name in ('kernel', 'bias'))
  return flat | {f'{CLASSIFIER}/kernel': kernel * deviation, f'{CLASSIFIER}/bias': bias * deviation + mean}


def with_plain_transform(flat: dict[str, Any]) -> dict[str, Any]:
  """Parameters by path, with a transform before the output embedding that changes nothing, for a model without one.

  Its dense layer, whose activation is linear, takes the scale of the last norm away, and its own norm puts it back.
  That norm adds its epsilon too: 1e-5, where what the layers give has a variance of 1, changes a logit by 5e-6 of it.

  Raises CheckpointError: a scale is 0.
  """
  scale_D = np.asarray(flat['final_norm/scale'], np.float32)
  if not scale_D.all():
    rule = 'holds a 0, which no architecture of transformers without a transform can have'
    raise CheckpointError(f'final_norm/scale: {rule}; export another step')
  plain = {_DENSE: np.diag(_LARGE / scale_D), 'head/transform/norm/scale': scale_D}
  return flat | plain | {'head/bias': np.zeros(len(flat[f'{TOKEN_TABLE}/embedding']), np.float32)}


def plan(task: Any, dtype: str, origin: Mapping[str, Any] | None) -> Export:
  """What becomes of a run's task, from metadata alone.

  Args:
    task: of the run.
    dtype: of the weights.
    origin: what the run keeps of the public model that it, or the run before it, began as; see `PublicModel.origin`.

  Raises ConfigError: no architecture of transformers computes the same; a line for each reason.
  """
  _refuse(task)
  model, layout = task.model.backbone.config, layout_of(task)
  head = task.NAME if isinstance(task, TextLabels | ExtractiveQA) else None
  form = None if head is None else task.model.form
  pooling = task.objective.pooling if isinstance(task, TextLabels) else None
  wanted = Wanted(model, task.model.backbone.vocab_rows, task.data.length, head, form, pooling)
  architecture = express(wanted, None if origin is None else origin['config'])
  lines = of_task(
    architecture.family, architecture.settings | {'vocab_multiple': model.vocab_multiple}, architecture.head
  )
  if isinstance(task, TextLabels) and task.objective.target == 'number' and form == 'linear_no_bias':
    rule = 'the mean of the numbers belongs into a bias, and heads of decoders have none'
    raise ConfigError(validate.lines([('objective.target', 'number', rule, 'fine-tune an encoder')]))
  stays = origin is not None and origin['config']['model_type'] == architecture.values['model_type']
  values = architecture.values | _ids(task, layout, architecture, stays) | _labels(task)
  values |= {'dtype': dtype, 'torch_dtype': dtype}
  files = {'config.json': as_json(values), **tokens.files_of(task.tokenizer, layout)}
  if isinstance(task, MaskedLM):
    files |= sentence.files_of(sentence.of_run(origin, layout.length), model.width)
  if layout.generates:
    given = task.tokenizer.companions.get(GENERATION)
    own = given is None or isinstance(task, Summarization)
    files[GENERATION] = as_json(_generation(task, values)) if own else given
  return Export(task, architecture, lines, files)


def _refuse(task: Any) -> None:
  """What no architecture has, whatever the model is. Raises ConfigError."""
  o, types = task.objective, task.model.backbone.config.segment_types or 0
  problems: list[tuple[str, Any, str, str]] = []
  if isinstance(task, Summarization) and o.prefix:
    rule = 'no decoder of transformers reads its prompt from both sides'
    problems.append(('objective.prefix', True, rule, 'fine-tune with False'))
  if isinstance(task, ExtractiveQA) and types > 2:
    rule = 'words of the question are marked in the context, which no tokenizer of transformers does'
    problems.append(('model.segment_types', types, rule, 'fine-tune without `match`, with 2 or None'))
  if problems:
    raise ConfigError(validate.lines(problems))


def layout_of(task: Any) -> tokens.Layout:
  """How rows of a task are made. Raises ConfigError: see `tokens.unused_pad`."""
  tok, model = task.tokenizer, task.model.backbone.config
  typed = (model.segment_types or 0) > 1
  generates = isinstance(task, CausalLM | Summarization)
  pad = task.pad if tok.pad is None and not generates else tok.pad
  first: int | None = None
  end: int | None = None
  if isinstance(task, LanguageModelTask):
    spec = task.row_spec()
    end = task.document_end()[0] if generates else None
    begin, close = (spec.begin or spec.end, ()) if generates else (spec.prefix, spec.suffix)
    single: Frame | None = Frame(begin, (), close)
    pair = Frame(begin, close, close)
    first = begin[0] if generates and begin else None
    if tok.companions or tok.frame is not None:
      single, first = None, tok.bos
  else:
    frame = task.frame
    single = Frame(frame.begin, (), frame.end)
    pair = frame
    if isinstance(task, Summarization):
      single, end = Frame(frame.begin, (), frame.between), task.stop
    elif not task.bidirectional:
      used = {index for ids in frame for index in ids}
      pad = tokens.unused_pad(tok, used)
  if pad is None:
    pad = end if end is not None else 0
  return tokens.Layout(single, pair, typed, model.max_length or task.data.length, generates, pad, first, end)


def _ids(task: Any, layout: tokens.Layout, architecture: Architecture, stays: bool) -> dict[str, Any]:
  """Special tokens in config.json, where they do not stay those of a public model.

  Raises ConfigError: positions would be counted from another id.
  """
  tok, values = task.tokenizer, architecture.values
  if stays and isinstance(task, LanguageModelTask):
    return {}  # lists of ends among them
  ids = {f'{role}_token_id': getattr(tok, role) for role in ('bos', 'eos', 'cls', 'sep')}
  ids |= {'pad_token_id': layout.pad} | ({} if layout.end is None else {'eos_token_id': layout.end})
  ids |= {} if layout.begin is None else {'bos_token_id': layout.begin}
  if architecture.family.rows_with_offset:
    if values['pad_token_id'] != layout.pad:
      rule = f'positions are counted from the id that fills rows, which is {layout.pad}'
      remedy = f'train with {layout.pad + 1}'
      raise ConfigError(validate.lines([('model.position_offset', values['pad_token_id'] + 1, rule, remedy)]))
  return {name: index for name, index in ids.items() if not stays or index is not None}


def _labels(task: Any) -> dict[str, Any]:
  """What the outputs of a classifier are called."""
  if not isinstance(task, TextLabels):
    return {}
  target = task.objective.target
  labels = ['LABEL_0'] if target == 'number' else list(task.objective.labels)
  named = {'id2label': {str(i): label for i, label in enumerate(labels)}}
  return named | {'label2id': {label: i for i, label in enumerate(labels)}, 'problem_type': _KINDS[target]}


def given_generation(task: Any) -> dict[str, Any]:
  """What the generation_config.json of the public model that a run began as holds; {} without one."""
  return json.loads(task.tokenizer.companions.get(GENERATION, b'{}'))


def _generation(task: Any, config: Mapping[str, Any]) -> dict[str, Any]:
  """A generation_config.json: where a text ends, and how summaries are written."""
  names = ('bos_token_id', 'eos_token_id', 'pad_token_id')
  values = {name: config[name] for name in names if config.get(name) is not None}
  if not isinstance(task, Summarization):
    return values
  d = task.objective.decoding
  values |= {'max_new_tokens': task.objective.max_summary, 'do_sample': d.beams == 1 and d.temperature > 0}
  if d.beams > 1:
    return values | {'num_beams': d.beams, 'length_penalty': d.length_penalty, 'early_stopping': True}
  if values['do_sample']:
    values |= {'temperature': d.temperature, 'top_k': d.top_k or 0, 'top_p': d.top_p or 1.0}
  return values


def as_json(values: Mapping[str, Any]) -> bytes:
  """Readable JSON."""
  return (json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True) + '\n').encode()
