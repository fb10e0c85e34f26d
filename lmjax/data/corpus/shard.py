"""A token shard: documents as tokens, in one safetensors file (https://huggingface.co/docs/safetensors).

  tokens      uint16 or uint32 [N], all documents' ids, end to end
  lengths     uint32 [D], tokens of each document
  n_bytes     uint32 [D], bytes of its UTF-8
  digests     uint64 [D], of its text
  normalised  uint64 [D], of its text whatever its case, white space and compatibility characters are

The header's metadata has `facts`, JSON: the shard's name, what was counted (`counts`), and a checksum of each array
(`crc32`).
"""

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save

from lmjax.errors import DataError

ENDING = '.safetensors'
# What is kept of each document.
COLUMNS = ('lengths', 'n_bytes', 'digests', 'normalised')
# About what the columns of a shard of 32 MB of text take.
_HEAD = 1 << 20
_DTYPES = {'U16': '<u2', 'U32': '<u4', 'U64': '<u8'}


class Columns(NamedTuple):
  """What is known of the documents of a shard besides their tokens."""

  lengths: np.ndarray
  n_bytes: np.ndarray
  digests: np.ndarray
  normalised: np.ndarray
  counts: dict[str, int]
  tokens_at: int  # where in the file tokens begin
  dtype: np.dtype  # of tokens


class Shard(NamedTuple):
  """A shard, its arrays mapped from disk."""

  tokens: np.ndarray
  lengths: np.ndarray
  n_bytes: np.ndarray
  digests: np.ndarray
  normalised: np.ndarray
  counts: dict[str, int]

  @property
  def starts(self) -> np.ndarray:
    """uint32 [D], where each document begins in `tokens`; made again at each call."""
    ends = np.cumsum(self.lengths, dtype=np.int64)
    assert not len(ends) or ends[-1] < 1 << 32, 'a shard has some millions of tokens, or one document'
    return (ends - self.lengths).astype(np.uint32)


def as_bytes(name: str, arrays: Mapping[str, np.ndarray], counts: Mapping[str, int]) -> bytes:
  """The file of that name; the same arrays and counts give the same bytes. Tokens come last: they are the narrowest."""
  arrays = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
  sums = {key: zlib.crc32(array.data) for key, array in arrays.items()}
  facts = {'name': name, 'counts': dict(counts), 'crc32': sums}
  # in one entry: the library writes several in any order
  return save(arrays, {'facts': json.dumps(facts, sort_keys=True)})


def is_whole(path: str) -> bool:
  """Whether a file is there and is as long as its header says; its content is not read."""
  try:
    with open(path, 'rb') as file:
      size = int.from_bytes(file.read(8), 'little')
      header = json.loads(file.read(min(size, os.path.getsize(path))))
    ends = [entry['data_offsets'][1] for entry in header.values() if 'dtype' in entry]
    return os.path.getsize(path) == 8 + size + max(ends)
  except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
    return False


def opened(path: str, name: str, check: bool = True) -> Shard:
  """The shard of that name, on this machine; with `check` every byte is read against its checksum (about 1 GB/s).

  Raises DataError: it is missing or damaged.
  """
  with _checked(path):
    with open(path, 'rb') as file:
      size = int.from_bytes(file.read(8), 'little')
      if size > os.path.getsize(path):
        raise ValueError('it is cut short')
      header, facts = _parsed(file.read(size), name)
    arrays = {key: _mapped(path, 8 + size, entry) for key, entry in header.items()}
    if check:
      for key, expected in facts['crc32'].items():
        _compare(key, arrays[key], expected)
    return Shard(**arrays, counts=facts['counts'])


def columns(read: Callable[[int, int], bytes], path: str, name: str) -> Columns:
  """The columns of the shard of that name, from the beginning of its file alone; `read(start, stop)` gives bytes of it.

  Raises DataError: it is missing or damaged.
  """
  with _checked(path):
    data = read(0, _HEAD)
    begin = 8 + int.from_bytes(data[:8], 'little')
    header, facts = _parsed(data[8:begin], name)
    at = begin + header['tokens']['data_offsets'][0]  # the columns lie before them: see `as_bytes`
    if at > len(data):
      data += read(len(data), at)
    found = {}
    for key in COLUMNS:
      start, stop = header[key]['data_offsets']
      found[key] = np.frombuffer(data[begin + start : begin + stop], _DTYPES[header[key]['dtype']])
      _compare(key, found[key], facts['crc32'][key])
    return Columns(**found, counts=facts['counts'], tokens_at=at, dtype=np.dtype(_DTYPES[header['tokens']['dtype']]))


def _parsed(header: bytes, name: str) -> tuple[dict, dict]:
  """(the entries of arrays, the facts)."""
  entries = json.loads(header)
  facts = json.loads(entries.pop('__metadata__')['facts'])
  if facts['name'] != name:
    raise ValueError(f'it is the shard {facts["name"]}')
  return entries, facts


def _compare(key: str, array: np.ndarray, expected: int) -> None:
  if zlib.crc32(np.ascontiguousarray(array).data) != expected:
    raise ValueError(f'{key} do not match their checksum')


@contextlib.contextmanager
def _checked(path: str) -> Iterator[None]:
  """What is wrong with a file becomes DataError."""
  try:
    yield
  except (OSError, ValueError) as error:
    raise _damaged(path, error) from None
  except (LookupError, TypeError, ArithmeticError, AttributeError) as error:  # a header that is not as it was written
    raise _damaged(path, f'{type(error).__name__}: {error}') from None


def _damaged(path: str, shown: object) -> DataError:
  rule, remedy = 'a token shard must be as it was written', 'remove the file, and `lmjax.prepare` makes it again'
  return DataError(f'{path}: {shown}; {rule}; {remedy}')


def _mapped(path: str, begin: int, entry: Mapping) -> np.ndarray:
  start, stop = entry['data_offsets']
  dtype = np.dtype(_DTYPES[entry['dtype']])
  count = (stop - start) // dtype.itemsize
  if count == 0:
    return np.zeros(0, dtype)
  return np.memmap(path, dtype, 'r', begin + start, (count,))
