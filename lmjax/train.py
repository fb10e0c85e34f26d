"""One run, from top to bottom: data, task, optimizer, state, batches, step, loop, results."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lmjax import config as config_lib
from lmjax import metrics, optim, profile, sharding
from lmjax.checkpoint.checkpoints import Checkpoints, restore_params
from lmjax.checkpoint.locate import absolute, directory_of, evaluated, reach, saved_steps
from lmjax.checkpoint.manifest import read_manifest
from lmjax.console import print_line, redacted
from lmjax.errors import CheckpointError, ConfigError, LmjaxError, Stopped, reason
from lmjax.hf.source import Source
from lmjax.hosts import collectives, preemption
from lmjax.hosts.watchdog import Watchdog
from lmjax.models.config import RECOMPUTED
from lmjax.schema import describe, validate
from lmjax.tasks import prepare
from lmjax.tasks.base import Task
from lmjax.tasks.fine_tuning import FineTuningTask
from lmjax.training import evaluator, initialize, progress
from lmjax.training import step as step_lib
from lmjax.training.compiled import Compiled, compile_run, gib, memory_here, with_remat
from lmjax.training.evaluator import Evaluations
from lmjax.training.loop import Intervals, Loop
from lmjax.training.progress import Progress
from lmjax.training.state import TrainState
from lmjax.workdir import lock
from lmjax.workdir.files import clear_temporary
from lmjax.workdir.run_files import RunFiles

Log = Callable[[str], None]


def train(config, workdir: str, log: Log | None = None, devices=None) -> dict:
  """Trains, or continues from the newest checkpoint in `workdir`; returns what WORKDIR/results.json holds.

  Args:
    config: a config file's ConfigDict.
    workdir: folder of the run, local or `gs://`, made if it is not there.
    log: called with each line for people; default: print, on the first host.
    devices: what it runs on; default: every device of every host.

  Raises ConfigError, DataError, CheckpointError, NonFiniteError, Stalled, Stopped: see lmjax.errors.
  """
  return run(*config_lib.load(config), workdir, log, devices)


def run(
  config, source: Source | None, workdir: str, log: Log | None = None, devices=None, first: str | None = None
) -> dict:
  """`train` of a Config that is built, with the checkpoint that it starts from opened.

  With `first`, the workdir of another seed, on the text that this one began with.
  """
  devices = jax.devices() if devices is None else devices
  config_lib.check_devices(config, len(devices))
  if log is None:
    log = print_line if jax.process_index() == 0 else lambda line: None
  workdir = os.path.expanduser(workdir)
  _check_folder(workdir, config.train.seeds)
  try:
    if config.train.seeds > 1:
      return _run_seeds(config, source, workdir, log, devices)
    mesh = sharding.make_mesh(config.mesh, devices)
    with Watchdog(config.hosts) as watch, jax.set_mesh(mesh):
      return _run_one(config, source, workdir, mesh, log, watch, first)
  except OSError as error:  # a full disk, above all; what reads data raises its own
    what = f'{error.filename or workdir}: cannot be written or read ({error.strerror or reason(error)})'
    raise CheckpointError(f'{what}; fix that, and the same command continues from the newest checkpoint') from error


def _run_one(
  config, source: Source | None, workdir: str, mesh, log: Log, watch: Watchdog, first_seed: str | None
) -> dict:
  """One run, from what it needs to its results."""
  tokenizer = initialize.tokenizer_of(source, config.data.tokenizer)
  # what does not fit is refused before text is read
  if source is not None and not prepare.is_shaped_by_data(config.task):
    initialize.plan_of(prepare.without_data(config, tokenizer)[1], source, config.init_from)
  pin = initialize.pinned(workdir, config.data)
  if pin is None and first_seed is not None:
    pin = initialize.pinned(first_seed, config.data)
  config, task, data = prepare.prepare(config, tokenizer, True, pin)
  plan = initialize.plan_of(task, source, config.init_from)
  tx = optim.make(config.optim, task.shapes())
  config, task, settled = _settled(config, task, tx, mesh, workdir, log)
  batches = task.pipeline(data, config.seed, config.train.steps, jax.process_count(), jax.process_index())
  metadata = initialize.metadata_of(config, task, data, batches.fingerprint)

  with contextlib.ExitStack() as stack:  # what is refused above this line leaves no folder behind
    stack.enter_context(_opened(workdir, log))
    checkpoints = Checkpoints(workdir, config.checkpoint, task.RANKING_METRIC, task.HIGHER_IS_BETTER)
    stack.enter_context(contextlib.closing(checkpoints))
    files = stack.enter_context(RunFiles(workdir, writes=jax.process_index() == 0))
    seed, steps = config.seed, config.train.steps
    initial = initialize.initialize(task, tx, mesh, seed, steps, checkpoints, metadata, source, plan, log)
    state, first = initial.state, initial.step
    last = first if initial.resumed else -1  # the last step whose lines an earlier process wrote
    log(progress.banner(task, seed, batches, steps, mesh, state.params, data, workdir))
    log(initial.message)

    stop = preemption.StopSignal()
    evaluate = evaluator.make(task, data, evaluator.Runner(mesh, stop, watch.evaluating))
    history = files.earlier('valid', last)
    evaluations = Evaluations(task, evaluate, seed, steps, config.eval.patience, files, history, log)
    is_over = first >= steps or evaluations.has_patience_ended
    if is_over and (results := _ended_before(files, first, metadata['optim'])) is not None:
      log(progress.farewell(task, workdir, results))
      return results

    files.write_json('config.json', describe.to_dict(config))
    if files.writes:
      task.tokenizer.save(os.path.join(files.folder, 'tokenizer.json'))
    files.begin(last, config.writer.tensorboard, config.writer.wandb_project)
    newest = next(reversed(files.earlier('train', last).values()), {})
    reporter = Progress(task, config.train, first, newest, mesh.size, batches.rows, files, log)
    metadata |= {'hand_off': redacted(initial.hand_off), 'origin': initial.origin}
    step_fn = None if is_over else _compiled(config, task, tx, mesh, settled, reporter, log)
    intervals = Intervals(steps, config.train.log_every, config.eval.every, config.checkpoint.every)
    tracer = profile.Tracer(config.profile, files.folder)
    loop = Loop(intervals, mesh, evaluations, reporter, checkpoints, metadata, stop, watch, tracer, workdir, log)
    _evaluate_start(loop, state, first)
    with preemption.listening(stop), _until_stopped(stop, checkpoints):
      if step_fn is not None and not evaluations.has_patience_ended:
        key = jax.device_put(step_lib.dropout_key(seed), sharding.replicated(mesh))
        state, first = loop.run(state, first, step_fn, batches.iterate(first), key)
      with reporter.clock('checkpoint'):
        checkpoints.wait()
      results = _results(config, data, loop, initial.hand_off, state, first)
    log(progress.farewell(task, workdir, results))
    return results


def _settled(config, task: Task, tx, mesh, workdir: str, log: Log) -> tuple[Any, Task, Compiled | None]:
  """(the Config, its task, its step where that had to be compiled) with `model.remat` settled where it is 'auto'.

  A run that is resumed recomputes what it did before, wherever it is: its losses would not be the same bits otherwise.
  What host 0 knows counts: hosts with different programs would wait for each other forever.
  """
  if config.model.remat != 'auto':
    return config, task, None
  kind = _remat_before(workdir)
  if kind is None and mesh.devices.flat[0].platform == 'cpu':
    kind = 'none'
  number, compiled = collectives.of_host_0(np.int32(-1 if kind is None else RECOMPUTED.index(kind))), None
  if number >= 0:
    task = with_remat(task, RECOMPUTED[int(number)])
  else:
    here = memory_here(mesh.local_devices[0], mesh.size)
    memory = float(collectives.of_host_0(np.float32(here or 0))) or None
    compiled = compile_run(task, tx, config.optim, config.train, mesh, memory, log)
    task = compiled.task
  return dataclasses.replace(config, model=task.model.backbone.config), task, compiled


def _remat_before(workdir: str) -> str | None:
  """What the newest checkpoint with a manifest that is intact was made with; None where there is none."""
  directory = directory_of(workdir)
  for step in reversed(saved_steps(directory)):
    with contextlib.suppress(CheckpointError):  # it is reported where checkpoints are restored
      return read_manifest(directory, step)['model']['remat']
  return None


def _compiled(config, task: Task, tx, mesh, settled: Compiled | None, reporter: Progress, log: Log):
  """The train step for this run's shapes; any other shape is an error, not a silent recompilation.

  Raises ConfigError: the compiler refused it for its size.
  """
  compiled = settled or compile_run(task, tx, config.optim, config.train, mesh, None, log)
  reporter.clock['compile'] += compiled.seconds
  log(f'compiling ... done in {compiled.seconds:.1f} s')
  if compiled.program is None:
    rule = f'the step needs {gib(compiled.needed)} of {gib(compiled.memory)} a device'
    remedy = '--dry_run finds what fits' if config.model.remat == 'full' else 'set it to full'
    raise ConfigError(validate.line('model.remat', config.model.remat, rule, remedy))
  return compiled.program


def _evaluate_start(loop: Loop, state: TrainState, first: int) -> None:
  """The evaluation before the first step; or that of the step where a run resumes, if it was stopped in the middle."""
  if first in loop.evaluations.history or not (first == 0 or 'evaluate' in loop.intervals.due(first)):
    return
  with loop.progress.clock('evaluate'):
    values = loop.evaluations(first, state.params)
  if first:
    loop.checkpoints.rank(first, values)
  elif loop.intervals.steps == 0 and not saved_steps(loop.checkpoints.directory):
    loop.save(0, state, values)


def _results(config, data, loop: Loop, hand_off: dict | None, state: TrainState, step: int) -> dict:
  """What a run ends with; a fine-tuned one is evaluated once more with its best checkpoint, on the test set too."""
  evaluations, reporter, task = loop.evaluations, loop.progress, loop.evaluations.task
  results: dict[str, Any] = {'status': 'done', 'step': step, 'metrics': {}, 'hand_off': hand_off}
  results['main_metric'] = task.MAIN_METRIC
  splits = {'valid': list(evaluations.history.values())[-1] if evaluations.history else {}}
  if isinstance(task, FineTuningTask):
    best, params = _best(task, loop.checkpoints, state, step, loop.log)
    results['best_step'] = best
    splits = _final_evaluation(task, data, evaluations, best, params)
    results['settings'] = task.calibration
    results['moved'] = initialize.moved(task, config.optim, loop.mesh, config.seed, config.init_from, hand_off, params)
    if results['moved'] is not None:
      groups = ', '.join(f'{name} {share:.3f}' for name, share in results['moved'].items())
      loop.log(f'{"moved":>13}  {groups}')
  results['metrics'] = {f'{split}/{k}': v for split, values in splits.items() for k, v in values.items()}
  results['metrics'] |= {f'train/{k}': v for k, v in reporter.last.items()}
  results |= {'seconds': reporter.seconds, 'parameters': metrics.count(state.params)}
  results |= {'time': reporter.times(), 'recompilations': reporter.recompiled, 'data': task.counts(data)}
  evaluations.draw()
  reporter.files.write_json('results.json', results)
  reporter.files.sync()
  return results


def _best(task: Task, checkpoints: Checkpoints, state: TrainState, step: int, log: Log) -> tuple[int, Any]:
  """The step with the best checkpoint, and its parameters; one that is damaged is skipped, and logged."""
  ranked = evaluated(checkpoints.directory)
  abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state.params)
  for best in sorted(ranked, key=lambda step: (-ranked[step], step)):
    if best == step:
      break
    try:
      return best, restore_params(checkpoints.directory.parent, best, abstract)
    except CheckpointError as error:
      log(f'checkpoint {best}, the best by {task.RANKING_METRIC}, is skipped: {error}')
  return step, state.params


def _final_evaluation(task: FineTuningTask, data, evaluations: Evaluations, best: int, params) -> dict:
  """{split: metrics} of the best checkpoint, on the test set too where there is one; writes predictions and pages."""
  splits = {}
  for split in [split for split in ('valid', 'test') if split in data.splits]:
    step, values, predictions = evaluations.newest
    if split != 'valid' or step != best:
      values, predictions = evaluations.evaluate(params, split)
    splits[split] = values
    for name, content in task.report_files(split, data.splits[split].records, predictions).items():
      evaluations.files.write(name, content)
  if 'test' in splits:
    evaluations.files.add_metrics(best, 'test', splits['test'])
  return splits


def _ended_before(files: RunFiles, step: int, optim_settings: dict) -> dict | None:
  """The results of a run that was started again after its end, or None.

  Raises CheckpointError: it is to end otherwise, with another learning rate say.
  """
  try:
    results, before = files.read_json('results.json'), files.read_json('config.json')['optim']
    if results['step'] != step:
      return None  # it was made longer since
  except (OSError, ValueError, KeyError, TypeError):
    return None  # not there, or damaged: both are made again, from the checkpoints
  for name in initialize.RATE:
    if before.get(name) != optim_settings[name]:
      rule = f'this run has ended, with {before.get(name)}'
      remedy = 'choose a new --workdir to train with it'
      raise CheckpointError(validate.line(f'optim.{name}', str(optim_settings[name]), rule, remedy))
  return results


@contextlib.contextmanager
def _until_stopped(stop: preemption.StopSignal, checkpoints: Checkpoints) -> Iterator[None]:
  """A run that is asked to stop ends once its checkpoint is whole, on every host."""
  try:
    yield
    return
  except preemption.Interrupted:  # in the last evaluations: all steps are saved
    stopped: Stopped = stop.stopped(saved_steps(checkpoints.directory)[-1])
  except Stopped as error:
    stopped = error
  checkpoints.wait()
  stop.wait_for_all()
  raise stopped


@contextlib.contextmanager
def _opened(workdir: str, log: Log) -> Iterator[None]:
  """The folder of a run, made and locked. A run that is refused before it has begun leaves nothing of its own behind.

  Raises ConfigError: it cannot be made, is in use, or is not shared by all hosts.
  """
  folder = absolute(workdir)
  made = [] if '://' in workdir else [path for path in (folder, *folder.parents) if not path.exists()]
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(f'--workdir = {workdir}: cannot be made ({error.strerror}); name another folder') from error

  def leave_nothing(kind, error, traceback) -> None:
    has_begun = (folder / 'config.json').exists()
    if isinstance(error, LmjaxError) and made and not has_begun:
      made[0].rmtree()
      with contextlib.suppress(OSError):  # of the folders above, one that another run uses by now
        for above in made[1:]:
          os.rmdir(above)

  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0 and '://' not in workdir:
      stack.enter_context(lock.holding(workdir, log))
      stack.push(leave_nothing)  # under the lock: another run may have made the same folder
      clear_temporary(workdir)
    collectives.check_shared(folder)
    yield


def _check_folder(workdir: str, seeds: int) -> None:
  """Refuses a folder that cannot hold this run: results.json would be that of two."""
  folder = reach('--workdir', workdir)
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


def _run_seeds(config, source: Source | None, workdir: str, log: Log, devices) -> dict:
  """One run a seed, each in its own folder, and the mean and standard deviation of their results above them."""
  runs, seeds = [], [config.seed + i for i in range(config.train.seeds)]
  for i, seed in enumerate(seeds):
    log(f'seed {i + 1} of {len(seeds)}: {seed}')
    one = dataclasses.replace(config, seed=seed, train=dataclasses.replace(config.train, seeds=1))
    first = os.path.join(workdir, 'seed0') if i else None
    runs.append(run(one, source, os.path.join(workdir, f'seed{i}'), log, devices, first))
  names = [name for name in runs[0]['metrics'] if all(one['metrics'].get(name) is not None for one in runs)]
  values = {name: np.array([one['metrics'][name] for one in runs], np.float64) for name in names}
  means = {name: float(v.mean()) for name, v in values.items()}
  deviations = {name: float(v.std(ddof=1)) for name, v in values.items()}
  results = {'status': 'done', 'step': runs[0]['step'], 'metrics': means, 'standard_deviation': deviations}
  results |= {'seeds': seeds} | {name: runs[0].get(name) for name in ('hand_off', 'main_metric', 'data')}
  with RunFiles(workdir, writes=jax.process_index() == 0) as files:
    files.write_json('results.json', results)
  for name in (f'{split}/{results["main_metric"]}' for split in ('valid', 'test')):
    if name in values:
      mean, deviation = progress.number(means[name]), progress.number(deviations[name])
      log(f'{len(seeds)} seeds: {name.replace("/", " ")} {mean}, standard deviation {deviation}')
  return results
