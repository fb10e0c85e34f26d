"""What a run begins with: its own newest checkpoint, another run's by a hand-off, or random weights."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lmjax import metrics, optim, paths, sharding
from lmjax.checkpoint import handoff
from lmjax.checkpoint.digests import describe_arrays
from lmjax.checkpoint.locate import InitCheckpoint, open_source
from lmjax.checkpoint.transfer import hand_off
from lmjax.console import SHOWN, redacted
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import CheckpointError
from lmjax.schema import describe, validate
from lmjax.training import state as state_lib

# Leaves of `optim` that say how far each step goes: a run may go on with others.
RATE = ('learning_rate', 'head_learning_rate', 'schedule', 'warmup_steps', 'decay_steps', 'final_rate')


class Start(NamedTuple):
  """Where a run goes on.

  Attributes:
    state: the TrainState.
    step: batches that it has seen.
    hand_off: what was taken from where, as results.json keeps it; None for random weights.
    said: for people.
    restored: whether it is the run's own checkpoint.
  """

  state: state_lib.TrainState
  step: int
  hand_off: dict | None
  said: str
  restored: bool


def source_of(config) -> tuple[InitCheckpoint | None, Tokenizer | None]:
  """The checkpoint that a run starts from, and its tokenizer, checked against each other and against the config.

  Raises:
    CheckpointError: no such checkpoint, or another tokenizer.
  """
  if config.init_from.path is None:
    return None, None
  source = open_source(config.init_from)
  tokenizer = Tokenizer.load(f'{source.workdir}/tokenizer.json')
  saved = source.manifest['tokenizer_hash']
  if tokenizer.hash != saved:
    raise CheckpointError(
      f'{source.workdir}/tokenizer.json: its hash is {tokenizer.hash[:12]}, the checkpoint was trained with '
      f'{saved[:12]}; put the tokenizer of that run back'
    )
  given = config.data.tokenizer
  if given is not None and given.path is not None:
    asked = Tokenizer.load(given.path).hash
    if asked != saved:
      raise CheckpointError(
        f'data.tokenizer.path = {given.path}: its hash is {asked[:12]}, the checkpoint of {source.workdir} was trained '
        f'with {saved[:12]}; set data.tokenizer to None: the tokenizer comes with the checkpoint'
      )
  return source, tokenizer


def facts_of(config, task, fingerprint: str) -> dict:
  """What the manifest of a checkpoint says of its run."""
  facts = {
    'task': config.task,
    'seed': config.seed,
    'batch_size': config.data.batch_size,
    'model': describe.to_dict(config.model),
    'objective': describe.to_dict(config.objective),
    'tokenizer_hash': task.tokenizer.hash,
    'data_fingerprint': fingerprint,
    'init_from': describe.to_dict(config.init_from),
    'optim': describe.to_dict(config.optim),
  }
  return redacted(facts)


def begin(config, task, tx, mesh, checkpoints, facts: dict, source, say) -> Start:
  """The state of a run's first step.

  Args:
    config: its Config.
    task: its task.
    tx: its optimizer.
    mesh: its mesh.
    checkpoints: its own; the newest comes first.
    facts: of `facts_of`; a checkpoint that says otherwise is refused.
    source: the checkpoint to start from where it has none of its own, or None.
    say: told which checkpoints were rejected.

  Raises:
    CheckpointError: a checkpoint of another run, none that is intact, or a hand-off that cannot be.
  """
  abstract = saved_part(config, state_lib.abstract_state(task, tx, mesh))
  restored = checkpoints.restore_latest(abstract, lambda manifest: check_same_run(manifest, facts, config), say)
  if restored is not None:
    state, manifest = restored
    step = int(manifest['step'])
    if step > config.train.steps:
      raise CheckpointError(
        f'train.steps = {config.train.steps}: {checkpoints.directory.parent} is at step {step} already; raise it, or '
        'choose a new --workdir'
      )
    state = state._replace(params=whole_params(config, task, mesh, manifest, state.params))
    return Start(state, step, manifest['hand_off'], _resuming(step, manifest, config), True)
  state = state_lib.init_state(task, tx, mesh, config.seed)
  if source is None:
    return Start(state, 0, None, 'starting from random weights', False)
  plan = plan_of(config, task, source)
  state = state._replace(params=hand_off(source, plan, state.params))
  table = {'source': source.workdir, 'step': source.step}
  table |= {name: getattr(plan, name) for name in ('taken', 'resized', 'fresh', 'dropped')}
  said = f'starting from step {source.step} of {source.workdir}, with its tokenizer\n{plan.table()}'
  return Start(state, 0, table, said, False)


def plan_of(config, task, source: InitCheckpoint) -> handoff.Plan:
  """The plan of the hand-off, from metadata alone.

  Raises:
    CheckpointError: it cannot be, with every reason.
  """
  shapes = paths.flatten(task.shapes())
  target = {path: {'shape': list(a.shape), 'dtype': str(a.dtype)} for path, a in shapes.items()}
  plan = handoff.plan(source.arrays, target, config.init_from)
  plan.check(source.workdir)
  return plan


def first_params(config, task, mesh, source: InitCheckpoint | None) -> dict:
  """The parameters that a run starts with, made again: drawn from the seed, and handed over."""
  init = jax.jit(task.init, out_shardings=sharding.shardings(task.axes(), mesh))
  params = init(jax.random.fold_in(jax.random.key(config.seed), 0))
  return params if source is None else hand_off(source, plan_of(config, task, source), params)


def saved_part(config, state: state_lib.TrainState) -> state_lib.TrainState:
  """What of a state (or of its shapes) a checkpoint holds, see CheckpointConfig.only_trained."""
  if not config.checkpoint.only_trained:
    return state
  return state._replace(params=optim.pruned(optim.split(config.optim, state.params)[0]))


def frozen_digests(config, state: state_lib.TrainState) -> dict[str, str] | None:
  """Digests of the parameters that a checkpoint leaves out; None where it leaves out none."""
  if not config.checkpoint.only_trained:
    return None
  still = optim.pruned(optim.split(config.optim, state.params)[1])
  return {path: facts['digest'] for path, facts in describe_arrays(still).items()}


def reopened(config, begun: dict) -> InitCheckpoint:
  """The checkpoint that a run began with, as it noted it (`Start.hand_off`), whatever is the newest there now."""
  path = config.init_from.path if SHOWN in begun['source'] else begun['source']
  return open_source(dataclasses.replace(config.init_from, path=path, step=begun['step']))


def whole_params(config, task, mesh, manifest: dict, saved: dict) -> dict:
  """All parameters of a checkpoint that holds only those that move.

  Raises:
    CheckpointError: what it started from is gone, or is not what it was.
  """
  if not config.checkpoint.only_trained:
    return saved
  begun = manifest['hand_off']
  source = reopened(config, begun)
  found = paths.flatten(saved)
  whole = paths.map_with_path(lambda path, p: found.get(path, p), first_params(config, task, mesh, source))
  digests = {path: facts['digest'] for path, facts in describe_arrays(whole).items()}
  wrong = [path for path, digest in manifest['frozen'].items() if digests[path] != digest]
  if wrong:
    raise CheckpointError(
      f'{begun["source"]}: step {begun["step"]} is not what the run started from ({len(wrong)} arrays differ, such as '
      f'{wrong[0]}); put that run back'
    )
  return whole


def moved(config, task, mesh, begun: dict | None, params) -> dict[str, float] | None:
  """How far training has moved each group of weights: |w - w0| / |w0|, of the parameters that move.

  The weights of the start are made again, which takes their memory once more. None where the checkpoint that the run
  began with (`begun` is `Start.hand_off`) is gone or damaged by now: a run that has ended loses nothing by it.
  """
  try:
    first = first_params(config, task, mesh, None if begun is None else reopened(config, begun))
  except CheckpointError:
    return None
  before, after = (optim.split(config.optim, tree)[0] for tree in (first, params))

  @jax.jit
  def norms(before, after):
    return metrics.group_norms(jax.tree.map(jnp.subtract, after, before)), metrics.group_norms(before)

  distance, norm = norms(before, after)
  return {group: float(distance[group]) / max(float(norm[group]), 1e-12) for group in distance}


def check_same_run(manifest: dict, facts: dict, config=None) -> None:
  """Refuses a checkpoint of another run: going on with other data or another model would be silently wrong.

  Args:
    manifest: of the checkpoint.
    facts: of `facts_of`.
    config: this run's Config, to name the leaves that make the data another one.

  Raises:
    CheckpointError: naming both values.
  """
  if config is not None and config.checkpoint.only_trained != (manifest.get('frozen') is not None):
    now = config.checkpoint.only_trained
    rule = f'the checkpoints of this workdir were made with {not now}'
    raise CheckpointError(validate.line('checkpoint.only_trained', str(now), rule, 'use the same, or a new --workdir'))
  free = {'scan', 'remat', 'attention_implementation', 'chunk', *RATE}  # how it is computed, not what; or may change
  for name in facts:
    saved, now = manifest.get(name), facts[name]
    if isinstance(now, dict):
      changed = [k for k in now if k not in free and (saved or {}).get(k) != now[k]]
      if changed:
        leaf = changed[0]
        saved, now, name = (saved or {}).get(leaf), now[leaf], f'{name}.{leaf}'
      else:
        continue
    if saved != now:
      found = changes(manifest, config) if name in ('data_fingerprint', 'tokenizer_hash') else []
      found = [change for change in found if change.startswith('data.')]
      if found:  # what makes the data another one
        raise CheckpointError(f'{"; ".join(found)}: would be other data; use the same, or choose a new --workdir')
      raise CheckpointError(
        f'{name} = {now}: the checkpoints of this workdir were made with {saved}; '
        'use the same, or choose a new --workdir'
      )


def changes(manifest: dict, config) -> list[str]:
  """The leaves that a config has otherwise than that of a checkpoint: 'train.steps: 20 -> 40'."""
  if config is None or 'config' not in manifest:  # schema 1
    return []
  before, now = describe.settings(manifest['config']), describe.settings(redacted(describe.to_dict(config)))
  return [
    f'{path}: {validate.show(before.get(path))} -> {validate.show(now.get(path))}'
    for path in sorted(before.keys() | now.keys())
    if before.get(path) != now.get(path)
  ]


def _resuming(step: int, manifest: dict, config) -> str:
  changed = changes(manifest, config)
  return '\n'.join([f'resuming from step {step}', *(f'changed since then: {change}' for change in changed)])


def token_stores(task, data) -> dict[str, str]:
  """{source: fingerprint} of the token stores of a pre-training run, which `lmjax.verify` finds by them."""
  return {} if task.HAND_OFF else {name: store.fingerprint for name, store in data.items()}
