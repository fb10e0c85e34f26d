"""Wiring and the loop. Legend of arrays: B batch, T length."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmjax import checkpoint, evaluate, metrics, optim, schema, sharding, tasks
from lmjax import config as config_lib
from lmjax import report as report_lib
from lmjax import state as state_lib
from lmjax import writer as writer_lib
from lmjax.data import pipeline
from lmjax.data import store as store_lib
from lmjax.errors import CheckpointError, ConfigError


def make_gradient(task, parts: int):
  """`(params, batch, key) -> (gradient, weight_sum, pairs)`: pure.

  The gradient is that of the mean loss a weighted position, over the whole batch: sums are accumulated over `parts`
  and all devices, then divided once. So parts, ragged weights and meshes give one answer.
  """

  def summed(params, batch, key):
    loss_sum, weight_sum, pairs = task.loss(params, batch, key)
    return loss_sum, (weight_sum, pairs)

  def gradient(params, batch, key):
    grads, (weight_sum, pairs) = accumulate(summed, params, batch, key, parts)
    # a batch without a labelled position would give 0 / 0; its gradient is 0
    return jax.tree.map(lambda g: g / jnp.maximum(weight_sum, 1.0), grads), weight_sum, pairs

  return gradient


def make_train_step(task, tx: optax.GradientTransformation, config):
  """`(state, batch) -> (state, report)`: pure; jit it with shardings, donating the state.

  A batch whose loss or gradient is not finite, or in which nothing is labelled, changes nothing but the counters.
  """
  schedule = optim.learning_rate(config.optim, config.train.steps)
  gradient = make_gradient(task, config.train.accumulate)

  def train_step(state, batch):
    key = None
    if config.model.has_dropout:
      key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 1), state.step)
    grads, weight_sum, pairs = gradient(state.params, batch, key)
    grad_norms = metrics.group_norms(grads)
    grad_norm = jnp.sqrt(sum(jnp.square(norm) for norm in grad_norms.values()))
    good = jnp.isfinite(grad_norm) & jnp.isfinite(pairs['loss'][0]) & (weight_sum > 0)
    rate = schedule(state.step)
    clipped = optim.clip(grads, grad_norm, config.optim.clip_norm)
    updates, opt_state = tx.update(clipped, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: u * rate, updates)
    moved = optax.apply_updates(state.params, updates)
    params, opt_state = jax.tree.map(
      lambda new, old: jnp.where(good, new, old), (moved, opt_state), (state.params, state.opt_state)
    )
    skipped = jnp.where(good, 0, state.skipped + 1)
    update_norms, weight_norms = metrics.group_norms(updates), metrics.group_norms(state.params)
    ratios = {group: norm / jnp.maximum(weight_norms[group], 1e-12) for group, norm in update_norms.items()}
    report = {
      'pairs': pairs,
      'grad_norm': grad_norm,
      'learning_rate': rate,
      'skipped': skipped,
      'groups': {
        **{f'grad_norm/{group}': norm for group, norm in grad_norms.items()},
        **{f'update_ratio/{group}': ratio for group, ratio in ratios.items()},
      },
    }
    return state_lib.TrainState(state.step + 1, params, opt_state, skipped), report

  return train_step


def accumulate(summed, params, batch, key, parts: int):
  """Gradients of a sum of losses, and its other outputs, over the rows of a batch in `parts` passes.

  Part p takes the rows p, p + parts, ...: so every part is spread over all devices without moving a row.
  """
  gradient = jax.grad(summed, has_aux=True)
  if parts == 1:
    return gradient(params, batch, key)
  batch = jax.tree.map(lambda a: a.reshape(a.shape[0] // parts, parts, *a.shape[1:]).swapaxes(0, 1), batch)

  def body(total, part):
    number, rows = part
    part_key = None if key is None else jax.random.fold_in(key, number)
    return jax.tree.map(jnp.add, total, gradient(params, rows, part_key)), None

  first = jax.tree.map(lambda a: a[0], batch)
  shapes = jax.eval_shape(gradient, params, first, key)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return jax.lax.scan(body, zeros, (jnp.arange(parts), batch))[0]


def prepare_data(config, *, progress=False):
  """Tokenizer and token stores of a run: (Tokenizer, {source name: TokenStore})."""
  d = config.data
  settings = dict(valid_fraction=d.valid_fraction, bad_text=d.bad_text, cache_dir=os.path.expanduser(d.cache_dir))
  tokenizer = store_lib.prepare_tokenizer(d.tokenizer, d.sources, **settings)
  stores = {
    name: store_lib.open_or_build(name, source, tokenizer, progress=progress, **settings)
    for name, source in d.sources.items()
  }
  return tokenizer, stores


@dataclasses.dataclass
class Run:
  """What the loop works with; `set_up` makes it."""

  config: config_lib.Config
  workdir: str
  mesh: jax.sharding.Mesh
  task: Any
  stores: dict
  pipeline: pipeline.Pipeline
  evaluator: evaluate.Evaluator
  checkpoints: checkpoint.Checkpoints
  facts: dict
  state: state_lib.TrainState
  start: int
  say: Callable[[str], None]


def train(config, workdir: str, say=None, devices=None) -> dict:
  """Trains, or goes on where the newest checkpoint in `workdir` stands.

  Args:
    config: a config file's ConfigDict, or a Config.
    workdir: folder of the run, made if it is not there.
    say: called with each line for people; default: print, on the first host.
    devices: what it runs on; default: every device of every host.

  Returns:
    what WORKDIR/results.json holds.

  Raises:
    ConfigError, DataError, CheckpointError, NonFiniteError: see lmjax.errors.
  """
  devices = jax.devices() if devices is None else devices
  config = config_lib.build(config, devices=len(devices))
  if say is None:
    say = _say if jax.process_index() == 0 else lambda line: None
  mesh = sharding.make_mesh(config.mesh, devices)
  if os.path.exists(workdir) and not os.path.isdir(workdir):
    raise ConfigError(f'--workdir = {workdir}: is a file; name a folder')
  with sharding.using(mesh):
    tokenizer, stores = prepare_data(config, progress=True)
    task = tasks.build(config, tokenizer)
    try:
      os.makedirs(workdir, exist_ok=True)
    except OSError as error:
      raise ConfigError(f'--workdir = {workdir}: cannot be made ({error.strerror}); name another folder') from error
    with contextlib.closing(checkpoint.Checkpoints(workdir, config.checkpoint, task.BEST)) as checkpoints:
      return _loop(set_up(config, workdir, mesh, task, stores, checkpoints, say))


def set_up(config, workdir: str, mesh, task, stores, checkpoints, say) -> Run:
  """Everything before the first step: batches, state (new or restored), the files that describe the run."""
  data = pipeline.make(
    config.data,
    stores,
    task.row_spec(),
    task.example,
    seed=config.seed,
    total_steps=config.train.steps,
    hosts=jax.process_count(),
    host=jax.process_index(),
  )
  tx = optim.make(config.optim, task.shapes())
  facts = {
    'task': config.task,
    'model': schema.to_dict(config.model),
    'objective': schema.to_dict(config.objective),
    'tokenizer_hash': task.tokenizer.hash,
    'data_fingerprint': data.fingerprint,
    'batch_size': config.data.batch_size,
    'seed': config.seed,
  }
  abstract = state_lib.abstract_state(task, tx, mesh)
  restored = checkpoints.restore_latest(abstract, lambda manifest: check_same_run(manifest, facts), say)
  state, start = (restored[0], int(restored[1]['step'])) if restored else (None, 0)
  if start > config.train.steps:
    raise CheckpointError(
      f'train.steps = {config.train.steps}: {workdir} is at step {start} already; raise it, or choose a new --workdir'
    )
  if state is None:
    state = state_lib.init_state(task, tx, mesh, config.seed)
  if jax.process_index() == 0:
    writer_lib.write_json(os.path.join(workdir, 'config.json'), schema.to_dict(config))
    task.tokenizer.save(os.path.join(workdir, 'tokenizer.json'))
  say(report_lib.banner(config, workdir, mesh, task, state, stores))
  say(f'resuming from step {start}' if restored else 'starting from random weights')
  evaluator = evaluate.Evaluator(config, task, stores, mesh)
  return Run(config, workdir, mesh, task, stores, data, evaluator, checkpoints, facts, state, start, say)


def check_same_run(manifest: dict, facts: dict) -> None:
  """Refuses a checkpoint of another run: going on with other data or another model would be silently wrong.

  Raises:
    CheckpointError: naming both values.
  """
  free = {'scan', 'remat', 'attention_implementation', 'chunk'}  # how it is computed, not what
  for name in ('task', 'tokenizer_hash', 'batch_size', 'seed', 'model', 'objective', 'data_fingerprint'):
    saved, now = manifest.get(name), facts[name]
    if isinstance(now, dict):
      changed = [k for k in now if k not in free and (saved or {}).get(k) != now[k]]
      if changed:
        leaf = changed[0]
        saved, now, name = (saved or {}).get(leaf), now[leaf], f'{name}.{leaf}'
      else:
        continue
    if saved != now:
      raise CheckpointError(
        f'{name} = {now}: the checkpoints of this workdir were made with {saved}; '
        'use the same, or choose a new --workdir'
      )


def compile_step(run: Run):
  """The train step compiled for this run's shapes; any other shape is an error, not a silent recompilation."""
  tx = optim.make(run.config.optim, run.task.shapes())
  places = state_lib.state_shardings(run.task, tx, run.mesh)
  rows = run.config.data.batch_size
  local = run.pipeline.batch(run.start)
  shapes = {name: jax.ShapeDtypeStruct((rows, *a.shape[1:]), a.dtype) for name, a in local.items()}
  step = jax.jit(
    make_train_step(run.task, tx, run.config),
    in_shardings=(places, sharding.batch_shardings(shapes, run.mesh)),
    out_shardings=(places, sharding.replicated(run.mesh)),
    donate_argnums=0,
  )
  began = time.perf_counter()
  compiled = step.lower(run.state, shapes).compile()
  run.say(f'compiling ... done in {time.perf_counter() - began:.1f} s')
  return compiled


def _loop(run: Run) -> dict:
  """Dispatches step i, then reads and writes the metrics of step i - 1."""
  config, total, first_host = run.config, run.config.train.steps, jax.process_index() == 0
  writer = (
    writer_lib.Writer(run.workdir, config.writer, run.start, os.path.basename(run.workdir)) if first_host else None
  )
  reporter = report_lib.Reporter(run, writer)
  # several CPU devices: with more than one sharded program in flight XLA's rendezvous can deadlock
  wait_each_step = jax.default_backend() == 'cpu' and run.mesh.size > 1
  values = None
  if run.start < total:
    step_fn = compile_step(run)
    if run.start == 0:
      values = _evaluate(run, writer, 0)
    batches = run.pipeline.iterate(run.start)
    reporter.start_clock()
    pending = None
    for step in range(run.start + 1, total + 1):
      batch = sharding.shard_batch(next(batches), run.mesh)
      run.state, report = step_fn(run.state, batch)
      if wait_each_step:
        jax.block_until_ready(report)
      if pending is not None:
        reporter.log(*pending)
      pending = (step, report)
      todo = config.due(step)
      if todo & {'evaluate', 'save'}:
        reporter.log(*pending)
        pending = None
        reporter.stop_clock()
        values = _evaluate(run, writer, step) if 'evaluate' in todo else None
        if 'save' in todo:
          if writer:
            writer.sync()
          best = None if values is None else {run.task.BEST: values[run.task.BEST]}
          run.checkpoints.save(step, run.state, run.facts, best)
        reporter.start_clock()
  run.checkpoints.wait()
  if values is None:  # the run had ended before: its last lines say how
    values = writer_lib.last_values(run.workdir, 'valid')
  results = {
    'status': 'done',
    'step': total,
    'metrics': {f'valid/{k}': v for k, v in values.items()} | {f'train/{k}': v for k, v in reporter.last.items()},
    'hand_off': None,
    'seconds': reporter.last['seconds'],
    'parameters': metrics.count(run.state.params),
  }
  if writer:
    writer.plot(run.task.MAIN_METRIC)
    writer.close()
    writer_lib.write_json(os.path.join(run.workdir, 'results.json'), results)
  run.say(report_lib.farewell(run, results))
  return results


def _evaluate(run, writer, step) -> dict[str, float]:
  """Evaluates, writes the line, samples and curves."""
  began = time.perf_counter()
  values = run.evaluator(run.state.params)
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run.config.seed), 2), step)
  shown = run.task.samples(run.state.params, run.stores, key)
  text = ' | '.join(f'{name} {report_lib.number(value)}' for name, value in values.items())
  run.say(f'step {step}/{run.config.train.steps} | valid | {text}')
  values['seconds'] = round(time.perf_counter() - began, 3)
  if writer:
    writer.write(step, 'valid', values)
    writer.write_samples(step, shown)
    writer.plot(run.task.MAIN_METRIC)
  return values


def _say(line):
  print(line, flush=True)
