"""One leaf of a config: which values its annotation allows, given as a Python value or as text.

`kind_of` reads an annotation once into a `Kind`; `check` and `parse` turn a value or a command-line
text into the value that the dataclass holds, or raise `Refusal` with rule and remedy.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from lmjax.schema.fields import Rule

_SCALARS = {int: 'an int', float: 'a float', bool: 'a bool', str: 'a str'}
_EXAMPLES = {int: (300, 64, 2, 1, 0), float: (0.1, 0.5, 1.0, 2.0, 0.0), bool: (True, False), str: ('text',)}
_BOOLS = {'true': True, '1': True, 'false': False, '0': False}
_NONES = ('None', 'none')


class Refusal(ValueError):
  """A value that its leaf does not take. `of_type` is False where the type is right and a rule is broken."""

  def __init__(self, rule, remedy, of_type=False):
    self.rule, self.remedy, self.of_type = rule, remedy, of_type
    super().__init__(f'{rule}; {remedy}')


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
  """Which dataclass a section holds: `options` maps the values of the leaf `by`, beside it, to dataclasses.

  Used as `Annotated[A | B, Choice('task', {'causal_lm': A, 'masked_lm': B})]`. An option that is None
  says that the section must be None there.
  """

  by: str
  options: Mapping


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
  """What an annotation allows.

  Attributes:
    base: int, float, bool, str, Literal, tuple, dict, NoneType, a dataclass, or None for a union.
    parts: the values of a Literal, or the kinds inside a tuple, a dict or a union.
    optional: whether None is allowed as well.
    rules: rules on a value that is not None.
    choice: how a sibling leaf selects among dataclasses.
  """

  base: Any
  parts: tuple = ()
  optional: bool = False
  rules: tuple = ()
  choice: Choice | None = None

  @property
  def is_section(self):
    """Whether the value is a section of the tree rather than a leaf."""
    return self.base is dict or self.choice is not None or dataclasses.is_dataclass(self.base)


@functools.cache
def kinds_of(cls):
  """Field name -> `Kind` of a dataclass, in the order of its fields."""
  hints = typing.get_type_hints(cls, include_extras=True)
  return {field.name: kind_of(hints[field.name]) for field in dataclasses.fields(cls)}


def documentation(cls):
  """Leaf -> text, from the lines `name: text` of the docstring and their further indented continuations."""
  texts = {}
  for base in reversed(cls.__mro__):
    doc, name, indent = inspect.cleandoc(base.__doc__ or ''), None, 0
    for row in doc.splitlines():
      depth, start = len(row) - len(row.lstrip()), re.match(r'\s*(\w+): *(.*)', row)
      if start and start[1] in cls.__dataclass_fields__:
        name, indent = start[1], depth
        texts[name] = start[2].strip()
      elif name and row.strip() and depth > indent:
        texts[name] = f'{texts[name]} {row.strip()}'.strip()
      else:
        name = None
  return texts


def kind_of(annotation):
  """The `Kind` of an annotation. Raises TypeError for one that a config cannot hold."""
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  if origin is Annotated:
    inner, notes = kind_of(args[0]), args[1:]
    rules = tuple(note for note in notes if isinstance(note, Rule))
    choice = next((note for note in notes if isinstance(note, Choice)), inner.choice)
    return dataclasses.replace(inner, rules=inner.rules + rules, choice=choice)
  if origin in (Union, types.UnionType):
    members = [kind_of(arg) for arg in args if arg is not type(None)]
    if len(members) == 1:
      return dataclasses.replace(members[0], optional=True)
    return Kind(None, tuple(members), optional=type(None) in args)
  if origin is Literal:
    return Kind(Literal, args)
  if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
    return Kind(tuple, (kind_of(args[0]),))
  if origin is dict and args[0] is str and dataclasses.is_dataclass(args[1]):
    return Kind(dict, (kind_of(args[1]),))
  if annotation in _SCALARS or annotation is type(None) or dataclasses.is_dataclass(annotation):
    return Kind(annotation)
  raise TypeError(f'a config leaf cannot be annotated {annotation!r}')


def type_name(kind, rules=False):
  """A short name of the type, such as `tuple of str or None`; with `rules`, also what they demand."""
  if kind.base is Literal:
    name = ' or '.join(repr(value) for value in kind.parts)
  elif kind.base is tuple:
    name = f'tuple of {type_name(kind.parts[0], rules)}'
  elif kind.base is None:
    name = ' or '.join(type_name(part, rules) for part in kind.parts)
  else:
    name = 'None' if kind.base is type(None) else 'section' if kind.is_section else kind.base.__name__
  texts = [re.sub(r'^must (be |lie )?', '', rule.text) for rule in kind.rules if rules]
  return ', '.join([name + (' or None' if kind.optional else ''), *texts])


def check(kind, value):
  """The value as the dataclass holds it: an int for `1e3`, a float for 1, a tuple for a list.

  Raises:
    Refusal: it has another type, is not finite, or breaks a rule.
  """
  if value is None and kind.optional:
    return None
  return _obey(kind, _typed(kind, value))


def parse(kind, text):
  """The value that a text from the command line stands for, by the type of the leaf.

  `parse(kind_of(tuple[int, ...]), '(1, 2)') == (1, 2)`; a str is taken as it is, quoted or bare.

  Raises:
    Refusal: the text is no such value.
  """
  bare = text.strip()
  if kind.optional and bare in _NONES:
    return None
  if kind.base is None:
    return _obey(kind, _first(kind, lambda part: parse(part, text), text))
  if kind.base is Literal:
    named = {str(value): value for value in kind.parts}
    return check(kind, named.get(_unquote(bare), _unquote(bare)))
  if kind.base is tuple:
    items = [_element(kind, lambda part, item=item: parse(part, item)) for item in _split(bare)]
    return _obey(kind, tuple(items))
  return check(kind, _scalar(kind.base, text))


def _obey(kind, value):
  for rule in kind.rules:
    if not rule.holds(value):
      raise Refusal(rule.text, _example(kind))
  return value


def _scalar(base, text):
  """An int, float or bool where the text reads as one, else the text, for `check` to refuse."""
  if base is str:
    return _unquote(text)
  if base is bool:
    return _BOOLS.get(text.strip().lower(), text)
  for read in (int, float) if base is int else (float,):
    try:
      return read(text)
    except ValueError:
      continue
  return text


def _typed(kind, value):
  if kind.base is None:
    return _first(kind, lambda part: check(part, value), value)
  if kind.base is tuple and isinstance(value, tuple | list):
    return tuple(_element(kind, lambda part, item=item: check(part, item)) for item in value)
  if kind.base is Literal:
    for allowed in kind.parts:
      if type(allowed) is type(value) and allowed == value:
        return allowed
  if kind.base in (str, bool) and isinstance(value, kind.base):
    return value
  if kind.base in (int, float) and isinstance(value, numbers.Real) and not isinstance(value, bool):
    return _number(kind, value)
  if value is None and kind.base is type(None):
    return None
  raise _of_type(kind, value)


def _number(kind, value):
  # int first: math.isfinite raises OverflowError on a huge one.
  if isinstance(value, int) and abs(value) >= 2**63:
    raise Refusal('must fit into 64 bits', _example(kind))
  if not math.isfinite(value):
    raise Refusal('must be a finite number', _example(kind))
  if kind.base is int and int(value) != value:
    raise _of_type(kind, value)
  if kind.base is int and abs(value) >= 2**63:
    raise Refusal('must fit into 64 bits', _example(kind))
  return kind.base(value)


def _first(kind, attempt, value):
  """The value under the first member of a union that takes it. A broken rule says more than a wrong type."""
  refusals = []
  for part in kind.parts:
    try:
      return attempt(part)
    except Refusal as refusal:
      refusals.append(refusal)
  raise next((refusal for refusal in refusals if not refusal.of_type), _of_type(kind, value))


def _element(kind, attempt):
  try:
    return attempt(kind.parts[0])
  except Refusal as refusal:
    if refusal.of_type:
      raise _of_type(kind, None) from None
    raise Refusal(f'each {refusal.rule}', refusal.remedy) from None


def _of_type(kind, value):
  name = _SCALARS.get(kind.base, f'a {type_name(kind)}' if kind.base is tuple else type_name(kind))
  if kind.optional and kind.base in _SCALARS:
    name += ' or None'
  close = difflib.get_close_matches(value, _words(kind), 1) if isinstance(value, str) else ()
  return Refusal(f'must be {name}', f'did you mean {close[0]!r}?' if close else _example(kind), of_type=True)


def _words(kind):
  if kind.base is Literal:
    return [value for value in kind.parts if isinstance(value, str)]
  return [word for part in kind.parts if isinstance(part, Kind) for word in _words(part)]


def _example(kind):
  """The remedy names a value that the leaf does take, whatever its rules."""
  if kind.base is tuple:
    return 'give values separated by commas'
  if kind.base not in _EXAMPLES:
    return 'give None' if kind.base is type(None) else 'give one of these'
  fits = [value for value in _EXAMPLES[kind.base] if all(rule.holds(value) for rule in kind.rules)]
  return f'give {_SCALARS[kind.base]} such as {fits[0]!r}' if fits else f'give another {kind.base.__name__}'


def _unquote(text):
  bare = text.strip()
  quoted = len(bare) >= 2 and bare[0] == bare[-1] and bare[0] in '\'"' and bare[0] not in bare[1:-1]
  return bare[1:-1] if quoted else text


def _split(text):
  """The elements of `a,b`, `(a,b)` or `['a','b']`. A comma inside quotes or brackets does not separate."""
  if text[:1] + text[-1:] in ('()', '[]') and len(text) >= 2 and _pieces(text[1:-1]) is not None:
    inner = text[1:-1].strip()
    # `[ab]` alone is a pattern, `[a,b]` and `['ab']` are lists.
    if text[0] == '(' or not inner or ',' in inner or inner[0] in '\'"':
      text = inner
  pieces = _pieces(text)
  pieces = [piece.strip() for piece in (text.split(',') if pieces is None else pieces)]
  return pieces[:-1] if not pieces[-1] else pieces


def _pieces(text):
  """Split at the outer commas, or None where quotes or brackets do not close."""
  pieces, depth, quote, start = [], 0, '', 0
  for position, character in enumerate(text):
    if quote:
      quote = '' if character == quote else quote
    elif character in '\'"' and not text[start:position].strip():
      quote = character
    elif character in '([{':
      depth += 1
    elif character in ')]}':
      depth -= 1
    elif character == ',' and depth == 0:
      pieces.append(text[start:position])
      start = position + 1
    if depth < 0:
      return None
  return None if quote or depth else [*pieces, text[start:]]


def closeness(path, other):
  """How likely `path` is a slip for `other`; 1 for the same path.

  The last name weighs most: a right name in the wrong section is still close, and `lr` means `learning_rate`.
  """
  (above, _, name), (other_above, _, other_name) = path.rpartition('.'), other.rpartition('.')
  initials = ''.join(word[:1] for word in other_name.split('_'))
  alike = 0.9 if name == initials and len(name) > 1 else _ratio(name, other_name)
  return 0.75 * alike + 0.25 * _ratio(above, other_above)


def _ratio(text, other):
  return difflib.SequenceMatcher(None, text, other).ratio()
