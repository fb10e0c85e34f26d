"""`import common` in a config file: the common.py next to it, from any working directory, and no other module."""

import contextlib
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

from lmjax.errors import ConfigError

NAME = 'common'


class _Finder(MetaPathFinder, Loader):
  """Finds `common` next to one config file, and executes what its file holds now: no bytecode is kept."""

  def __init__(self, config: Path):
    self._config, self._file = config, config.parent / f'{NAME}.py'

  def find_spec(self, name, path=None, target=None):
    if name != NAME:
      return None
    if not self._file.is_file():
      rule = f'imports {NAME}, and there is no {self._file.name} next to it'
      raise ConfigError(f'{self._config}: {rule}; copy that file too, from the folder that the config came from')
    return ModuleSpec(name, self, origin=str(self._file))

  def exec_module(self, module):
    module.__file__ = str(self._file)
    exec(compile(self._file.read_bytes(), str(self._file), 'exec'), module.__dict__)


@contextlib.contextmanager
def importable(config: Path) -> Iterator[None]:
  """While a config file is executed, `import common` gives the common.py next to it; afterwards all is as before.

  Raises:
    ConfigError: out of the import, where there is no such file.
  """
  finder, before = _Finder(config), sys.modules.pop(NAME, None)
  sys.meta_path.insert(0, finder)
  try:
    yield
  finally:
    sys.meta_path.remove(finder)
    sys.modules.pop(NAME, None)
    if before is not None:
      sys.modules[NAME] = before
