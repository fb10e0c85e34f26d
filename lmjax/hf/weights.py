"""The numbers of a public model, read from its files one tensor at a time into where they are to lie."""

from collections.abc import Mapping

import jax
import numpy as np

from lmjax.errors import CheckpointError
from lmjax.hf.source import PublicModel
from lmjax.hf.table import Line

# Numbers of a part that is read at a time.
_PART = 16_000_000


def load(source: PublicModel, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
  """{path: float32 array} of the parameters that are wanted, each with the sharding that its entry of `wanted` has.

  Raises CheckpointError: a file cannot be read, holds a number that is not finite, or an array twice with two values.
  """
  lines = {line.ours: line for line in source.lines}
  loaded = {}
  for path, abstract in wanted.items():
    with source.weights.opened(lines[path].theirs) as tensor:
      loaded[path] = _placed(source, lines[path], tensor, abstract)
  for copy in source.table.copies:
    if copy.theirs in source.weights.tensors:
      _check_equal(source, lines[copy.ours], copy)
  return loaded


def _placed(source: PublicModel, line: Line, tensor, abstract: jax.ShapeDtypeStruct) -> jax.Array:
  """One array, of which each device gets its share; equal shares are read once."""
  pieces: list[jax.Array] = []
  read_last: tuple = (None, None)
  places = abstract.sharding.addressable_devices_indices_map(abstract.shape)
  for device, index in sorted(places.items(), key=lambda item: str(item[1])):
    if read_last[0] != str(index):
      read_last = str(index), _read(source, line, tensor, index, abstract.shape)
    pieces.append(jax.device_put(read_last[1], device))
  return jax.make_array_from_single_device_arrays(abstract.shape, abstract.sharding, pieces)


def _read(source: PublicModel, line: Line, tensor, index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
  """A share, in parts: so what is there twice, in the file's type and in float32, is small."""
  theirs = source.weights.tensors[line.theirs].shape
  bounds = [s.indices(size)[:2] for s, size in zip(index, shape)]
  result = np.empty([stop - start for start, stop in bounds], np.float32)
  axis = len(bounds) - 1 if line.transposed else 0  # the file's first one
  (start, stop), other = bounds[axis], max(result.size // max(result.shape[axis], 1), 1)
  step = max(_PART // other, 1)
  for low in range(start, stop, step):
    high = min(low + step, stop)
    part = [slice(*bound) for bound in bounds]
    part[axis] = slice(low, high)
    target = [slice(None)] * len(bounds)
    target[axis] = slice(low - start, high - start)
    array = line.read(tensor, theirs, tuple(part))
    if not np.isfinite(array).all():
      rule = f'{line.theirs} holds NaN or infinity'
      raise CheckpointError(f'{source.where}: {rule}; download it again, or choose another model')
    result[tuple(target)] = array
  return result


def _check_equal(source: PublicModel, line: Line, copy: Line) -> None:
  """A tied table that stands in the file twice must be one."""
  weights = source.weights
  shape, same = weights.tensors[line.theirs].shape, True
  step = max(_PART // max(int(np.prod(shape[1:])), 1), 1)
  with weights.opened(line.theirs) as first, weights.opened(copy.theirs) as second:
    for low in range(0, shape[0], step):
      rows = slice(low, min(low + step, shape[0]))
      same = same and np.array_equal(np.asarray(first[rows]), np.asarray(second[rows]))
  if not same:
    rule = f'{line.theirs} and {copy.theirs} differ, and config.json says that they are one (tie_word_embeddings)'
    remedy = 'set it to false there if the file is right'
    raise CheckpointError(f'{source.where}: {rule}; {remedy}')
