"""Files of tokens: Megatron-LM's .bin with its .idx, datatrove's .ds with its .ds.index, and .npy of numpy.

They are mapped, and read a document at a time.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from lmjax.data.sources.formats import Kind
from lmjax.data.sources.lines import Part
from lmjax.errors import DataError, reason

# Tokens of a document, at most: as Python numbers, to be decoded, they take 36 bytes each.
_LONGEST = 1 << 24
# What is looked at together: tokens between which documents end, and documents of an index.
_BLOCK, _DOCUMENTS = 1 << 20, 100_000
_MAGIC = b'MMIDIDX\x00\x00'
# magic, version, type, number of sequences, number of documents + 1
_HEADER = struct.Struct('<9sQBQQ')
_TYPES = {1: 'u1', 2: 'i1', 3: '<i2', 4: '<i4', 5: '<i8', 8: '<u2', 9: '<u4', 10: '<u8'}
_NUMPY = b'\x93NUMPY'
_POINTER = b'version https://git-lfs'


class _Documents(Protocol):
  """Documents of a file by their number."""

  unit: str  # what one is called
  width: int  # bytes of a token

  def __len__(self) -> int: ...

  def sizes(self, first: int, end: int) -> np.ndarray:
    """int64, tokens of each of these documents. Raises DataError: the index of the file is broken there."""
    ...

  def ids(self, number: int) -> np.ndarray:
    """The tokens of a document."""
    ...


class _Megatron:
  """A .bin: sequences of tokens end to end; its .idx has length and place of each, and which make a document."""

  unit = 'document'

  def __init__(self, name: str):
    index = self.index = f'{name[: -len(".bin")]}.idx'
    head, size = _head(index, _HEADER.size), os.path.getsize(index)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
      raise _wrong(index, head, 'is no index of Megatron-LM, by its first bytes', 'copy it again, or make it again')
    _, version, code, sequences, bounds = _HEADER.unpack(head)
    if version != 1:
      raise DataError(f'{index}: is of version {version}; it must be 1; make it again with Megatron-LM')
    if code not in _TYPES:
      raise DataError(f'{index}: tokens of type {code}; they must be whole numbers; are these files of tokens?')
    wanted = _HEADER.size + 12 * sequences + 8 * bounds
    if size == wanted + sequences > wanted:
      raise DataError(f'{index}: has modes of a multimodal data set; these are not read; name one of text')
    if size != wanted or not bounds:
      told = f'has {size:,} bytes, and its header tells of {wanted:,}'
      raise DataError(f'{index}: {told}; it must be whole; copy it again')
    self._dtype = np.dtype(_TYPES[code])
    self.width = self._dtype.itemsize
    self._lengths = _mapped(index, '<i4', _HEADER.size, sequences)
    self._places = _mapped(index, '<i8', _HEADER.size + 4 * sequences, sequences)
    self._bounds = _mapped(index, '<i8', _HEADER.size + 12 * sequences, bounds)
    if self._bounds[0] != 0 or self._bounds[-1] != sequences:
      raise self._broken(f'its documents are sequences {self._bounds[0]} to {self._bounds[-1]} of {sequences:,}')
    size = os.path.getsize(name)
    end = int(self._places[-1]) + int(self._lengths[-1]) * self.width if sequences else 0
    if end != size:
      raise DataError(
        f'{name}: has {size:,} bytes, and its .idx tells of {end:,}; both must be whole and belong together; copy both'
      )
    self._bytes = _mapped(name, 'u1', 0, size)

  def __len__(self) -> int:
    return len(self._bounds) - 1

  def sizes(self, first: int, end: int) -> np.ndarray:
    bounds = np.array(self._bounds[first : end + 1])
    if bounds[0] < 0 or bounds[-1] > len(self._lengths) or (np.diff(bounds) < 0).any():
      raise self._broken(f'documents {first + 1:,} to {end:,} do not follow one another')
    here = slice(bounds[0], bounds[-1])
    lengths, places = self._lengths[here].astype(np.int64), self._places[here]
    ends = places + lengths * self.width
    if len(lengths) and (min(lengths.min(), places.min()) < 0 or ends.max() > len(self._bytes)):
      raise self._broken(f'documents {first + 1:,} to {end:,} lie outside of the .bin')
    sums = np.concatenate([[0], np.cumsum(lengths)])
    return np.diff(sums[bounds - bounds[0]])

  def _broken(self, what: str) -> DataError:
    return DataError(f'{self.index}: {what}; an index must be whole; copy it again, or make it again')

  def ids(self, number: int) -> np.ndarray:
    sequences = range(self._bounds[number], self._bounds[number + 1])
    spans = [(int(self._places[one]), int(self._lengths[one]) * self.width) for one in sequences]
    found = [self._bytes[start : start + size].view(self._dtype) for start, size in spans]
    return found[0] if len(found) == 1 else np.concatenate([np.zeros(0, self._dtype), *found])


class _Datatrove:
  """A .ds: documents end to end, 2 or 4 bytes a token; its .ds.index has where each ends, in tokens."""

  unit = 'document'

  def __init__(self, name: str):
    self._name, index = name, f'{name}.index'
    size, index_size = os.path.getsize(name), os.path.getsize(index)
    if index_size % 8:
      raise DataError(f'{index}: has {index_size:,} bytes; it must have 8 for each document; copy it again')
    self._ends = _mapped(index, '<i8', 0, index_size // 8)  # unsigned, but none is so large
    total = int(self._ends[-1]) if len(self._ends) else 0
    widths = [width for width in (2, 4) if width * total == size]
    told = _told_width(f'{name}.metadata')
    if not widths or (total and told not in (None, widths[0])):
      of = f'{told}' if told else '2 or 4'
      rule = 'both must be whole and belong together; copy both'
      raise DataError(f'{name}: has {size:,} bytes, and its .index tells of {total:,} tokens of {of} bytes; {rule}')
    self.width = widths[0]
    self._ids = _mapped(name, f'<u{self.width}', 0, total)

  def __len__(self) -> int:
    return len(self._ends)

  def _bounds(self, first: int, end: int) -> np.ndarray:
    return np.concatenate([self._ends[first - 1 : first] if first else [0], self._ends[first:end]])

  def sizes(self, first: int, end: int) -> np.ndarray:
    bounds = self._bounds(first, end)
    if (np.diff(bounds) < 0).any() or bounds[0] < 0 or bounds[-1] > len(self._ids):
      what = f'documents {first + 1:,} to {end:,} do not follow one another'
      raise DataError(f'{self._name}.index: {what}; an index must be whole; copy it again')
    return np.diff(bounds)

  def ids(self, number: int) -> np.ndarray:
    start, end = self._bounds(number, number + 1)
    return self._ids[start:end]


class _Rows:
  """A .npy of two dimensions: a row a document."""

  unit = 'row'

  def __init__(self, array: np.ndarray):
    self._array, self.width = array, array.dtype.itemsize

  def __len__(self) -> int:
    return len(self._array)

  def sizes(self, first: int, end: int) -> np.ndarray:
    return np.full(end - first, self._array.shape[1], np.int64)

  def ids(self, number: int) -> np.ndarray:
    return self._array[number]


def parts(name: str, kind: Kind, target: int) -> list[Part]:
  """Parts of about `target` bytes: (first document, document after the last), of a stream of tokens (first token, ...).

  Raises DataError: the file is broken.
  """
  with _errors(name):
    found = _opened(name, kind)
    if isinstance(found, np.ndarray):
      step = max(1, target // found.dtype.itemsize)
      return [(start, min(start + step, len(found))) for start in range(0, len(found), step)] or [None]
    begins, offset, last = [], 0, -1
    for first in range(0, len(found), _DOCUMENTS):
      sizes = found.sizes(first, min(first + _DOCUMENTS, len(found))) * found.width
      groups = (offset + np.cumsum(sizes) - sizes) // target
      begins += (first + np.flatnonzero(np.diff(groups, prepend=last))).tolist()
      offset, last = offset + int(sizes.sum()), groups[-1]
    return list(zip(begins, [*begins[1:], len(found)])) or [None]


def documents(name: str, kind: Kind, part: Part, eos: int | None, pad: int | None) -> Iterator[tuple[str, np.ndarray]]:
  """(where, ids) of each document of a part, or of all.

  Those of a .npy of one dimension are parted at the token `eos`, which they do not hold; a row of one of two dimensions
  ends before the tokens `pad` at its end.

  Raises DataError: the file is broken, holds no whole numbers, or a document of more than 16,777,216 tokens.
  """
  with _errors(name):
    found = _opened(name, kind)
    if isinstance(found, np.ndarray):
      yield from _parted(name, found, part, eos)
      return
    first, last = part or (0, len(found))
    for begin in range(first, last, _DOCUMENTS):
      end = min(begin + _DOCUMENTS, last)
      for number, size in zip(range(begin, end), found.sizes(begin, end).tolist()):
        where = f'{name}, {found.unit} {number + 1:,}'
        if size > _LONGEST:
          raise DataError(f'{where}: {size:,} tokens; a document must have at most {_LONGEST:,}; cut it')
        ids = found.ids(number)
        yield where, _without_padding(ids, pad) if found.unit == 'row' else ids


def _parted(name: str, ids: np.ndarray, part: Part, eos: int | None) -> Iterator[tuple[str, np.ndarray]]:
  """Documents that begin in a part of a stream of tokens."""
  if eos is None:
    rule = 'documents must end at the end-of-document token (eos), of which the tokenizer has none'
    raise DataError(f'{name}: one stream of tokens; {rule}; save a row a document, or name another tokenizer')
  first, end = part or (0, len(ids))
  start = None if first else 0  # where the document in hand begins; None: before the part
  for begin in range(max(first - 1, 0), len(ids), _BLOCK):
    block = ids[begin : begin + _BLOCK]
    for place in (begin + np.flatnonzero(block == eos)).tolist():
      if start is not None:
        yield _document(name, ids, start, place, eos)
      start = place + 1
      if start >= end:
        return
    if start is not None:  # before more of it is read
      _document(name, ids, start, begin + len(block), eos)
  if start is not None and start < len(ids):
    yield _document(name, ids, start, len(ids), eos)


def _document(name: str, ids: np.ndarray, start: int, end: int, eos: int) -> tuple[str, np.ndarray]:
  where = f'{name}, token {start + 1:,}'
  if end - start > _LONGEST:
    rule = f'the end-of-document token of the tokenizer, {eos}, must stand after each'
    remedy = 'name the tokenizer that they were made with, as data.tokenizer.path'
    raise DataError(f'{where}: a document of more than {_LONGEST:,} tokens; {rule}; {remedy}')
  return where, ids[start:end]


def _without_padding(ids: np.ndarray, pad: int | None) -> np.ndarray:
  others = np.flatnonzero(ids != pad) if pad is not None else [len(ids) - 1]
  return ids[: others[-1] + 1] if len(others) else ids[:0]


def _opened(name: str, kind: Kind) -> _Documents | np.ndarray:
  """The documents of a file, or one stream of tokens."""
  if kind == 'megatron':
    return _Megatron(name)
  if kind == 'datatrove':
    return _Datatrove(name)
  found = _array(name)
  return found if found.ndim == 1 else _Rows(found)


def _array(name: str) -> np.ndarray:
  """A .npy, mapped."""
  head = _head(name, len(_NUMPY))
  if head != _NUMPY:
    what = 'has no header of numpy, as some programs write such files, so nobody says what its numbers are'
    fix = f"np.save('new.npy', np.memmap({os.path.basename(name)!r}, 'uint16', 'r'))"
    raise _wrong(name, head, what, f'save it with one, as {fix} where they are of two bytes')
  with open(name, 'rb') as file:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    offset = file.tell()
  if dtype.kind not in 'iu':
    raise DataError(f'{name}: holds {dtype}; tokens must be whole numbers; are these tokens?')
  if len(shape) not in (1, 2):
    rule = 'tokens must have one, or two with a row a document'
    raise DataError(f'{name}: has {len(shape)} dimensions; {rule}; save it so')
  count = int(np.prod(shape, dtype=object))
  told, size = offset + count * dtype.itemsize, os.path.getsize(name)
  if told != size:
    raise DataError(f'{name}: has {size:,} bytes, and its header tells of {told:,}; it must be whole; copy it again')
  return _mapped(name, dtype, offset, count).reshape(shape, order='F' if is_fortran else 'C')


def _mapped(name: str, dtype: Any, offset: int, count: int) -> np.ndarray:
  if not count:
    return np.zeros(0, dtype)
  return np.memmap(name, dtype, 'r', offset, (count,)).view(np.ndarray)


def _head(name: str, size: int) -> bytes:
  with open(name, 'rb') as file:
    return file.read(size)


def _wrong(name: str, head: bytes, what: str, remedy: str) -> DataError:
  if _POINTER.startswith(head[: len(_POINTER)]) and head:
    return DataError(f'{name}: is a Git LFS pointer; the file itself must be there; fetch it with `git lfs pull`')
  return DataError(f'{name}: {what}; it must be what its ending says; {remedy}')


def _told_width(name: str) -> int | None:
  """Bytes of a token, as datatrove's metadata has it: TOKENIZER|BYTES, its first line; None where it does not say."""
  if not os.path.isfile(name):
    return None
  with open(name, encoding='utf-8', errors='replace') as file:
    width = file.readline().rstrip('\n').rpartition('|')[2]
  return int(width) if width in ('2', '4') else None


@contextlib.contextmanager
def _errors(name: str) -> Iterator[None]:
  """Errors of the disk and of numpy as one line with the file's name."""
  try:
    yield
  except OSError as error:
    rule = 'a source must be readable; check the file'
    raise DataError(f'{error.filename or name}: {error.strerror or error}; {rule}') from None
  except DataError:
    raise
  except (ValueError, EOFError) as error:
    raise DataError(f'{name}: cannot be read ({reason(error)}); it must be whole; copy it again') from None
