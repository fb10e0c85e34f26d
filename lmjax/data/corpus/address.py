"""Files of a cache at an address: written whole, claimed by one process, and copied to this machine to be read.

The copies that were used longest ago go when there are too many.
"""

import contextlib
import hashlib
import math
import os
import pathlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from lmjax.data.sources import remote
from lmjax.errors import DataError

# Where copies are, unless the variable names another folder, and how many bytes of them.
_FOLDER, VARIABLE, _LARGEST = '~/.cache/lmjax/copies', 'LMJAX_COPIES', 20_000_000_000
# With more files than this a folder is listed: one request for a thousand names.
_ASKED_ONE_BY_ONE = 8
# A claim is renewed this often, and is that of a process that has ended when it was not for so long.
_RENEWED_SECONDS, _STALE_SECONDS, _POLL_SECONDS = 20.0, 90.0, 1.0


def has_all(paths: Sequence[str]) -> bool:
  """Whether all of these files are there."""
  folders: dict[str, set[str]] = {}
  for path in paths:
    folders.setdefault(path.rpartition('/')[0], set()).add(path)
  for folder, wanted in folders.items():
    with _reaching(folder) as system:
      if len(wanted) <= _ASKED_ONE_BY_ONE:
        if not all(map(system.exists, wanted)):
          return False
      elif {system._strip_protocol(path) for path in wanted} - set(system.find(folder)):
        return False
  return True


def read(path: str) -> bytes | None:
  """The content of a file; None where it is not there."""
  with contextlib.suppress(FileNotFoundError), _reaching(path) as system:
    return system.cat_file(path)
  return None


def write(path: str, data: bytes) -> None:
  """Writes a file."""
  with _reaching(path, must_exist=True) as system:
    system.pipe_file(path, data)


def remove(folder: str) -> None:
  """Removes a folder with all that is in it, where it is there."""
  with contextlib.suppress(FileNotFoundError), _reaching(folder) as system:
    system.rm(folder, recursive=True)


def part(path: str, start: int, stop: int) -> bytes:
  """Bytes of a file."""
  with _reaching(path, must_exist=True) as system:
    return system.cat_file(path, start=start, end=stop)


def put(path: str, own: str) -> None:
  """Writes a file of the content of one of this machine."""
  with _reaching(path, must_exist=True) as system:
    system.put_file(own, path)


def local(path: str) -> str:
  """A path of this machine as it is, and of a copy of what is at an address.

  Raises DataError: it is missing, or there is no room for it.
  """
  if not remote.is_url(path):
    return path
  folder = pathlib.Path(os.environ.get(VARIABLE) or _FOLDER).expanduser()
  copied = folder / hashlib.blake2b(path.encode(), digest_size=16).hexdigest()
  temporary = f'{copied}.{secrets.token_hex(4)}'
  try:
    if copied.exists():
      os.utime(copied)
      return str(copied)
    folder.mkdir(0o700, parents=True, exist_ok=True)
    try:
      with _reaching(path, must_exist=True) as system:
        system.get_file(path, temporary)
      os.replace(temporary, copied)
    finally:
      pathlib.Path(temporary).unlink(missing_ok=True)
    _drop_oldest(folder, str(copied))
  except OSError as error:
    rule, remedy = 'there must be room for copies of token shards', f'free some, or name another folder in {VARIABLE}'
    raise DataError(f'{folder}: {error.strerror or error}; {rule}; {remedy}') from None
  return str(copied)


def _drop_oldest(folder: pathlib.Path, but: str) -> None:
  """What is mapped stays readable until it is closed."""
  found = []
  for entry in os.scandir(folder):
    with contextlib.suppress(FileNotFoundError):  # another process makes room, too
      found.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
  total = sum(size for _, size, _ in found)
  for _, size, path in sorted(found):
    if total > _LARGEST and path != but:
      pathlib.Path(path).unlink(missing_ok=True)
      total -= size


@contextlib.contextmanager
def claimed(path: str, wait: Callable[[], None] | None) -> Iterator[bool]:
  """Whether nobody else claims a path; with `wait`, which is called where somebody does, once nobody does any more.

  A claim is a file that is made where there is none, and renewed. In a store that cannot tell, several have it: they
  write the same bytes.
  """
  is_ours = _claim(path)
  if not is_ours and wait is not None:
    wait()
    while not (is_ours := _claim(path)):
      time.sleep(_POLL_SECONDS)
  if not is_ours:
    yield False
    return
  ended = threading.Event()
  renewing = threading.Thread(target=_renew, args=(path, ended), daemon=True)
  renewing.start()
  try:
    yield True
  finally:
    ended.set()
    renewing.join()
    with contextlib.suppress(DataError, FileNotFoundError), _reaching(path) as system:
      system.rm_file(path)


def _claim(path: str) -> bool:
  with _reaching(path, must_exist=True) as system:
    try:
      system.pipe_file(path, _time(), mode='create')
      return True
    except FileExistsError:
      data = read(path)
    except (TypeError, NotImplementedError):  # a store that cannot tell
      return True
    if data is not None and _seconds_since(data) < _STALE_SECONDS:
      return False
    with contextlib.suppress(FileNotFoundError):
      system.rm_file(path)
    return False  # for this time: whoever comes first next has it


def _seconds_since(data: bytes) -> float:
  try:
    return time.time() - float(data)
  except ValueError:  # nothing that was written here
    return math.inf


def _renew(path: str, ended: threading.Event) -> None:
  while not ended.wait(_RENEWED_SECONDS):
    with contextlib.suppress(DataError):
      write(path, _time())


def _time() -> bytes:
  return str(time.time()).encode()


@contextlib.contextmanager
def _reaching(path: str, must_exist: bool = False) -> Iterator:
  """The file system of a path; each library of object stores raises errors of its own, which become DataError."""
  system = remote.filesystem(path)
  system.invalidate_cache()  # others write, too
  try:
    yield system
  except FileNotFoundError as error:
    if must_exist:  # a bucket that is not there, say
      raise remote.unreachable(path, error) from error
    raise
  except (DataError, FileExistsError):
    raise
  except Exception as error:
    raise remote.unreachable(path, error) from error
