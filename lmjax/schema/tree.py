"""From a ConfigDict to frozen dataclasses, every problem reported at once.

The dataclasses are the schema: their annotations say what each leaf takes (`lmjax/schema/leaf.py`), their
docstrings what it means. A problem is one line, `path = value: rule; remedy`.
"""

import copy
import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

from lmjax.errors import ConfigError
from lmjax.schema.leaf import Choice, Kind, Refusal, check, closeness, documentation, kinds_of, parse, type_name

__all__ = ['Choice', 'build', 'describe', 'documentation', 'leaves', 'line', 'override', 'show', 'to_dict']

_INVALID = object()
_SHOWN = 80
_ENTRY = re.compile(r'[\w-]+')


@dataclasses.dataclass(frozen=True)
class _Node:
  """One place in the tree: its full path, what it takes and what the docstring says of it.

  `selector` is the path of the leaf that selects what is in this section; `reached` says whether the
  config has the section that the node is in.
  """

  path: str
  kind: Kind
  doc: str = ''
  selector: str | None = None
  reached: bool = True


class _Unreadable:
  """Stands for a computed reference that raised; its repr, the reason, becomes the value in the problem."""

  def __init__(self, reason):
    self.reason = reason

  def __repr__(self):
    return f'<{self.reason}>'


def line(path, shown, rule, remedy):
  """One problem as one printable line; `shown` is the value as text, or None where there is none."""
  text = f'{path}: {rule}; {remedy}' if shown is None else f'{path} = {shown}: {rule}; {remedy}'
  # An argument may hold newlines or bytes that no terminal encoding can print.
  return ''.join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def show(value):
  """A value for a message: its repr, cut to a readable length."""
  return _shorten(f'dict({", ".join(value)})' if isinstance(value, Mapping) else repr(value))


def build(cls, config, further=lambda instance: ()):
  """The frozen dataclasses that a config describes.

  Args:
    cls: the dataclass of the whole tree.
    config: ConfigDict or dict.
    further: more problems of the whole, in the form of `problems()`, where it could be built.

  Raises:
    ConfigError: with every problem in tree order: unknown keys (with the likeliest meant one, from the
      whole tree), missing keys, wrong types, broken rules, and what `problems()` of each dataclass
      says once all of its leaves are valid.
  """
  builder = _Builder(cls, _plain(config))
  instance = builder.section(cls, builder.values, '')
  if instance is not _INVALID:
    for problem in further(instance):
      builder.add(problem[0], show(problem[1]), *problem[2:])
  if builder.problems:
    raise ConfigError(builder.lines())
  return instance


def override(cls, config, assignments):
  """A copy of the config with `(path, text)` assignments applied, each read by the type of its leaf.

  A refused assignment leaves the value of the file in place, so that `build` goes on to find every
  other problem. A named entry (`data.sources.mine`) is added when all of its leaves are given.
  References in the config stay: what is computed from an overridden leaf follows it.

  Returns:
    (ConfigDict, tuple of problem lines)
  """
  try:
    config = _unlocked(copy.deepcopy(config))
  except Exception:  # A reference of the file cannot be computed; `build` will say which.
    config = ConfigDict(_plain(config), type_safe=False)
  texts, problems, refused = {path.strip(): text for path, text in assignments}, [], []
  opened = _open_entries(cls, config, texts)
  # A leaf that selects a dataclass goes first: it decides how the section beside it is read.
  for selecting in (True, False):
    nodes = _nodes(cls, _plain(config))
    selectors = {node.selector for node in nodes.values()}
    for path, text in texts.items():
      if (path in selectors) == selecting:
        try:
          _assign(config, path, _read(path, text, nodes))
        except Refusal as refusal:
          refused.append(path)
          problems.append(line(path, _shorten(text) if text else None, refusal.rule, refusal.remedy))
  for path, kind in opened.items():
    if any(name not in _plain(_at(config, path)) for name in kinds_of(kind.base)):
      del _at(config, _parent(path))[path.rpartition('.')[2]]
      if not any(_under(other, path) for other in refused):
        problems.append(_new_entry(path, kind, _nodes(cls, _plain(config))))
  return config, tuple(problems)


def describe(cls, config):
  """The config tree as text: a line for each leaf with its value in this config, type and documentation."""
  values, rows = _plain(config), []
  flat = leaves(values)
  for node in _walk(cls, values):
    if node.kind.is_section and node.path not in flat:
      rows.append((f'\n{node.path}: {node.doc}' if node.doc else f'\n{node.path}:', ''))
    else:
      value = show(flat[node.path]) if node.path in flat else '(not set)'
      name = type_name(node.kind, rules=True)
      rows.append((f'  {node.path} = {value}', f'{name}: {node.doc}' if node.doc else name))
  width = min(44, max((len(left) for left, right in rows if right), default=0))
  return '\n'.join(f'{left:{width}}  {right}' if right else left for left, right in rows).strip('\n')


def to_dict(instance):
  """A dataclass, ConfigDict or dict as plain dicts, lists and scalars, ready for JSON."""
  if dataclasses.is_dataclass(instance):
    return {field.name: to_dict(getattr(instance, field.name)) for field in dataclasses.fields(instance)}
  if isinstance(instance, ConfigDict):
    return to_dict(_plain(instance))
  if isinstance(instance, Mapping):
    return {key: to_dict(value) for key, value in instance.items()}
  return [to_dict(value) for value in instance] if isinstance(instance, tuple | list) else instance


def leaves(tree, prefix=''):
  """Full path -> value of every leaf of a config or of a built dataclass; a section that is off is a None."""
  if dataclasses.is_dataclass(tree):
    tree = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
  flat = {}
  for name, value in (_plain(tree) if isinstance(tree, ConfigDict) else tree).items():
    if isinstance(value, Mapping | ConfigDict) or dataclasses.is_dataclass(value):
      flat.update(leaves(value, f'{prefix}{name}.'))
    else:
      flat[f'{prefix}{name}'] = value
  return flat


class _Builder:
  """Builds sections depth first and collects `(path, line)` for every problem."""

  def __init__(self, cls, values):
    self.values, self.problems, self.nodes = values, [], _nodes(cls, values)

  def add(self, path, shown, rule, remedy):
    self.problems.append((path, line(path, shown, rule, remedy)))

  def lines(self):
    """The problems in the order of the tree; an unknown key at the end of its section."""
    order = {path: position for position, path in enumerate(self.nodes)}

    def position(path):
      if path in order:
        return order[path]
      above = _parent(path)
      return max((order[other] for other in order if _under(other, above)), default=len(order)) + 0.5

    return [row for _, row in sorted(self.problems, key=lambda problem: position(problem[0]))]

  def section(self, cls, values, prefix):
    """An instance of `cls`, or _INVALID where a leaf of it is."""
    built = {}
    for name, kind in kinds_of(cls).items():
      path = prefix + name
      if name in values:
        self.check_selector(kind, values, path)
        built[name] = self.value(_chosen(kind, values, name), values[name], path)
      else:
        built[name] = _INVALID
        self.add(path, None, 'missing', f'add it to the config ({_says(path, self.nodes)})')
    for name in values:
      if name not in built:
        self.add(
          prefix + name,
          show(values[name]),
          'unknown key',
          _meant(prefix + name, self.nodes, isinstance(values[name], Mapping)),
        )
    if any(value is _INVALID for value in built.values()):
      return _INVALID
    instance = cls(**built)
    for leaf, value, rule, remedy in getattr(instance, 'problems', tuple)():
      self.add(prefix + leaf, show(value), rule, remedy)
    return instance

  def check_selector(self, kind, values, path):
    """Reports a valid selector for which the choice has no option; an invalid one is reported as a leaf."""
    if not kind.choice or _option(kind.choice, values) is not None:
      return
    selector = _beside(path, kind.choice.by)
    try:
      value = check(self.nodes[selector].kind, values.get(kind.choice.by))
    except Refusal:
      return
    options = ' or '.join(map(repr, kind.choice.options))
    self.add(selector, show(value), f'must be {options}', 'give one of these')

  def value(self, kind, value, path):
    """The value of a leaf, a section, or a dict of named sections."""
    if kind.is_section and not (value is None and kind.optional):
      if not isinstance(value, Mapping):
        self.add(path, show(value), 'must be a section', f'give a dict with {_inside(path, self.nodes)}')
        return _INVALID
      if kind.base is not dict:
        return self.section(kind.base, value, path + '.')
      entries = {name: self.value(kind.parts[0], entry, f'{path}.{name}') for name, entry in value.items()}
      return _INVALID if any(entry is _INVALID for entry in entries.values()) else entries
    try:
      return check(kind, value)
    except Refusal as refusal:
      self.add(path, show(value), refusal.rule, refusal.remedy)
      return _INVALID


def _walk(cls, values, prefix='', reached=True) -> Iterator[_Node]:
  """Every node in tree order; the values say which dataclass a choice has and which entries there are."""
  docs = documentation(cls)
  for name, kind in kinds_of(cls).items():
    path, chosen = prefix + name, _chosen(kind, values, name)
    selector = _beside(path, kind.choice.by) if kind.choice else None
    yield _Node(path, chosen, docs.get(name, ''), selector, reached)
    yield from _walk_into(chosen, values.get(name), path)


def _walk_into(kind, value, path):
  reached, value = isinstance(value, Mapping), value if isinstance(value, Mapping) else {}
  if kind.base is dict:
    for name, entry in value.items():
      yield _Node(f'{path}.{name}', kind.parts[0])
      yield from _walk_into(kind.parts[0], entry, f'{path}.{name}')
  elif kind.is_section:
    yield from _walk(kind.base, value, path + '.', reached)


def _nodes(cls, values):
  return {node.path: node for node in _walk(cls, values)}


def _chosen(kind, values, name):
  """The kind that the sibling selects; while its value is wrong, the one that fits the keys given best."""
  if not kind.choice:
    return kind
  options, key = kind.choice.options, _option(kind.choice, values)
  if key is None:
    given = set(values[name]) if isinstance(values.get(name), Mapping) else set()
    key = max(options, key=lambda other: len(given & set(kinds_of(options[other]))) if options[other] else -1)
  return Kind(options[key], optional=kind.optional) if options[key] else Kind(type(None))


def _option(choice, values):
  """The key of the option that the selector names, or None. (Its value may be anything, unhashable too.)"""
  value = values.get(choice.by)
  return next((key for key in choice.options if type(key) is type(value) and key == value), None)


def _plain(config):
  """Nested dicts of a ConfigDict. A required placeholder that nobody filled counts as missing."""
  if isinstance(config, FieldReference):
    try:
      return _plain(config.get())
    except RequiredValueError:
      return _INVALID
    except Exception as error:  # An operation of the user's own on references.
      return _Unreadable(f'{type(error).__name__}: {error}')
  if isinstance(config, ConfigDict):
    config = dict(config.items(preserve_field_references=True))
  if not isinstance(config, Mapping):
    return config
  plain = {str(name): _plain(value) for name, value in config.items()}
  return {name: value for name, value in plain.items() if value is not _INVALID}


def _unlocked(config):
  """The same tree with its references, taking any type: the schema, not the file's value, says what fits."""
  fields = config.items(preserve_field_references=True) if isinstance(config, ConfigDict) else config.items()
  unlocked = ConfigDict(type_safe=False)
  for name, value in fields:
    unlocked[name] = _unlocked(value) if isinstance(value, Mapping | ConfigDict) else value
  return unlocked


def _read(path, text, nodes):
  """The value of an assignment. Raises Refusal."""
  if path not in nodes:
    raise Refusal('unknown key', _meant(path, nodes, False))
  kind = nodes[path].kind
  if text is None or not text and kind.base is not str and kind.base is not tuple:
    raise Refusal('has no value', f'give --config.{path}=VALUE ({_says(path, nodes)})')
  if kind.is_section and not (kind.optional and text.strip() in ('None', 'none')):
    raise Refusal('is a section', f'set a leaf of it, --config.{path}.NAME=VALUE: {_inside(path, nodes)}')
  return parse(kind, text)


def _assign(config, path, value):
  *above, leaf = path.split('.')
  for name in above:
    if not isinstance(_at(config, name), ConfigDict):
      config[name] = ConfigDict(type_safe=False)
    config = config[name]
  config[leaf] = value


def _open_entries(cls, config, texts):
  """Adds the named entries that assignments speak of and the config lacks: path -> kind of each."""
  opened = {}
  for node in _nodes(cls, _plain(config)).values():
    for path in texts if node.kind.base is dict else ():
      name, _, leaf = path.removeprefix(node.path + '.').partition('.')
      entry = f'{node.path}.{name}'
      new = path.startswith(entry + '.') and leaf and _ENTRY.fullmatch(name) and _at(config, entry) is None
      if new and entry not in opened:
        _assign(config, entry, ConfigDict(type_safe=False))
        opened[entry] = node.kind.parts[0]
  return opened


def _new_entry(path, kind, nodes):
  others = [other for other in nodes if _parent(other) == _parent(path)]
  close = difflib.get_close_matches(path, others, 1, 0.8)
  meant = f'did you mean {close[0]}? ' if close else ''
  return line(path, None, 'no such entry', f'{meant}a new one needs {", ".join(kinds_of(kind.base))}')


def _at(tree, path) -> Any:
  """What stands at a path of nested mappings, or None."""
  for name in path.split('.') if path else ():
    try:
      tree = tree[name]
    except Exception:  # Not there, not a mapping, or a reference that cannot be computed.
      return None
  return tree


def _parent(path):
  return path.rpartition('.')[0]


def _beside(path, name):
  return f'{_parent(path)}.{name}'.lstrip('.')


def _under(path, section):
  return not section or path == section or path.startswith(section + '.')


def _shorten(text):
  return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + '...'


def _says(path, nodes):
  """Type and documentation of a leaf, or what a section holds, for a remedy."""
  node = nodes[path]
  text = f'with {_inside(path, nodes)}' if node.kind.is_section else node.doc.rstrip('.')
  return f'{type_name(node.kind)}, {_shorten(text)}' if text.strip() else type_name(node.kind)


def _inside(section, nodes):
  """The names in a section, for a remedy."""
  if section and nodes[section].kind.base is dict:
    return f'names, each with {", ".join(kinds_of(nodes[section].kind.parts[0].base))}'
  names = [path.rpartition('.')[2] for path in nodes if _parent(path) == section]
  return ', '.join(names[:12] + ['...'] * (len(names) > 12))


def _meant(path, nodes, is_section):
  """The remedy for an unknown key: the closest path of the whole tree, or what its section holds."""
  above = _parent(path)
  while above and above not in nodes:
    above = _parent(above)
  if above and not nodes[above].kind.is_section:
    return f'did you mean {above}?'

  def score(other):
    node = nodes[other]
    return closeness(path, other) - 0.1 * (node.kind.is_section != is_section) - 0.05 * (not node.reached)

  # What another option of a choice takes is no slip for a leaf elsewhere.
  selector = nodes[above].selector if above else None
  best = max((other for other in nodes if not selector or _parent(other) == above), key=score, default=None)
  if best and score(best) >= 0.65:
    return f'did you mean {best}?'
  holds = f'{above or "the config"} has {_inside(above, nodes)}'
  return f'remove it; {holds} with this {selector}' if selector else f'remove it; {holds}'
