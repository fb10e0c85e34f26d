"""From the settings of a model to a config.json, where an architecture of transformers computes the same.

What a family would write is read again by `config.settings_of`: it expresses a model if every setting comes back. The
keys are those of transformers 5, and next to them those of 4, which other programs read.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lmjax.errors import CheckpointError, ConfigError
from lmjax.hf.config import ConfigFile, activations_of, settings_of
from lmjax.hf.families import FAMILIES
from lmjax.hf.family import ENDINGS, Family, Head
from lmjax.models.config import DROPOUTS, ModelConfig
from lmjax.schema import validate

# Settings that change nothing of what a trained model computes.
_FREE = {'lora', 'scan', 'remat', 'dtype', 'attention_implementation', 'init_std', 'residual_init', 'vocab_multiple'}
_FREE |= set(DROPOUTS)
_HERE = pathlib.Path('config.json')
Problem = tuple[str, Any, str, str]  # (path, value, rule, remedy)


class Wanted(NamedTuple):
  """What is to be expressed."""

  model: ModelConfig
  rows: int  # of its token table, without padding
  length: int  # tokens of the texts that it was trained on: for models whose positions have no end
  task: str | None = None  # whose head stands on the backbone; None: that of the language model
  form: str | None = None  # of that head, as `objective.head` names it
  pooling: str | None = None  # of a classifier


class Architecture(NamedTuple):
  """An architecture that expresses a model, and what config.json says of it."""

  family: Family
  head: Head | None
  values: dict[str, Any]
  settings: dict[str, Any]  # of the model, as read from these values


def express(wanted: Wanted, origin: Mapping[str, Any] | None = None) -> Architecture:
  """The first architecture that computes the same.

  `origin` is the config.json of the public model that it began as: that is what it stays as long as it can.

  Raises ConfigError: there is none; a line for each setting in which the nearest differs.
  """
  settings = dataclasses.asdict(wanted.model) | {'vocab_size': wanted.rows}
  settings |= _normal(settings)
  nearest: list[Problem] = []
  for name, values in _candidates(settings, wanted.length, origin):
    family, head = FAMILIES[name], FAMILIES[name].heads.get(wanted.task)
    try:
      found = settings_of(ConfigFile(_HERE, values))
    except CheckpointError:  # a setting that it has no word for
      continue
    # the language model's transform may be made to change nothing; with another head it is not in the file
    plain = not settings['mlm_transform'] and wanted.task is None and family.plain_output is not None
    if plain or wanted.task is not None:
      found |= {'mlm_transform': settings['mlm_transform']}
    problems = [*_differences(name, _normal(settings), _normal(found)), *_of_head(name, head, wanted)]
    if not problems:
      more = head.pooling[wanted.pooling] if head is not None and wanted.pooling is not None else {}
      more |= {family.plain_output: 'linear'} if plain else {}
      stem = family.classes if head is None or head.classes is None else head.classes
      ending = family.language_model if wanted.task is None else ENDINGS[wanted.task]
      copies = {key: (family.defaults | values)[theirs] for key, theirs in family.copies.items()}
      return Architecture(family, head, values | copies | more | {'architectures': [stem + ending]}, found)
    if not nearest or len(problems) < len(nearest):
      nearest = problems
  raise ConfigError(validate.lines(nearest))


def _candidates(settings: dict, length: int, origin: Mapping[str, Any] | None) -> Iterator[tuple[str, dict]]:
  """(name of a family, its config.json): of the origin as it is, then as changed, then of each family."""
  if origin is not None:
    yield origin['model_type'], dict(origin)
    values = _values(origin['model_type'], settings, origin.get('max_position_embeddings', length))
    yield origin['model_type'], {key: value for key, value in origin.items() if not key.startswith('rope_')} | values
  for name in FAMILIES:
    yield name, _values(name, settings, length)


def _normal(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Settings that compute the same are the same; those of `_FREE` are left out."""
  normal = {name: value for name, value in settings.items() if name not in _FREE}
  head_width = settings['head_dim'] or settings['width'] // settings['heads']
  normal |= {'head_dim': head_width, 'attention_scale': settings['attention_scale'] or head_width**-0.5}
  normal['rotary_width'] = settings['rotary_width'] or head_width
  if settings['rope_theta_local'] == settings['rope_theta']:
    normal['rope_theta_local'] = None
  return normal


def _differences(name: str, wanted: dict, found: dict) -> Iterator[Problem]:
  for setting, value in wanted.items():
    other = found[setting]
    both_numbers = isinstance(value, float) and isinstance(other, float)
    if value != other and not (both_numbers and math.isclose(value, other, rel_tol=1e-9)):
      rule = f'no architecture of transformers has this; the nearest, {name}, has {validate.show(other)}'
      yield f'model.{setting}', value, rule, 'train with that, or export another run'


def _of_head(name: str, head: Head | None, wanted: Wanted) -> Iterator[Problem]:
  """What a family's head cannot be."""
  if wanted.task is None:
    return
  if head is None:
    rule = f'{name}, which has this model, has no head of this kind'
    yield 'task', wanted.task, rule, 'export the run that it was fine-tuned from'
    return
  if head.form != wanted.form:
    yield 'objective.head', wanted.form, f'that of {name} is {head.form}', 'fine-tune with that'
  if wanted.pooling is not None and wanted.pooling not in head.pooling:
    rule = f'{name} takes {" or ".join(head.pooling)}'
    yield 'objective.pooling', wanted.pooling, rule, 'fine-tune with that'


def _values(name: str, s: dict, length: int) -> dict[str, Any]:
  """The config.json that a family has for these settings, as far as it has words for them."""
  family = FAMILIES[name]
  values: dict[str, Any] = {'model_type': name}
  for ours, theirs in family.keys.items():  # where only a number is a number of rows, the usual one is what differs
    if ours in s and not (s[ours] is None and isinstance(family.defaults.get(theirs), int)):
      values[theirs] = s[ours]
  activation = next((theirs for theirs, ours in activations_of(family).items() if ours == s['activation']), None)
  values[family.keys['activation']] = activation or family.defaults[family.keys['activation']]
  if family.head_scalar:
    values[family.head_scalar] = _whole(s['attention_scale'] ** -2)
  if family.theta is None:
    values[family.keys['max_length']] = s['max_length'] or length
    if family.rows_with_offset:
      values['max_position_embeddings'] += s['position_offset']
      values['pad_token_id'] = s['position_offset'] - 1
  else:
    values |= {'max_position_embeddings': length, **_windows(family, s), **_rotary(family, s)}
  return values


def _windows(family: Family, s: dict) -> dict[str, Any]:
  """The window, and which layers see everything."""
  values: dict[str, Any] = {}
  if family.window is not None and (s['window'] is not None or family.global_layers is None):
    values[family.window] = s['window']
  if family.global_layers is not None:
    every = 1 if s['window'] is None else s['global_every'] or s['layers'] + 1
    sees_all = [i % every == s['global_offset'] for i in range(s['layers'])]
    values['layer_types'] = ['full_attention' if whole else 'sliding_attention' for whole in sees_all]
    if (key := family.global_layers[0]) is not None:
      values[key] = every
  return values


def _rotary(family: Family, s: dict) -> dict[str, Any]:
  """Base, scaling and width of the rotary positions, and the layers without them."""
  if s['rope_theta'] is None:
    return {}
  values: dict[str, Any] = {family.theta: s['rope_theta']}
  local: dict[str, Any] = {'rope_type': 'default', 'rope_theta': s['rope_theta_local'] or s['rope_theta']}
  whole = {'rope_type': 'default', 'rope_theta': s['rope_theta']}
  if s['rope_scaling'] is not None:
    whole |= {'rope_type': s['rope_scaling_type'], 'factor': s['rope_scaling']}
    names = {'llama3': ('low_freq_factor', 'high_freq_factor'), 'yarn': ('beta_slow', 'beta_fast')}
    if s['rope_scaling_type'] in names:
      whole |= dict(zip(names[s['rope_scaling_type']], s['rope_rotations']))
      whole['original_max_position_embeddings'] = s['rope_original_length']
    if s['rope_attention_factor'] is not None:
      whole['attention_factor'] = s['rope_attention_factor']
  if family.rotary_share is not None:
    values[family.rotary_share[0]] = whole['partial_rotary_factor'] = s['rotary_width'] / s['head_dim']
  if family.skips_rotary:
    every = s['rotary_skip_every'] or s['layers'] + 1
    values |= {'no_rope_layer_interval': every}
    values |= {'no_rope_layers': [int((i + 1) % every != 0) for i in range(s['layers'])]}
  values['rope_parameters'] = whole
  if family.theta_local is not None:
    values['rope_parameters'] = {'full_attention': whole, 'sliding_attention': local}
    values.setdefault(family.theta_local[0], local['rope_theta'])
  # transformers 5 takes this key in place of the others, base included, and in ModernBERT for layers with a window too
  if s['rope_scaling'] is not None and (family.theta_local is None or family.scaled == 'global'):
    values['rope_scaling'] = whole
  return values


def _whole(number: float) -> float | int:
  """A number without a fraction as one."""
  return round(number) if math.isclose(number, round(number), rel_tol=1e-6) else number
