"""Opens a file as a stream of unpacked bytes; what is wrong with it as a whole is one error with its name."""

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from lmjax.data.sources import remote
from lmjax.data.sources.formats import Format, Kind, format_of
from lmjax.errors import DataError

_BOM = b'\xef\xbb\xbf'
_UTF_16 = (b'\xff\xfe', b'\xfe\xff')
_HEAD = 512
# Compressed bytes that are unpacked at a time: text grows to a few times as much.
_ZSTD_PIECE = 16_384
_LARGEST_ZSTD_WINDOW = 1 << 31  # large archives are made with `zstd --long`
_PAGES = (b'<!doctype html', b'<html')
_MAGIC = {b'\x1f\x8b': '.gz', b'\xfd7zXZ\x00': '.xz', b'BZh91AY&SY': '.bz2', b'\x28\xb5\x2f\xfd': '.zst'}
_OTHERS = {
  b'PK\x03\x04': ('a .zip archive', 'unpack it, and name its files'),
  b'%PDF-': ('a PDF', 'convert it to text'),
}


@contextlib.contextmanager
def opened(name: str, unpack: bool = True) -> Iterator[IO[bytes]]:
  """A file, unpacked and after its byte order mark unless its very bytes are wanted; its errors become DataError.

  Errors of the object store or of the disk are caught while it is read too.
  """
  kind, packed = format_of(name) or Format('text', '')
  try:
    with remote.opened(name) if remote.is_url(name) else open(name, 'rb') as raw:
      if not unpack:
        yield raw
        return
      head, raw = _with_head(raw)
      _check_raw(name, head, kind, packed)
      with _UNPACKERS[packed](raw) as file:
        if packed:
          head, file = _with_head(file)
        if kind in ('text', 'lines', 'json', 'table'):
          if head[:2] in _UTF_16:
            raise DataError(f'{name}: is UTF-16, by its first bytes; text must be UTF-8; save it as that')
          file.read(len(_BOM) if head.startswith(_BOM) else 0)
        yield file
  except (EOFError, lzma.LZMAError, zlib.error) as error:
    raise _not_whole(name, error) from None
  except OSError as error:
    if packed and error.errno is None:  # of gzip and bz2
      raise _not_whole(name, error) from None
    raise DataError(f'{name}: {error.strerror or error}; a source must be readable; check the file') from None
  except DataError:
    raise
  except Exception as error:  # each library of object stores raises errors of its own
    if not remote.is_url(name):
      raise
    raise remote.unreachable(name, error) from error


def _not_whole(name: str, error: BaseException) -> DataError:
  return DataError(f'{name}: {error}; a compressed file must be whole; download or compress it again')


def _with_head(file: Any) -> tuple[bytes, Any]:
  """(the first bytes of a file, the file from its start)."""
  head = file.read(_HEAD)
  try:
    file.seek(0)
  except (OSError, ValueError):  # a stream: nobody said how long it is
    return head, io.BufferedReader(_Joined(head, file))
  return head, file


class _Joined(io.RawIOBase):
  """Bytes that were read already, and what comes after them."""

  def __init__(self, head: bytes, file: IO[bytes]):
    self._head, self._file = head, file

  def readable(self) -> bool:
    """True."""
    return True

  def readinto(self, buffer) -> int:
    """How many bytes were put into the buffer; 0 at the end."""
    data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
    if not data:
      data = self._file.read(len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _check_raw(name: str, head: bytes, kind: Kind, packed: str) -> None:
  """Raises DataError: the first bytes of a file are those of another kind of file."""
  if head.startswith(b'version https://git-lfs'):
    rule = 'is a Git LFS pointer; the file itself must be there'
    raise DataError(f'{name}: {rule}; fetch it with `git lfs pull`')
  if head.lstrip().lower().startswith(_PAGES) and kind != 'text':
    raise DataError(f'{name}: is a web page (HTML), by its first bytes; it must be data; download the file itself')
  if packed:
    return
  for magic, ending in _MAGIC.items():
    if head.startswith(magic):
      rule = f'is compressed, by its first bytes; its name must end in {ending}'
      raise DataError(f'{name}: {rule}; rename it')
  for magic, (what, remedy) in _OTHERS.items():
    if head.startswith(magic):
      raise DataError(f'{name}: is {what}, by its first bytes; it must be what its ending says; {remedy}')


class _ZstdFrames(io.RawIOBase):
  """The content of all frames of a file, end to end; an end within a frame is an EOFError."""

  def __init__(self, file: IO[bytes]):
    import zstandard

    self._file, self._error = file, zstandard.ZstdError
    self._decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_ZSTD_WINDOW)
    self._frame: Any = None
    self._packed, self._data = b'', memoryview(b'')

  def readable(self) -> bool:
    """True."""
    return True

  def readinto(self, buffer) -> int:
    """How many bytes were put into the buffer; 0 at the end."""
    while not self._data:
      self._packed = self._packed or self._file.read(_ZSTD_PIECE)
      if not self._packed:
        if self._frame is not None:
          raise EOFError('Compressed file ended before the end of its last frame')
        return 0
      self._unpack()
    count = min(len(buffer), len(self._data))
    buffer[:count], self._data = self._data[:count], self._data[count:]
    return count

  def _unpack(self) -> None:
    """Unpacks what was read, up to the end of a frame."""
    if self._frame is None:
      self._frame = self._decompressor.decompressobj()
    try:
      self._data = memoryview(self._frame.decompress(self._packed))
    except self._error as error:
      raise EOFError(str(error)) from None
    self._packed = self._frame.unused_data if self._frame.eof else b''
    if self._frame.eof:
      self._frame = None


def _unpack_zstd(file: IO[bytes]) -> IO[bytes]:
  return io.BufferedReader(_ZstdFrames(file), 1 << 17)


_UNPACKERS: dict[str, Callable[[Any], Any]] = {
  '': contextlib.nullcontext,
  '.gz': gzip.open,
  '.xz': lzma.open,
  '.bz2': bz2.open,
  '.zst': _unpack_zstd,
}
