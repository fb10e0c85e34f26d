"""Settings given as text, `--config.a.b=TEXT`, read by the type of the field."""

import contextlib
import copy
import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic
from ml_collections import ConfigDict

from lmjax.schema import describe, validate
from lmjax.schema.describe import Node, parts_of
from lmjax.schema.validate import line, names_in, shorten

_BOOLS = {'true': True, '1': True, 'false': False, '0': False}
_ENTRY = re.compile(r'[\w-]+')
# Quantifiers are possessive (`*+`): nothing is matched twice, however long a text is.
_INNER = r'\([^()]*\)|\[[^][]*\]|\{[^{}]*\}'
_BRACKETED = re.compile(rf'\((?:{_INNER}|[^()])*+\)|\[(?:{_INNER}|[^][])*+\]', re.DOTALL)
_ELEMENT = re.compile(rf"""\s*(?:'[^']*'|"[^"]*")\s*(?=,|$)|(?:{_INNER}|[^,])+""", re.DOTALL)


class Refusal(ValueError):
  """(rule, remedy) of a text that a setting does not take."""


def read(annotation, text: str) -> Any:
  """The value that a text stands for. Raises Refusal.

  >>> read(tuple[int, ...], '(1, 2)'), read(int | None, '1e3'), read(int | None, 'None'), read(str, "'None'")
  ((1, 2), 1000, None, 'None')
  """
  # strict, since plain annotations as those of a command's flags have no types of ours
  adapter = pydantic.TypeAdapter(annotation, config=pydantic.ConfigDict(strict=True, allow_inf_nan=False))
  node, errors = Node('', annotation, '', None), []
  for value in _readings(node.element, text):
    try:
      return adapter.validate_python(value)
    except pydantic.ValidationError as error:
      errors += error.errors(include_url=False)
  raise Refusal(*validate.explain([error | {'input': _unquote(text.strip())} for error in errors], node))


def _readings(element, text: str) -> Iterator[Any]:
  """What a text may stand for, in the order of preference; the type of the setting decides."""
  bare = text.strip()
  if bare in ('None', 'none'):
    yield None
  if bare.lower() in _BOOLS:
    yield _BOOLS[bare.lower()]
  with contextlib.suppress(ValueError):
    yield int(bare)
  with contextlib.suppress(ValueError):
    number = float(bare)
    yield int(number) if number.is_integer() else number
  yield _unquote(text)
  if element is not None:
    with contextlib.suppress(Refusal):
      yield tuple(read(element, item) for item in _split(bare))


def override(cls, config: Mapping | ConfigDict, assignments) -> tuple[ConfigDict, list[str]]:
  """A copy of the config with `(path, text)` assignments applied, each read by the type of its field.

  A refused one, of which a line is returned, leaves the value of the file in place, so that `validate.build` finds
  every other problem. A named section (`data.sources.mine`) is added when all of its settings are given. References in
  the config stay: what is computed from an overridden setting follows it.
  """
  try:
    config = copy.deepcopy(config) if isinstance(config, ConfigDict) else ConfigDict(config)
  except Exception:  # a reference of the file cannot be computed; `validate.build` will name it
    config = ConfigDict(describe.to_dict(config))
  texts, problems = {path.strip(): text for path, text in assignments}, []
  with config.unlocked(), config.ignore_type():  # the classes, not the file's value, decide what fits
    tree = describe.nodes(cls, config)
    # What stands at the top goes first: `task` decides what the sections hold.
    for path, text in sorted(texts.items(), key=lambda item: '.' in item[0]):
      try:
        _assign(config, path, _value(path, texts, tree, cls))
      except Refusal as refusal:
        problems.append(line(path, shorten(text) if text else None, *refusal.args))
      if '.' not in path or path not in tree:  # another task has other sections, a new entry is one
        tree = describe.nodes(cls, config)
  return config, problems


def _value(path: str, texts: Mapping[str, str], tree: Mapping[str, Node], cls) -> Any:
  """The value of an assignment. Raises Refusal."""
  (above, _, name), text = path.rpartition('.')[0].rpartition('.'), texts[path]
  node, sections = tree.get(path), tree.get(above)
  entry = f'{above}.{name}'
  if entry not in tree and sections is not None and sections.entry is not None and _ENTRY.fullmatch(name):
    inside = {inner.path: inner for inner in Node(entry, sections.entry, '', {}).inside()}
    needed = [field.name for field in dataclasses.fields(sections.entry) if field.default is dataclasses.MISSING]
    if not {f'{entry}.{setting}' for setting in needed} <= texts.keys():
      close = difflib.get_close_matches(name, sections.value if isinstance(sections.value, Mapping) else (), 1)
      slip = f'did you mean {above}.{close[0]}? ' if close else ''
      raise Refusal('no such entry', f'{slip}a new one needs {", ".join(needed)}')
    node = inside.get(path)
  if node is None:
    raise Refusal(*validate.unknown(path, tree, cls))
  if node.is_section:
    if text.strip() in ('None', 'none') and type(None) in parts_of(node.annotation):
      return None
    raise Refusal('is a section', f'set one of its settings, --config.{path}.NAME=VALUE: {names_in(node)}')
  try:
    return read(node.annotation, text)
  except Refusal:
    if text:
      raise
    raise Refusal('has no value', f'give --config.{path}=VALUE ({validate.summary(node)})') from None


def _assign(config: ConfigDict, path: str, value) -> None:
  *above, name = path.split('.')
  for part in above:
    if not isinstance(config.get(part), ConfigDict):
      config[part] = ConfigDict(type_safe=False)
    config = config[part]
  config[name] = value


def _unquote(text: str) -> str:
  bare = text.strip()
  quoted = len(bare) >= 2 and bare[0] == bare[-1] and bare[0] in '\'"' and bare[0] not in bare[1:-1]
  return bare[1:-1] if quoted else text


def _split(text: str) -> list[str]:
  """The elements of `a,b`, `(a,b)` or `['a','b']`. A comma inside quotes or brackets does not separate."""
  inner = text[1:-1].strip()
  # `[ab]` alone is a pattern, `[a,b]` and `['ab']` are lists; `(a),(b)` are two elements
  if _BRACKETED.fullmatch(text) and (text[0] == '(' or not inner or ',' in inner or inner[0] in '\'"'):
    text = inner
  return [piece.strip() for piece in _ELEMENT.findall(text) if piece.strip()]
