"""Files at an address (gs://, s3://, https://, hf://), through fsspec."""

import glob
import io
from collections.abc import Iterator
from typing import IO, Any

from lmjax.errors import GCS_REMEDY, DataError, reason

# What each scheme needs besides fsspec, and how it is installed.
_NEEDS = {
  **dict.fromkeys(('gs', 'gcs'), ('gcsfs', "pip install 'lmjax[gcs]'")),
  **dict.fromkeys(('s3', 's3a'), ('s3fs', "pip install 'lmjax[s3]'")),
  **dict.fromkeys(('http', 'https'), ('aiohttp', "pip install 'lmjax[https]'")),
  'hf': ('huggingface_hub', 'pip install huggingface_hub'),
}
# What tells one content from another, without reading it: the first that a listing has.
_STAMPS = ('generation', 'blob_id', 'etag', 'ETag', 'Last-Modified', 'mtime', 'LastModified', 'last_modified')


def is_url(path: str) -> bool:
  """Whether a path is an address, SCHEME://..."""
  return '://' in path


def scheme_of(path: str) -> str:
  """What stands before ://."""
  return path.partition('://')[0]


def _is_web(path: str) -> bool:
  return scheme_of(path) in ('http', 'https')


def filesystem(path: str) -> Any:
  """The fsspec file system of an address. Raises DataError: what it needs is not installed, or nothing reads it."""
  import fsspec

  scheme = scheme_of(path)
  try:
    return fsspec.filesystem(scheme)
  except ImportError as error:
    library, command = _NEEDS.get(scheme, (f'a library ({reason(error)})', 'install it'))
    raise DataError(
      f'{path}: {scheme}:// cannot be reached without {library}; it must be installed; {command}'
    ) from None
  except ValueError:
    known = ', '.join(f'{name}://' for name in ('gs', 's3', 'https', 'hf'))
    rule = f'an address must begin with one of {known}'
    raise DataError(f'{path}: nothing reads {scheme}://; {rule}; copy the files to one of these, or here') from None


def unreachable(path: str, error: BaseException) -> DataError:
  """What to raise for an error of a library of object stores, each of which has its own."""
  return DataError(f'{path}: cannot be reached ({reason(error)}); {_remedy(path)}')


def _remedy(path: str) -> str:
  scheme = scheme_of(path)
  if scheme in ('gs', 'gcs'):
    return GCS_REMEDY
  if scheme == 'hf':
    return 'check address and network; a private data set needs `hf auth login` or HF_TOKEN'
  return 'check address and network' + ' and credentials' * (not _is_web(path))


def opened(path: str) -> IO[bytes]:
  """An open file. Raises DataError: as `filesystem`; and what its library raises."""
  # a file of an object store has no `readline(limit)`
  return io.BufferedReader(filesystem(path).open(path, 'rb'))


def listed(path: str) -> tuple[bool, list[tuple[str, int, str]]]:
  """(whether `path` names a folder, (name, size, stamp) of each file that it names, or that lies below it).

  A size that nobody says is -1.

  Raises DataError: it cannot be reached.
  """
  system = filesystem(path)
  try:
    return _listed(system, path)
  except FileNotFoundError as error:
    cause = error.__cause__  # of the web each error comes as this one
    if _is_web(path) and cause is not None and getattr(cause, 'status', None) not in (404, 410):
      raise unreachable(path, cause) from error
    return False, []
  except DataError:
    raise
  except Exception as error:
    raise unreachable(path, error) from error


def _listed(system, path: str) -> tuple[bool, list[tuple[str, int, str]]]:
  if _is_web(path):  # cannot be listed; ? and [] are part of an address
    return False, [(path, *_size_and_stamp(system.info(path)))]
  system.invalidate_cache()
  if glob.has_magic(path.partition('://')[2]):
    return False, list(_rows(system, system.glob(path, detail=True)))
  info = system.info(path)
  if info['type'] == 'directory':
    return True, list(_rows(system, system.find(path, detail=True)))
  return False, [(path, *_size_and_stamp(info))]


def _rows(system, found: dict[str, dict]) -> Iterator[tuple[str, int, str]]:
  for name, info in found.items():
    if info['type'] == 'file':
      yield (system.unstrip_protocol(name), *_size_and_stamp(info))


def _size_and_stamp(info: dict) -> tuple[int, str]:
  lfs = info.get('lfs') or {}
  stamps = [lfs.get('sha256'), *(info.get(name) for name in _STAMPS)]
  size = info.get('size')
  return -1 if size is None else size, next((str(stamp) for stamp in stamps if stamp is not None), '')
