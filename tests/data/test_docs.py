"""The data layer needs no jax of its own."""

import pathlib

import lmjax.data


def test_data_needs_no_jax_of_its_own():
  files = list(pathlib.Path(lmjax.data.__path__[0]).rglob('*.py'))
  assert len(files) > 10
  for file in files:
    assert 'import jax' not in file.read_text(encoding='utf-8'), file
