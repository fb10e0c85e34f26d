"""What a compiled program moves between devices, read from its text (XLA's HLO)."""

import math
import re
from typing import NamedTuple

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_BITS = {'pred': 8, 'bf16': 16}  # others carry them in their name: f32, s8, u4, f8e4m3fn
_INSTRUCTION = re.compile(r'\s*(?:ROOT )?%?([\w.-]+) = (.*)')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.-]+) \(.*\{$')
_CALLED = re.compile(r'(?:calls|body|true_computation|false_computation)=%?([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


class Traffic(NamedTuple):
  """What the collectives of one kind move in a run of the program.

  Attributes:
    times: how many are run.
    bytes: of the whole arrays, as a device ends (all-gather) or begins (the others) with them.
  """

  times: int
  bytes: int


class _Instruction(NamedTuple):
  type: str
  opcode: str
  rest: str


def collectives(text: str) -> dict[str, Traffic]:
  """Traffic of each kind in KINDS that is there; the body of a loop counts as often as it runs.

  Args:
    text: `compiled.as_text()`, the program of one device.
  """
  computations, entry = _read(text)
  found: dict[str, dict[str, Traffic]] = {}

  def total(name: str) -> dict[str, Traffic]:
    if name not in found:
      found[name] = {}
      for instruction in computations[name].values():
        _add(found[name], _own(instruction, computations[name]), 1)
        times = _trips(instruction, computations) if instruction.opcode == 'while' else 1
        for called in _called(instruction):
          if called in computations:
            _add(found[name], total(called), times)
    return found[name]

  return {kind: traffic for kind, traffic in sorted(total(entry).items())}


def _add(into, traffic, times):
  for kind, (number, size) in traffic.items():
    before = into.get(kind, Traffic(0, 0))
    into[kind] = Traffic(before.times + times * number, before.bytes + times * size)


def _read(text: str) -> tuple[dict[str, dict[str, _Instruction]], str]:
  """{computation: {instruction's name: instruction}}, and the name of the entry."""
  computations: dict[str, dict[str, _Instruction]] = {}
  entry, here = '', None
  for line in text.splitlines():
    begun = _COMPUTATION.match(line)
    if begun and ' = ' not in line.partition('(')[0]:
      here = computations[begun.group(2)] = {}
      entry = begun.group(2) if begun.group(1) else entry
    elif here is not None:
      found = _INSTRUCTION.match(line)
      if found:
        type_, rest = _split_type(found.group(2))
        opcode, _, rest = rest.partition('(')
        here[found.group(1)] = _Instruction(type_, opcode.strip(), rest)
  return computations, entry


def _split_type(text: str) -> tuple[str, str]:
  """`(f32[2], f32[3]) tuple(...)` -> the type and the rest."""
  if not text.startswith('('):
    type_, _, rest = text.partition(' ')
    return type_, rest
  depth = 0
  for i, character in enumerate(text):
    depth += (character == '(') - (character == ')')
    if depth == 0:
      return text[: i + 1], text[i + 1 :].strip()
  return text, ''


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


def _own(instruction: _Instruction, program: dict[str, _Instruction]) -> dict[str, Traffic]:
  kind = instruction.opcode.removesuffix('-start')
  if kind not in KINDS:
    return {}
  names = re.findall(r'%?([\w.-]+)', instruction.rest.partition(')')[0])
  given = sum(bytes_of(program[name].type) for name in names if name in program)
  if kind != 'all-gather':
    return {kind: Traffic(1, given)}
  # the result of all-gather-start holds its operand too
  return {kind: Traffic(1, bytes_of(instruction.type) - given * instruction.opcode.endswith('-start'))}


def _called(instruction: _Instruction) -> list[str]:
  branches = _BRANCHES.search(instruction.rest)
  several = re.findall(r'[\w.-]+', branches.group(1)) if branches else []
  return _CALLED.findall(instruction.rest) + several


def _trips(loop: _Instruction, computations) -> int:
  """How often a loop runs: as the compiler notes it, or the constant that its counter is compared with."""
  noted = re.search(r'known_trip_count[^\d]*(\d+)', loop.rest)
  if noted:
    return int(noted.group(1))
  condition = re.search(r'condition=%?([\w.-]+)', loop.rest)
  steps = computations.get(condition.group(1), {}) if condition else {}
  constants = [int(i.rest.partition(')')[0]) for i in steps.values() if i.opcode == 'constant' and i.type[:1] in 'su']
  return max(constants, default=1)
