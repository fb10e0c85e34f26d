"""The folder of what was made of corpora, on a disk or at an address: each file whole or not at all.

  CACHE_DIR/
    tokenizer-ID.json     trained tokenizers
    shards/ID.safetensors token shards (`shard`), named by what they were made of: text, tokenizer, settings
    read/ID.json          what was found in a part of a source (`unit`), named by the part as it was listed
    corpora/ID.json       the shards of a corpus and what stands of them (`manifest`), named by all of that
    corpora/ID.roles      a byte a document; see `standing`
    corpora/ID.NAME.*     of a source, the held-out text that is kept, and how many rows its shards make
    listed/ID.json        which corpus a listing of its sources led to

The content of a file follows from its name: two that write the same one write the same bytes.
"""

import contextlib
import glob
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

from lmjax.console import print_line
from lmjax.data.corpus import address, shard
from lmjax.data.sources import remote
from lmjax.errors import DataError
from lmjax.workdir import lock
from lmjax.workdir.files import canonical_json, json_digest


class Cache:
  """Files of a cache by name.

  Raises DataError: one cannot be written, or an address cannot be reached.
  """

  def __init__(self, folder: str):
    self.is_address = remote.is_url(folder)
    self.folder = folder.rstrip('/') if self.is_address else os.path.abspath(os.path.expanduser(folder))

  def path(self, name: str) -> str:
    """The whole path of a file."""
    return f'{self.folder.rstrip("/")}/{name}'

  def has(self, *names: str) -> bool:
    """Whether all of these are there, and those that are token shards whole as far as their sizes tell."""
    if self.is_address:  # where no file is there in part
      return address.has_all([self.path(name) for name in names])
    paths = map(self.path, names)
    return all(shard.is_whole(path) if path.endswith(shard.ENDING) else os.path.exists(path) for path in paths)

  def touch(self, name: str) -> None:
    """Notes that a file was used, on a disk where that may be written."""
    if not self.is_address:
      with contextlib.suppress(OSError):
        os.utime(self.path(name))

  def read(self, name: str) -> bytes | None:
    """Its content; None where it is not there."""
    path = self.path(name)
    if self.is_address:
      return address.read(path)
    try:
      with open(path, 'rb') as file:
        return file.read()
    except (FileNotFoundError, NotADirectoryError):
      return None

  def part(self, name: str, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a file, less where it ends before. Raises DataError or OSError: it is not there."""
    path = self.path(name)
    if self.is_address:
      return address.part(path, start, stop)
    with open(path, 'rb') as file:
      file.seek(start)
      return file.read(stop - start)

  def local(self, name: str) -> str:
    """A path on this machine with the content of a file: its own, or that of a copy."""
    return address.local(self.path(name))

  def fetch(self, names: Iterable[str]) -> None:
    """Makes copies of files that will be needed, where they are needed and can be made."""
    if self.is_address:
      with contextlib.suppress(DataError):  # it is raised where they are used
        for name in names:
          address.local(self.path(name))

  def read_json(self, name: str) -> Any:
    """What `write_json` wrote under this name; None where that is not there, or is damaged."""
    data = self.read(name)
    try:
      found = None if data is None else json.loads(data)
      return found['value'] if found is not None and found['digest'] == json_digest([name, found['value']]) else None
    except (ValueError, KeyError, TypeError):
      return None

  def write_json(self, name: str, value: Any) -> None:
    """The same value gives the same bytes."""
    self.write(name, canonical_json({'value': value, 'digest': json_digest([name, value])}) + b'\n')

  def write(self, name: str, data: bytes) -> None:
    """Writes a file."""
    path = self.path(name)
    if self.is_address:
      address.write(path, data)
      return
    temporary = f'{path}.{secrets.token_hex(4)}.tmp'
    try:
      os.makedirs(os.path.dirname(path), exist_ok=True)
      try:
        with open(temporary, 'wb') as file:
          file.write(data)
          os.fsync(file.fileno())
        os.replace(temporary, path)
      finally:
        with contextlib.suppress(OSError):
          os.unlink(temporary)
    except OSError as error:
      raise self._unwritable(error) from None

  def remove_folder(self, name: str) -> None:
    """Removes a folder of it, where that is there."""
    if self.is_address:
      address.remove(self.path(name))
    else:
      shutil.rmtree(self.path(name), ignore_errors=True)

  def put(self, name: str, path: str) -> None:
    """Writes a file of the content of one in `scratch`, which may be gone then."""
    if self.is_address:
      address.put(self.path(name), path)
      return
    try:
      os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
      os.replace(path, self.path(name))
    except OSError as error:
      raise self._unwritable(error) from None

  @contextlib.contextmanager
  def claimed(self, name: str, waiting: str | None = None) -> Iterator[bool]:
    """Whether nobody else holds a name; with a line to print while it is `waiting`, once nobody does.

    Where there are no locks, several may hold it.

    Raises DataError: nothing can be written here.
    """
    wait = None if waiting is None else lambda: print_line(waiting)
    if self.is_address:
      with address.claimed(self.path(name), wait) as is_ours:
        yield is_ours
      return
    path = self.path(name)
    try:
      os.makedirs(os.path.dirname(path), exist_ok=True)
      file = open(path, 'a')
    except OSError as error:
      raise self._unwritable(error) from None
    with file:
      is_ours = lock.acquire(file, wait=False) is not False
      if not is_ours and wait is not None:
        wait()
        is_ours = lock.acquire(file, wait=True) is not False
      yield is_ours
      if is_ours:
        with contextlib.suppress(OSError):
          os.unlink(path)

  @contextlib.contextmanager
  def scratch(self) -> Iterator[str]:
    """A folder of this machine for large files, which is gone afterwards; on the disk of the cache, if it is on one."""
    try:
      if not self.is_address:
        os.makedirs(self.folder, exist_ok=True)
      with tempfile.TemporaryDirectory(
        suffix='.tmp', dir=None if self.is_address else self.folder, ignore_cleanup_errors=True
      ) as folder:
        yield folder
    except OSError as error:
      raise self._unwritable(error) from None

  def clear_temporary(self) -> None:
    """Removes what builds that were killed left; what is younger than an hour, or a day's folder, may be in use."""
    if self.is_address:
      return
    for path in glob.glob(os.path.join(glob.escape(self.folder), '*', '*.tmp')):
      with contextlib.suppress(OSError):
        if os.path.getmtime(path) < time.time() - 3_600:
          os.unlink(path)
    for path in glob.glob(os.path.join(glob.escape(self.folder), '*.tmp')):
      with contextlib.suppress(OSError):
        if os.path.getmtime(path) < time.time() - 86_400:
          shutil.rmtree(path)

  def _unwritable(self, error: OSError) -> DataError:
    rule = 'data.cache_dir must be a folder with room for the token shards'
    remedy = 'free some, or name another; what is finished stays'
    return DataError(f'{self.folder}: {error.strerror or error}; {rule}; {remedy}')
