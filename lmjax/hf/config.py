"""From a config.json, of transformers 4 or 5, to the settings of a model.

Whatever would change what is computed and cannot be expressed is refused by name: nothing of it is guessed.
"""

import difflib
import json
import math
import pathlib
from typing import Any

from lmjax.errors import CheckpointError
from lmjax.hf.families import FAMILIES, REFUSED
from lmjax.hf.family import Family
from lmjax.models.config import DEFAULTS

# What a family has unless its table says otherwise, and how a public model is computed here. Rows of embeddings are
# padded for meshes that split them.
_USUAL = dict.fromkeys(
  ('max_length', 'rope_theta', 'rope_theta_local', 'rope_scaling', 'window', 'global_every', 'segment_types', 'lora')
)
_USUAL |= dict.fromkeys(('embedding_dropout', 'attention_dropout', 'residual_dropout'), 0.0)
_USUAL |= dict.fromkeys(('qk_norm', 'embedding_norm', 'mlm_transform'), False)
_USUAL |= dict(residual_init='plain', vocab_multiple=128, remat='auto', attention_implementation='auto')
# Up to so many layers are written out: they run faster, 1.14 times for 6 of width 384 on CPU, and compile for longer.
_WRITTEN_OUT = 8
_USUAL |= DEFAULTS

# Names of activations; some families use them as a gate.
_ACTIVATIONS = {'gelu': 'gelu', 'gelu_python': 'gelu', 'relu': 'relu', 'silu': 'silu', 'swish': 'silu'}
_ACTIVATIONS |= dict.fromkeys(('gelu_new', 'gelu_pytorch_tanh', 'gelu_fast'), 'gelu_tanh')
_GATED = {'gelu': 'geglu', 'gelu_tanh': 'geglu_tanh', 'silu': 'swiglu'}
_PLAIN = {'gelu': 'gelu', 'gelu_tanh': 'gelu_tanh', 'relu': 'relu'}

# What a rotary scaling of each type holds besides factor, and what it is where it is left out.
_ROTARY_TYPES = {
  'default': {},
  'linear': {},
  'llama3': {'low_freq_factor': 1.0, 'high_freq_factor': 4.0},
  'yarn': {'beta_slow': 1.0, 'beta_fast': 32.0},
}
_ROTARY_KEYS = (
  'type',
  'rope_type',
  'rope_theta',
  'factor',
  'original_max_position_embeddings',
  'partial_rotary_factor',
)


class ConfigFile:
  """A config.json: its values, with what its family takes where it has none."""

  def __init__(self, path: pathlib.Path, values: dict):
    self.path, self.values = path, values
    self.family = self._family()

  @classmethod
  def read(cls, path: pathlib.Path, source: str) -> 'ConfigFile':
    """Raises CheckpointError: there is none, or its family is not known."""
    try:
      values = json.loads(path.read_text(encoding='utf-8'))
    except OSError as error:
      remedy = 'name a folder with config.json, model.safetensors and tokenizer.json'
      raise CheckpointError(f'{source}: config.json cannot be read ({error.strerror}); {remedy}') from error
    except (ValueError, RecursionError) as error:
      raise CheckpointError(f'{path}: not JSON ({error}); download it again') from error
    if not isinstance(values, dict):
      raise CheckpointError(f'{path}: holds no object; download it again')
    return cls(path, values)

  def _family(self) -> Family:
    kind = self.values.get('model_type')
    if not isinstance(kind, str | None):
      self.refuse('model_type', 'must be a text', 'download it again')
    if kind in FAMILIES:
      return FAMILIES[kind]
    if kind in REFUSED:
      why, nearest = REFUSED[kind]
      raise CheckpointError(f'{self.path}: model_type = {kind!r}: {why}; the nearest that can be imported: {nearest}')
    close = difflib.get_close_matches(str(kind), FAMILIES, 1)
    remedy = f'did you mean {close[0]}?' if close else f'choose one of {", ".join(FAMILIES)}'
    rule = 'no such family'
    if kind is None:
      rule = 'config.json must name one, and files of 2019 do not'
      remedy = f'write it there, as one of {", ".join(FAMILIES)}'
    if 'auto_map' in self.values:
      rule = 'needs code of its own, which is not run here'
    raise CheckpointError(f'{self.path}: model_type = {kind!r}: {rule}; {remedy}')

  def get(self, key: str):
    """The value of a key that must be there, or be known of the family."""
    values, defaults = self.values, self.family.defaults
    if key not in values and key not in defaults:
      raise CheckpointError(f'{self.path}: has no {key}; download it again')
    return values.get(key, defaults.get(key))

  def refuse(self, key: str, rule: str, remedy: str = 'choose another model'):
    """Raises CheckpointError about the value of a key."""
    raise CheckpointError(f'{self.path}: {key} = {self.values.get(key)!r}: {rule}; {remedy}')

  def number(self, key: str, may_lack: bool = True) -> int | None:
    """A whole number, of those that NumPy counts by, or None where it may lack."""
    value = self.get(key)
    if value is None and may_lack:
      return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
      self.refuse(key, 'must be a whole number above 0, below 2^31', 'download it again')
    return value


def settings_of(file: ConfigFile) -> dict[str, Any]:
  """The settings of a ModelConfig, all of them.

  Raises CheckpointError: the file does not describe a model of its family, or one that cannot be expressed.
  """
  family, values = file.family, file.values
  if values.get('quantization_config') is not None:
    file.refuse('quantization_config', 'its weights are quantised', 'take the repository with its full weights')
  for key, allowed in family.only.items():
    if values.get(key) is not None and values[key] not in allowed:
      file.refuse(key, f'must be {" or ".join(map(str, allowed))} to be expressed')
  settings: dict[str, Any] = _USUAL | dict(family.fixed)
  for ours, theirs in family.keys.items():
    settings[ours] = file.get(theirs)
  for ours in ('layers', 'width', 'heads', 'mlp_width', 'kv_heads', 'vocab_size', 'head_dim'):
    if ours in family.keys:
      settings[ours] = file.number(family.keys[ours], may_lack=ours in ('mlp_width', 'kv_heads', 'head_dim'))
  width, heads = settings['width'], settings['heads']
  settings['mlp_width'] = settings['mlp_width'] or 4 * width
  settings['scan'] = settings['layers'] > _WRITTEN_OUT
  settings['kv_heads'] = settings.get('kv_heads') or heads
  settings['attention_dropout'] = settings['attention_dropout'] or 0.0
  if settings['head_dim'] is not None and settings['head_dim'] * heads == width:
    settings['head_dim'] = None
  if settings['embedding_scale'] == 'sqrt(width)':
    settings['embedding_scale'] = math.sqrt(width)
  if family.head_scalar:
    settings['attention_scale'] = file.get(family.head_scalar) ** -0.5
  if (narrow := values.get('word_embed_proj_dim')) not in (None, width):
    file.refuse('word_embed_proj_dim', f'must be hidden_size = {width}, not {narrow}')
  settings['activation'] = _activation(file)
  dtype = values.get('dtype', values.get('torch_dtype')) or 'float32'
  settings['dtype'] = 'bfloat16' if dtype == 'bfloat16' else 'float32'
  settings |= _windows(file, settings['layers'])
  if settings['positions'] == 'learned':
    if family.rows_with_offset:  # positions are counted from the id that pads
      settings['position_offset'] = 1 + (1 if values.get('pad_token_id') is None else values['pad_token_id'])
      settings['max_length'] -= settings['position_offset']
    return settings
  head_width = settings['head_dim'] or width // heads
  return settings | _rotary(file, head_width, settings['layers'], settings['window'] is not None)


def activations_of(family: Family) -> dict[str, str]:
  """{name of an activation in config.json: the setting that it is}, the family's usual one first."""
  known = _GATED if any('mlp/gate' in (ours, *ours) for ours in family.layers.values()) else _PLAIN
  named = {family.defaults[family.keys['activation']]: None, **_ACTIVATIONS}
  usual = {name: _ACTIVATIONS[family.activations.get(name, name)] for name in named}
  return {name: known[plain] for name, plain in usual.items() if plain in known}


def _activation(file: ConfigFile) -> str:
  key, known = file.family.keys['activation'], activations_of(file.family)
  if (name := file.get(key)) not in known:
    rule = f'no such activation here; it must be one of {", ".join(known)}'
    raise CheckpointError(f'{file.path}: {key} = {name!r}: {rule}')
  return known[name]


def _windows(file: ConfigFile, layers: int) -> dict:
  """The window, and which layers see everything."""
  family, kinds = file.family, file.values.get('layer_types')
  window = file.number(family.window) if family.window else None
  if family.global_layers is None:
    one = 'full_attention' if window is None else 'sliding_attention'
    if any(kind != one for kind in kinds or ()):
      file.refuse('layer_types', 'its layers must all be of one kind')
    return dict(window=window)
  key, every, offset = family.global_layers
  every = file.values.get(key) or every
  offset = every - 1 if offset else 0  # the last of every n, or the first
  if kinds is not None:
    whole = [i for i, kind in enumerate(kinds) if kind == 'full_attention']
    if (pattern := _pattern(whole, layers, (every, offset))) is None or len(kinds) != layers:
      file.refuse('layer_types', 'every n-th layer must see everything, and no other')
    every, offset = pattern
  if window is None or every == 1:
    return dict(window=None)
  return dict(window=window, global_every=every, global_offset=offset)


def _pattern(places: list[int], layers: int, usual: tuple[int, int]) -> tuple[int, int] | None:
  """(n, which of every n) of layers that are a distance apart, as usual if that is so; None where they are not."""
  fits = lambda n, offset: places == list(range(offset, layers, n))
  if fits(*usual):
    return usual
  n = places[1] - places[0] if len(places) > 1 else layers
  offset = places[0] if places else layers
  return (n, offset) if fits(n, offset) and offset < n else None


def _rotary(file: ConfigFile, head_width: int, layers: int, has_window: bool) -> dict:
  """Base, scaling and width of the rotary positions, and the layers without them."""
  family, values = file.family, file.values
  older = values.get('rope_scaling') or {}
  given = values.get('rope_parameters') or older
  nested = 'full_attention' in given or 'sliding_attention' in given
  whole, local = ((given.get(f'{kind}_attention') or {}) if nested else {} for kind in ('full', 'sliding'))
  whole = whole if nested else given
  found: dict[str, Any] = dict(
    rope_theta=float(whole.get('rope_theta') or values.get(family.theta) or family.default_theta)
  )
  if family.theta_local is not None and has_window:
    key, usual = family.theta_local
    theta = float(local.get('rope_theta') or values.get(key) or usual)
    found['rope_theta_local'] = None if theta == found['rope_theta'] else theta
  if _kind(local) != 'default':
    file.refuse('rope_parameters', 'layers with a window must not be scaled by themselves')
  found |= _scaling(file, whole)
  if older and _scaling(file, older) != _scaling(file, whole):
    file.refuse('rope_scaling', 'rope_parameters next to it say otherwise', 'leave one of the two out')
  if found.get('rope_scaling') is not None and has_window:
    found['rope_scaling_layers'] = family.scaled
  key, usual = family.rotary_share or ('partial_rotary_factor', 1.0)
  share = whole.get('partial_rotary_factor') or values.get(key) or usual
  if share != 1.0 and family.rotary_share is None:
    raise CheckpointError(
      f'{file.path}: partial_rotary_factor = {share!r}: its family rotates whole heads; leave it out'
    )
  rotated = int(head_width * share)
  if rotated != head_width:
    found['rotary_width'] = rotated
  if family.skips_rotary:
    every = values.get('no_rope_layer_interval') or 4
    if (rotates := values.get('no_rope_layers')) is not None:
      without = [i for i, has_any in enumerate(rotates) if not has_any]
      pattern = _pattern(without, layers, (every, every - 1)) if without else (layers + 1, layers)
      if pattern is None or len(rotates) != layers:
        file.refuse('no_rope_layers', 'every n-th layer must be without rotary positions, and no other')
      every, offset = pattern
      if offset != every - 1:
        file.refuse('no_rope_layers', 'of every n layers, the last must be the one without rotary positions')
    found |= dict(rotary_skip_every=every if every <= layers else None)
  return found


def _kind(scaling: dict) -> str:
  return scaling.get('rope_type', scaling.get('type')) or 'default'


def _scaling(file: ConfigFile, scaling: dict) -> dict:
  """The settings of a rotary scaling."""
  kind = _kind(scaling)
  if kind not in _ROTARY_TYPES:
    choices = ', '.join(_ROTARY_TYPES)
    raise CheckpointError(f'{file.path}: rope_type = {kind!r}: no such scaling here; it must be one of {choices}')
  if kind == 'default':
    return {}
  bounds = [float(scaling.get(key) or default) for key, default in _ROTARY_TYPES[kind].items()]
  allowed = {*_ROTARY_KEYS, *_ROTARY_TYPES[kind]} | ({'attention_factor', 'truncate'} if kind == 'yarn' else set())
  for key, value in scaling.items():
    if key not in allowed and value is not None or key == 'truncate' and value is False:
      raise CheckpointError(
        f'{file.path}: {key} = {value!r}: cannot be expressed with rope_type = {kind}; leave it out'
      )
  if 'factor' not in scaling:
    raise CheckpointError(f'{file.path}: rope_type = {kind}: has no factor; download it again')
  found: dict[str, Any] = dict(rope_scaling=float(scaling['factor']), rope_scaling_type=kind)
  if kind == 'linear':
    return found
  key = 'original_max_position_embeddings'
  inside, above = scaling.get(key), file.values.get(key)
  if None not in (inside, above) and inside != above:
    file.refuse(key, f'the scaling of rotary positions has {inside}', 'leave one of the two out')
  length = inside or above or file.get('max_position_embeddings')
  found |= dict(rope_original_length=length, rope_rotations=tuple(bounds))
  if scaling.get('attention_factor') is not None:
    found['rope_attention_factor'] = float(scaling['attention_factor'])
  return found
