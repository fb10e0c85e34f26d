"""Low-rank adapters alone, as PEFT reads them: https://huggingface.co/docs/peft.

Besides them stands what is trained whole, the head of a task. Legend: D inputs, F outputs, R rank.
"""

import functools
import pathlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from lmjax import optim, paths
from lmjax.errors import ConfigError
from lmjax.hf import export, sentence, writer
from lmjax.hf.express import Architecture
from lmjax.hf.table import Line, written
from lmjax.schema import validate

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
_KINDS = {
  'classification': 'SEQ_CLS',
  'extractive_qa': 'QUESTION_ANS',
  'causal_lm': 'CAUSAL_LM',
  'summarization': 'CAUSAL_LM',
}


class Adapter(NamedTuple):
  """The adapters of a run, as `Export` is all of it."""

  task: Any
  architecture: Architecture
  adapted: list[Line]  # kernels with an adapter
  whole: list[Line]  # what is trained besides
  files: dict[str, bytes]

  @property
  def summary(self) -> str:
    """What it is, for people."""
    return f'{len(self.adapted)} adapters of rank {self.task.model.backbone.config.lora.rank}'

  def write(self, params: dict, folder: pathlib.Path, dtype: str) -> None:
    """Writes all files but the card."""
    flat = export.in_own_units(self.task, paths.flatten(params))
    tensors = {}
    for line in self.adapted:
      above, module = line.ours.removesuffix('kernel'), line.theirs.removesuffix('.weight')
      for ours, theirs in (('lora_a', 'lora_A'), ('lora_b', 'lora_B')):  # [D, R] and [R, F]; theirs are transposed
        array = np.asarray(flat[f'{above}{ours}']).T
        tensors[f'base_model.model.{module}.{theirs}.weight'] = writer.Tensor(
          array.shape, functools.partial(np.asarray, array)
        )
    for line in self.whole:
      [(name, array)] = written([line], {line.ours: np.asarray(flat[line.ours])}).items()
      tensors[f'base_model.model.{name}'] = writer.Tensor(array.shape, functools.partial(np.asarray, array))
    writer.write_file(folder / WEIGHTS, tensors, dtype)
    for name, content in self.files.items():
      (folder / name).write_bytes(content)


def plan(planned: export.Export, optimizer: optim.OptimConfig, origin: Mapping[str, Any] | None) -> Adapter:
  """The adapters of a run alone.

  Raises ConfigError: there are none, PEFT has no word for them, or more than them and a head was trained.
  """
  task, config = planned.task, planned.task.model.backbone.config
  if config.lora is None:
    raise ConfigError('--adapter: this run has no adapters (model.lora = None); leave it out')
  lines = {line.ours: line for line in planned.lines}
  trained = set(paths.flatten(optim.split(optimizer, task.shapes())[0]))
  adapted = sorted(path.replace('lora_a', 'kernel') for path in trained if path.endswith('/lora_a'))
  rest = sorted(path for path in trained if not path.endswith(('/lora_a', '/lora_b')))
  problems = []
  for path in adapted:
    if lines[path].part is not None:
      rule = f'{lines[path].theirs} fuses it with others, and PEFT adapts whole layers'
      problems.append(('model.lora.targets', path, rule, 'leave --adapter out: adapters are merged'))
  head = planned.architecture.head
  for path in rest:
    if head is None or not path.startswith((f'{task.model.name}/',)):
      rule = f'{path} was trained too, and is no head of a task'
      problems.append(('optim.frozen', optimizer.frozen, rule, 'leave --adapter out: adapters are merged'))
  if problems:
    raise ConfigError(validate.lines(problems))
  names = {line.theirs.removesuffix('.weight') for line in planned.lines}
  values = {
    'peft_type': 'LORA',
    'task_type': _KINDS.get(task.NAME),
    'base_model_name_or_path': None if origin is None else origin['repository'],
    'revision': None if origin is None else origin['revision'],
    'r': config.lora.rank,
    'lora_alpha': config.lora.alpha,
    'lora_dropout': config.lora.dropout,
    'target_modules': _endings({lines[path].theirs.removesuffix('.weight') for path in adapted}, names),
    'modules_to_save': _saved(planned.architecture) if rest else None,
    'fan_in_fan_out': planned.architecture.family.conv1d,
    'bias': 'none',
    'inference_mode': True,
  }
  left = {'config.json', *sentence.files_of(sentence.Vectors('mean', False, None), config.width)}  # of a whole model
  files = {name: content for name, content in planned.files.items() if name not in left}
  files |= {CONFIG: export.as_json(values)}
  return Adapter(task, planned.architecture, [lines[path] for path in adapted], [lines[path] for path in rest], files)


def _endings(adapted: Collection[str], modules: Collection[str]) -> list[str]:
  """The shortest endings of names that name these modules and no other.

  >>> _endings({'h.0.q', 'h.1.q', 'h.0.mlp.out'}, {'h.0.q', 'h.1.q', 'h.0.mlp.out', 'out'})
  ['mlp.out', 'q']
  """
  found = set()
  for name in adapted:
    parts = name.split('.')
    endings = ('.'.join(parts[-n:]) for n in range(1, len(parts) + 1))
    fits = lambda end: all(m in adapted for m in modules if m == end or m.endswith(f'.{end}'))
    found.add(next(end for end in endings if fits(end)))
  return sorted(found)


def _saved(architecture: Architecture) -> list[str]:
  """The modules of a head; of those in one, that."""
  backbone = architecture.family.prefixes[0]
  names = architecture.head.modules
  return sorted({n.removeprefix(backbone) if n.startswith(backbone) else n.partition('.')[0] for n in names})
