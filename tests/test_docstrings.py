"""The worked examples in docstrings are true, in every module of the package that has any."""

import ast
import doctest
import importlib
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'lmjax'


def _with_examples() -> list[str]:
  """Names of the modules that hold an example, sub-packages included."""
  found = []
  for file in sorted(PACKAGE.rglob('*.py')):
    tree = ast.parse(file.read_text(encoding='utf-8'))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = [ast.get_docstring(node) or '' for node in ast.walk(tree) if isinstance(node, documented)]
    if any('>>>' in doc for doc in docs):
      found.append('.'.join(('lmjax', *file.relative_to(PACKAGE).with_suffix('').parts)))
  return found


MODULES = _with_examples()


def test_sub_packages_are_searched():
  assert {name.split('.')[1] for name in MODULES} >= {'data', 'scoring', 'tasks', 'study'}
  assert any(name.count('.') == 3 for name in MODULES)


@pytest.mark.parametrize('name', MODULES)
def test_examples_in_docstrings(name):
  results = doctest.testmod(importlib.import_module(name))
  assert results.attempted > 0 and results.failed == 0
