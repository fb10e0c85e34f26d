"""What a run begins with: its own newest checkpoint, another run's by a hand-off, or random weights."""

import dataclasses
import functools
import os
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lmjax import metrics, optim, paths
from lmjax.checkpoint import digests, handoff, locate, transfer
from lmjax.checkpoint.checkpoints import Checkpoints
from lmjax.checkpoint.config import InitFrom
from lmjax.checkpoint.manifest import read_manifest
from lmjax.console import SHOWN, redacted
from lmjax.data.config import TokenizerConfig
from lmjax.data.corpus.manifest import Pin
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import CheckpointError
from lmjax.hf import weights
from lmjax.hf.source import PublicModel, Source, open_source, origin_of
from lmjax.schema import describe, validate
from lmjax.tasks.base import Task
from lmjax.training import state as state_lib
from lmjax.workdir.files import json_digest

# Settings of `optim` that say how far each step goes: a run may continue with others.
RATE = ('learning_rate', 'head_learning_rate', 'schedule', 'warmup_steps', 'decay_steps', 'final_rate')
# How it is computed, not what; or may change.
FREE = {'scan', 'remat', 'attention_implementation', 'chunk', *RATE}

# Hex digits of the id of a corpus.
_LENGTH_OF_ID = 32
# A change of the learning rate by less than this share is not reported.
_SMALL_JUMP = 0.2


class InitialState(NamedTuple):
  """Where a run begins or resumes."""

  state: state_lib.TrainState
  step: int  # batches that `state` has seen
  hand_off: dict | None  # what was taken from where, as results.json keeps it; None for random weights
  origin: dict | None  # the public model that it began as, see `hf.source.origin_of`
  message: str  # for people
  resumed: bool  # whether it is the run's own checkpoint


def tokenizer_of(source: Source | None, given: TokenizerConfig | None) -> Tokenizer | None:
  """The tokenizer of what a run starts from, checked against it and against the config.

  Raises CheckpointError: it is not the one that the checkpoint was trained with, the config names another, or a public
  model has no rows for its tokens.
  """
  if source is None:
    return None
  file = source.tokenizer_file
  tokenizer = Tokenizer.load(file)
  saved = source.tokenizer_hash or tokenizer.hash
  rule = f'the checkpoint of {source.name} was trained with {saved[:12]}'
  if tokenizer.hash != saved:
    remedy = 'put the tokenizer of that run back'
    raise CheckpointError(f'{file}: its hash is {tokenizer.hash[:12]}, {rule}; {remedy}')
  if given is not None and given.path is not None and (asked := Tokenizer.load(given.path).hash) != saved:
    remedy = 'set data.tokenizer to None: the tokenizer comes with the checkpoint'
    raise CheckpointError(f'data.tokenizer.path = {given.path}: its hash is {asked[:12]}, {rule}; {remedy}')
  if isinstance(source, PublicModel) and (rows := source.model['vocab_size']) < tokenizer.vocab_size_in(rows):
    rule = f'the tokenizer has {tokenizer.vocab_size} tokens, and the model rows for {rows} (vocab_size in config.json)'
    raise CheckpointError(f'{file}: {rule}; take the tokenizer that belongs to it, or leave out tokens that were added')
  return tokenizer


def pinned(workdir: str, data: Any) -> Pin | None:
  """What a run that resumes began with, where its token stores are those of these settings; None where it has none.

  Raises CheckpointError: its data was tokenised by a version whose stores are not read any more.
  """
  directory = locate.directory_of(workdir)
  for step in reversed(locate.saved_steps(directory)):
    try:
      saved = read_manifest(directory, step)
    except CheckpointError:
      continue
    corpora = set(saved.get('token_stores', {}).values())
    if any(len(corpus) != _LENGTH_OF_ID for corpus in corpora):
      rule = 'its text was tokenised into stores of an older kind, which are not read any more'
      raise CheckpointError(f'{workdir}: {rule}; choose a new --workdir, or the lmjax that it began with')
    before, now = (describe.settings(slice_) for slice_ in (saved['config']['data'], describe.to_dict(data)))
    differ = (name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if not corpora or any(map(_decides, differ)):
      return None
    tokenizer = Tokenizer.load(os.path.join(workdir, 'tokenizer.json'))
    [corpus] = corpora
    return Pin(corpus, tokenizer) if tokenizer.hash == saved['tokenizer_hash'] else None
  return None


def _decides(setting: str) -> bool:
  """Whether a setting of the data decides what a token store holds."""
  name, _, rest = setting.partition('.')
  return name in ('tokenizer', 'valid_fraction', 'valid_bytes', 'bad_text') or (
    name == 'sources' and not rest.endswith(('.weight', '.max_epochs'))
  )


def plan_of(task: Task, source: Source | None, init_from: InitFrom) -> handoff.Plan | None:
  """The plan of the hand-off, from metadata alone; None where there is no checkpoint to start from.

  Raises CheckpointError: it cannot be, with every reason.
  """
  if source is None:
    return None
  shapes = paths.flatten(task.shapes())
  target = {path: {'shape': list(a.shape), 'dtype': str(a.dtype)} for path, a in shapes.items()}
  if isinstance(source, PublicModel):
    source.check_shapes(target)
  arrays = source.arrays
  if getattr(task.model, 'form', 'tanh') != 'tanh':  # the pooler was trained in front of a tanh
    arrays = {path: array for path, array in arrays.items() if path not in source.optional}
  plan = handoff.plan(arrays, target, init_from, source.optional)
  plan.check(source.name)
  return plan


# What of a manifest makes a run this run and no other: a checkpoint that differs in one of them is refused.
SETTINGS = ('task', 'seed', 'model', 'objective', 'init_from', 'optim')
IDENTITY = (*SETTINGS, 'batch_size', 'tokenizer_hash', 'data_fingerprint')


def metadata_of(config, task: Task, data, data_fingerprint: str) -> dict:
  """What the manifests of a run hold about it, but for the hand-off."""
  settings = redacted(describe.to_dict(config))
  metadata = {name: settings[name] for name in SETTINGS} | {'batch_size': config.data.batch_size}
  metadata |= {'tokenizer_hash': task.tokenizer.hash, 'data_fingerprint': data_fingerprint}
  return metadata | {'config': settings, 'token_stores': task.token_stores(data)}


def initialize(
  task: Task,
  tx: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
  seed: int,
  steps: int,
  checkpoints: Checkpoints,
  metadata: dict,
  source: Source | None,
  plan: handoff.Plan | None,
  log: Callable[[str], None],
) -> InitialState:
  """The state of a run's first step: of the newest of its own checkpoints, else by the plan from `source`, else random.

  By `metadata` (see `metadata_of`) a checkpoint of another run is refused, and what else has changed is reported; `log`
  is called with the checkpoints that were rejected.

  Raises CheckpointError: a checkpoint of another run, none that is intact, or arrays that cannot be read.
  """
  abstract = state_lib.abstract_state(task, tx, mesh)
  restored = checkpoints.restore_latest(abstract, lambda manifest: check_same_run(manifest, metadata), log)
  if restored is not None:
    state, manifest = restored
    step = int(manifest['step'])
    if step > steps:
      rule = f'{checkpoints.directory.parent} is at step {step} already'
      raise CheckpointError(f'train.steps = {steps}: {rule}; raise it, or choose a new --workdir')
    lines = [f'resuming from step {step}']
    lines += [f'changed since then: {change}' for change in changes(manifest, metadata)]
    lines += rate_jump(manifest['config'], metadata['config'], step)
    return InitialState(state, step, manifest['hand_off'], manifest.get('origin'), '\n'.join(lines), True)
  params = initial_params(task, mesh, seed, source, plan)
  state = state_lib.init_state(task, tx, mesh, params)
  if source is None or plan is None:
    return InitialState(state, 0, None, None, 'starting from random weights', False)
  table: dict[str, Any] = {'source': source.name, 'step': source.step}
  table |= {name: getattr(plan, name) for name in ('taken', 'resized', 'fresh', 'dropped')}
  start, lines, origin = f'step {source.step} of {source.name}', [plan.table()], origin_of(source)
  if isinstance(source, PublicModel):
    digest = digest_of(params, plan.taken)
    left = source.left_behind(plan.taken)
    table |= {'revision': source.revision, 'digest': digest, 'left_behind': left}
    origin = source.origin | {'left_behind': left}
    start = source.name if source.revision is None else f'{source.name}, revision {source.revision}'
    lines += [f'{"left behind":>13}  {name} (of the file)' for name in paths.numbered(left)]
  message = '\n'.join([f'starting from {start}, with its tokenizer', *lines])
  return InitialState(state, 0, table, origin if plan.taken else None, message, False)


def initial_params(task: Task, mesh, seed: int, source: Source | None, plan: handoff.Plan | None) -> dict:
  """The parameters of a run's first step: as `plan` says, random ones without it."""
  if source is None or plan is None:
    return state_lib.init_params(task, mesh, seed)
  read: Callable = weights.load if isinstance(source, PublicModel) else transfer.load
  draw = functools.partial(state_lib.draw, task, mesh, seed)
  offset = task.model.backbone.config.position_offset
  target = state_lib.abstract_params(task, mesh)
  return transfer.hand_off(functools.partial(read, source), source.arrays, plan, target, draw, offset)


def digest_of(params: dict, taken: list[str]) -> str:
  """One digest of the parameters that were taken."""
  here = paths.flatten(params)
  return json_digest(digests.describe_arrays({path: here[path] for path in taken}))


def moved(
  task: Task, config: optim.OptimConfig, mesh, seed: int, init_from: InitFrom, hand_off: dict | None, params
) -> dict[str, float] | None:
  """How far training has moved each group of weights: |w - w0| / |w0|, of the parameters that are trained.

  w0 is made again, drawn from the seed and handed over as `hand_off` notes it: a distance needs the weights
  themselves, and a run that was resumed no longer has them. That takes their memory once more. None where the
  checkpoint that the run began with is gone or damaged by now: a run that has ended loses nothing by it.
  """
  hand_off, source = hand_off or {}, None
  try:
    if hand_off:
      path = init_from.path if SHOWN in hand_off['source'] else hand_off['source']
      if hand_off.get('revision') and '@' not in path:
        path = f'{path}@{hand_off["revision"]}'
      step: Any = 'latest' if hand_off['step'] is None else hand_off['step']
      source = open_source(dataclasses.replace(init_from, path=path, step=step))
    plan = plan_of(task, source, init_from)
    first = initial_params(task, mesh, seed, source, plan)
  except CheckpointError:
    return None
  if 'digest' in hand_off and digest_of(first, hand_off['taken']) != hand_off['digest']:
    return None  # another model is there now
  distance, norm = _norms(*(optim.split(config, tree)[0] for tree in (first, params)))
  return {group: float(distance[group]) / max(float(norm[group]), 1e-12) for group in distance}


@jax.jit
def _norms(before, after):
  """The norms of what lies between two trees of parameters, and of the first, by group."""
  return metrics.group_norms(jax.tree.map(jnp.subtract, after, before)), metrics.group_norms(before)


def check_same_run(manifest: dict, metadata: dict) -> None:
  """Refuses a checkpoint of another run: to continue with other data or another model would be silently wrong.

  Raises CheckpointError: naming the value of its manifest and that of this run.
  """
  remedy = 'use the same, or choose a new --workdir'
  for name in IDENTITY:
    saved, now = manifest.get(name), metadata[name]
    if isinstance(now, dict):
      saved = saved or {}
      key = next((key for key in now if key not in FREE and saved.get(key) != now[key]), None)
      saved, now, name = saved.get(key), now.get(key), f'{name}.{key}'
    if saved == now:
      continue
    if name in ('data_fingerprint', 'tokenizer_hash'):
      # what makes the data another one
      if of_data := [change for change in changes(manifest, metadata) if change.startswith('data.')]:
        raise CheckpointError(f'{"; ".join(of_data)}: would be other data; {remedy}')
    raise CheckpointError(f'{name} = {now}: the checkpoints of this workdir were made with {saved}; {remedy}')


def changes(manifest: dict, metadata: dict) -> list[str]:
  """The settings that are other than those of a checkpoint: 'train.steps: 20 -> 40'."""
  before, now = describe.settings(manifest['config']), describe.settings(metadata['config'])
  return [
    f'{path}: {validate.show(before.get(path))} -> {validate.show(now.get(path))}'
    for path in sorted(before.keys() | now.keys())
    if before.get(path) != now.get(path)
  ]


def rate_jump(before: dict, now: dict, step: int) -> list[str]:
  """A line where the learning rate of the next step is not near the one that the run's earlier settings would give it.

  So it is where a run that has ended is made longer, unless its schedule is constant: the schedule is one of all steps.
  """
  rates = []
  for config in (before, now):
    settings: Any = types.SimpleNamespace(**config['optim'])
    rates.append(float(optim.learning_rate(settings, config['train']['steps'])(step)))
  old, new = rates
  if abs(new - old) <= _SMALL_JUMP * max(new, old):
    return []
  schedule, steps = now['optim']['schedule'], now['train']['steps']
  rule = f'optim.schedule = {schedule} is over all of train.steps = {steps}'
  return [f'the learning rate continues at {new:.3g}; with the settings until now it would be {old:.3g}: {rule}']
