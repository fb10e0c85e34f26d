"""From a config to frozen sections: pydantic's list of errors, and the rules between settings, as our lines.

A problem is one line, `path = value: rule; remedy`.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

import pydantic
from ml_collections import ConfigDict

from lmjax.errors import ConfigError
from lmjax.schema import describe
from lmjax.schema.describe import NOT_SET, Node, bound, element_of, parts_of, type_name

_SHOWN = 80
# Values among which one fits most annotations, to be named by a remedy.
_EXAMPLES = (0.1, 0.5, 2.5, 300, 64, 2, 1, 0, 'text', True)
_BOUNDS = ('greater_than', 'greater_than_equal', 'less_than', 'less_than_equal')
UNKNOWN = 'unknown key'


def line(path: str, shown: str | None, rule: str, remedy: str) -> str:
  """One problem as one printable line; `shown` is the value as text, or None where there is none."""
  text = f'{path}: {rule}; {remedy}' if shown is None else f'{path} = {shown}: {rule}; {remedy}'
  # An argument may hold newlines or bytes that no terminal encoding can print.
  return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def show(value) -> str:
  """A value for a message: its repr, cut to a readable length."""
  return shorten(f'dict({", ".join(map(str, value))})' if isinstance(value, Mapping) else repr(value))


def shorten(text: str) -> str:
  """A text cut to a readable length."""
  return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'


def build(cls, config: Mapping | ConfigDict):
  """The sections that a config describes.

  Args:
    cls: the class of the whole tree; see `describe.nodes`.
    config: ConfigDict or dict.

  Raises:
    ConfigError: see `check`.
  """
  instance, problems = check(cls, config)
  if problems:
    raise ConfigError(problems)
  return instance


def check(cls, config: Mapping | ConfigDict) -> tuple[Any, list[str]]:
  """(the sections that a config describes, None where a setting is wrong; every problem, in the order of the tree).

  The problems: unknown keys (with the likeliest meant one of the whole tree), missing keys, wrong values, and what
  `problems()` of each section yields whose own settings are right.
  """
  values = describe.to_dict(config)
  cls = describe.root(cls, values)
  tree = {node.path: node for node in describe.walk(cls, values)}
  instance, found, wrong = None, [], set()
  try:
    pydantic.TypeAdapter(cls).validate_python(values)
  except pydantic.ValidationError as error:
    for path, value, refusal in _refusals(error, cls, values, tree):
      found.append((path, line(path, None if value is NOT_SET else show(value), *refusal)))
      if refusal[0] != UNKNOWN:
        wrong.add(path)
  sections = {'': Node('', cls, '', values)} | tree
  for prefix, node in sections.items():
    whole = node.section is not None and isinstance(node.value, Mapping)
    if whole and not any(is_under(path, prefix) for path in wrong):
      part = pydantic.TypeAdapter(node.section).validate_python(node.value)
      instance = instance if prefix else part
      for name, value, rule, remedy in getattr(part, 'problems', tuple)():
        path = f'{prefix}.{name}'.lstrip('.')
        found.append((path, line(path, show(value), rule, remedy)))
  places = {path: place for place, path in enumerate(tree)}

  def place(problem):  # an unknown key stands at the head of its section, those of the root at the end
    path, _ = problem
    return places.get(path, places.get(path.rpartition('.')[0], len(places)))

  return instance, [text for _, text in sorted(found, key=place)]


def _refusals(error, cls, values, tree):
  """(path, value, (rule, remedy)) of each of pydantic's errors; takes unknown keys out of `values`.

  A union gives an error for each of its members, of which one is reported: a broken bound explains more than a wrong
  type.
  """
  refusals: dict[str, tuple] = {}
  for one in error.errors(include_url=False):
    place, path = list(one['loc']), ''
    while place and f'{path}.{place[0]}'.lstrip('.') in tree:
      path = f'{path}.{place.pop(0)}'.lstrip('.')
    if one['type'] == 'unexpected_keyword_argument':
      path, above = f'{path}.{place[0]}'.lstrip('.'), path
      value = (tree[above].value if above else values).pop(place[0])
      refusals[path] = value, (UNKNOWN, meant(path, tree, isinstance(value, Mapping), cls))
    elif path not in refusals or one['type'] in (*_BOUNDS, 'value_error'):
      refusals[path] = tree[path].value, explain(one, tree[path], tree, bool(place))
  return [(path, value, refusal) for path, (value, refusal) in refusals.items()]


def explain(error, node: Node, tree: Mapping[str, Node] | None = None, inside: bool = False) -> tuple[str, str]:
  """(rule, remedy) of one of pydantic's errors; `inside`: it is about an element of the value."""
  kind = error['type']
  if kind == 'missing':
    return 'missing', f'add it to the config ({summary(node, tree)})'
  if kind in ('dataclass_type', 'dict_type'):
    return 'must be a section', f'give a dict with {names_in(node.path, tree)}'
  if kind in _BOUNDS:
    [(name, limit)] = error['ctx'].items()
    rule = f'must be {bound(name, limit)}'
  elif kind == 'value_error':
    rule = str(error['ctx']['error'])
  elif kind == 'finite_number':
    rule = 'must be a finite number'
  else:
    return f'must be {type_name(node.annotation)}', _remedy(node.annotation, error['input'])
  return f'each {rule}' if inside and element_of(node.annotation) else rule, _remedy(node.annotation, None)


def _remedy(annotation, value) -> str:
  """The likeliest meant word, or a value that the setting takes."""
  parts = parts_of(annotation)
  words = [word for part in parts if get_origin(part) is Literal for word in get_args(part) if isinstance(word, str)]
  close = difflib.get_close_matches(value, words, 1) if isinstance(value, str) else ()
  if close:
    return f'did you mean {close[0]!r}?'
  if element_of(annotation) is not None:
    return 'give values separated by commas'
  for example in _EXAMPLES:
    try:
      return f'give a value such as {pydantic.TypeAdapter(annotation).validate_python(example, strict=True)!r}'
    except pydantic.ValidationError:
      continue
  return 'give one of these'


def meant(path: str, tree: Mapping[str, Node], is_section: bool, cls=None) -> str:
  """The remedy for an unknown key: the closest path of the whole tree, or what its section holds."""
  above = path.rpartition('.')[0]
  while above and above not in tree:
    above = above.rpartition('.')[0]
  if above and not tree[above].is_section:
    return f'did you mean {above}?'
  owners = cls.owners(path) if hasattr(cls, 'owners') else ()
  if owners:
    return f'remove it; it is for {" and ".join(owners)}'

  def score(other):
    node = tree[other]
    return _closeness(path, other) - 0.1 * (node.is_section != is_section) - 0.05 * (node.value is NOT_SET)

  best = max(tree, key=score, default=None)
  if best and score(best) >= 0.65:
    return f'did you mean {best}?'
  return f'remove it; {above or "the config"} has {names_in(above, tree)}'


def summary(node: Node, tree) -> str:
  """Type and meaning of a setting, or what a section holds, for a remedy."""
  text = f'with {names_in(node.path, tree)}' if node.is_section else node.doc.rstrip('.')
  return ', '.join([type_name(node.annotation), *([shorten(text)] if text else [])])


def names_in(path: str, tree: Mapping[str, Node]) -> str:
  """The names in a section, for a remedy."""
  entry = tree[path].entry if path else None
  if entry is not None:
    return f'names, each with {", ".join(entry.__dataclass_fields__)}'
  names = [other.rpartition('.')[2] for other in tree if other.rpartition('.')[0] == path]
  return ', '.join(names[:12] + ['...'] * (len(names) > 12))


def is_under(path: str, section: str) -> bool:
  """Whether a path is a section's, or that of something in it."""
  return not section or path == section or path.startswith(section + '.')


def _closeness(path: str, other: str) -> float:
  """How likely `path` is a slip for `other`; 1 for the same path.

  The last name weighs most: a right name in the wrong section is still close, and `lr` means `learning_rate`.
  """
  (above, _, name), (other_above, _, other_name) = path.rpartition('.'), other.rpartition('.')
  initials = ''.join(word[:1] for word in other_name.split('_'))
  alike = 0.9 if name == initials and len(name) > 1 else difflib.SequenceMatcher(None, name, other_name).ratio()
  return 0.75 * alike + 0.25 * difflib.SequenceMatcher(None, above, other_above).ratio()
