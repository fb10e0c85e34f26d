"""One tensor of a file and one array of our parameter tree: the same numbers, laid out otherwise. Both directions.

Ours are float32 with kernels [in, out]; theirs of any float type, as PyTorch's linear layers store them, [out, in]. The
rows of a vocabulary are padded on the way in, and cut on the way out.
"""

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lmjax.hf.family import CLASSIFIER, SPAN, TOKEN_TABLE, Family, Head

Shape = tuple[int, ...]


class Part(NamedTuple):
  """One of the arrays that a tensor fuses along an axis; in each of `groups` equal groups they follow each other."""

  axis: int
  groups: int
  sizes: tuple[int, ...]  # of each array, in one group
  number: int

  @property
  def start(self) -> int:
    """Where it begins in a group."""
    return sum(self.sizes[: self.number])

  @property
  def size(self) -> int:
    """Its own length in a group."""
    return self.sizes[self.number]


class Line(NamedTuple):
  """Where an array of ours stands in a file."""

  ours: str  # path, as in layers/3/attention/query/kernel
  theirs: str  # name of the tensor
  transposed: bool = False
  part: Part | None = None
  vocabulary: tuple[int, int] | None = (
    None  # rows of theirs along it, their first axis, and of ours, some being padding
  )

  def shape(self, theirs: Shape) -> Shape:
    """The shape of ours from that of theirs. Raises ValueError: a fused axis, or the vocabulary, has another length."""
    shape, axis, whole, ours = list(theirs), 0, None, None
    if (part := self.part) is not None:
      axis, whole, ours = part.axis, part.groups * sum(part.sizes), part.groups * part.size
    elif self.vocabulary is not None:
      whole, ours = self.vocabulary
    if whole is not None:
      if len(shape) <= axis or shape[axis] != whole:
        raise ValueError(f'shape {list(theirs)} in the file, but axis {axis} must be {whole}')
      shape[axis] = ours
    return tuple(reversed(shape)) if self.transposed else tuple(shape)

  def shape_in_file(self, ours: Shape) -> Shape:
    """The shape of theirs from that of ours."""
    shape = list(reversed(ours)) if self.transposed else list(ours)
    if (part := self.part) is not None:
      shape[part.axis] = part.groups * sum(part.sizes)
    elif self.vocabulary is not None:
      shape[0] = self.vocabulary[0]
    return tuple(shape)

  def read(self, tensor: Any, theirs: Shape, index: tuple[slice, ...]) -> np.ndarray:
    """A part of ours, float32, by its `index`; `tensor[a:b, c:d]` reads from the file."""
    places = [list(s.indices(size)[:2]) for s, size in zip(index, self.shape(theirs))]
    if self.transposed:
      places.reverse()
    missing = 0
    if self.vocabulary is not None:
      start, stop = places[0]
      if start >= theirs[0]:  # padding alone
        shape = [high - low for low, high in places]
        return np.zeros(shape[::-1] if self.transposed else shape, np.float32)
      places[0][1] = min(stop, theirs[0])
      missing = stop - places[0][1]
    if (part := self.part) is None:
      array = tensor[_slices(places)]
    elif part.groups == 1:
      places[part.axis] = [place + part.start for place in places[part.axis]]
      array = tensor[_slices(places)]
    else:  # they lie among each other
      wanted, places[part.axis] = places[part.axis], [0, theirs[part.axis]]
      array = np.moveaxis(np.asarray(tensor[_slices(places)]), part.axis, 0)
      grouped = array.reshape(part.groups, sum(part.sizes), *array.shape[1:])[:, part.start : part.start + part.size]
      array = np.moveaxis(grouped.reshape(-1, *array.shape[1:])[slice(*wanted)], 0, part.axis)
    array = np.asarray(array).astype(np.float32)
    if missing:
      array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), np.float32)])
    return array.T if self.transposed else array


def _slices(places) -> tuple[slice, ...]:
  return tuple(slice(*place) for place in places)


def written(lines: Sequence[Line], ours: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The tensors of a file from our arrays: what `Line.read` read, bit for bit."""
  tensors: dict[str, np.ndarray] = {}
  fused: dict[str, list[tuple[Part, np.ndarray]]] = {}
  for line in lines:
    array = np.asarray(ours[line.ours])
    array = array.T if line.transposed else array
    array = array[: line.vocabulary[0]] if line.vocabulary is not None else array
    if line.part is None:
      tensors[line.theirs] = np.ascontiguousarray(array)
    else:
      fused.setdefault(line.theirs, []).append((line.part, array))
  for name, parts in fused.items():
    axis, groups = parts[0][0].axis, parts[0][0].groups
    grouped = []
    for part, array in sorted(parts, key=lambda item: item[0].number):
      array = np.moveaxis(array, axis, 0)
      grouped.append(array.reshape(groups, part.size, *array.shape[1:]))
    joined = np.concatenate(grouped, axis=1)
    tensors[name] = np.ascontiguousarray(np.moveaxis(joined.reshape(-1, *joined.shape[2:]), 0, axis))
  return tensors


class Table(NamedTuple):
  """What a file with a model of certain settings must hold."""

  lines: list[Line]  # the backbone
  head: list[Line]  # the language model's, which a file holds whole or not at all
  copies: list[Line]  # what it may hold a second time, under another name

  def names(self) -> set[str]:
    """Names of tensors, copies included."""
    return {line.theirs for lines in self for line in lines}


def matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
  """Those of the names that match a pattern."""
  return {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


def table(family: Family, settings: Mapping[str, Any], prefix: str) -> Table:
  """The table of a family for a model, whose backbone has this prefix in the file."""
  line = _liner(family, settings)
  lines = [one for theirs, ours in family.body.items() for one in line(prefix + theirs, ours)]
  for i in range(settings['layers']):
    for theirs, ours in family.layers.items():
      if i == 0 and ours == 'attention_norm' and not settings.get('first_norm', True):
        continue
      above = prefix + family.layer.format(i)
      lines += line(above + theirs, ours, f'layers/{i}/')
  head = [one for theirs, ours in family.head.items() for one in line(theirs, ours)]
  copies = []
  [output] = line(family.output, 'head/output')
  if settings['tied_embeddings']:
    [tied] = line(family.output, TOKEN_TABLE)
    copies.append(tied)
  else:
    head.append(output)
  if family.head and f'{family.output}.bias' not in {one.theirs for one in head}:
    bias = Line('head/bias', f'{family.output}.bias', vocabulary=output.vocabulary)
    if settings['tied_embeddings']:
      copies.append(bias)
    else:  # transformers then computes with this one
      head = [bias if one.ours == bias.ours else one for one in head]
  return Table(lines, head, copies)


def of_task(family: Family, settings: Mapping[str, Any], head: Head | None) -> list[Line]:
  """What a file with the head of a task holds, or, with None, one with that of the language model."""
  whole = table(family, settings, family.prefixes[0] if head is None or head.prefix is None else head.prefix)
  if head is None:
    return [*whole.lines, *whole.head]
  line = _liner(family, settings)
  lines = [*whole.lines, *(one for theirs, ours in head.modules.items() for one in line(theirs, ours))]
  return [one for one in lines if head.form != 'linear_no_bias' or one.ours != f'{CLASSIFIER}/bias']


def _liner(family: Family, settings: Mapping[str, Any]) -> Callable[..., Iterator[Line]]:
  """`line(module of the file, ours, above ours)`: the lines of a module."""
  s = settings
  K = s.get('head_dim') or s['width'] // s['heads']
  sizes = {'attention/query': s['heads'] * K, 'attention/key': s['kv_heads'] * K, 'attention/value': s['kv_heads'] * K}
  sizes |= {'mlp/gate': s['mlp_width'], 'mlp/up': s['mlp_width']}
  multiple = s['vocab_multiple']
  vocabulary = s['vocab_size'], -(-s['vocab_size'] // multiple) * multiple
  has_biases, norm_bias = s['biases'], s['biases'] and s['norm'] == 'layernorm'

  def line(theirs: str, ours: str | tuple[str, ...], above: str = '') -> Iterator[Line]:
    if isinstance(ours, tuple):
      groups = s['heads'] if family.interleaved else 1
      parts = tuple(sizes[one] // groups for one in ours)
      for i, one in enumerate(ours):
        kernel = Part(1 if family.conv1d else 0, groups, parts, i)
        yield Line(f'{above}{one}/kernel', f'{theirs}.weight', not family.conv1d, kernel)
        if has_biases:
          yield Line(f'{above}{one}/bias', f'{theirs}.bias', part=Part(0, groups, parts, i))
    elif ours == 'head':
      yield Line('head/bias', f'{theirs}.bias', vocabulary=vocabulary)
    elif ours == 'head/output':
      yield Line('head/output/kernel', f'{theirs}.weight', transposed=True, vocabulary=vocabulary)
    elif ours in (CLASSIFIER, SPAN):
      yield Line(f'{ours}/kernel', f'{theirs}.weight', transposed=True)
      yield Line(f'{ours}/bias', f'{theirs}.bias')
    elif ours.rpartition('/')[2].endswith('norm'):
      yield Line(f'{above}{ours}/scale', f'{theirs}.weight')
      if norm_bias and not ours.endswith(('query_norm', 'key_norm')):
        yield Line(f'{above}{ours}/bias', f'{theirs}.bias')
    elif ours.startswith('embeddings/'):
      yield Line(f'{ours}/embedding', f'{theirs}.weight', vocabulary=vocabulary if ours == TOKEN_TABLE else None)
    else:
      yield Line(f'{above}{ours}/kernel', f'{theirs}.weight', transposed=not family.conv1d)
      if has_biases or s.get('qkv_bias') and ours in sizes and ours.startswith('attention/'):
        yield Line(f'{above}{ours}/bias', f'{theirs}.bias')

  return line
