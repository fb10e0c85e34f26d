"""What was made of labelled files, kept from one start to the next, by a fingerprint of all that it depends on.

A file has a magic, the size and CRC-32 of a header of JSON, the header, and arrays, each at a multiple of 64 bytes and
with a CRC-32 in the header. It is mapped into memory.
"""

import contextlib
import json
import os
import pathlib
import struct
import tempfile
import time
import zlib
from collections.abc import Mapping

import numpy as np

from lmjax.data.sources.notes import note
from lmjax.workdir.files import json_digest

# Where, unless the variable names another folder; 'none' keeps nothing.
FOLDER, VARIABLE = '~/.cache/lmjax/features', 'LMJAX_CACHE'
# Another for any change of what is kept, or of how it is made of the same files and settings.
FORMAT = 1
# Bytes: less is made again in a second; with more, what was used longest ago goes.
_WORTH_KEEPING, _MOST = 1 << 20, 16 << 30
_MAGIC, _PREFACE, _ALIGNED, _DAY = b'lmjax features\n', struct.Struct('<15sQI'), 64, 86_400
_ENDING = '.features'


def fingerprint(*parts) -> str:
  """A name for what depends on JSON-able parts alone."""
  return json_digest([FORMAT, *parts])[:32]


def load(name: str) -> tuple[dict[str, np.ndarray], dict] | None:
  """(arrays, which cannot be written to, and what else there is) of a fingerprint; None where nothing whole is kept."""
  folder = _folder()
  if folder is None or not (path := folder / f'{name}{_ENDING}').exists():
    return None
  try:
    found = _read(path)
    with contextlib.suppress(OSError):  # of another user, or on a disk that is only read
      os.utime(path)
  except FileNotFoundError:  # another process made room
    return None
  except OSError as error:
    note(f'{path}: {error.strerror}; what it holds is made again')
    return None
  except ValueError as error:
    note(f'{path}: is damaged ({error}); it is made again')
    return None
  return found


def _read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
  """Raises ValueError: it is not as it was written."""
  if path.stat().st_size < _PREFACE.size:
    raise ValueError('it is too short')
  data = np.memmap(path, np.uint8, 'r')
  magic, size, crc = _PREFACE.unpack(data[: _PREFACE.size].tobytes())
  begin = _PREFACE.size + size
  header = data[_PREFACE.size : begin].tobytes()
  if magic != _MAGIC or zlib.crc32(header) != crc:
    raise ValueError('its header does not match its checksum')
  described, arrays = json.loads(header), {}
  for name, (dtype, shape, crc) in described['arrays'].items():
    begin += -begin % _ALIGNED
    end = begin + int(np.prod(shape)) * np.dtype(dtype).itemsize
    part = np.asarray(data[begin:end])
    if len(part) != end - begin or zlib.crc32(part.data) != crc:
      raise ValueError(f'{name} does not match its checksum')
    arrays[name], begin = part.view(dtype).reshape(shape), end
  return arrays, described['more']


def save(name: str, arrays: Mapping[str, np.ndarray], more: dict, made_of: int = 0) -> None:
  """Keeps arrays, and what else there is, JSON-able; whole or not at all. Reports where that cannot be.

  Little that was made of little, so many bytes, is not kept.
  """
  folder = _folder()
  if folder is None or max(made_of, sum(array.nbytes for array in arrays.values())) < _WORTH_KEEPING:
    return
  try:
    folder.mkdir(0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix='.', suffix=f'{_ENDING}.tmp')
    try:
      with os.fdopen(handle, 'wb') as file:
        _write(file, {key: np.ascontiguousarray(array) for key, array in arrays.items()}, more)
      os.replace(temporary, folder / f'{name}{_ENDING}')
    except BaseException:
      os.unlink(temporary)
      raise
    _make_room(folder)
  except OSError as error:
    note(f'{folder}: cannot be written to ({error.strerror}); labelled files are read and tokenised at each start')


def _write(file, arrays: Mapping[str, np.ndarray], more: dict) -> None:
  described = {key: (array.dtype.str, array.shape, zlib.crc32(array.data)) for key, array in arrays.items()}
  header = json.dumps({'arrays': described, 'more': more}).encode()
  file.write(_PREFACE.pack(_MAGIC, len(header), zlib.crc32(header)) + header)
  for array in arrays.values():
    file.write(b'\0' * (-file.tell() % _ALIGNED))
    file.write(array.data)


def _make_room(folder: pathlib.Path) -> None:
  """Removes what was used longest ago, down to the most bytes, and what killed processes have left."""
  for file in folder.glob(f'.*{_ENDING}.tmp'):
    if file.stat().st_mtime < time.time() - _DAY:
      file.unlink(missing_ok=True)
  found = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.glob(f'*{_ENDING}'))
  total = sum(size for _, size, _ in found)
  for _, size, file in found[:-1]:
    if total > _MOST:
      file.unlink(missing_ok=True)
      total -= size


def _folder() -> pathlib.Path | None:
  given = os.environ.get(VARIABLE) or FOLDER
  return None if given == 'none' else pathlib.Path(given).expanduser()
