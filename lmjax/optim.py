"""How the weights move: optax, with a learning rate that is a function of the batch number."""

import functools

import jax
import jax.numpy as jnp
import optax

from lmjax import paths
from lmjax.errors import ConfigError
from lmjax.schema.slices import OptimConfig

# All else in the tree of parameters is a head.
BACKBONE = {'embeddings', 'layers', 'final_norm'}
# A pattern for a kind of parameter fits every model, whether it has any or not.
KINDS = ('layers/0/bias', 'layers/0/scale', 'layers/0/embedding')


def learning_rate(config: OptimConfig, total_steps: int):
  """The schedule: batch number (from 0) -> step size."""
  peak, warmup = config.learning_rate, config.warmup_steps
  if config.schedule == 'constant':
    after = optax.constant_schedule(peak)
  elif config.schedule == 'wsd':
    stable = max(total_steps - warmup - config.decay_steps, 0)
    decay = optax.linear_schedule(peak, peak * config.final_rate, config.decay_steps)
    after = optax.join_schedules([optax.constant_schedule(peak), decay], [stable])
  elif config.schedule == 'linear':
    after = optax.linear_schedule(peak, peak * config.final_rate, max(total_steps - warmup, 1))
  else:
    after = optax.cosine_decay_schedule(peak, max(total_steps - warmup, 1), alpha=config.final_rate)
  if not warmup:
    return after
  # the first batch already moves the weights: the rise begins at 1 / warmup, not at 0
  rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
  return optax.join_schedules([rise, after], [warmup])


def make(config: OptimConfig, shapes) -> optax.GradientTransformation:
  """Gradients -> updates for a learning rate of 1; `train` multiplies them by the schedule.

  So the optimizer's state holds no count of its own for the rate, and a skipped batch still counts. State, gradients
  and updates are of the trainable parameters alone, see `split`. The patterns are checked against the `shapes` of all.

  Raises ConfigError: a pattern matches no parameter, no parameter moves, or there is no head for `head_learning_rate`.
  """
  names = paths.flatten(shapes)
  for setting in ('no_decay', 'trainable', 'frozen'):
    known = [*names, *KINDS] if setting == 'no_decay' else names
    for pattern in getattr(config, setting):
      if not any(paths.matches(path, (pattern,)) for path in known):
        raise ConfigError(f'optim.{setting} = {pattern!r}: matches no parameter; remove it or correct it')
  if not any(map(config.is_trainable, names)):
    rule = 'no parameter is left to train'
    raise ConfigError(f'optim.trainable = {config.trainable}: {rule}; change it, or optim.frozen')
  if config.head_learning_rate is not None and set(shapes) <= BACKBONE:
    rule = 'no parameter stands on the backbone'
    raise ConfigError(f'optim.head_learning_rate = {config.head_learning_rate}: {rule}; set it to None')
  return _of_trainable(config)


@functools.lru_cache(maxsize=8)
def _of_trainable(config: OptimConfig) -> optax.GradientTransformation:
  inner = _inner(config)
  return optax.GradientTransformation(
    lambda params: inner.init(split(config, params)[0]),
    lambda grads, state, params: inner.update(grads, state, split(config, params)[0]),
  )


def split(config: OptimConfig, params):
  """(trainable, frozen): two trees like `params`, with None where the other has a parameter."""
  trainable = paths.map_with_path(lambda path, p: p if config.is_trainable(path) else None, params)
  frozen = paths.map_with_path(lambda path, p: None if config.is_trainable(path) else p, params)
  return trainable, frozen


def join(trainable, frozen):
  """The inverse of `split`."""
  return jax.tree.map(lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda x: x is None)


def learning_rate_multipliers(config: OptimConfig, trainable):
  """What each trainable parameter's step size is multiplied by: Python floats in a tree like `trainable`.

  With layer_decay d and L layers, layer i has d ** (L - 1 - i), the embeddings d ** L, all else 1; what stands on the
  backbone has head_learning_rate / learning_rate.
  """
  numbers = (int(path.split('/')[1]) for path in paths.flatten(trainable) if path.startswith('layers/'))
  layers = 1 + max(numbers, default=0)
  decay = 1.0 if config.layer_decay is None else config.layer_decay
  head = 1.0 if config.head_learning_rate is None else config.head_learning_rate / config.learning_rate

  def share(path, _):
    part, _, rest = path.partition('/')
    if part == 'layers':
      return decay ** (layers - 1 - int(rest.split('/')[0]))
    return {'embeddings': decay**layers, 'final_norm': 1.0}.get(part, head)

  return paths.map_with_path(share, trainable)


def _inner(config: OptimConfig):
  """The optimizer itself."""

  def decayed(params):
    return paths.map_with_path(lambda path, _: not paths.matches(path, config.no_decay), params)

  # Adam's second moment stays in float32: with b2 = 0.999 a batch adds less than bfloat16 can hold
  dtype = config.momentum_dtype
  shared = dict(weight_decay=config.weight_decay, mask=decayed, mu_dtype=dtype)
  if config.name == 'adamw':
    return optax.adamw(1.0, config.b1, config.b2, config.eps, **shared)
  if config.name == 'lion':
    return optax.lion(1.0, config.b1, config.b2, **shared)
  if config.name == 'adafactor':
    factored = optax.adafactor(None, momentum=config.momentum, dtype_momentum=dtype)
    return optax.chain(factored, optax.add_decayed_weights(-config.weight_decay, decayed))
  return optax.contrib.muon(
    1.0,
    beta=config.momentum,
    eps=config.eps,
    weight_decay=config.weight_decay,
    weight_decay_mask=decayed,
    mu_dtype=dtype,
    adam_b1=config.b1,
    adam_b2=config.b2,
    # updates as large as Adam's, so that one learning rate serves both (arXiv:2502.16982, section 2.2)
    consistent_rms=0.2,
    muon_weight_dimension_numbers=_hidden_matrices,
  )


def _hidden_matrices(params):
  """Muon takes the kernels of the layers; embeddings, norms and the head get Adam (arXiv:2502.16982)."""

  def numbers(path, p):
    return optax.contrib.MuonDimensionNumbers() if path.startswith('layers/') and p.ndim == 2 else None

  return paths.map_with_path(numbers, params)


def clip(grads, norm: jax.Array, limit: float | None):
  """Scales gradients of global norm `norm` down to `limit`."""
  if limit is None:
    return grads
  scale = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
  return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
