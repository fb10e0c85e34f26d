"""The worked examples in the docstrings of the data layer are true."""

import doctest
import importlib
import pkgutil

import pytest

import lmjax.data

MODULES = [module.name for module in pkgutil.iter_modules(lmjax.data.__path__)]


@pytest.mark.parametrize('name', MODULES)
def test_examples_in_docstrings(name):
  results = doctest.testmod(importlib.import_module(f'lmjax.data.{name}'))
  assert results.failed == 0


def test_data_needs_no_jax_of_its_own():
  for name in MODULES:
    with open(importlib.import_module(f'lmjax.data.{name}').__file__) as file:
      assert 'import jax' not in file.read()
