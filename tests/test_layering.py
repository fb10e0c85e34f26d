"""Imports only ever point down this list."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'lmjax'

# From top to bottom; modules of one line do not import each other, except within a folder that is named as a whole.
LAYERS = [
  ['main', 'inspect', 'predict', 'experiment', 'verify'],
  ['comparison'],
  ['train', 'dry_run'],
  ['run', 'step'],
  ['evaluate'],
  ['restore'],
  ['report', 'initial'],
  ['config'],
  ['source'],
  ['state', 'checkpoint'],
  ['handoff', 'digests', 'manifest'],
  ['tasks'],
  ['objectives'],
  ['models'],
  ['decode'],
  ['data'],
  ['scoring'],
  ['optim', 'metrics', 'writer', 'sharding'],
  ['ops'],
  ['stops'],
  ['profile', 'staging', 'hosts', 'lock', 'hlo', 'targets'],
  ['command_line'],
  ['schema'],
  ['leaf'],
  ['paths'],
  ['errors', 'fields', 'redact'],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FOLDERS = {'tasks', 'objectives', 'models', 'data', 'scoring', 'ops'}


def imports_of(file: pathlib.Path) -> set[str]:
  """Full names of the modules of lmjax that a file imports, wherever in the file."""
  found = set()
  for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{file}: relative import'
      found |= {node.module} | {f'{node.module}.{alias.name}' for alias in node.names}
  return {name for name in found if name.startswith('lmjax.')}


def modules():
  for file in sorted(PACKAGE.rglob('*.py')):
    relative = file.relative_to(PACKAGE).with_suffix('')
    parts = [part for part in relative.parts if part != '__init__']
    if parts:
      yield '.'.join(parts), file


def test_every_module_has_a_layer():
  assert {name.split('.')[0] for name, _ in modules()} == set(LEVEL)


@pytest.mark.parametrize('name,file', list(modules()), ids=[name for name, _ in modules()])
def test_imports_point_down(name, file):
  here = name.split('.')[0]
  for target in imports_of(file):
    top = target.split('.')[1]
    if top not in LEVEL or (top == here and here in FOLDERS):
      continue
    assert LEVEL[top] > LEVEL[here], f'lmjax.{name} imports {target}, which is not below it'


def test_no_cycle_inside_a_folder():
  names = {name for name, _ in modules()}
  graph = {}
  for name, file in modules():
    targets = {target.removeprefix('lmjax.') for target in imports_of(file)}
    graph[name] = {t for t in targets if t in names and t.split('.')[0] == name.split('.')[0] and t != name}
  done = set()
  while graph.keys() - done:
    ready = {name for name in graph.keys() - done if graph[name] <= done}
    assert ready, f'circular imports among {sorted(graph.keys() - done)}'
    done |= ready


def test_one_module_imports_orbax_and_flax_stays_in_models():
  for name, file in modules():
    text = file.read_text(encoding='utf-8')
    if name != 'checkpoint':
      assert 'import orbax' not in text and 'from orbax' not in text, name
    if not name.startswith('models'):
      assert 'from flax' not in text and 'import flax' not in text, name


@pytest.mark.parametrize('name,file', list(modules()), ids=[name for name, _ in modules()])
def test_files_stay_readable(name, file):
  text = file.read_text(encoding='utf-8')
  assert text.count('\n') <= 450
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < 80, f'{name}.{node.name} is too long to read'
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == 'get':
      owner = ast.unparse(node.func.value)
      hidden = len(node.args) == 2 and owner.split('.')[0] in ('config', 'c')
      assert not hidden, f'{name}: hidden default: {owner}.get'
