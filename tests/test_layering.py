"""Imports only ever point down the floors, and never in a circle; files stay short enough to be read."""

import ast
import pathlib
import re

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'lmjax'

# From top to bottom. A package is one entry; the entries of one floor do not import each other.
FLOORS = [
  ['main', 'inspect', 'predict', 'evaluate', 'experiment', 'export', 'harness', 'embed', 'verify', 'prepare'],
  ['study'],
  ['train', 'dry_run'],
  ['training'],
  ['config'],
  ['hf'],
  ['tasks'],
  ['objectives', 'checkpoint'],
  ['models', 'reports'],
  ['data', 'hosts', 'optim', 'sharding', 'profile'],
  ['schema', 'workdir', 'metrics', 'scoring', 'ops'],
  ['compilation'],
  ['console'],
  ['errors', 'paths'],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
# (from, what it never imports): stricter than the floors. 'lmjax' stands for all of it, but for `ALLOWED`.
NEVER = {
  'scoring': ('lmjax', 'jax', 'matplotlib'),
  'ops': ('lmjax',),
  'checkpoint': ('lmjax.training',),
  'data': ('jax',),
  'schema': ('jax',),
  'tasks': ('lmjax.workdir',),
}
ALLOWED = ('lmjax.errors',)
MOST_LINES, LONGEST_FUNCTION, MOST_TOP_MODULES = 400, 60, 20
# The only functions that take the whole Config, besides those of `train`, `dry_run`, `study`, the commands and `config`
# itself: all others receive the slices that they read.
TAKE_THE_CONFIG = {
  'tasks.prepare.build',
  'tasks.prepare.prepare',
  'tasks.prepare.without_data',
  'tasks.table._pre_training_rules',
  'tasks.table._causal_rules',
  'tasks.table._fine_tuning_rules',
  'tasks.table._classification_rules',
  'tasks.table._extractive_qa_rules',
  'tasks.table._summarization_rules',
  'training.initialize.metadata_of',
}
# The training path, as README lists it: what can be read in an afternoon. Raise them by what a change adds, with it.
MOST_FILES_OF_PATH, MOST_LINES_OF_PATH = 40, 6_490


def modules() -> list[tuple[str, pathlib.Path]]:
  """(name below lmjax, file) of every module and package, sub-packages included."""
  found = []
  for file in sorted(PACKAGE.rglob('*.py')):
    parts = [part for part in file.relative_to(PACKAGE).with_suffix('').parts if part != '__init__']
    found.append(('.'.join(parts), file))
  return [(name, file) for name, file in found if name]


MODULES = modules()
NAMES = [name for name, _ in MODULES]
every_module = pytest.mark.parametrize('name,file', MODULES, ids=NAMES)


def imports_of(file: pathlib.Path) -> set[str]:
  """Full names of what a file imports, wherever in the file; `from a import b` is a.b where that is a module."""
  found = set()
  for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{file}: relative import'
      whole = {f'{node.module}.{alias.name}' for alias in node.names}
      inside = {name for name in whole if name.removeprefix('lmjax.') in NAMES}
      found |= inside | ({node.module} if inside != whole else set())
  return found


def in_package(name: str) -> set[str]:
  """Names below lmjax of the modules that a module imports, without lmjax itself."""
  [file] = [file for other, file in MODULES if other == name]
  return {found.removeprefix('lmjax.') for found in imports_of(file) if found.startswith('lmjax.')}


def test_sub_packages_are_found():
  assert {'data.sources.files', 'data.batches.pipeline'} <= set(NAMES)


def test_every_module_has_a_floor():
  tops = {name.split('.')[0] for name in NAMES}
  assert tops == set(FLOOR)
  assert len([top for top in tops if not (PACKAGE / top).is_dir()]) <= MOST_TOP_MODULES


@every_module
def test_imports_point_down(name, file):
  here = name.split('.')[0]
  for target in in_package(name):
    top = target.split('.')[0]
    assert top == here and here not in FLOORS[0] or FLOOR[top] > FLOOR[here], (
      f'lmjax.{name} imports lmjax.{target}, which is not on a floor below'
    )


def test_there_is_no_circle():
  graph = {name: in_package(name) & set(NAMES) - {name} for name in NAMES}
  done: set[str] = set()
  while graph.keys() - done:
    ready = {name for name in graph.keys() - done if graph[name] <= done}
    assert ready, f'circular imports among {sorted(graph.keys() - done)}'
    done |= ready


@every_module
def test_never(name, file):
  for package, forbidden in NEVER.items():
    if name.split('.')[0] == package:
      for target in imports_of(file):
        if target.startswith(ALLOWED) or target.startswith(f'lmjax.{package}'):
          continue
        assert not any(target == other or target.startswith(f'{other}.') for other in forbidden), (name, target)


def test_one_module_imports_orbax_and_flax_stays_in_models():
  for name, file in MODULES:
    found = {target.split('.')[0] for target in imports_of(file)}
    assert 'orbax' not in found or name == 'checkpoint.checkpoints', name
    assert 'flax' not in found or name.startswith('models.'), name


def test_packages_import_nothing():
  for name, file in MODULES:
    if file.name == '__init__.py':
      assert not imports_of(file), name


@every_module
def test_files_stay_readable(name, file):
  text = file.read_text(encoding='utf-8')
  assert text.count('\n') <= MOST_LINES
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f'{name}.{node.name} is too long to read'
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'get':
      owner = ast.unparse(node.func.value)
      hidden = len(node.args) == 2 and owner.split('.')[0] in ('config', 'c')
      assert not hidden, f'{name}: hidden default: {owner}.get'


def test_the_training_path_is_an_afternoon():
  text = (PACKAGE.parent / 'README.md').read_text(encoding='utf-8')
  listed = re.findall(r'`([\w/]+\.py)`', text.partition('<!-- path -->')[2].partition('<!-- /path -->')[0])
  assert len(listed) == len(set(listed)) <= MOST_FILES_OF_PATH
  lines = sum((PACKAGE / name).read_text(encoding='utf-8').count('\n') for name in listed)
  assert lines <= MOST_LINES_OF_PATH, lines


def test_few_functions_take_the_whole_config():
  """A parameter `config` is that of a slice, as its annotation says, or it is the whole one."""
  found = set()
  for name, file in MODULES:
    if name.split('.')[0] in {*FLOORS[0], 'train', 'dry_run', 'study', 'config'}:
      continue
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
      if isinstance(node, ast.FunctionDef):
        for argument in [*node.args.args, *node.args.kwonlyargs]:
          annotation = '' if argument.annotation is None else ast.unparse(argument.annotation)
          if annotation.split('.')[-1] == 'Config' or argument.arg == 'config' and not annotation:
            found.add(f'{name}.{node.name}')
  assert len(TAKE_THE_CONFIG) <= 10 and found <= TAKE_THE_CONFIG, found - TAKE_THE_CONFIG
