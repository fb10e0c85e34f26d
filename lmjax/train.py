"""Wiring and the loop. Legend of arrays: B batch, T length."""

import dataclasses
import json
import math
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lmjax import checkpoint, config as config_lib, evaluate, metrics, optim, schema, sharding, state as state_lib, tasks
from lmjax import writer as writer_lib
from lmjax.data import pipeline, store as store_lib
from lmjax.errors import CheckpointError, NonFiniteError


def make_train_step(task, tx: optax.GradientTransformation, config):
  """`(state, batch) -> (state, metrics)`: pure; jit it with shardings, donating the state.

  The gradient is that of the mean loss a weighted position, over the whole batch: sums are accumulated over
  `train.accumulate` parts and all devices, then divided once. A batch whose loss or gradient is not finite
  changes nothing but the counters.
  """
  schedule = optim.learning_rate(config.optim, config.train.steps)
  root = jax.random.fold_in(jax.random.key(config.seed), 1)
  with_dropout = any((config.model.embedding_dropout, config.model.attention_dropout, config.model.residual_dropout))

  def summed(params, batch, key):
    loss_sum, weight_sum, pairs = task.loss(params, batch, key)
    return loss_sum, (weight_sum, pairs)

  def train_step(state, batch):
    key = jax.random.fold_in(root, state.step) if with_dropout else None
    grads, (weight_sum, pairs) = accumulate(summed, state.params, batch, key, config.train.accumulate)
    # a batch without a labelled position gives 0 / 0; its gradient is 0, and the step counts as skipped
    grads = jax.tree.map(lambda g: g / jnp.maximum(weight_sum, 1.0), grads)
    grad_norms = metrics.group_norms(grads)
    grad_norm = jnp.sqrt(sum(jnp.square(norm) for norm in grad_norms.values()))
    good = jnp.isfinite(grad_norm) & jnp.isfinite(pairs['loss'][0]) & (weight_sum > 0)
    clipped = optim.clip(grads, grad_norm, config.optim.clip_norm)
    updates, opt_state = tx.update(clipped, state.opt_state, state.params)
    rate = schedule(state.step)
    updates = jax.tree.map(lambda u: u * rate, updates)
    params = optax.apply_updates(state.params, updates)
    keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)  # noqa: E731
    new_state = state_lib.TrainState(
      step=state.step + 1,
      params=keep(params, state.params),
      opt_state=keep(opt_state, state.opt_state),
      skipped=jnp.where(good, 0, state.skipped + 1),
    )
    update_norms, weight_norms = metrics.group_norms(updates), metrics.group_norms(state.params)
    report = {
      'pairs': pairs,
      'grad_norm': grad_norm,
      'learning_rate': rate,
      'skipped': new_state.skipped,
      'groups': {
        **{f'grad_norm/{group}': norm for group, norm in grad_norms.items()},
        **{f'update_ratio/{g}': norm / jnp.maximum(weight_norms[g], 1e-12) for g, norm in update_norms.items()},
      },
    }
    return new_state, report

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


def due(config, step: int) -> set[str]:
  """What happens once `step` batches are done: of log, evaluate, save."""
  last = step == config.train.steps
  every = {'log': config.train.log_every, 'evaluate': config.eval.every, 'save': config.checkpoint.every}
  return {name for name, n in every.items() if last or step % n == 0}


@dataclasses.dataclass
class Run:
  """What the loop works with; `set_up` makes it."""

  config: config_lib.Config
  workdir: str
  mesh: jax.sharding.Mesh
  task: object
  stores: dict
  pipeline: pipeline.Pipeline
  evaluator: evaluate.Evaluator
  checkpoints: checkpoint.Checkpoints
  facts: dict
  state: state_lib.TrainState
  start: int
  say: object


def train(config, workdir: str, say=None) -> dict:
  """Trains, or goes on where the newest checkpoint in `workdir` stands.

  Args:
    config: a config file's ConfigDict, or a Config.
    workdir: folder of the run, made if it is not there.
    say: called with each line for people; default: print, on the first host.

  Returns:
    what WORKDIR/results.json holds.

  Raises:
    ConfigError, DataError, CheckpointError, NonFiniteError: see lmjax.errors.
  """
  config = config_lib.build(config, devices=jax.device_count())
  if say is None:
    say = _print if jax.process_index() == 0 else lambda line: None
  with sharding.using(sharding.make_mesh(config.mesh)):
    run = set_up(config, workdir, say)
    try:
      return _loop(run)
    finally:
      run.checkpoints.close()


def set_up(config, workdir: str, say) -> Run:
  """Everything before the first step: data, model, state (new or restored), the files that describe the run."""
  mesh = sharding.make_mesh(config.mesh)
  tokenizer, stores = prepare_data(config, progress=True)
  task = tasks.build(config, tokenizer)
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
  os.makedirs(workdir, exist_ok=True)
  tx = optim.make(config.optim)
  facts = {
    'task': config.task,
    'model': schema.to_dict(config.model),
    'objective': schema.to_dict(config.objective),
    'tokenizer_hash': tokenizer.hash,
    'data_fingerprint': data.fingerprint,
    'batch_size': config.data.batch_size,
    'seed': config.seed,
  }
  checkpoints = checkpoint.Checkpoints(workdir, config.checkpoint, task.BEST)
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
    tokenizer.save(os.path.join(workdir, 'tokenizer.json'))
  say(banner(config, workdir, mesh, task, state, stores))
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
  tx = optim.make(run.config.optim)
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
  writer = writer_lib.Writer(run.workdir, config.writer, run.start, os.path.basename(run.workdir)) if first_host else None
  reporter = Reporter(run, writer)
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
      todo = due(config, step)
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
  if values is None:
    values = _evaluate(run, writer, total)
  run.checkpoints.wait()
  results = {
    'status': 'done',
    'step': total,
    'metrics': {**{f'valid/{k}': v for k, v in values.items()}, **reporter.last_train},
    'hand_off': None,
    'seconds': round(reporter.seconds, 1),
    'parameters': _count(run.state.params),
  }
  if writer:
    writer.plot(run.task.MAIN_METRIC)
    writer.close()
    writer_lib.write_json(os.path.join(run.workdir, 'results.json'), results)
  run.say(farewell(run, results))
  return results


def _evaluate(run, writer, step) -> dict[str, float]:
  """Evaluates, writes the line, samples and curves."""
  began = time.perf_counter()
  values = run.evaluator(run.state.params)
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run.config.seed), 2), step)
  shown = run.task.samples(run.state.params, run.stores, key)
  if writer:
    seconds = time.perf_counter() - began
    writer.write(step, 'valid', {**values, 'seconds': round(seconds, 3)})
    writer.write_samples(step, shown)
    writer.plot(run.task.MAIN_METRIC)
  text = ' | '.join(f'{name} {_number(value)}' for name, value in values.items())
  run.say(f'step {step}/{run.config.train.steps} | valid | {text}')
  return values


class Reporter:
  """Turns a step's report into a line for people and a line of metrics.jsonl, and keeps the time."""

  def __init__(self, run: Run, writer):
    self._run, self._writer = run, writer
    self.seconds = 0.0  # in training steps alone: no compiling, evaluating or saving
    self.last_train = {}
    self._since, self._done, self._window = None, 0, (0.0, run.start)
    config = run.config
    self._tokens = config.data.batch_size * config.data.length
    self._flops = step_flops(config, run.task)
    peak = metrics.peak_flops(jax.devices()[0])
    self._peak = None if peak is None else peak * run.mesh.size

  def start_clock(self):
    """Training goes on."""
    self._since = time.perf_counter()

  def stop_clock(self):
    """Something else than training begins."""
    self.seconds += time.perf_counter() - self._since
    self._since = None

  def _elapsed(self):
    return self.seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

  def log(self, step: int, report) -> None:
    """Reads the report of `step` (waiting for it), checks it, and writes it if its turn has come.

    Raises:
      NonFiniteError: too many batches in a row were skipped.
    """
    config = self._run.config
    skipped = int(report['skipped'])
    if skipped:
      loss = metrics.means(jax.device_get(report['pairs']))['loss']
      rows = ', '.join(f'{name} epoch {epoch} row {row}' for name, epoch, row in self._run.pipeline.rows(step - 1)[:4])
      self._run.say(
        f'step {step} skipped: loss {loss}, grad_norm {float(report["grad_norm"])}; '
        f'{skipped} of at most {config.train.max_skipped} in a row; its first rows: {rows}'
      )
      if skipped >= config.train.max_skipped:
        raise NonFiniteError(
          f'{skipped} batches in a row without a finite loss and gradient, up to step {step}: '
          'lower optim.learning_rate or optim.clip_norm, or go on from an earlier checkpoint'
        )
    if 'log' not in due(config, step):
      return
    report = jax.device_get(report)
    elapsed = self._elapsed()
    window_seconds, window_step = self._window
    rate = (step - window_step) / max(elapsed - window_seconds, 1e-9)
    self._window = (elapsed, step)
    values = metrics.derive(metrics.means(report['pairs']))
    values |= {'grad_norm': float(report['grad_norm']), 'learning_rate': float(report['learning_rate'])}
    values |= {name: float(value) for name, value in report['groups'].items()}
    values['tokens_per_second'] = rate * self._tokens
    if self._peak is not None:
      values['mfu'] = rate * self._flops / self._peak
    values['seconds'] = round(elapsed, 3)
    names = ('loss', 'grad_norm', 'learning_rate')
    shown = [f'{name} {_number(values[name])}' for name in names]
    shown.append(f'{values["tokens_per_second"]:,.0f} tokens/s')
    shown += [f'mfu {values["mfu"]:.3f}'] if 'mfu' in values else []
    shown.append(f'eta {_duration((config.train.steps - step) / rate)}')
    self._run.say(f'step {step}/{config.train.steps} | train | ' + ' | '.join(shown))
    self.last_train = {f'train/{name}': values[name] for name in ('loss', 'tokens_per_second')}
    if self._writer:
      self._writer.write(step, 'train', values)


def step_flops(config, task) -> float:
  """FLOPs of one training step."""
  return metrics.train_flops(
    config.model, task.model.backbone.rows, config.data.batch_size, config.data.length, task.predicted
  )


def banner(config, workdir, mesh, task, state, stores) -> str:
  """What a person wants to know before the first step."""
  m, d = config.model, config.data
  kind = f'{jax.devices()[0].device_kind} ({jax.default_backend()})'
  shape = ', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())
  text = [f'{name}: {len(s.train.lengths):,} documents, {int(s.train.lengths.sum()):,} tokens' for name, s in stores.items()]
  rows = [
    ('task', f'{config.task}, seed {config.seed}'),
    ('model', f'{m.attention}, {m.layers} layers, width {m.width}, {m.heads} heads, {m.dtype}'),
    ('parameters', f'{_count(state.params):,}, vocabulary {task.model.backbone.vocab_size:,}'),
    ('text', '; '.join(text)),
    ('batch', f'{d.batch_size} rows x {d.length} = {d.batch_size * d.length:,} tokens a step, {config.train.steps:,} steps'),
    ('devices', f'{mesh.size} x {kind}; mesh {shape}; {jax.process_count()} host(s)'),
    ('FLOPs a step', f'{step_flops(config, task):.3e} ({metrics.FLOPS_COUNT})'),
    ('workdir', os.path.abspath(workdir)),
  ]
  return '\n'.join(f'{name:>13}  {text}' for name, text in rows)


def farewell(run: Run, results: dict) -> str:
  """Where everything is, and what to run next."""
  main = run.task.MAIN_METRIC
  found = results['metrics']
  baseline = {'bits_per_byte': 'gzip_bits_per_byte', 'accuracy': 'majority_accuracy'}[main]
  return '\n'.join([
    f'done: step {results["step"]}, valid loss {_number(found["valid/loss"])}, '
    f'{main} {_number(found[f"valid/{main}"])} ({baseline} {_number(found[f"valid/{baseline}"])})',
    f'metrics, curves and samples: {os.path.join(run.workdir, "")}'
    '{results.json, metrics.jsonl, curves.png, samples.md}',
    f'look inside: python -m lmjax.inspect --workdir={run.workdir}',
  ])


def _count(params):
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def _number(value):
  if not isinstance(value, float) or math.isnan(value):
    return str(value)
  return f'{value:.4g}' if abs(value) < 1e-3 or abs(value) >= 1e5 else f'{value:.4f}'


def _duration(seconds):
  seconds = int(seconds)
  return f'{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}'


def _print(line):
  print(line, flush=True, file=sys.stdout)


def load_results(workdir: str) -> dict:
  """WORKDIR/results.json."""
  with open(os.path.join(workdir, 'results.json'), encoding='utf-8') as file:
    return json.load(file)
