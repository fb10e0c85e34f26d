"""The plan of a hand-off: what a run takes from another's checkpoint. Pure: metadata in, decisions out.

`transfer.hand_off` carries a plan out. A parameter is named by its path, as in `layers/3/attention/query/kernel`.
"""

import dataclasses
from collections.abc import Collection, Mapping

from lmjax import paths
from lmjax.checkpoint.config import InitFrom
from lmjax.errors import CheckpointError

# Settings of the model that a run may set otherwise than its checkpoint: how it is computed or regularised, and what
# longer texts need. All others are the shape of the weights.
ADAPTABLE = {
  *('embedding_dropout', 'attention_dropout', 'residual_dropout', 'lora'),
  *('scan', 'remat', 'dtype', 'attention_implementation', 'init_std', 'residual_init'),
  *('max_length', 'rope_theta', 'rope_theta_local', 'window', 'global_every', 'global_offset', 'segment_types'),
  *('rope_scaling', 'rope_scaling_type', 'rope_scaling_layers', 'rope_original_length', 'rope_rotations'),
  'rope_attention_factor',
}
CONVERSIONS = {'encoder_to_decoder': ('bidirectional', 'causal'), 'decoder_to_encoder': ('causal', 'bidirectional')}
# The one array that is resized, along its first axis; see `transfer.resized_rows`.
RESIZABLE = 'embeddings/position/embedding'
# What a token is looked up in. A fresh table is added to what comes out of it, so it is drawn with the same standard
# deviation: with that of initial weights it would be drowned by an embedding that has been trained.
TOKEN_TABLE, TABLES = 'embeddings/token/embedding', ('embeddings/*/embedding',)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What becomes of every parameter, each a sorted list of paths."""

  taken: list[str]  # as they are in the checkpoint
  resized: list[str]  # taken, with another number of rows
  fresh: list[str]  # random
  dropped: list[str]  # the checkpoint's, not used
  refused: list[str]  # one line each, why the hand-off cannot be

  def check(self, source: str) -> None:
    """Raises CheckpointError with all refusals."""
    alike: dict[str, list[str]] = {}
    for path, _, rest in (line.partition(': ') for line in self.refused):
      alike.setdefault(rest, []).append(path)
    if alike:
      lines = [f'{path}: {rest}' for rest, names in alike.items() for path in paths.by_layer(names)]
      raise CheckpointError('\n'.join(f'init_from.path = {source}: {line}' for line in lines))

  def table(self) -> str:
    """The plan for people: layers that fare alike share a line."""
    names = ('taken', 'resized', 'fresh', 'dropped')
    rows = [f'{"hand-off":>13}  ' + ', '.join(f'{len(getattr(self, name))} {name}' for name in names)]
    for name in names:
      rows += [f'{name:>13}  {path}' for path in paths.by_layer(getattr(self, name))]
    return '\n'.join(rows)


def plan(
  source: Mapping[str, Mapping], target: Mapping[str, Mapping], config: InitFrom, optional: Collection[str] = ()
) -> Plan:
  """Decides about every parameter of the checkpoint and of the run, each as {path: {'shape': [...], 'dtype': '...'}}.

  Each target parameter must match exactly one of `take` and `fresh`, and each source parameter must be taken or match
  `drop`; what breaks this, and what does not fit, is refused. With `take=()` all is fresh. `optional` ones of the
  source are taken where the run has them, though a pattern of `fresh` names their head, and no loss where it has not.
  """
  source = {path: array for path, array in source.items() if path in target or path not in optional}
  if not config.take:
    return Plan([], [], sorted(target), sorted(source), [])
  taken, resized, fresh, refused = [], [], [], []
  for path in sorted(target):
    claims = [name for name in ('take', 'fresh') if paths.matches(path, getattr(config, name))]
    if claims == ['fresh'] and path in source and path in optional:
      claims = ['take']
    if len(claims) != 1:
      state = 'matches both init_from.take and init_from.fresh' if claims else 'matches neither take nor fresh'
      refused.append(f'{path}: {state}; each parameter must match one of them; change the patterns')
    elif claims == ['fresh']:
      fresh.append(path)
    elif path not in source:
      remedy = 'name it in init_from.fresh, and not in init_from.take'
      if path.startswith('head/'):
        remedy = 'begin one at random: --config.init_from.take=embeddings/*,layers/*,final_norm/*'
        remedy += ' --config.init_from.fresh=head/*'
      refused.append(f'{path}: is to be taken, but the checkpoint has no such parameter; {remedy}')
    elif misfit := _misfit(path, source[path], target[path]):
      refused.append(misfit)
    else:
      (taken if list(source[path]['shape']) == list(target[path]['shape']) else resized).append(path)
  unused = sorted(set(source) - {*taken, *resized})
  dropped = [path for path in unused if paths.matches(path, config.drop)]
  named = {line.partition(':')[0] for line in refused}
  refused += [
    f'{path}: in the checkpoint, but not used; let init_from.drop match it'
    for path in unused
    if path not in dropped and path not in named
  ]
  return Plan(taken, resized, fresh, dropped, refused)


def adapt_model(saved: Mapping, asked: Mapping, convert: str | None) -> tuple[dict, list[tuple[str, object, str, str]]]:
  """(the model of a run that starts from a checkpoint, problems as (path, value, rule, remedy)).

  Args:
    saved: the checkpoint's model, as a dict of settings.
    asked: the settings that the run's config gives; one that disagrees and is not in ADAPTABLE is a problem. The others
      are the checkpoint's, but for `lora`: adapters are merged into the kernels that are handed over, so the run has
      new ones, or none; and for `remat`, which another batch settles otherwise.
    convert: see InitFrom.
  """
  model = {**saved, 'lora': None, 'remat': 'auto', **asked, 'attention': saved['attention']}
  problems: list[tuple[str, object, str, str]] = []
  if convert is not None:
    before, after = CONVERSIONS[convert]
    if saved['attention'] == before:
      model['attention'] = after
    else:
      rule = f'needs a {before} checkpoint, this one is {saved["attention"]}'
      problems.append(('init_from.convert', convert, rule, 'set it to None'))
  for name, value in asked.items():
    if name in ADAPTABLE or name not in saved or value == (model if name == 'attention' else saved)[name]:
      continue
    rule, remedy = f'is {saved[name]} in the checkpoint', 'leave it out, or set init_from.path to None'
    if name == 'attention' and convert is not None:
      rule = f'becomes {model["attention"]} by init_from.convert = {convert}'
      remedy = 'leave it out, or set init_from.convert to None'
    elif name == 'attention':
      conversion = next(key for key, (before, _) in CONVERSIONS.items() if before == saved['attention'])
      remedy = f'set init_from.convert to {conversion}, if that is meant'
    problems.append((f'model.{name}', value, rule, remedy))
  return model, problems


def _misfit(path: str, there: Mapping, here: Mapping) -> str | None:
  """Why a parameter cannot be taken, or None where it can, resized or not."""
  shape, wanted = tuple(there['shape']), tuple(here['shape'])
  if there['dtype'] != here['dtype'] and not ('float' in there['dtype'] and 'float' in here['dtype']):
    rule = f'is {there["dtype"]} in the checkpoint, the model needs {here["dtype"]}; they do not convert'
    return f'{path}: {rule}; let init_from.fresh and init_from.drop match it'
  if shape == wanted or path == RESIZABLE and shape[1:] == wanted[1:]:
    return None
  return (
    f'{path}: has shape {list(shape)} in the checkpoint, the model needs {list(wanted)}; use the same model and '
    'tokenizer, or let init_from.fresh and init_from.drop match it'
  )
