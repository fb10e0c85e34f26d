"""The settings of a config as a tree: path, type, value and meaning of each, for `--help` and for messages."""

import dataclasses
import functools
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt
from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

NOT_SET = type('NotSet', (), {'__repr__': lambda self: '(not set)'})()
_NAMES = {int: 'an int', float: 'a float', bool: 'a bool', str: 'a str', type(None): 'None'}
_BOUNDS = {'ge': '{} or more', 'gt': 'above {}', 'le': 'at most {}', 'lt': 'below {}'}


class Node(NamedTuple):
  """A setting or a section."""

  path: str  # such as `optim.learning_rate`
  annotation: Any  # of its field
  doc: str  # its meaning, from the docstring of its class
  value: Any  # in the config, or its default; NOT_SET where there is neither

  @property
  def section(self) -> Any:
    """The class of what is inside; None for a setting, and for a dict of named sections."""
    return next((part for part in parts_of(self.annotation) if dataclasses.is_dataclass(part)), None)

  @property
  def entry(self) -> Any:
    """The class of each named section of a dict."""
    return next((get_args(part)[1] for part in parts_of(self.annotation) if get_origin(part) is dict), None)

  @property
  def element(self) -> Any:
    """The annotation of a tuple's elements; None where it takes no tuple."""
    return next((get_args(part)[0] for part in parts_of(self.annotation) if get_origin(part) is tuple), None)

  @property
  def is_section(self) -> bool:
    """Whether it has settings inside."""
    return self.section is not None or self.entry is not None

  def inside(self) -> list['Node']:
    """What a section holds: its fields in order, or its named sections.

    A class with fields that depend on a setting has a static method `chosen(values) -> {field: class}`.
    """
    values = self.value if isinstance(self.value, Mapping) else {}
    if self.entry is not None:
      return [Node(f'{self.path}.{name}', self.entry, '', value) for name, value in values.items()]
    if (cls := self.section) is None:
      return []
    docs, chosen = documentation(cls), cls.chosen(values) if hasattr(cls, 'chosen') else {}
    annotations = _type_hints(cls) | chosen
    nodes = []
    for field in dataclasses.fields(cls):
      default = NOT_SET if field.default is dataclasses.MISSING else to_dict(field.default)
      path, value = f'{self.path}.{field.name}'.lstrip('.'), values.get(field.name, default)
      nodes.append(Node(path, annotations[field.name], docs.get(field.name, ''), value))
    return nodes


def nodes(cls, config: Mapping | ConfigDict) -> dict[str, Node]:
  """{path: Node} of a class in the order of its fields, the whole under ''; named sections as the config has them."""

  def walk(node: Node) -> Iterator[Node]:
    yield node
    for inner in node.inside():
      yield from walk(inner)

  return {node.path: node for node in walk(Node('', cls, '', to_dict(config)))}


def to_dict(tree):
  """A section, ConfigDict or dict as plain dicts, lists and scalars, ready for JSON.

  References are computed. A required placeholder that nobody filled counts as missing.
  """
  if isinstance(tree, FieldReference):
    try:
      return to_dict(tree.get())
    except RequiredValueError:
      return NOT_SET
    except Exception as error:  # an operation of the user's own on references; as a value it fits no type
      text = f'<{type(error).__name__}: {error}>'
      return type('Unreadable', (), {'__repr__': lambda self: text})()
  if dataclasses.is_dataclass(tree):
    tree = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
  if isinstance(tree, ConfigDict):
    tree = dict(tree.items(preserve_field_references=True))
  if isinstance(tree, Mapping):
    values = {str(name): to_dict(value) for name, value in tree.items()}
    return {name: value for name, value in values.items() if value is not NOT_SET}
  return [to_dict(value) for value in tree] if isinstance(tree, tuple | list) else tree


def settings(tree, prefix: str = '') -> dict[str, Any]:
  """Full path -> value of every setting of what `to_dict` takes; a section that is off is a None."""
  flat: dict[str, Any] = {}
  for name, value in to_dict(tree).items():
    flat |= settings(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
  return flat


@functools.cache
def _type_hints(cls) -> dict[str, Any]:
  return get_type_hints(cls, include_extras=True)


@functools.cache
def documentation(cls) -> dict[str, str]:
  """Setting -> text, from the lines `name: text` of the docstring and their further indented continuations."""
  names = '|'.join(cls.__dataclass_fields__)
  entries = re.findall(rf'^( *)({names}): *(.*(?:\n\1 +.*)*)', inspect.cleandoc(cls.__doc__ or ''), re.MULTILINE)
  return {name: ' '.join(text.split()) for _, name, text in entries}


@functools.cache
def parts_of(annotation) -> tuple:
  """The members of a union, each without its `Annotated`; of any other annotation, itself."""
  while get_origin(annotation) is Annotated:
    annotation = get_args(annotation)[0]
  if get_origin(annotation) in (Union, types.UnionType):
    return tuple(inner for part in get_args(annotation) for inner in parts_of(part))
  return (annotation,)


def type_name(annotation) -> str:
  """A name of the type, such as `an int or None`."""
  names = []
  for part in parts_of(annotation):
    if get_origin(part) is Literal:
      names += map(repr, get_args(part))
    elif get_origin(part) is tuple:
      names.append(f'a tuple of {type_name(get_args(part)[0]).removeprefix("a ").removeprefix("an ")}')
    else:
      names.append(_NAMES.get(part, 'a section'))
  return ' or '.join(names)


def bounds_of(annotation) -> list[str]:
  """What a value must be besides its type: ['0 or more', 'below 1']."""
  if isinstance(annotation, Ge | Gt | Le | Lt):
    name = type(annotation).__name__.lower()
    return [bound(name, getattr(annotation, name))]
  inner = annotation if isinstance(annotation, GroupedMetadata) else get_args(annotation)
  return [limit for part in inner for limit in bounds_of(part)]


def bound(name: str, value) -> str:
  """A bound as text: `bound('le', 2147483647) == 'at most 2,147,483,647'`."""
  return _BOUNDS[name].format(f'{int(value):,}' if value == int(value) else f'{value:g}')


def describe(cls, config: Mapping | ConfigDict) -> str:
  """The settings as text: a line each with value, type and meaning."""
  rows = []
  for path, node in nodes(cls, config).items():
    if node.is_section and isinstance(node.value, Mapping):
      rows.append((f'\n{path}: {node.doc}'.rstrip(), ''))
    else:
      name = ', '.join([type_name(node.annotation), *bounds_of(node.annotation)])
      rows.append((f'  {path} = {node.value!r}', f'{name}: {node.doc}'.removesuffix(': ')))
  width = min(44, max((len(left) for left, right in rows if right), default=0))
  return '\n'.join(f'{left:{width}}  {right}' if right else left for left, right in rows).strip('\n')
