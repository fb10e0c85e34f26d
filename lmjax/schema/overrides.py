"""Settings given as text, `--config.a.b=TEXT`, read by the type of the field."""

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pydantic
from ml_collections import ConfigDict

from lmjax.schema import describe, validate
from lmjax.schema.describe import Node, element_of, parts_of
from lmjax.schema.validate import line, names_in, shorten

_BOOLS = {'true': True, '1': True, 'false': False, '0': False}
_ENTRY = re.compile(r'[\w-]+')
# Quantifiers are possessive (`*+`): nothing is matched twice, however long a text is.
_INNER = r'\([^()]*\)|\[[^][]*\]|\{[^{}]*\}'
_BRACKETED = re.compile(rf'\((?:{_INNER}|[^()])*+\)|\[(?:{_INNER}|[^][])*+\]', re.DOTALL)
_ELEMENT = re.compile(rf"""\s*(?:'[^']*'|"[^"]*")\s*(?=,|$)|(?:{_INNER}|[^,])+""", re.DOTALL)


class Refusal(ValueError):
  """A text that a setting does not take."""

  def __init__(self, rule: str, remedy: str):
    self.rule, self.remedy = rule, remedy
    super().__init__(f'{rule}; {remedy}')


def read(annotation, text: str) -> Any:
  """The value that a text stands for.

  >>> read(tuple[int, ...], '(1, 2)'), read(int | None, '1e3'), read(int | None, 'None'), read(str, "'None'")
  ((1, 2), 1000, None, 'None')

  Raises:
    Refusal: the text is no such value.
  """
  # strict, since plain annotations as those of a command's flags have no types of ours
  adapter = pydantic.TypeAdapter(annotation, config=pydantic.ConfigDict(strict=True, allow_inf_nan=False))
  errors = []
  for value in _readings(annotation, text):
    try:
      return adapter.validate_python(value)
    except pydantic.ValidationError as error:
      errors += error.errors(include_url=False)
  # a broken bound explains more than a wrong type, which every other reading has
  telling = [error for error in errors if not error['type'].endswith(('_type', 'literal_error'))]
  node = Node('', annotation, '', None)
  raise Refusal(*validate.explain([*telling, *errors][0] | {'input': _unquote(text.strip())}, node, inside=True))


def _readings(annotation, text: str) -> Iterator[Any]:
  """What a text may stand for, in the order of preference; the type of the setting decides."""
  bare = text.strip()
  if bare in ('None', 'none'):
    yield None
  if bare.lower() in _BOOLS:
    yield _BOOLS[bare.lower()]
  for kind in (int, float):
    try:
      value = kind(bare)
    except ValueError:
      continue
    yield int(value) if value == value and abs(value) < float('inf') and value == int(value) else value
  yield _unquote(text)
  if (element := element_of(annotation)) is not None:
    try:
      yield tuple(read(element, item) for item in _split(bare))
    except Refusal:
      pass


def override(cls, config: Mapping | ConfigDict, assignments) -> tuple[ConfigDict, list[str]]:
  """A copy of the config with `(path, text)` assignments applied, each read by the type of its field.

  A refused assignment leaves the value of the file in place, so that `validate.build` finds every other
  problem. A named section (`data.sources.mine`) is added when all of its settings are given. References in the config
  stay: what is computed from an overridden setting follows it.

  Returns:
    (ConfigDict, problems as lines)
  """
  try:
    config = _unlocked(copy.deepcopy(config))
  except Exception:  # a reference of the file cannot be computed; `validate.build` will name it
    config = ConfigDict(describe.to_dict(config), type_safe=False)
  texts, problems = {path.strip(): text for path, text in assignments}, []
  # What stands at the top goes first: `task` decides what the sections hold.
  for at_top in (True, False):
    if not at_top:
      problems += _add_entries(config, texts, describe.nodes(cls, config))
    tree = describe.nodes(cls, config)
    for path, text in texts.items():
      if ('.' not in path) == at_top:
        try:
          _assign(config, path, _value(path, text, tree, describe.root(cls, describe.to_dict(config))))
        except Refusal as refusal:
          problems.append(line(path, shorten(text) if text else None, refusal.rule, refusal.remedy))
  return config, problems


def _value(path: str, text: str, tree: Mapping[str, Node], cls) -> Any:
  """The value of an assignment. Raises Refusal."""
  if path not in tree:
    raise Refusal(validate.UNKNOWN, validate.meant(path, tree, False, cls))
  node = tree[path]
  if node.is_section and not (text.strip() in ('None', 'none') and type(None) in parts_of(node.annotation)):
    rule = f'set one of its settings, --config.{path}.NAME=VALUE: {names_in(path, tree)}'
    raise Refusal('is a section', rule)
  if node.is_section:
    return None
  try:
    return read(node.annotation, text)
  except Refusal:
    if text:
      raise
    remedy = f'give --config.{path}=VALUE ({validate.summary(node, tree)})'
    raise Refusal('has no value', remedy) from None


def _add_entries(config: ConfigDict, texts: dict[str, str], tree: Mapping[str, Node]) -> list[str]:
  """Adds the named sections that assignments fill; those they fill in part are taken out of `texts`, a line each."""
  problems = []
  for node in tree.values():
    new: dict[str, set] = {}
    for path in texts if node.entry is not None else ():
      name, dot, setting = path.removeprefix(f'{node.path}.').partition('.')
      if path.startswith(f'{node.path}.') and dot and _ENTRY.fullmatch(name) and f'{node.path}.{name}' not in tree:
        new.setdefault(name, set()).add(setting)
    for name, given in new.items():
      path, fields = f'{node.path}.{name}', node.entry.__dataclass_fields__
      if given == set(fields):
        _assign(config, path, ConfigDict(type_safe=False))
        continue
      others = node.value if isinstance(node.value, Mapping) else ()
      close = difflib.get_close_matches(name, others, 1)
      slip = f'did you mean {node.path}.{close[0]}? ' if close else ''
      problems.append(line(path, None, 'no such entry', f'{slip}a new one needs {", ".join(fields)}'))
      for setting in given:
        del texts[f'{path}.{setting}']
  return problems


def _assign(config: ConfigDict, path: str, value) -> None:
  *above, name = path.split('.')
  for part in above:
    if not isinstance(config.get(part), ConfigDict):
      config[part] = ConfigDict(type_safe=False)
    config = config[part]
  config[name] = value


def _unlocked(config: Mapping | ConfigDict) -> ConfigDict:
  """The same tree with its references, taking any type: the classes, not the file's value, decide what fits."""
  fields = config.items(preserve_field_references=True) if isinstance(config, ConfigDict) else config.items()
  unlocked = ConfigDict(type_safe=False)
  for name, value in fields:
    unlocked[name] = _unlocked(value) if isinstance(value, Mapping | ConfigDict) else value
  return unlocked


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
