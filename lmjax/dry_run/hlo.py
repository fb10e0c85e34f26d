"""What a compiled program moves between devices, read from its text (XLA's HLO)."""

import collections
import functools
import math
import re
from typing import NamedTuple

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_BITS = {'pred': 8, 'bf16': 16}  # others carry them in their name: f32, s8, u4, f8e4m3fn
_INSTRUCTION = re.compile(r'\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
_CALLED = re.compile(r'(?:calls|body|true_computation|false_computation)=%?([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


class Traffic(NamedTuple):
  """What the collectives of one kind move in a run of the program."""

  times: int  # how many are run
  bytes: int  # of the whole arrays, as a device ends (all-gather) or begins (the others) with them


class _Instruction(NamedTuple):
  type: str
  opcode: str
  rest: str  # operands and attributes


def collectives(text: str) -> dict[str, Traffic]:
  """Traffic of each kind in KINDS that is in `compiled.as_text()`, the program of one device.

  The body of a loop counts as often as it runs.
  """
  computations, entry = _read(text)

  @functools.cache
  def total(name: str) -> collections.Counter:
    """{(kind, field of Traffic): number} of one run of a computation."""
    counts: collections.Counter = collections.Counter()
    for instruction in computations.get(name, {}).values():
      kind = instruction.opcode.removesuffix('-start')
      if kind in KINDS:
        counts[kind, 'times'] += 1
        counts[kind, 'bytes'] += _moved(instruction, computations[name])
      times = _trips(instruction, computations) if instruction.opcode == 'while' else 1
      for called in _called(instruction):
        counts += collections.Counter({key: times * number for key, number in total(called).items()})
    return counts

  counts = total(entry)
  kinds = sorted({kind for kind, _ in counts})
  return {kind: Traffic(counts[kind, 'times'], counts[kind, 'bytes']) for kind in kinds}


def _read(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
  """{computation: {instruction's name: instruction}}, and the name of the entry."""
  computations: dict[str, dict[str, _Instruction]] = {}
  entry, here = '', {}
  for line in text.splitlines():
    begun = _COMPUTATION.match(line)
    if begun and ' = ' not in line.partition('(')[0]:
      here = computations[begun[2]] = {}
      entry = begun[2] if begun[1] else entry
    elif match := _INSTRUCTION.match(line):
      here[match[1]] = _Instruction(*match.groups()[1:])
  return computations, entry


def bytes_of(type_: str) -> int:
  """Bytes of all arrays of a type.

  >>> bytes_of('(bf16[2,3]{1,0:T(8,128)}, f32[])')
  16
  """
  total = 0
  for dtype, dims in re.findall(r'([a-z]+\d*\w*)\[([\d,]*)\]', type_):
    digits = re.search(r'\d+', dtype)
    bits = _BITS.get(dtype) or (int(digits.group()) if digits else 0)
    total += math.prod(int(d) for d in dims.split(',') if d) * bits // 8
  return total


def _moved(instruction: _Instruction, program: dict[str, _Instruction]) -> int:
  names = re.findall(r'%?([\w.-]+)', instruction.rest.partition(')')[0])
  given = sum(bytes_of(program[name].type) for name in names if name in program)
  if not instruction.opcode.startswith('all-gather'):
    return given
  # the result of all-gather-start holds its operand too
  return bytes_of(instruction.type) - given * instruction.opcode.endswith('-start')


def _called(instruction: _Instruction) -> list[str]:
  branches = _BRANCHES.search(instruction.rest)
  return _CALLED.findall(instruction.rest) + (re.findall(r'[\w.-]+', branches[1]) if branches else [])


def _trips(loop: _Instruction, computations) -> int:
  """How often a loop runs: as the compiler notes it, or the constant that its counter is compared with."""
  noted = re.search(r'known_trip_count[^\d]*(\d+)', loop.rest)
  if noted:
    return int(noted[1])
  condition = re.search(r'condition=%?([\w.-]+)', loop.rest)
  steps = computations.get(condition[1], {}) if condition else {}
  constants = [int(i.rest.partition(')')[0]) for i in steps.values() if i.opcode == 'constant' and i.type[:1] in 'su']
  return max(constants, default=1)
