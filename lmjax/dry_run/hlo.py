"""What a compiled program computes and moves between devices, read from its text (XLA's HLO)."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_BITS = {'pred': 8, 'bf16': 16}  # others carry them in their name: f32, s8, u4, f8e4m3fn
_INSTRUCTION = re.compile(r'\s*(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
_CALLED = re.compile(r'(?:calls|body|true_computation|false_computation)=%?([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_ARRAY = re.compile(r'([a-z]+\d*\w*)\[([\d,]*)\]')


class Traffic(NamedTuple):
  """What the collectives of one kind move in a run of the program."""

  times: int  # how many are run
  bytes: int  # of the whole arrays, as a device ends (all-gather) or begins (the others) with them
  waited: int = 0  # of these bytes, those next to which nothing else runs


class Instruction(NamedTuple):
  """One line of a program."""

  type: str
  opcode: str
  rest: str  # operands and attributes
  is_root: bool

  def operands(self) -> list[str]:
    """Names of the operands."""
    return re.findall(r'%([\w.-]+)', self.rest.partition(')')[0])

  def attribute(self, pattern: str) -> str:
    """What stands in the group of a pattern; '' where it is not there."""
    found = re.search(pattern, self.rest)
    return found[1] if found else ''


Computation = dict[str, Instruction]


def instructions(text: str) -> Iterator[tuple[Instruction, Computation, int]]:
  """Every instruction of `compiled.as_text()`, its computation, and how often a run of the program executes it.

  The body of a loop counts as often as it runs. All branches of a condition count.
  """
  computations, entry = _read(text)

  def visit(name: str, times: int) -> Iterator[tuple[Instruction, Computation, int]]:
    computation = computations.get(name, {})
    for instruction in computation.values():
      yield instruction, computation, times
      trips = _trips(instruction, computation, computations) if instruction.opcode == 'while' else 1
      for called in _called(instruction):
        yield from visit(called, times * trips)

  return visit(entry, 1)


def collectives(text: str) -> dict[str, Traffic]:
  """Traffic of each kind in KINDS that is in a program of one device.

  An asynchronous collective has a -start, or stands in several fused computations, its beginning, middle and end, which
  say so and share a channel: it counts once. Others may share a channel too, and count each: libtpu numbers them again
  when it joins them.
  """
  each: dict[tuple, Traffic] = {}
  for number, (instruction, computation, times) in enumerate(instructions(text)):
    kind = instruction.opcode.removesuffix('-start')
    if kind in KINDS:
      is_part = 'async_collective_fusion_config' in instruction.rest
      size = times * _moved(instruction, computation)
      is_waited_for = instruction.opcode == kind and not is_part
      channel = instruction.attribute(r'channel_id=(\d+)') if is_part else number
      each.setdefault((kind, channel), Traffic(times, size, size * is_waited_for))
  found: dict[str, Traffic] = {}
  for (kind, _), one in each.items():
    found[kind] = Traffic(*map(sum, zip(found.get(kind, Traffic(0, 0)), one)))
  return dict(sorted(found.items()))


def dot_flops(text: str) -> int:
  """Floating-point operations of all matrix products; on TPUs they are convolutions."""
  total = 0
  for instruction, computation, times in instructions(text):
    if instruction.opcode in ('dot', 'convolution'):
      left, right = (_dims(computation[name].type) for name in instruction.operands())
      result = _dims(instruction.type)
      count = _dot if instruction.opcode == 'dot' else _convolution
      total += times * 2 * count(instruction, left, right, result)
  return total


def estimated_cycles(text: str) -> int:
  """The TPU compiler's own estimate of its fused operations, without collectives and Pallas kernels."""
  found = ((one.attribute(r'"estimated_cycles":"(\d+)"'), times) for one, _, times in instructions(text))
  return sum(int(cycles) * times for cycles, times in found if cycles)


def bytes_of(type_: str) -> int:
  """Bytes of all arrays of a type.

  >>> bytes_of('(bf16[2,3]{1,0:T(8,128)}, f32[])')
  16
  """
  total = 0
  for dtype, dims in _ARRAY.findall(type_):
    digits = re.search(r'\d+', dtype)
    bits = _BITS.get(dtype) or (int(digits.group()) if digits else 0)
    total += math.prod(int(d) for d in dims.split(',') if d) * bits // 8
  return total


def _read(text: str) -> tuple[dict[str, Computation], str]:
  """{computation: {instruction's name: instruction}}, and the name of the entry."""
  computations: dict[str, Computation] = {}
  entry, here = '', {}
  for line in text.splitlines():
    begun = _COMPUTATION.match(line)
    if begun and ' = ' not in line.partition('(')[0]:
      here = computations[begun[2]] = {}
      entry = begun[2] if begun[1] else entry
    elif match := _INSTRUCTION.match(line):
      root, name, type_, opcode, rest = match.groups()
      here[name] = Instruction(type_, opcode, rest, bool(root))
  return computations, entry


def _dims(type_: str) -> list[int]:
  found = _ARRAY.search(type_)
  return [int(d) for d in found[2].split(',') if d] if found else []


def _dot(instruction: Instruction, left: list[int], right: list[int], result: list[int]) -> int:
  del right
  contracted = instruction.attribute(r'lhs_contracting_dims=\{([\d,]*)\}')
  return math.prod(result) * math.prod(left[int(d)] for d in contracted.split(',') if d)


def _convolution(instruction: Instruction, left: list[int], right: list[int], result: list[int]) -> int:
  """Products of numbers that are there: a window also slides over padding, which costs nothing."""
  labels = [part for part in re.split('_|->', instruction.attribute(r'dim_labels=([\w>-]+)'))]
  sizes = [dict(zip(label, dims)) for label, dims in zip(labels, (left, right, result))]
  window = instruction.attribute(r'window=\{([^}]*)\}')
  fields = dict(field.split('=') for field in window.split())
  total = sizes[2]['b'] * sizes[2]['f'] * sizes[1]['i']
  for place, label in enumerate(sorted(name for name in sizes[0] if name.isdigit())):
    one = {name: value.split('x')[place] for name, value in fields.items()}
    stride, left_step, right_step = (int(one.get(name, 1)) for name in ('stride', 'lhs_dilate', 'rhs_dilate'))
    before = int(one.get('pad', '0_0').split('_')[0])
    length = (sizes[0][label] - 1) * left_step + 1
    few, many = sorted(((sizes[2][label], stride), (sizes[1][label], right_step)))
    total *= sum(_hits(one * few[1] - before, many[1], many[0], length, left_step) for one in range(few[0]))
  return total


def _hits(start: int, step: int, count: int, length: int, every: int) -> int:
  """How many of `count` places, from `start` in steps, lie within `length` and are multiples of `every`.

  >>> _hits(-3, 2, 10, 9, every=3)  # -3, -1, 1, 3, 5, 7, 9, ...
  1
  """
  low, high = max(0, -(start // step)), min(count - 1, (length - 1 - start) // step)
  common = math.gcd(step, every)
  if start % common or high < low:
    return 0
  # start + i * step is a multiple of `every` for one i in each `period` of them
  period = every // common
  one = -start // common * pow(step // common, -1, period)
  return (high - low - (one - low) % period) // period + 1


def _moved(instruction: Instruction, computation: Computation) -> int:
  given = sum(bytes_of(computation[name].type) for name in instruction.operands() if name in computation)
  if not instruction.opcode.startswith('all-gather'):
    return given
  # the result of all-gather-start holds its operand too
  return bytes_of(instruction.type) - given * instruction.opcode.endswith('-start')


def _called(instruction: Instruction) -> list[str]:
  branches = _BRANCHES.search(instruction.rest)
  return _CALLED.findall(instruction.rest) + (re.findall(r'[\w.-]+', branches[1]) if branches else [])


def _trips(loop: Instruction, around: Computation, computations: dict[str, Computation]) -> int:
  """How often a loop runs: as the compiler notes it; or from its counter's beginning, step and bound.

  A ring of partial products counts by two or four, with its body written out as often.
  """
  if noted := loop.attribute(r'known_trip_count[^\d]*(\d+)'):
    return int(noted)
  condition = computations.get(loop.attribute(r'condition=%?([\w.-]+)'), {})
  body = computations.get(loop.attribute(r'body=%?([\w.-]+)'), {})
  bound = max((value for name in condition if (value := _constant(condition, name)) is not None), default=1)
  places = [int(one.attribute(r'index=(\d+)')) for one in condition.values() if one.opcode == 'get-tuple-element']
  root = next((one for one in body.values() if one.is_root and one.opcode == 'tuple'), None)
  if len(places) != 1 or root is None:
    return bound
  updated = body[root.operands()[places[0]]]
  steps = [_constant(body, name) for name in updated.operands()] if updated.opcode == 'add' else []
  step = next((value for value in steps if value), 1)
  given = around.get(loop.operands()[0])
  begin = _constant(around, given.operands()[places[0]]) if given is not None and given.opcode == 'tuple' else 0
  return -(-(bound - (begin or 0)) // step)


def _constant(computation: Computation, name: str) -> int | None:
  """The value of a whole number that stands in the program."""
  one = computation.get(name)
  is_whole = one is not None and one.opcode == 'constant' and one.type[:1] in 'su'
  return int(one.rest.partition(')')[0]) if one is not None and is_whole else None
