"""Weights as safetensors files, one tensor at a time: what is in memory besides the model is the largest tensor.

The library writes files of what is in memory whole. A file is its header's length in 8 bytes, the header as JSON, and
the numbers: https://huggingface.co/docs/safetensors.
"""

import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from lmjax.errors import CheckpointError
from lmjax.hf.folder import FLOATS, INDEX, ONE_FILE
from lmjax.hf.table import Line, Shape, written

DTYPES = {'float32': np.dtype(np.float32), 'float16': np.dtype(np.float16), 'bfloat16': np.dtype(ml_dtypes.bfloat16)}
_NAMES = {name: theirs for theirs, name in FLOATS.items()}
# Bytes of a file, at most, unless one tensor is larger.
LARGEST = 5_000_000_000


class Tensor(NamedTuple):
  """A tensor to be written; `read()` gives its numbers, float32."""

  shape: Shape
  read: Callable[[], np.ndarray]


def tensors_of(lines: Iterable[Line], params: Mapping[str, Any]) -> dict[str, Tensor]:
  """{name: tensor} of a file that is described by lines, from {path: array of any mesh of this host}."""
  by_name: dict[str, list[Line]] = {}
  for line in lines:
    by_name.setdefault(line.theirs, []).append(line)
  tensors = {}
  for name, parts in by_name.items():

    def read(name=name, parts=parts) -> np.ndarray:
      return written(parts, {line.ours: np.asarray(params[line.ours]) for line in parts})[name]

    tensors[name] = Tensor(parts[0].shape_in_file(np.shape(params[parts[0].ours])), read)
  return tensors


def write(folder: pathlib.Path, tensors: Mapping[str, Tensor], dtype: str, largest: int = LARGEST) -> list[str]:
  """Writes one file, or parts of at most `largest` bytes and their index; returns the names.

  Raises CheckpointError: a number has no place in that dtype.
  """
  size = DTYPES[dtype].itemsize
  parts: list[dict[str, Tensor]] = [{}]
  room = largest
  for name, tensor in tensors.items():
    n_bytes = int(np.prod(tensor.shape)) * size
    if parts[-1] and n_bytes > room:
      parts.append({})
      room = largest
    parts[-1][name] = tensor
    room -= n_bytes
  if len(parts) == 1:
    write_file(folder / ONE_FILE, parts[0], dtype)
    return [ONE_FILE]
  files = [f'model-{i:05}-of-{len(parts):05}.safetensors' for i in range(1, len(parts) + 1)]
  for file, part in zip(files, parts):
    write_file(folder / file, part, dtype)
  total = sum(int(np.prod(tensor.shape)) for tensor in tensors.values()) * size
  index = {'metadata': {'total_size': total}}
  index |= {'weight_map': {name: file for file, part in zip(files, parts) for name in part}}
  (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')
  return [*files, INDEX]


def write_file(file: pathlib.Path, tensors: Mapping[str, Tensor], dtype: str) -> None:
  """Writes one file. Raises CheckpointError: see `write`."""
  header: dict = {'__metadata__': {'format': 'pt'}}  # transformers 4 asks for it
  begin = 0
  for name, tensor in tensors.items():
    end = begin + int(np.prod(tensor.shape)) * DTYPES[dtype].itemsize
    header[name] = {'dtype': _NAMES[dtype], 'shape': list(tensor.shape), 'data_offsets': [begin, end]}
    begin = end
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  with file.open('wb') as out:
    out.write(len(text).to_bytes(8, 'little') + text)
    for name, tensor in tensors.items():
      array = tensor.read()
      assert array.shape == tensor.shape, (name, array.shape, tensor.shape)
      with np.errstate(over='ignore'):  # reported below
        cast = array.astype(DTYPES[dtype])
      if dtype == 'float16' and not np.isfinite(cast).all():
        rule = f'{name} holds {np.abs(array).max():.3g}, more than float16 can'
        raise CheckpointError(f'--dtype = float16: {rule}; take bfloat16')
      out.write(np.ascontiguousarray(cast).data if dtype == 'float32' else cast.tobytes())
