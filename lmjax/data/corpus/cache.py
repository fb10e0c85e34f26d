"""The folder of what was made of corpora, on a disk or at an address: each file whole or not at all.

  CACHE_DIR/
    tokenizer-ID.json     trained tokenizers
    shards/ID.safetensors token shards (`shard`), named by what they were made of: text, tokenizer, settings
    read/ID.json          what was found in a part of a source (`unit`), named by the part as it was listed
    corpora/ID.json       the shards of a corpus and what stands of them (`manifest`), named by all of that
    corpora/ID.roles      a byte a document; see `standing`
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
from collections.abc import Iterator
from typing import Any

from lmjax.console import print_line
from lmjax.data.corpus import fetched, shard
from lmjax.data.sources import remote
from lmjax.errors import DataError
from lmjax.workdir import lock
from lmjax.workdir.files import canonical_json, json_digest


class Cache:
  """Files of a cache by name. Raises DataError where they cannot be written."""

  def __init__(self, folder: str):
    self.folder = folder if remote.is_url(folder) else os.path.abspath(os.path.expanduser(folder))

  def path(self, name: str) -> str:
    """The whole path of a file."""
    return f'{self.folder.rstrip("/")}/{name}'

  def has(self, name: str) -> bool:
    """Whether it is there."""
    path = self.path(name)
    return remote.filesystem(path).exists(path) if remote.is_url(path) else os.path.exists(path)

  def has_shard(self, name: str) -> bool:
    """Whether a token shard is there, and whole as far as its size tells."""
    return self.has(name) if remote.is_url(self.folder) else shard.is_whole(self.path(name))

  def touch(self, name: str) -> None:
    """Notes that a file was used, on a disk where that may be written."""
    if not remote.is_url(self.folder):
      with contextlib.suppress(OSError):
        os.utime(self.path(name))

  def read(self, name: str) -> bytes | None:
    """Its content; None where it is not there."""
    path = self.path(name)
    try:
      if remote.is_url(path):
        return remote.filesystem(path).cat_file(path)
      with open(path, 'rb') as file:
        return file.read()
    except (FileNotFoundError, NotADirectoryError):
      return None

  def local(self, name: str) -> str:
    """A path on this machine with the content of a file: its own, or that of a copy (see `fetched`)."""
    return fetched.local(self.path(name))

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
    with self.writing(name) as path, open(path, 'wb') as file:
      file.write(data)

  @contextlib.contextmanager
  def writing(self, name: str) -> Iterator[str]:
    """Gives the path of a local file to write, which becomes the file when it is whole."""
    path = self.path(name)
    try:
      if remote.is_url(path):
        with _temporary() as local:
          yield local
          remote.filesystem(path).put_file(local, path)
        return
      os.makedirs(os.path.dirname(path), exist_ok=True)
      local = f'{path}.{secrets.token_hex(4)}.tmp'
      try:
        yield local
        with open(local, 'rb') as file:
          os.fsync(file.fileno())
        os.replace(local, path)
      finally:
        with contextlib.suppress(OSError):
          os.unlink(local)
    except OSError as error:
      raise self._unwritable(error) from None

  def remove_folder(self, name: str) -> None:
    """Removes a folder of it, where that is there."""
    path = self.path(name)
    if not remote.is_url(path):
      shutil.rmtree(path, ignore_errors=True)
    elif remote.filesystem(path).exists(path):
      remote.filesystem(path).rm(path, recursive=True)

  @contextlib.contextmanager
  def claimed(self, name: str, waiting: str | None = None) -> Iterator[bool]:
    """Whether nobody else holds a name; with a line to print while it is `waiting`, once nobody does.

    Where there are no locks, several may hold it.

    Raises DataError: nothing can be written here.
    """
    if remote.is_url(self.folder):
      yield True
      return
    path = self.path(name)
    try:
      os.makedirs(os.path.dirname(path), exist_ok=True)
      file = open(path, 'a')
    except OSError as error:
      raise self._unwritable(error) from None
    with file:
      is_ours = lock.acquire(file, wait=False) is not False
      if not is_ours and waiting is not None:
        print_line(waiting)
        is_ours = lock.acquire(file, wait=True) is not False
      yield is_ours
      if is_ours:
        with contextlib.suppress(OSError):
          os.unlink(path)

  def clear_temporary(self) -> None:
    """Removes what builds that were killed left; what is younger than an hour may be in use."""
    if not remote.is_url(self.folder):
      for path in glob.glob(os.path.join(glob.escape(self.folder), '*', '*.tmp')):
        with contextlib.suppress(OSError):
          if os.path.getmtime(path) < time.time() - 3_600:
            os.unlink(path)

  def _unwritable(self, error: OSError) -> DataError:
    rule = 'data.cache_dir must be a folder with room for the token shards'
    remedy = 'free some, or name another; what is finished stays'
    return DataError(f'{self.folder}: {error.strerror or error}; {rule}; {remedy}')


@contextlib.contextmanager
def _temporary() -> Iterator[str]:
  with tempfile.TemporaryDirectory() as folder:
    yield os.path.join(folder, 'file')
