"""Benchmarks: a suite is run, its table printed, and with --out also written and plotted.

  python experiments/benchmarks/run.py --suite=cpu [--out=DIR]

cpu: train steps against transformers with torch. gpu: the same on one NVIDIA GPU, and against a plain loop. start: from
the start of a process to the end of its first step, with compiled programs at hand against without. memory: peak bytes
of the loss over a large vocabulary, against logits that are written out. checkpoint: how long a save stops the loop,
and the rate of restoring. growth: tokens a second of a large batch against a small one, and steps compiled for 8, 64
and 256 TPU chips that are not here. tpu: steps compiled for eight of them, against MaxText's. --rounds=N is how often
contenders take turns; --tiny takes the smallest sizes, for a test.

Shared machines change their speed by the minute: so ratios are taken within a round, between contenders that take
turns, and their median over the rounds is given with the least and the greatest. Needs the extra `parity` for torch;
torch.compile also needs a C++ compiler.
"""

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import pathlib
import platform
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from importlib import metadata

import numpy as np
from contenders import Shape, Worker

PEERS = ('torch eager', 'torch.compile')
SIZES = dict(layers=6, width=384, heads=6, vocab=8192, batch=16, length=256, chunk=64)
TINY = dict(layers=1, width=32, heads=2, vocab=320, batch=2, length=16, chunk=8)

GPU_PEERS = ('torch.compile', 'plain torch')
_GPT2_SMALL = dict(model='gpt2', layers=12, width=768, heads=12, vocab=50304)
_LLAMA_1B = dict(model='llama', layers=16, width=2048, heads=32, kv_heads=8, hidden=8192, vocab=128256, tied=True)
ON_GPU = {
  f'{name}, {length:,}': Shape(**sizes, batch=tokens // length, length=length, chunk=512, dtype='bfloat16')
  for name, sizes, tokens in (('gpt2_small', _GPT2_SMALL, 32768), ('llama_1b', _LLAMA_1B, 8192))
  for length in (1024, 4096)
}
_SMALL = TINY | dict(kv_heads=1, dtype='bfloat16')
TINY_ON_GPU = {'gpt2': Shape('gpt2', **(_SMALL | dict(kv_heads=2))), 'llama': Shape('llama', **_SMALL, tied=True)}


@dataclasses.dataclass(frozen=True)
class Row:
  """One comparison; every ratio is above 1 where lmjax is better."""

  name: str
  peer: str
  ratio: float  # median over rounds
  ratio_min: float
  ratio_max: float
  ours: float  # median over rounds, in `unit`
  theirs: float
  unit: str
  note: str = ''  # what else was measured, for people

  @classmethod
  def of(cls, name: str, peer: str, ours: list[float], theirs: list[float], unit: str, note: str = '') -> 'Row':
    """Of figures by round, of which more is better where the unit is a rate, and less where it is seconds or bytes."""
    is_rate = unit.endswith('/s')
    ratios = [a / b if is_rate else b / a for a, b in zip(ours, theirs, strict=True)]
    middle = statistics.median
    return cls(name, peer, middle(ratios), min(ratios), max(ratios), middle(ours), middle(theirs), unit, note)


def cpu(rounds: int, tiny: bool) -> list[Row]:
  """Forward, loss, backward, clipping and AdamW in float32, each contender a step at a time."""
  rows = []
  for model in ('gpt2', 'bert', 'llama'):
    shape = Shape(model, **(TINY if tiny else SIZES))
    peers = PEERS if model == 'gpt2' or not tiny else PEERS[:1]  # torch.compile takes a minute a model, however small
    workers = {name: Worker(name, shape) for name in ('lmjax', *peers)}
    answers = take_turns(workers, rounds)
    rates = {name: [shape.tokens / answer['seconds'] for answer in found] for name, found in answers.items()}
    for name in [name for name in peers if name in rates]:
      mine, theirs = answers['lmjax'][-1], answers[name][-1]
      memory = f'{mine["peak_bytes"] / 1e6:,.0f} against {theirs["peak_bytes"] / 1e6:,.0f} MB'
      starts = [workers[one].first['start'] for one in ('lmjax', name)]
      losses = f'losses {mine["loss"]:.3f}, {theirs["loss"]:.3f}'
      note = f'{losses}; {memory}; first step after {starts[0]:.1f}, {starts[1]:.1f} s'
      rows.append(Row.of(model, name, rates['lmjax'], rates[name], 'tokens/s', note))
  return rows


def gpu(rounds: int, tiny: bool) -> list[Row]:
  """The same in bfloat16 on one GPU: tokens a second, peak bytes, and what the compiler said of them."""
  if shutil.which('nvidia-smi') is None and not tiny:
    raise SystemExit('--suite=gpu needs an NVIDIA GPU; --tiny tries it without one')
  # beside each other on one device, so memory is taken as it is needed; started together, since most of it is compiling
  environment = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'} | ({'TORCHDYNAMO_DISABLE': '1'} if tiny else {})
  rows = []
  for name, shape in (TINY_ON_GPU if tiny else ON_GPU).items():
    workers = {one: Worker(one, shape, environment, wait=False) for one in ('lmjax', *GPU_PEERS)}
    steps = 1 if tiny else 10
    answers = take_turns(workers, rounds, steps)
    about, mine = workers['lmjax'].first, answers['lmjax'][-1]
    if not tiny and not about.get('kernels'):
      raise SystemExit(f"{name}: lmjax's program has none of cuDNN's attention kernels")
    rates = {one: [shape.tokens * steps / answer['seconds'] for answer in found] for one, found in answers.items()}
    for peer in [peer for peer in GPU_PEERS if peer in rates]:
      theirs = answers[peer][-1]
      note = f'losses {mine["loss"]:.3f}, {theirs["loss"]:.3f}'
      if at_peak := about['peak_flops']:
        mfu = (statistics.median(rates[one]) * about['flops'] / shape.tokens / at_peak for one in ('lmjax', peer))
        note += '; MFU ' + ', '.join(f'{share:.1%}' for share in mfu)
      rows.append(Row.of(name, peer, rates['lmjax'], rates[peer], 'tokens/s', note))
      rows.append(Row.of(name, peer, [float(mine['peak_bytes'])], [float(theirs['peak_bytes'])], 'bytes'))
    if about['kernels']:
      needed = [about['needed']], [float(mine['peak_bytes'])]
      rows.append(
        Row.of(name, 'its peak in use', *needed, 'bytes, by the compiler', f'{about["kernels"]} cuDNN kernels')
      )
  return rows


def take_turns(workers: dict[str, Worker], rounds: int, steps: int = 1) -> dict[str, list[dict]]:
  """The answers of each worker to so many steps a round. Those that failed are reported and left out; lmjax may not."""
  for name, worker in workers.items():
    if worker.error:
      print(f'{name} failed: {worker.error}', file=sys.stderr, flush=True)
      if name.startswith('lmjax'):
        raise SystemExit('there is nothing to compare')
  running = [name for name, worker in workers.items() if not worker.error]
  answers: dict[str, list[dict]] = {name: [] for name in running}
  for number in range(rounds):
    shift = number % len(running)  # nobody always goes first
    for name in running[shift:] + running[:shift]:
      answers[name].append(workers[name].ask(steps))
  for name in running:
    workers[name].end()
  return answers


def growth(rounds: int, tiny: bool) -> list[Row]:
  """Tokens a second of a large batch against a small one; and, with the TPU's compiler, steps on more chips."""
  sizes = TINY if tiny else SIZES | dict(layers=3)
  shapes = {f'lmjax, batch {batch}': Shape('gpt2', **sizes | dict(batch=batch)) for batch in (8, 64)}
  answers = take_turns({name: Worker('lmjax', shape) for name, shape in shapes.items()}, rounds)
  small, large = ([shape.tokens / a['seconds'] for a in answers[name]] for name, shape in shapes.items())
  rows = [Row.of('batch 64', 'batch 8', large, small, 'tokens/s')]
  if importlib.util.find_spec('libtpu') is None:
    print("more chips are left out: their compiler comes with pip install 'lmjax[tpu]'", file=sys.stderr, flush=True)
    return rows
  return rows + over_chips(tiny)


def over_chips(tiny: bool) -> list[Row]:
  """Steps compiled for 8, 64 and 256 chips with the same rows a chip: what they move against theory, and their time
  against that of eight."""
  import tpu as programs

  rows = []
  presets, sizes = {'llama_1b': 4, 'gpt2_small': None}, list(programs.TOPOLOGIES)
  if tiny:
    presets, sizes = {'llama_1b': 2}, sizes[:2]
  for preset, layers in presets.items():
    found = {chips: programs.ours(preset, tiny, chips, layers) for chips in sizes}
    for chips, one in found.items():
      name, moved = f'{preset}, {chips} chips', ([float(one.moved)], [float(one.moved_in_theory)])
      rows.append(Row.of(name, 'theory', *moved, 'bytes moved'))
      if chips != programs.DEVICES:
        rows.append(Row.of(name, '8 chips', [one.seconds], [found[programs.DEVICES].seconds], 's', one.described()))
  return rows


def start(rounds: int, tiny: bool) -> list[Row]:
  """From the start of a process to the end of its first step, with the programs of an earlier one or with none."""
  shape, second, first = Shape('gpt2', **(TINY if tiny else SIZES)), [], []
  with tempfile.TemporaryDirectory() as folder:
    for number in range(rounds + 1):
      for times, kept in ((first, f'{folder}/{number}'), (second, f'{folder}/kept')):
        worker = Worker('lmjax', shape, {'JAX_COMPILATION_CACHE_DIR': kept} | _CACHE)
        if worker.error:
          raise SystemExit(worker.error)
        worker.end()
        times.append(worker.first['start'])
  return [Row.of('second start', 'first start', second[1:], first[1:], 's')]  # round 0 fills the folder


_CACHE = {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1', 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '0'}


def memory(rounds: int, tiny: bool) -> list[Row]:
  """Peak bytes of loss and gradients by the compiler, at a vocabulary of 128k, in chunks and with whole logits."""
  del rounds  # a compiler's figure does not change
  import jax
  import jax.numpy as jnp

  from lmjax.ops.cross_entropy import cross_entropy

  B, T, D, V, chunk = (2, 16, 8, 512, 4) if tiny else (8, 1024, 768, 128_256, 128)
  shapes = [jax.ShapeDtypeStruct((B, T, D), jnp.bfloat16), jax.ShapeDtypeStruct((D, V), jnp.float32)]
  rest = [jax.ShapeDtypeStruct((B, T), dtype) for dtype in (jnp.int32, jnp.float32)]

  def ours(x_BTD, kernel_DV, targets_BT, weights_BT):
    return cross_entropy(x_BTD, kernel_DV, None, targets_BT, weights_BT, weights_BT, V, chunk).loss

  def plain(x_BTD, kernel_DV, targets_BT, weights_BT):
    logits = jnp.einsum('BTD,DV->BTV', x_BTD, kernel_DV.astype(x_BTD.dtype), preferred_element_type=jnp.float32)
    nll = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, targets_BT[..., None], -1)[..., 0]
    return (nll * weights_BT).sum()

  def peak(loss) -> float:
    sizes = jax.jit(jax.grad(loss, (0, 1))).lower(*shapes, *rest).compile().memory_analysis()
    return float(sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes)

  return [Row.of(f'loss, vocabulary {V:,}', 'whole logits', [peak(ours)], [peak(plain)], 'bytes')]


def checkpoint(rounds: int, tiny: bool) -> list[Row]:
  """How long the loop stands still for a save, and how fast a checkpoint is restored; GPT-2 124M, 8 rows of 1,024."""
  from contenders import Lmjax

  from lmjax.checkpoint.checkpoints import Checkpoints

  sizes = dict(layers=12, width=768, heads=12, vocab=50257, batch=8, length=1024, chunk=128)
  run = Lmjax(Shape('gpt2', **(TINY if tiny else sizes)))
  run()
  stalls, allowed, restored, read = [], [], [], []
  with tempfile.TemporaryDirectory() as folder:
    checkpoints = Checkpoints(folder, run.config.checkpoint, run.task.RANKING_METRIC)
    for number in range(1, rounds + 1):
      allowed.append(0.05 * _seconds(run))
      stalls.append(_seconds(lambda: checkpoints.save(number, run.state, {})))  # noqa: B023
      checkpoints.wait()
      files = [file for file in pathlib.Path(folder, 'checkpoints', str(number)).rglob('*') if file.is_file()]
      size = sum(file.stat().st_size for file in files)
      seconds = [
        _seconds(lambda: checkpoints.restore_latest(run.state)[0]),
        _seconds(lambda: [int(np.frombuffer(file.read_bytes(), np.uint8).sum()) for file in files]),  # noqa: B023
      ]
      restored.append(size / 1e6 / seconds[0])
      read.append(size / 1e6 / seconds[1])
    checkpoints.close()
  return [
    Row.of('save stands still', '5% of a step', stalls, allowed, 's'),
    Row.of('restore', 'reading and summing the files', restored, read, 'MB/s'),
  ]


def tpu(rounds: int, tiny: bool, maxtext: str | None = None) -> list[Row]:
  """Steps compiled for eight v5e chips that are not here: estimated seconds, peak bytes, and the compiler's seconds."""
  import tpu as programs
  from compile_step import PRESETS

  del rounds  # a compiler's figures do not change
  versions, peers = programs.peers(maxtext)
  print(f'MaxText: {versions}', file=sys.stderr, flush=True)
  rows = []
  for preset in ['gpt2_small'] if tiny else PRESETS:
    mine = programs.ours(preset, tiny)
    at_peak = mine.model_flops / programs.DEVICES / programs.PEAK_FLOPS
    rows.append(Row.of(preset, 'the chip at its peak', [mine.seconds], [at_peak], 's', mine.described()))
    for peer, theirs in ({} if tiny else peers.get(preset, {})).items():
      for what, unit in (('seconds', 's'), ('peak_bytes', 'bytes'), ('cpu_seconds', 's of the compiler')):
        pair = ([getattr(one, what)] for one in (mine, theirs))
        rows.append(Row.of(preset, peer, *pair, unit, theirs.described() if what == 'seconds' else ''))
  return rows


def _seconds(call) -> float:
  import jax

  began = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - began


SUITES = {
  'cpu': cpu,
  'gpu': gpu,
  'start': start,
  'memory': memory,
  'checkpoint': checkpoint,
  'growth': growth,
  'tpu': tpu,
}
COMPILERS_FIGURES = ('memory', 'tpu')  # which no round changes


def main() -> None:
  """Runs a suite."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--suite', choices=SUITES, required=True)
  parser.add_argument('--out', type=pathlib.Path, help='folder for SUITE.json and SUITE.png; it may exist')
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--maxtext', metavar='PYTHON', help='of an environment with MaxText, to be compiled anew')
  parser.add_argument('--tiny', action='store_true')
  flags = parser.parse_args()
  if flags.rounds < 1:
    parser.error(f'--rounds = {flags.rounds}: must be 1 or more')
  if flags.maxtext and flags.suite != 'tpu':
    parser.error(f'--maxtext belongs to --suite=tpu, not to --suite={flags.suite}')
  more = {'maxtext': flags.maxtext} if flags.maxtext else {}
  rows = SUITES[flags.suite](flags.rounds, flags.tiny, **more)
  about = f'{datetime.date.today()}; {machine()}'
  if flags.suite not in COMPILERS_FIGURES:
    about += f'; {flags.rounds} rounds'
  print(f'{about}\n\n{table(rows)}')
  if not rows:
    raise SystemExit('nothing could be compared')
  if flags.out is not None:
    flags.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(['python', *sys.argv])
    record = {'suite': flags.suite, 'command': command, 'about': about, 'rows': list(map(dataclasses.asdict, rows))}
    (flags.out / f'{flags.suite}.json').write_text(json.dumps(record, indent=2) + '\n', encoding='utf-8')
    plot(rows, flags.suite, flags.out / f'{flags.suite}.png')


def table(rows: list[Row]) -> str:
  """Markdown."""
  head = ('', 'against', 'lmjax is ... times as good (range)', 'lmjax', 'the other', 'unit', '')
  lines = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
  for row in rows:
    ratio = f'**{row.ratio:.2f}** ({row.ratio_min:.2f} to {row.ratio_max:.2f})'
    figures = ' | '.join(f'{value:.3g}' if value < 100 else f'{value:,.0f}' for value in (row.ours, row.theirs))
    lines.append(f'| {row.name} | {row.peer} | {ratio} | {figures} | {row.unit} | {row.note} |')
  return '\n'.join(lines)


def plot(rows: list[Row], title: str, file: pathlib.Path) -> None:
  """A PNG: a bar for each comparison, with the range over the rounds."""
  from lmjax.reports import pictures

  picture = pictures.figure(7, 1.5 + 0.4 * len(rows))
  axes = picture.subplots()
  low, high = ([abs(getattr(row, name) - row.ratio) for row in rows] for name in ('ratio_min', 'ratio_max'))
  axes.barh([f'{row.name} / {row.peer}' for row in rows], [row.ratio for row in rows], xerr=[low, high], capsize=4)
  axes.axvline(1, color='grey', linestyle='--')
  axes.invert_yaxis()
  axes.set_xlabel('lmjax is ... times as good')
  axes.set_title(title)
  file.write_bytes(pictures.png(picture))


def machine() -> str:
  """Processor, cores and versions."""
  model = platform.processor()
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo') as file:
      model = next((line.split(':')[1].strip() for line in file if line.startswith('model name')), model)
  there = {name: _version(name) for name in ('jax', 'flax', 'torch', 'transformers')}
  versions = ', '.join(f'{name} {version}' for name, version in there.items() if version)
  return f'{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {versions}'


def _version(name: str) -> str | None:
  try:
    return metadata.version(name)
  except metadata.PackageNotFoundError:
    return None


if __name__ == '__main__':
  main()
