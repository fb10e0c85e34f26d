"""Wiring and the loop. Legend of arrays: B batch, T length."""

import contextlib
import dataclasses
import json
import math
import os
import time
from typing import Any

import jax
import numpy as np

from lmjax import config as config_lib
from lmjax import metrics, profile, sharding, tasks
from lmjax.checkpoint import checkpoints as checkpoint
from lmjax.checkpoint import locate
from lmjax.checkpoint.locate import evaluated
from lmjax.checkpoint.manifest import read_manifest
from lmjax.console import tell
from lmjax.errors import CheckpointError, ConfigError, LmjaxError, Stopped, reason
from lmjax.hosts import collectives, preemption, watchdog
from lmjax.schema import describe, validate
from lmjax.training import initialize
from lmjax.training import progress as report_lib
from lmjax.training import run as run_lib
from lmjax.training import state as state_lib
from lmjax.training import step as step_lib
from lmjax.training.run import Run
from lmjax.workdir import files as workdir_files
from lmjax.workdir import lock, upload
from lmjax.workdir import metric_writer as writer_lib


def train(config, workdir: str, say=None, devices=None) -> dict:
  """Trains, or goes on where the newest checkpoint in `workdir` stands.

  Args:
    config: a config file's ConfigDict, or a Config.
    workdir: folder of the run, local or `gs://`, made if it is not there.
    say: called with each line for people; default: print, on the first host.
    devices: what it runs on; default: every device of every host.

  Returns:
    what WORKDIR/results.json holds.

  Raises:
    ConfigError, DataError, CheckpointError, NonFiniteError, Stalled, Stopped: see lmjax.errors.
  """
  devices = jax.devices() if devices is None else devices
  config = config_lib.build(config, devices=len(devices))
  if say is None:
    say = tell if jax.process_index() == 0 else lambda line: None
  workdir = os.path.expanduser(workdir)
  _check_folder(workdir, config.train.seeds)
  try:
    if config.train.seeds > 1:
      return _train_seeds(config, workdir, say, devices)
    mesh = sharding.make_mesh(config.mesh, devices)
    with watchdog.watching(config.hosts) as watch, sharding.using(mesh):
      return _train_one(config, workdir, mesh, say, watch)
  except OSError as error:  # a full disk, above all; what reads data tells its own
    what = f'{error.filename or workdir}: cannot be written or read ({error.strerror or reason(error)})'
    raise CheckpointError(f'{what}; mend that, and the same command goes on from the newest checkpoint') from error


def _train_one(config, workdir: str, mesh, say, watch) -> dict:
  """One run, from what it needs to its results."""
  source, tokenizer = initialize.source_of(config)
  config, task, data = tasks.prepare(config, tokenizer, progress=True)
  if source is not None:
    initialize.plan_of(config, task, source)  # refused before a folder is made
  folder = locate.absolute(workdir)
  made = [] if '://' in workdir else [path for path in (folder, *folder.parents) if not path.exists()]
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(f'--workdir = {workdir}: cannot be made ({error.strerror}); name another folder') from error
  run = None

  def leave_nothing(kind, error, traceback) -> None:
    if isinstance(error, LmjaxError) and run is None and made:
      made[0].rmtree()  # nothing was begun: a mistake leaves nothing behind
      with contextlib.suppress(OSError):  # of the folders above, one that another run uses by now
        for above in made[1:]:
          os.rmdir(above)

  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0 and '://' not in workdir:
      stack.enter_context(lock.holding(workdir, say))
      stack.push(leave_nothing)  # under the lock: another run may have made the same folder
      workdir_files.clear_temporary(workdir)
    collectives.check_shared(folder)
    kept = checkpoint.Checkpoints(workdir, config.checkpoint, task.BEST, task.HIGHEST)
    checkpoints = stack.enter_context(contextlib.closing(kept))
    files = stack.enter_context(upload.Staging(workdir))
    run = run_lib.set_up(config, workdir, files, mesh, task, data, checkpoints, source, say, watch)
    return _loop(run)


def _check_folder(workdir: str, seeds: int) -> None:
  """Refuses a folder that cannot hold this run: results.json would be that of two."""
  folder = locate.reach('--workdir', workdir)
  held = folder / 'checkpoints'
  for above in (folder, *folder.parents) if '://' not in workdir else (folder,):
    if above.exists() and not above.is_dir():
      what = 'is a file' if above == folder else f'{above} is a file'
      raise ConfigError(f'--workdir = {workdir}: {what}; name a folder')
  if held.exists() and not held.is_dir():
    raise ConfigError(f'--workdir = {workdir}: its checkpoints is a file; choose another')
  if seeds > 1 and held.is_dir():
    raise ConfigError(validate.line('train.seeds', str(seeds), f'{workdir} holds one run', 'choose a new --workdir'))
  if seeds == 1 and (folder / 'seed0').is_dir():
    rule = f'{workdir} holds the runs of several seeds'
    raise ConfigError(validate.line('train.seeds', '1', rule, 'choose a new --workdir'))


def _train_seeds(config, workdir, say, devices) -> dict:
  """One run a seed, each in its own folder, and the mean and standard deviation of their results above them."""
  runs = []
  for i in range(config.train.seeds):
    one = dataclasses.replace(config, seed=config.seed + i, train=dataclasses.replace(config.train, seeds=1))
    say(f'seed {i + 1} of {config.train.seeds}: {one.seed}')
    runs.append(train(one, os.path.join(workdir, f'seed{i}'), say, devices))
  names = [name for name in runs[0]['metrics'] if all(run['metrics'].get(name) is not None for run in runs)]
  values = {name: np.array([run['metrics'][name] for run in runs], np.float64) for name in names}
  results = {
    'status': 'done',
    'step': runs[0]['step'],
    'metrics': {name: float(v.mean()) for name, v in values.items()},
    'standard_deviation': {name: float(v.std(ddof=1)) for name, v in values.items()},
    'seeds': [config.seed + i for i in range(config.train.seeds)],
    'hand_off': runs[0]['hand_off'],
    'main_metric': runs[0]['main_metric'],
  }
  if jax.process_index() == 0:
    with upload.Staging(workdir) as files:
      workdir_files.write_json(os.path.join(files.folder, 'results.json'), results)
  main = runs[0]['main_metric']
  for split in ('valid', 'test'):
    if f'{split}/{main}' in values:
      mean, deviation = results['metrics'][f'{split}/{main}'], results['standard_deviation'][f'{split}/{main}']
      text = f'{report_lib.number(mean)}, standard deviation {report_lib.number(deviation)}'
      say(f'{config.train.seeds} seeds: {split} {main} {text}')
  return results


def compile_step(run: Run):
  """The train step compiled for this run's shapes; any other shape is an error, not a silent recompilation."""
  began = time.perf_counter()
  with run.clock('compile'):
    compiled = step_lib.lower(run.config, run.task, run.tx, run.mesh, run.state).compile()
  run.say(f'compiling ... done in {time.perf_counter() - began:.1f} s')
  return compiled


def _loop(run: Run) -> dict:
  """The files that describe the run, its steps, its results."""
  config, total, first_host = run.config, run.config.train.steps, jax.process_index() == 0
  results = _ended_before(run)
  if results is not None:
    run.say(report_lib.farewell(run, results))
    return results
  if first_host:
    workdir_files.write_json(os.path.join(run.files.folder, 'config.json'), describe.to_dict(config))
    run.task.tokenizer.save(os.path.join(run.files.folder, 'tokenizer.json'))
  with contextlib.ExitStack() as stack:
    writer = None
    if first_host:
      writer = writer_lib.Writer(run.files.folder, config.writer, run.kept, os.path.basename(run.workdir))
      stack.callback(writer.close)
    reporter = report_lib.Reporter(run, writer)
    step_fn = compile_step(run) if run.start < total and not _has_patience_ended(run) else None
    _evaluate_start(run, writer)
    done = run.start
    with preemption.listening() as run.stop:
      if step_fn is not None and not _has_patience_ended(run):
        done = _steps(run, writer, reporter, step_fn)
      with run.clock('checkpoint'):
        run.checkpoints.wait()
      try:
        results = _finish(run, writer, reporter, done)
      except preemption.Interrupted:
        raise _stopped(run, writer, done) from None
  run.say(report_lib.farewell(run, results))
  return results


def _evaluate_start(run: Run, writer) -> None:
  """The evaluation before the first step; or that of the step where a run goes on, if it was stopped in the middle."""
  total, start = run.config.train.steps, run.start
  if start in run.history or not (start == 0 or 'evaluate' in run.config.due(start)):
    return
  values = _evaluate(run, writer, start)
  if start:
    run.checkpoints.rank(start, values)
  elif total == 0 and not locate.saved_steps(run.checkpoints.directory):
    _save(run, writer, 0, values)


def _steps(run: Run, writer, reporter, step_fn) -> int:
  """All training steps from `run.start` on: dispatches step i, then reads and writes the metrics of step i - 1.

  Returns:
    the last step.

  Raises:
    Stopped: it was asked to, and has saved.
  """
  config, done = run.config, run.start
  # several CPU devices: with more than one sharded program in flight XLA's rendezvous can deadlock
  wait_each_step = jax.default_backend() == 'cpu' and run.mesh.size > 1
  key = jax.device_put(step_lib.dropout_key(config), sharding.replicated(run.mesh))
  batches = run.pipeline.iterate(run.start)
  tracer, pending, compiled = profile.Tracer(config.profile, run.files.folder), None, None
  with contextlib.closing(tracer):
    reporter.start_clock()
    for step in range(run.start + 1, config.train.steps + 1):
      with run.clock('input'):
        batch = sharding.shard_batch(next(batches), run.mesh)
      with tracer.step(step):
        run.state, report = step_fn(run.state, batch, key)
      run.watch.beat(f'step {step}')
      if wait_each_step:
        jax.block_until_ready(report)
      if tracer.ended(step, report):
        traced = os.path.join(run.workdir, 'profile')
        run.say(f'step {step}: trace in {traced}; look at it with xprof --logdir={traced}')
      if pending is not None:
        reporter.log(*pending)
      pending, done = (step, report), step
      _tell_compilations(run, step, compiled)
      run.checkpoints.poll()
      stopping = run.stop.asked()
      todo = {'save'} if stopping else config.due(step)
      if todo & {'evaluate', 'save'}:
        reporter.log(*pending)
        pending = None
        reporter.stop_clock()
        try:
          values = _evaluate(run, writer, step) if 'evaluate' in todo else None
        except preemption.Interrupted:
          stopping = True
        if stopping:
          raise _stopped(run, writer, step)
        ended = values is not None and _has_patience_ended(run)
        if ended or 'save' in todo:
          _save(run, writer, step, values)
        if ended:
          run.say(f'step {step}: no better {run.task.BEST} in {config.eval.patience} evaluations; training ends')
          break
        reporter.start_clock()
      compiled = profile.compilations()
  return done


def _tell_compilations(run: Run, step: int, before: int | None) -> None:
  """A step is compiled once, for one shape: what is compiled between two steps is a mistake that costs time."""
  new = 0 if before is None else profile.compilations() - before
  if new:
    run.recompiled += new
    run.say(f'step {step}: {new} programs were compiled in the middle of training ({run.recompiled} so far)')


def _stopped(run: Run, writer, step: int) -> Stopped:
  """Saves what is not saved yet, without an evaluation: that is made when the run goes on."""
  if step not in locate.saved_steps(run.checkpoints.directory):
    _save(run, writer, step, None)
  run.checkpoints.wait()
  run.stop.agree()
  return Stopped(f'{run.stop.signal}: saved at step {step}; the same command again goes on from there')


def _ended_before(run: Run) -> dict | None:
  """The results of a run that was started again after its end, or None."""
  file = os.path.join(run.files.folder, 'results.json')
  if run.start < run.config.train.steps and not _has_patience_ended(run) or not os.path.exists(file):
    return None
  try:
    with open(file, encoding='utf-8') as opened:
      results = json.load(opened)
    with open(os.path.join(run.files.folder, 'config.json'), encoding='utf-8') as opened:
      before = json.load(opened)['optim']
    if results['step'] != run.start:
      return None  # it was made longer since
  except (OSError, ValueError, KeyError, TypeError):
    return None  # damaged: both are made again, from the checkpoints
  now = run.facts['optim']
  for name in initialize.RATE:
    if before.get(name) != now[name]:
      rule = f'this run has ended, with {before.get(name)}'
      remedy = 'choose a new --workdir to train with it'
      raise CheckpointError(validate.line(f'optim.{name}', str(now[name]), rule, remedy))
  return results


def _save(run: Run, writer, step: int, values: dict | None) -> None:
  """Saves a checkpoint, once the lines up to it are on disk; `values` are those of its evaluation, if there was one."""
  run.watch.beat(f'saving step {step}')
  with run.clock('checkpoint'):
    if writer:
      writer.sync()
    run.files.push()
    run.checkpoints.save(step, initialize.saved_part(run.config, run.state), run.facts, _best_of(run, values))


def _best_of(run: Run, values: dict | None) -> dict | None:
  """The metric that checkpoints are ranked by, of an evaluation."""
  return None if values is None else {run.task.BEST: values[run.task.BEST]}


def _has_patience_ended(run: Run) -> bool:
  """Whether so many evaluations have passed since the best one; those before a stop count, and every host agrees."""
  patience, name = run.config.eval.patience, run.task.BEST
  if patience is None:
    return False
  found = [values[name] for values in run.history.values()]
  signed = [-math.inf if v is None or math.isnan(v) else v if run.task.HIGHEST else -v for v in found]
  return bool(signed) and len(signed) - 1 - int(np.argmax(signed)) >= patience


def _finish(run: Run, writer, reporter, done: int) -> dict:
  """The results of a run; a fine-tuned one is evaluated once more with its best checkpoint, on the test set too."""
  config = run.config
  results: dict[str, Any] = {'status': 'done', 'step': done, 'metrics': {}, 'hand_off': run.hand_off}
  results['main_metric'] = run.task.MAIN_METRIC
  found = {'valid': list(run.history.values())[-1] if run.history else {}}
  if run.task.HAND_OFF:
    best, params = _best(run, done)
    results['best_step'] = best
    for split in [split for split in ('valid', 'test') if split in run.data.splits]:
      step, values, predictions = run.evaluated
      if split != 'valid' or step != best:
        values, predictions = run.evaluator(params, split)
      found[split] = values
      if writer:
        run.task.write(run.files.folder, split, run.data.splits[split].records, predictions)
    if writer and 'test' in found:
      writer.write(best, 'test', found['test'])
    results['settings'] = run.task.settings
    results['moved'] = initialize.moved(config, run.task, run.mesh, run.hand_off, params)
    if results['moved'] is not None:
      run.say(report_lib.moved(results['moved']))
  results['metrics'] = {f'{split}/{k}': v for split, values in found.items() for k, v in values.items()}
  results['metrics'] |= {f'train/{k}': v for k, v in reporter.last.items()}
  results |= {'seconds': reporter.seconds, 'parameters': metrics.count(run.state.params)}
  results |= {'time': report_lib.times(run), 'recompilations': run.recompiled}
  if writer:
    writer.plot(run.task.MAIN_METRIC, run.task.BASELINE, at_end=True)
    workdir_files.write_json(os.path.join(run.files.folder, 'results.json'), results)
  run.files.push()
  return results


def _best(run: Run, done: int) -> tuple[int, Any]:
  """The step with the best checkpoint, and its parameters; one that is damaged is passed over, and said."""
  directory, ranked = run.checkpoints.directory, evaluated(run.checkpoints.directory)
  abstract = initialize.saved_part(run.config, state_lib.abstract_state(run.task, run.tx, run.mesh)).params
  for step in sorted(ranked, key=lambda step: (-ranked[step], step)):
    if step == done:
      break
    try:
      saved = checkpoint.restore_params(run.workdir, step, abstract)
      manifest = read_manifest(directory, step)
      return step, initialize.whole_params(run.config, run.task, run.mesh, manifest, saved)
    except CheckpointError as error:
      run.say(f'checkpoint {step}, the best by {run.task.BEST}, is passed over: {error}')
  return done, run.state.params


def _evaluate(run, writer, step) -> dict[str, float]:
  """Evaluates, writes the line, samples and curves."""
  with run.clock('evaluate'):
    return _evaluate_now(run, writer, step)


def _evaluate_now(run, writer, step):
  began = time.perf_counter()
  values, predictions = run.evaluator(run.state.params)
  run.evaluated = (step, dict(values), predictions)
  if run.task.HAND_OFF:
    shown = run.task.samples(run.data.splits['valid'].records, predictions)
  else:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run.config.seed), 2), step)
    shown = run.task.samples(run.state.params, run.data, key)
  text = ' | '.join(f'{name} {report_lib.number(value)}' for name, value in values.items())
  run.say(f'step {step}/{run.config.train.steps} | valid | {text}')
  values['seconds'] = round(time.perf_counter() - began, 3)
  run.history[step] = dict(values)
  if writer:
    writer.write(step, 'valid', values)
    writer.write_samples(step, shown)
    writer.plot(run.task.MAIN_METRIC, run.task.BASELINE)
  return values
