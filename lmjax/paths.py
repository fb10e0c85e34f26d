"""One way to name a leaf of a tree: its keys joined by '/', as in `layers/3/attention/query/kernel`."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any

# jax is imported where a tree is walked: patterns are matched before it may be.


def flatten(tree, is_leaf=None) -> dict:
  """A tree -> {path: leaf}, in the tree's order."""
  import jax

  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
  return {jax.tree_util.keystr(keys, simple=True, separator='/'): leaf for keys, leaf in leaves}


def map_with_path(function, tree, *rest):
  """`function(path, leaf, ...)` at every leaf."""
  import jax

  path_of = lambda keys: jax.tree_util.keystr(keys, simple=True, separator='/')
  return jax.tree_util.tree_map_with_path(lambda keys, *leaves: function(path_of(keys), *leaves), tree, *rest)


def matches(path: str, patterns) -> bool:
  """Whether any shell pattern matches the whole path; `*` crosses '/'.

  >>> matches('layers/3/mlp/up/bias', ('*/bias',))
  True
  """
  return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def unflatten(flat: Mapping[str, Any]) -> dict:
  """The tree of dicts of {path: leaf}."""
  tree: dict = {}
  for path, leaf in flat.items():
    *above, name = path.split('/')
    inner = tree
    for part in above:
      inner = inner.setdefault(part, {})
    inner[name] = leaf
  return tree


def by_layer(names: list[str]) -> dict[str, str]:
  """{paths of like layers as one, such as `layers/0..3/attention/query/kernel`: the path of the first}, sorted."""
  layers: dict[str, list[int]] = {}
  for path in names:
    if path.startswith('layers/'):
      _, number, rest = path.split('/', 2)
      layers.setdefault(rest, []).append(int(number))
  merged = {path: path for path in names if not path.startswith('layers/')}
  for rest, numbers in layers.items():
    merged[f'layers/{_shown(numbers)}/{rest}'] = f'layers/{min(numbers)}/{rest}'
  return dict(sorted(merged.items()))


def numbered(names: Iterable[str]) -> list[str]:
  """Names that differ in their first number as one, sorted.

  >>> numbered(['h.0.bias', 'h.1.bias', 'h.2.bias', 'pooler.weight'])
  ['h.0..2.bias', 'pooler.weight']
  """
  groups: dict[tuple[str, str], list[int]] = {}
  for name in names:
    before, number, after = re.fullmatch(r'(\D*)(\d*)(.*)', name).groups()  # type: ignore[union-attr]
    groups.setdefault((before, after), []).extend([int(number)] if number else [])
  return sorted(f'{before}{_shown(numbers) if numbers else ""}{after}' for (before, after), numbers in groups.items())


def _shown(numbers: list[int]) -> str:
  first, last = min(numbers), max(numbers)
  whole = len(numbers) > 1 and len(numbers) == last - first + 1
  return f'{first}..{last}' if whole else ','.join(map(str, sorted(numbers)))
