"""Whether a run fits on devices that need not be here: its train step is compiled for them, and nothing else happens.

No data is read and no folder made. What is printed of a target was compiled for it; nothing is extrapolated.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import jax

from lmjax import compilation, metrics, optim, paths, sharding
from lmjax import config as config_lib
from lmjax.dry_run import hlo, topology
from lmjax.errors import ConfigError
from lmjax.hf.source import PublicModel
from lmjax.models import flops as flops_lib
from lmjax.tasks import prepare
from lmjax.training import initialize, progress
from lmjax.training.compiled import Compiled, compile_run, gib, share

# Share of the devices' peak FLOP/s that the time is given for: what a well-tuned run reaches, not a prediction.
MFU = 0.4


def dry_run(
  config: config_lib.Config, source, target: topology.Target, command: str, log: Callable[[str], None]
) -> bool:
  """Logs whether a run fits on a target, and what it would cost; returns whether it fits.

  Args:
    source: what the run starts from, or None; weights of a public model that are not here are not downloaded.
    command: as it was typed, to be printed with what would make it fit.
    log: called with each line; the last one is the verdict.

  Raises ConfigError, CheckpointError: as the run itself, from metadata alone.
  """
  tokenizer = initialize.tokenizer_of(source, config.data.tokenizer)
  if isinstance(source, PublicModel) and not source.has_weights:
    log(f'     weights  none in {source.folder}: shapes are those of its config.json')
  else:
    initialize.plan_of(prepare.without_data(config, tokenizer)[1], source, config.init_from)
  with compilation.without_kept_programs():
    return _dry_run(config, target, tokenizer, command, log)


def _dry_run(config, target, tokenizer, command, log) -> bool:
  first = compile_for(config, target, tokenizer, log)
  log(described(first, target, known_steps=config.train.steps))
  if getattr(config.objective, 'labels', ()) is None and config.objective.target != 'number':
    log('   stand-ins  two labels: the data decides how many there are')
  if first.fits:
    log('verdict: fits')
    return True
  log('does not fit; compiling other settings')
  tried = search(config, target, tokenizer, first, log)
  if tried is None:
    log('no batch, recomputation or mesh was found that fits; take more devices, or a smaller model')
  else:
    changes, other = tried
    flags = ' '.join(f'--config.{path}={value}' for path, value in changes.items())
    log(f'the nearest that fits, with a peak of {gib(other.needed)} a device (compiled):\n  {command} {flags}')
  log(f'verdict: does not fit (needs {gib(first.needed)} of {gib(first.memory)} a device)')
  return False


def compile_for(config: config_lib.Config, target: topology.Target, tokenizer=None, log=lambda line: None) -> Compiled:
  """Compiles the train step of a run for a target. Raises ConfigError where its mesh does not fit (`check_devices`)."""
  config_lib.check_devices(config, len(target.devices))
  config, task = prepare.without_data(config, tokenizer)
  mesh = sharding.make_mesh(config.mesh, target.devices)
  with jax.set_mesh(mesh):
    tx = optim.make(config.optim, task.shapes())
    compiled = compile_run(task, tx, config.optim, config.train, mesh, target.memory, log)
  return compiled._replace(config=dataclasses.replace(config, model=compiled.task.model.backbone.config))


def search(config, target, tokenizer, first: Compiled, log) -> tuple[dict, Compiled] | None:
  """The changes, nearest first, with which the step fits: recomputing, sharding more, a batch in parts, a smaller one.

  Those that change no result come first. Each is compiled.
  """
  changes: dict[str, object] = {}
  before, config = first, dataclasses.replace(config, model=first.config.model)  # its recomputation is settled
  for path, value in changes_to_try(first):
    asked = changes | {path: value}
    if path == 'data.batch_size':
      asked.pop('train.accumulate', None)  # a small batch need not come in parts
    try:
      tried = compile_for(_changed(config, asked), target, tokenizer)
    except ConfigError:
      continue  # this mesh, or batch, is not one
    log(f'{", ".join(f"{p} = {v}" for p, v in asked.items())}: needs {gib(tried.needed)}')
    if tried.needed < before.needed:
      changes, before = asked, tried
    if tried.fits:
      return asked, tried
  return None


def changes_to_try(first: Compiled) -> Iterator[tuple[str, object]]:
  """(setting, value) of each change that may make a step smaller, in the order in which they are tried."""
  config, devices = first.config, first.mesh.size
  if config.model.remat != 'full':
    yield 'model.remat', 'full'
  slices = len({getattr(device, 'slice_index', 0) for device in first.mesh.devices.flat})
  if config.mesh.tensor == 1 and config.mesh.data is None and config.mesh.fsdp != devices // slices:
    yield 'mesh.fsdp', devices // slices  # within a slice
  shards = first.mesh.shape['data'] * first.mesh.shape['fsdp']
  parts = config.train.accumulate
  while config.data.batch_size % (2 * parts * shards) == 0:
    parts *= 2
    yield 'train.accumulate', parts
  rows = config.data.batch_size
  while rows % (2 * shards) == 0:
    rows //= 2
    yield 'data.batch_size', rows


def described(compiled: Compiled, target: topology.Target, known_steps: int | None) -> str:
  """What a person wants to know before renting the target."""
  config, task = compiled.config, compiled.task
  d, devices = config.data, compiled.mesh.size
  params = compiled.abstract.params
  kind = target.devices[0].device_kind
  flops = progress.step_flops(task)
  tokens = d.batch_size * d.length
  steps = 'steps by the data' if known_steps is None else f'{known_steps:,} steps, {known_steps * tokens:,} tokens'
  mesh = ', '.join(f'{axis} {size}' for axis, size in compiled.mesh.shape.items())
  rows: list[tuple[str, str | list[str]]] = [
    ('target', f'{target.name or "this machine"}: {devices} x {kind}, {gib(compiled.memory)} a device; mesh {mesh}'),
    ('task', f'{config.task}; {progress.model_line(config.model)}'),
    ('parameters', f'{metrics.count(params):,}, vocabulary {task.model.backbone.vocab_size:,}'),
    ('batch', f'{d.batch_size} rows x {d.length} = {tokens:,} tokens a step; {steps}'),
    ('FLOPs a step', f'{flops:.3e} ({flops_lib.FLOPS_COUNT})'),
    ('sharding', sharding_table(params)),
    ('bytes', memory_table(compiled)),
  ]
  whole = sum(math.prod(array.shape) * array.dtype.itemsize for array in jax.tree.leaves(compiled.abstract))
  if compiled.program is not None:
    text = compiled.program.as_text()
    if cycles := hlo.estimated_cycles(text):  # of TPUs alone
      products = f'{hlo.dot_flops(text):.4e} FLOPs of matrix products a device, what is computed again included'
      rows.append(
        ('program', [products, f'{cycles:.3e} cycles of a device by the compiler, without kernels and collectives'])
      )
    traffic = hlo.collectives(text)
    lines = [f'{kind}: {t.times:,} a step, {_size(t.bytes)}' for kind, t in traffic.items()]
    rows.append(('collectives', lines or 'none'))
  rows.append(('time', _time(flops, devices, flops_lib.peak_flops(target.devices[0]), known_steps)))
  rows.append(('checkpoint', f'{_size(whole)} each'))
  rows.append(('compiled', f'in {compiled.seconds:.1f} s'))
  separator = '\n' + ' ' * 15
  return '\n'.join(f'{name:>13}  {text if isinstance(text, str) else separator.join(text)}' for name, text in rows)


def sharding_table(params) -> list[str]:
  """A line for each kind of parameter: path, shape, the mesh axes that its axes are split over, bytes a device."""
  arrays, lines = paths.flatten(params), []
  for name, path in paths.by_layer(list(arrays)).items():
    array = arrays[path]
    axes = ', '.join('-' if axis is None else str(axis) for axis in array.sharding.spec) or '-'
    lines.append(f'{name} {list(array.shape)} over ({axes}), {_size(share(array))} a device')
  return lines


def memory_table(compiled: Compiled) -> list[str]:
  """Bytes of a device by what they hold."""
  params, opt_state = compiled.abstract.params, compiled.abstract.opt_state
  trainable, _ = optim.split(compiled.config.optim, params)
  trees = {'parameters': params, 'optimizer': opt_state, 'gradients': trainable}
  held = {name: sum(map(share, jax.tree.leaves(tree))) for name, tree in trees.items()}
  lines = [f'{name}: {_size(size)} a device' for name, size in held.items()]
  rest = compiled.needed - sum(held.values())
  lines.append(f'activations and what the program works with: {_size(max(rest, 0))} a device (the rest of the peak)')
  lines.append(f'peak, by the compiler: {gib(compiled.needed)} of {gib(compiled.memory)} a device')
  return lines


def _time(flops, devices, peak, steps) -> str:
  if peak is None:
    return 'not known: the peak FLOP/s of this device are not'
  seconds = flops / (peak * devices * MFU)
  whole = '' if steps is None else f', {progress.duration(steps * seconds)} (hours:minutes:seconds) in all'
  return f'{seconds:.3f} s a step{whole}, if {MFU:.0%} of the peak FLOP/s were reached'


def _size(count: float) -> str:
  for power, unit in ((9, 'GB'), (6, 'MB'), (3, 'kB')):
    if count >= 10**power:
      return f'{count / 10**power:.1f} {unit}'
  return f'{count:.0f} bytes'


def _changed(config, changes: dict[str, object]):
  """A Config with settings changed, {'model.remat': 'full'}."""
  for path, value in changes.items():
    section, name = path.split('.')
    config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{name: value})})
  return config
