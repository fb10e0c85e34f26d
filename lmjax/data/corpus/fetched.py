"""Copies of files at addresses on this machine: the least recently used ones go when there are too many."""

import hashlib
import os
import secrets
import tempfile

from lmjax.data.sources import remote

# Bytes of copies that are kept.
_LARGEST = 20_000_000_000


def local(path: str) -> str:
  """The path itself, or that of a copy."""
  if not remote.is_url(path):
    return path
  folder = os.path.join(tempfile.gettempdir(), f'lmjax-shards-{os.getuid()}')
  os.makedirs(folder, mode=0o700, exist_ok=True)
  copy = os.path.join(folder, hashlib.blake2b(path.encode(), digest_size=16).hexdigest())
  if os.path.exists(copy):
    os.utime(copy)
    return copy
  temporary = f'{copy}.{secrets.token_hex(4)}.tmp'
  remote.filesystem(path).get_file(path, temporary)
  os.replace(temporary, copy)
  _drop_oldest(folder, copy)
  return copy


def _drop_oldest(folder: str, but: str) -> None:
  """What is mapped stays readable until it is closed."""
  with os.scandir(folder) as entries:
    found = sorted((entry.stat().st_atime, entry.stat().st_size, entry.path) for entry in entries)
  total = sum(size for _, size, _ in found)
  for _, size, path in found:
    if total <= _LARGEST:
      return
    if path != but:
      os.unlink(path)
      total -= size
