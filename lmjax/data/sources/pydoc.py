"""The embedded corpus: the language reference of `pydoc` and the docstrings of the standard library.

It is there wherever Python is, so a first run needs no download. Modules are parsed, not imported: importing the
standard library opens browsers (`antigravity`) and prints poems (`this`); and parsing finds docstrings under -OO.
"""

import ast
import contextlib
import functools
import hashlib
import importlib
import inspect
import os
import pathlib
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator

from lmjax.errors import DataError

# Shorter docstrings are mostly "Return self+value." and the like: they repeat, and teach little prose.
_SHORTEST = 80

_SKIPPED_FOLDERS = frozenset(
  'site-packages dist-packages __pycache__ test tests idle_test turtledemo lib2to3 ensurepip pydoc_data'.split()
)

# Extension modules whose import has no side effects; one that a build lacks is skipped.
_EXTENSIONS = """
  builtins sys math cmath time itertools array zlib binascii select unicodedata errno atexit gc marshal mmap
  pyexpat signal _abc _ast _asyncio _bisect _bz2 _codecs _collections _csv _ctypes _datetime _decimal
  _elementtree _functools _hashlib _heapq _io _json _locale _lzma _operator _pickle _posixsubprocess _queue
  _random _socket _sqlite3 _sre _ssl _stat _statistics _string _struct _symtable _thread _tracemalloc
  _typing _warnings _weakref _zoneinfo posix pwd grp fcntl resource termios syslog
""".split()


@functools.cache
def documents() -> tuple[tuple[str, str], ...]:
  """(where, text) of each: the topics of the language reference, then each docstring once, in a fixed order.

  Kept, since the tokenizer's sample and the token store both read them.
  """
  texts = []
  with contextlib.suppress(ImportError):  # some distributions leave it out
    from pydoc_data import topics

    texts += [text.strip() + '\n' for _, text in sorted(topics.topics.items())]
  texts += [*_prose(text for _, text in docstrings()), *_prose(_extension_docstrings())]
  return tuple((f'pydoc, document {index}', text) for index, text in enumerate(dict.fromkeys(texts)))


def identity() -> dict:
  """The Python version and the sizes of the standard library's files (distributions patch them)."""
  sizes, folder = hashlib.blake2b(digest_size=16), _library()
  for name in _module_files(folder):
    sizes.update(f'{os.path.relpath(name, folder)} {os.path.getsize(name)}\n'.encode())
  return {
    'kind': 'pydoc',
    'python': platform.python_version(),
    'implementation': platform.python_implementation(),
    'platform': sys.platform,
    'library': sizes.hexdigest(),
  }


@functools.cache
def docstrings() -> tuple[tuple[str, str], ...]:
  """The (qualified name, docstring) pairs of the standard library's source files, in a fixed order.

  Names are those of the source, `textwrap.wrap` or `random.Random.shuffle`, nested functions included; one that
  is defined twice, under `if` and `else`, occurs twice. Kept, about 2.5 MB: a process parses the library once.

  Raises DataError: the library is not there as source files.
  """
  pairs, folder = [], _library()
  for name in _module_files(folder):
    try:
      tree = ast.parse(pathlib.Path(name).read_bytes())
    except (SyntaxError, ValueError):  # templates and test data may stand among the modules
      continue
    parts = os.path.relpath(name, folder).removesuffix('.py').split(os.sep)
    pairs += _docstrings(tree, '.'.join(part for part in parts if part != '__init__'))
  return tuple(pairs)


def _library() -> str:
  folder = sysconfig.get_paths()['stdlib']
  if not os.path.isfile(os.path.join(folder, 'ast.py')):
    problem = f"Python's standard library is not at {folder} as source files"
    rule = 'the embedded corpus is read from them'
    raise DataError(f'pydoc: {problem}; {rule}; name another source in data.sources')
  return folder


def _module_files(folder: str) -> list[str]:
  files = []
  for root, folders, names in os.walk(folder):
    # pydoc_data and _sysconfigdata are generated: the one is read as topics, the other is a dict of paths.
    folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith('config-')]
    modules = [name for name in names if name.endswith('.py') and not name.startswith('_sysconfigdata')]
    files += [os.path.join(root, name) for name in modules]
  return sorted(files)


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
  """The docstrings of a module, its classes and functions, in the order of the source."""
  definitions = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
  if isinstance(node, definitions):
    name = f'{name}.{node.name}'
  if isinstance(node, ast.Module | definitions) and (text := ast.get_docstring(node)):
    yield name, text
  # Definitions also stand under `if` and `try`; nothing else that holds statements is looked into.
  for block in ('body', 'orelse', 'handlers', 'finalbody'):
    for child in getattr(node, block, ()):
      if isinstance(child, definitions | ast.If | ast.Try | ast.ExceptHandler):
        yield from _docstrings(child, name)


def _extension_docstrings() -> Iterator[str | None]:
  for name in _EXTENSIONS:
    try:
      module = importlib.import_module(name)
    except ImportError:
      continue
    yield module.__doc__
    for _, value in sorted(vars(module).items()):
      if inspect.isclass(value):
        yield from (getattr(member, '__doc__', None) for _, member in sorted(vars(value).items()) if callable(member))
      if inspect.isclass(value) or inspect.isbuiltin(value):
        yield value.__doc__


def _prose(docstrings: Iterable[str | None]) -> Iterator[str]:
  for text in docstrings:
    if isinstance(text, str) and len(text := inspect.cleandoc(text)) >= _SHORTEST:
      yield text + '\n'
