"""The model card of an export: README.md, for people and for the Hub.

Nothing in it says where on a machine something was: of paths the last part is named.
"""

import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lmjax.hf.adapter import Adapter
from lmjax.hf.export import Export
from lmjax.tasks.summarization import Summarization

# By task: what the Hub calls it, and how the model is used; {name} stands for the folder.
_USES = {
  'causal_lm': (
    'text-generation',
    "from transformers import pipeline\n\nprint(pipeline('text-generation', '{name}')('The')[0]['generated_text'])",
  ),
  'masked_lm': (
    'fill-mask',
    'from transformers import pipeline\n\n'
    "fill = pipeline('fill-mask', '{name}')\n"
    "print(fill(f'The {fill.tokenizer.mask_token} is here.'))",
  ),
  'classification': (
    'text-classification',
    "from transformers import pipeline\n\nprint(pipeline('text-classification', '{name}')('A text.'))",
  ),
  'extractive_qa': (
    'question-answering',
    'from transformers import AutoModelForQuestionAnswering, AutoTokenizer\n\n'
    "tokenizer = AutoTokenizer.from_pretrained('{name}')\n"
    "model = AutoModelForQuestionAnswering.from_pretrained('{name}')\n"
    "encoded = tokenizer('A question?', 'A context.', return_tensors='pt')\n"
    'found = model(**encoded)\n'
    'start, end = found.start_logits.argmax(), found.end_logits.argmax()\n'
    'print(tokenizer.decode(encoded.input_ids[0, start : end + 1]))',
  ),
  'summarization': (
    'summarization',
    'from transformers import AutoModelForCausalLM, AutoTokenizer\n\n'
    "tokenizer = AutoTokenizer.from_pretrained('{name}')\n"
    "model = AutoModelForCausalLM.from_pretrained('{name}')\n"
    "prompt = tokenizer('A document.', return_tensors='pt', return_token_type_ids=False)\n"
    'made = model.generate(**prompt)[0, prompt.input_ids.shape[1] :]\n'
    'print(tokenizer.decode(made, skip_special_tokens=True))',
  ),
}
_ADAPTER = (
  'from peft import PeftModel\n\n'
  '# base: the model that it was trained next to, of class {class}\n'
  "model = PeftModel.from_pretrained(base, '{name}')"
)
_NAMED = ('tfds:', 'hf:', 'pydoc', 'demo')  # sources that are no place on a machine


def card(
  name: str,
  export: Export | Adapter,
  run: Mapping[str, Any],
  step: int,
  scores: Iterable[Mapping[str, Any]],
  origin: Mapping[str, Any] | None,
  command: str,
) -> str:
  """README.md of a folder.

  Args:
    name: of the folder, or of its repository.
    run: the run's config, as config.json holds it.
    step: whose weights these are.
    scores: lines of metrics.jsonl.
    origin: see `PublicModel.origin`.
    command: that made the folder.
  """
  kind, use = _USES[export.task.NAME]
  values, library = export.architecture.values, 'transformers'
  if 'adapter_config.json' in export.files:
    use, library = _ADAPTER.replace('{class}', values['architectures'][0]), 'peft'
  front: dict[str, Any] = {'library_name': library, 'pipeline_tag': kind, 'tags': ['lmjax']}
  if origin is not None:
    front |= {'license': origin['license']} if origin['license'] else {}
    front |= {'base_model': origin['repository']} if origin['repository'] else {}
  m = export.task.model.backbone.config
  shape = f'{m.layers} layers of width {m.width}, {m.attention}'
  parts = [
    '---\n' + ''.join(f'{key}: {json.dumps(value)}\n' for key, value in front.items()) + '---',
    f'# {name}',
    f'`{values["architectures"][0]}` ({shape}), by lmjax: {export.task.NAME}, step {step:,}. {_began(origin)}',
    f'```python\n{use.replace("{name}", name)}\n```',
    *_remarks(export),
    '## Training',
    _table(('setting', 'value'), _settings(run)),
  ]
  if rows := list(_scores(export, scores)):
    parts += ['## Scores', _table(('split', 'metric', 'value'), rows)]
  parts += ['## Made by', f'```\n{command}\n```']
  return '\n\n'.join(parts) + '\n'


def _began(origin: Mapping[str, Any] | None) -> str:
  if origin is None:
    return 'It began with random weights.'
  license_ = f'licence {origin["license"]}' if origin['license'] else 'whose licence is not known here'
  if origin['repository'] is None:
    return f'It began as a public model in a local folder, {license_}.'
  where = f'[{origin["repository"]}](https://huggingface.co/{origin["repository"]})'
  return f'It began as {where}, revision {origin["revision"]}, {license_}.'


def _remarks(export: Export | Adapter) -> list[str]:
  """What a user must know that no file says."""
  task: Any = export.task
  remarks = ['A special token that is spelled out in a text is special here; in training it was text.']
  if isinstance(task, Summarization):
    room = task.max_document_tokens
    remarks.append(f'Cut documents to {room:,} tokens: no more were read in training.')
    if (ngram := task.objective.decoding.no_repeat_ngram) is not None:
      rule = f'lmjax keeps summaries from saying {ngram} tokens twice'
      remarks.append(f'{rule}; `no_repeat_ngram_size` would count the document too, and is not set.')
  for what, value in getattr(task, 'calibration', {}).items():
    remarks.append(f'`{what}` was chosen on validation data: {value:.4g}.')
  return remarks


def _settings(run: Mapping[str, Any]) -> list[tuple[str, str]]:
  data, train = run['data'], run['train']
  sources = data.get('sources') or {split: {'path': data.get(split)} for split in ('train', 'valid', 'test')}
  rows = [(f'data, {split}', _shown(source['path'])) for split, source in sources.items() if source['path']]
  rows += [('tokens of a row', f'{data["length"]:,}'), ('rows of a batch', f'{data["batch_size"]:,}')]
  rows += [('steps', f'{train["steps"]:,}'), ('seed', str(run['seed']))]
  o = run['optim']
  rows += [
    ('optimizer', o['name']),
    ('learning rate', f'{o["learning_rate"]:g}'),
    ('weight decay', f'{o["weight_decay"]:g}'),
  ]
  return rows


def _shown(path: str) -> str:
  """A source without its place.

  >>> _shown('/home/me/text/*.txt'), _shown('tfds:billsum@train')
  ('*.txt', 'tfds:billsum@train')
  """
  if path.startswith(_NAMED):
    return path
  return pathlib.PurePath(re.sub(r'^\w+://', '', path)).name


def _scores(export: Export | Adapter, lines: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
  names = (export.task.MAIN_METRIC, export.task.BASELINE, 'loss')
  return [
    (line['split'], name, f'{line[name]:.4g}')
    for line in lines
    for name in names
    if isinstance(line.get(name), int | float) and math.isfinite(line[name])
  ]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
  lines = [head, ('---',) * len(head), *rows]
  return '\n'.join(f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |' for line in lines)
