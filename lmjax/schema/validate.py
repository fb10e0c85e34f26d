"""From a config to frozen sections: values checked by pydantic, the rules between them by each section.

A problem is `(path, value, rule, remedy)`, and for people one line, `path = value: rule; remedy`.
"""

import difflib
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args, get_origin

import pydantic
from ml_collections import ConfigDict

from lmjax.errors import ConfigError
from lmjax.schema import describe
from lmjax.schema.describe import NOT_SET, Node

_SHOWN = 80
# Values among which one fits most annotations, to be named by a remedy.
_EXAMPLES = (0.1, 0.5, 2.5, 300, 64, 2, 1, 0, 'text', True)
_BOUNDS = ('greater_than', 'greater_than_equal', 'less_than', 'less_than_equal')


def line(path: str, shown: str | None, rule: str, remedy: str) -> str:
  """One problem as one printable line; `shown` is the value as text, or None where there is none."""
  text = f'{path}: {rule}; {remedy}' if shown is None else f'{path} = {shown}: {rule}; {remedy}'
  # An argument may hold newlines or bytes that no terminal encoding can print.
  return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def lines(problems: Iterable[tuple[str, Any, str, str]]) -> list[str]:
  """A line for each problem."""
  return [line(path, None if value is NOT_SET else show(value), *rest) for path, value, *rest in problems]


def show(value) -> str:
  """A value for a message: its repr, cut to a readable length."""
  return shorten(f'dict({", ".join(map(str, value))})' if isinstance(value, Mapping) else repr(value))


def shorten(text: str) -> str:
  """A text cut to a readable length."""
  return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'


def build(cls, config: Mapping | ConfigDict, problems: Iterable[str] = ()):
  """The sections that a config describes. Raises ConfigError with the problems given and those that `check` finds."""
  instance, broken = check(cls, config)
  if broken or problems:
    raise ConfigError([*problems, *broken])
  return instance


def check(cls, config: Mapping | ConfigDict) -> tuple[Any, list[str]]:
  """(the sections that a config describes, None where a setting is wrong; a line for every problem).

  The problems of a section: missing settings and wrong values, in the order of its fields; unknown keys, with the
  likeliest meant one of the whole tree; and, where all of its settings are right, what its `problems()` yields.
  """
  tree = describe.nodes(cls, config)
  problems: list[tuple] = []

  def read(node: Node):
    """The setting or section as its annotation wants it; NOT_SET where it is wrong."""
    if node.value is NOT_SET:
      problems.append((node.path, NOT_SET, 'missing', f'add it to the config ({summary(node)})'))
      return NOT_SET
    if node.is_section and isinstance(node.value, Mapping):
      return read_section(node)
    try:
      return _adapter(node.annotation).validate_python(node.value)
    except pydantic.ValidationError as error:
      problems.append((node.path, node.value, *explain(error.errors(include_url=False), node)))
      return NOT_SET

  def read_section(node: Node):
    inside = {inner.path.rpartition('.')[2]: inner for inner in node.inside()}
    values = {name: read(inner) for name, inner in inside.items()}
    for name, value in node.value.items():
      if name not in inside:
        path = f'{node.path}.{name}'.lstrip('.')
        problems.append((path, value, *unknown(path, tree, cls)))
    if any(value is NOT_SET for value in values.values()):
      return NOT_SET
    if node.section is None:
      return values
    section = node.section(**values)
    for name, *rest in getattr(section, 'problems', tuple)():
      path = f'{node.path}.{name}'.lstrip('.')
      problems.append((path, tree[path].value, *rest))
    return section

  instance = read(tree[''])
  return None if instance is NOT_SET else instance, lines(problems)


_adapter = functools.cache(pydantic.TypeAdapter)  # by annotation: to make one takes longer than to use it


def explain(errors: list, node: Node) -> tuple[str, str]:
  """(rule, remedy) of a value by pydantic's errors: a union gives one for each of its members.

  A broken bound explains more than a wrong type.
  """
  telling = [error for error in errors if error['type'] in (*_BOUNDS, 'value_error', 'finite_number')]
  error = [*telling, *errors][0]
  if error['type'] in ('dataclass_type', 'dict_type'):
    return 'must be a section', f'give a dict with {names_in(node)}'
  if not telling:
    return f'must be {describe.type_name(node.annotation)}', _remedy(node, error['input'])
  if error['type'] in _BOUNDS:
    [(name, limit)] = error['ctx'].items()
    rule = f'must be {describe.bound(name, limit)}'
  else:
    rule = 'must be a finite number' if error['type'] == 'finite_number' else str(error['ctx']['error'])
  return rule if node.element is None else f'each {rule}', _remedy(node, None)


def _remedy(node: Node, value) -> str:
  """The likeliest meant word, or a value that the setting takes."""
  parts = describe.parts_of(node.annotation)
  words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
  close = difflib.get_close_matches(value, words, 1) if isinstance(value, str) else ()
  if close:
    return f'did you mean {close[0]!r}?'
  if node.element is not None:
    return 'give values separated by commas'
  for example in _EXAMPLES:
    try:
      return f'give a value such as {_adapter(node.annotation).validate_python(example, strict=True)!r}'
    except pydantic.ValidationError:
      continue
  return 'give one of these'


def unknown(path: str, tree: Mapping[str, Node], cls) -> tuple[str, str]:
  """(rule, remedy) of an unknown key: the closest path of the whole tree, or what its section holds."""
  above = path.rpartition('.')[0]
  while above not in tree:
    above = above.rpartition('.')[0]
  owners = cls.owners(path) if hasattr(cls, 'owners') else ()
  best = max(tree.values(), key=lambda node: _closeness(path, node))
  if not tree[above].is_section:
    remedy = f'did you mean {above}?'
  elif owners:
    remedy = f'remove it; it is for {" and ".join(owners)}'
  elif _closeness(path, best) >= 0.65:
    remedy = f'did you mean {best.path}?'
  else:
    remedy = f'remove it; {above or "the config"} has {names_in(tree[above])}'
  return 'unknown key', remedy


def summary(node: Node) -> str:
  """Type and meaning of a setting, or what a section holds, for a remedy."""
  text = f'with {names_in(node)}' if node.is_section else node.doc.rstrip('.')
  return ', '.join([describe.type_name(node.annotation), *([shorten(text)] if text else [])])


def names_in(node: Node) -> str:
  """The names in a section, for a remedy."""
  if node.section is None:
    return f'names, each with {", ".join(node.entry.__dataclass_fields__)}'
  names = [*node.section.__dataclass_fields__]
  return ', '.join(names[:12] + ['...'] * (len(names) > 12))


def _closeness(path: str, node: Node) -> float:
  """How likely `path` is a slip for another; 1 for the same path.

  The last name weighs most: a right name in the wrong section is still close, and `lr` means `learning_rate`.
  """
  (above, _, name), (other_above, _, other) = path.rpartition('.'), node.path.rpartition('.')
  initials = ''.join(word[:1] for word in other.split('_'))
  alike = 0.9 if name == initials and len(name) > 1 else difflib.SequenceMatcher(None, name, other).ratio()
  nearness = 0.75 * alike + 0.25 * difflib.SequenceMatcher(None, above, other_above).ratio()
  return nearness - 0.05 * (node.value is NOT_SET)
