"""Where compiled programs are kept from one command to the next: JAX's persistent compilation cache."""

import contextlib
import hashlib
import importlib.util
import os
import pathlib
import platform
import sys
import warnings
from collections.abc import Iterator

from lmjax.console import print_line

FOLDER = '~/.cache/lmjax/programs'
_SETTINGS = {
  'jax_compilation_cache_max_size': 4 * 2**30,  # bytes; then what was used longest ago goes
  'jax_persistent_cache_min_compile_time_secs': 0.1,  # jax's own second leaves most programs of small models out
}


def keep_programs(folder: str | None) -> None:
  """Has jax keep compiled programs in a folder, and take them from there.

  Programs run what is in them, so a folder that others may write to is not used. That, a folder that cannot be
  written and a damaged program in it are reported in a line, and programs compiled as if there were no folder.

  Args:
    folder: 'none' for nowhere; None for what JAX_COMPILATION_CACHE_DIR says, or else FOLDER.
  """
  if folder == 'none':
    _set('jax_enable_compilation_cache', False)
    return
  if folder is None and 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  path = pathlib.Path(folder or FOLDER).expanduser().absolute() / _machine()
  try:
    path.mkdir(0o700, parents=True, exist_ok=True)
    about = path.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
      raise PermissionError(None, 'others may write to it')
    if importlib.util.find_spec('filelock') is None:
      raise OSError(None, 'jax needs the package filelock, to keep to a size')
    _remove_halves(path)
    (path / '.lockfile').touch()
  except OSError as error:
    print_line(f'lmjax: --compilation_cache = {path}: {error.strerror}; programs are compiled without it', sys.stderr)
    return
  _set('jax_compilation_cache_dir', str(path))
  for name, value in _SETTINGS.items():
    if name.upper() not in os.environ:
      _set(name, value)
  _report_damage(path)


@contextlib.contextmanager
def without_kept_programs() -> Iterator[None]:
  """Inside, all is compiled: a dry run reports what the compiler says now, and how long it took."""
  import jax

  before = jax.config.values['jax_enable_compilation_cache']
  _set_now('jax_enable_compilation_cache', False)
  try:
    yield
  finally:
    _set_now('jax_enable_compilation_cache', before)


def _set(name: str, value) -> None:
  """A setting of jax, which reads the environment when it is imported: most commands do so later."""
  os.environ[name.upper()] = str(value)
  if 'jax' in sys.modules:
    _set_now(name, value)


def _set_now(name: str, value) -> None:
  """A setting of jax, also where it has compiled: what it decided about its cache then, it would go by for ever."""
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  jax.config.update(name, value)
  compilation_cache.reset_cache()


def _machine() -> str:
  """A name for this kind of CPU: programs hold instructions that another may lack, and home folders are shared."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  features = next((line for line in lines if line.startswith(('flags', 'Features'))), '')
  return f'{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}'


def _remove_halves(path: pathlib.Path) -> None:
  """Removes programs without the time of their last use, as a killed process leaves them: jax could add no other."""
  for program in path.glob('*-cache'):
    if not program.with_name(f'{program.name.removesuffix("-cache")}-atime').exists():
      program.unlink(missing_ok=True)


def _report_damage(path: pathlib.Path) -> None:
  """Has jax's warnings of what it cannot read or write there become one line."""
  show, reported = warnings.showwarning, []

  def show_once(message, *rest, **more):
    if 'persistent compilation cache' not in str(message):
      show(message, *rest, **more)
    elif not reported:
      reported.append(message)
      reason = ' '.join(str(message).split())
      print_line(f'lmjax: {path}: {reason}; compiled again; remove that folder if this comes back', sys.stderr)

  warnings.showwarning = show_once
