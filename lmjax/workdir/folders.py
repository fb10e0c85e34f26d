"""Folders that are written whole or not at all."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(out: pathlib.Path) -> Iterator[pathlib.Path]:
  """An empty folder to write into, which takes the place of `out` at the end; where anything is raised, `out` stays.

  `out` must not exist, or is what is to be replaced. Raises OSError: the folder above it cannot be written.
  """
  out.parent.mkdir(parents=True, exist_ok=True)
  new = pathlib.Path(tempfile.mkdtemp(dir=out.parent, prefix=f'.{out.name}.', suffix='.tmp'))
  old = new.with_suffix('.old')
  try:
    yield new
    for file in new.rglob('*'):
      if file.is_file():
        with file.open('rb') as written:
          os.fsync(written.fileno())
    new.chmod(0o755)
    if out.exists():
      out.rename(old)
    try:
      new.rename(out)
    except OSError:
      old.rename(out)
      raise
    shutil.rmtree(old, ignore_errors=True)
  finally:
    shutil.rmtree(new, ignore_errors=True)
