"""The train step: pure functions, and the one jitted program that is made of them.

Legend of arrays: B batch, T length.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from lmjax import metrics, optim, sharding
from lmjax.hosts.preemption import FLAG
from lmjax.training import state as state_lib


def make_gradient(loss, microbatches: int, config: optim.OptimConfig | None = None):
  """`(params, batch, key) -> (gradient, weight_sum, pairs)`: pure.

  The gradient of the parameters that `config` lets move (None: of all) is that of the mean loss a weighted position,
  over the whole batch: sums are accumulated over `microbatches` and all devices, then divided once. So any number of
  them, ragged weights and any mesh give one answer.
  """

  def gradient(params, batch, key):
    trainable, frozen = (params, None) if config is None else optim.split(config, params)

    def summed(trainable, batch, key):
      whole = trainable if config is None else optim.join(trainable, frozen)
      loss_sum, weight_sum, pairs = loss(whole, batch, key)
      return loss_sum, (weight_sum, pairs)

    grads, (weight_sum, pairs) = accumulate(summed, trainable, batch, key, microbatches)
    # a batch without a labelled position would give 0 / 0; its gradient is 0
    return jax.tree.map(lambda g: g / jnp.maximum(weight_sum, 1.0), grads), weight_sum, pairs

  return gradient


def make_train_step(task, tx: optax.GradientTransformation, config: optim.OptimConfig, steps: int, accumulate: int):
  """`(state, batch, key) -> (state, report)`: pure; jit it with shardings, donating the state.

  The key is that of the run's dropout, an argument so that runs of several seeds are one program. A batch whose loss,
  gradient or update is not finite, or in which nothing is labelled, changes nothing but the counters. The schedule is
  that of a run of `steps`; a batch is computed in `accumulate` passes. The same settings give the same function, which
  the runs of a process that share them, as seeds do, trace and compile once.
  """
  return _train_step(task.loss, task.has_dropout, tx, config, steps, accumulate)


@functools.lru_cache(maxsize=8)
def _train_step(loss, has_dropout: bool, tx, config: optim.OptimConfig, steps: int, accumulate: int):
  schedule = optim.learning_rate(config, steps)
  gradient = make_gradient(loss, accumulate, config)

  def train_step(state, batch, key):
    batch = dict(batch)
    stop = {name: batch.pop(name).max() for name in (FLAG,) if name in batch}
    key = jax.random.fold_in(key, state.step) if has_dropout else None
    grads, weight_sum, pairs = gradient(state.params, batch, key)
    grad_norms = metrics.group_norms(grads)
    grad_norm = jnp.sqrt(sum(jnp.square(norm) for norm in grad_norms.values()))
    good = jnp.isfinite(grad_norm) & jnp.isfinite(pairs['loss'][0]) & (weight_sum > 0)
    rate = schedule(state.step)
    clipped = optim.clip(grads, grad_norm, config.clip_norm)
    updates, opt_state = tx.update(clipped, state.opt_state, state.params)
    trainable, frozen = optim.split(config, state.params)
    shares, _ = optim.split(config, optim.learning_rate_multipliers(config, state.params))
    updates = jax.tree.map(lambda u, share: u * (rate * share), updates, shares)
    update_norms, weight_norms = metrics.group_norms(updates), metrics.group_norms(trainable)
    good &= jnp.isfinite(sum(update_norms.values()))
    moved = optax.apply_updates(trainable, updates)
    moved, opt_state = jax.tree.map(
      lambda new, old: jnp.where(good, new, old), (moved, opt_state), (trainable, state.opt_state)
    )
    skipped = jnp.where(good, 0, state.skipped + 1)
    ratios = {group: norm / jnp.maximum(weight_norms[group], 1e-12) for group, norm in update_norms.items()}
    groups = {f'grad_norm/{group}': norm for group, norm in grad_norms.items()}
    groups |= {f'update_ratio/{group}': ratio for group, ratio in ratios.items()}
    report = {'pairs': pairs, 'grad_norm': grad_norm, 'learning_rate': rate, 'skipped': skipped, 'groups': groups}
    return state_lib.TrainState(state.step + 1, optim.join(moved, frozen), opt_state, skipped), report | stop

  return train_step


def dropout_key(seed: int) -> jax.Array:
  """The key that the dropout of every step is folded from."""
  return jax.random.fold_in(jax.random.key(seed), 1)


def accumulate(summed, params, batch, key, microbatches: int):
  """Gradients of a sum of losses, and its other outputs, over the rows of a batch in `microbatches` passes.

  Part p takes the rows p, p + microbatches, ...: so every part is spread over all devices without moving a row.
  """
  gradient = jax.grad(summed, has_aux=True)
  if microbatches == 1:
    return gradient(params, batch, key)
  batch = jax.tree.map(
    lambda a: a.reshape(a.shape[0] // microbatches, microbatches, *a.shape[1:]).swapaxes(0, 1), batch
  )

  def body(total, part):
    number, rows = part
    part_key = None if key is None else jax.random.fold_in(key, number)
    return jax.tree.map(jnp.add, total, gradient(params, rows, part_key)), None

  first = jax.tree.map(lambda a: a[0], batch)
  shapes = jax.eval_shape(gradient, params, first, key)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return jax.lax.scan(body, zeros, (jnp.arange(microbatches), batch))[0]


# Options for the compiler of a platform. TPUs: by default each product with a kernel that FSDP shards is
# a ring of partial products, which are summed in HBM. With plain gathers, which run next to other work, a step of 1.2
# billion parameters on eight v5e chips is estimated to take 0.5 s less (libtpu 0.0.50.1), and compiles in 0.8 times.
COMPILER_OPTIONS: dict[str, dict[str, str | bool]] = {
  'tpu': {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'}
}


def compile_lowered(lowered: jax.stages.Lowered, mesh) -> jax.stages.Compiled:
  """Compiles a lowered step with the options of the mesh's platform; rings stay where tensors are split over chips."""
  platform = mesh.devices.flat[0].platform
  return lowered.compile(COMPILER_OPTIONS.get(platform) if mesh.shape['tensor'] == 1 else None)


def lower(train_step, task, mesh, state) -> jax.stages.Lowered:
  """The train step of a run, lowered for its mesh: what the loop compiles and runs, and a dry run compiles alone.

  `state` may be its shapes with shardings, and the devices of the mesh described ones, that are not here.
  """
  places = jax.tree.map(lambda a: a.sharding, state)
  batch = task.batch_shapes()
  if jax.process_count() > 1:
    batch |= {FLAG: jax.ShapeDtypeStruct((task.data.batch_size,), jnp.int32)}
  step = jax.jit(
    train_step,
    in_shardings=(places, sharding.batch_shardings(batch, mesh), sharding.replicated(mesh)),
    out_shardings=(places, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  key = jax.eval_shape(lambda: dropout_key(0))
  # described TPUs are not the default backend, by whose platform JAX would lower
  platforms = ('tpu',) if mesh.devices.flat[0].platform == 'tpu' else None
  return step.trace(state, batch, key).lower(lowering_platforms=platforms)
