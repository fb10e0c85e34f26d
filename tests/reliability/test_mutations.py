"""Every file of a checkpoint and of a token store, mutated in six ways: never a wrong one is used."""

import os
import pathlib
import random
import re
import shutil

import jax
import numpy as np
import pytest

from lmjax.checkpoint import checkpoints as checkpoint
from lmjax.checkpoint import locate
from lmjax.data.config import DataConfig, SourceConfig, TokenizerConfig
from lmjax.data.corpus import store
from lmjax.errors import CheckpointError, DataError
from tests.checkpoint.test_checkpoints import KEEP, abstract, state_of
from tests.hosts.test_hosts import free_port
from tests.reliability import commands

WAYS = ('flip', 'truncate', 'empty', 'delete', 'older', 'random')


def mutate(file: pathlib.Path, way: str, older: pathlib.Path, seed: int = 0) -> None:
  data, draw = bytearray(file.read_bytes()), random.Random(f'{file.name} {seed}')
  if way == 'flip' and data:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
  elif way == 'truncate':
    data = data[: len(data) // 2]
  elif way == 'empty':
    data = bytearray()
  elif way == 'random':
    data = bytearray(draw.randbytes(len(data)))
  elif way == 'older':
    data = bytearray(older.read_bytes()) if older.exists() else data[::-1]
  if way == 'delete':
    file.unlink()
  else:
    file.write_bytes(data)


def files_of(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.rglob('*') if path.is_file())


def like(folder, older, file):
  """The file of an older checkpoint that has the same part: those of array data are named by their content."""
  same = older / file.relative_to(folder)
  beside = sorted(same.parent.glob('*')) if same.parent.is_dir() else []
  return same if same.exists() or not beside else beside[0]


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Checkpoints 1 and 2 of different states."""
  workdir = tmp_path_factory.mktemp('saved')
  checkpoints = checkpoint.Checkpoints(workdir, KEEP, 'loss')
  for step in (1, 2):
    checkpoints.save(step, state_of(step), {'task': 'x'}, {'loss': 1.0})
  checkpoints.close()
  return workdir


def assert_right(workdir) -> int:
  """What is restored is one of the states, whole; returns its step."""
  checkpoints, said = checkpoint.Checkpoints(workdir, KEEP, 'loss'), []
  try:
    state, manifest = checkpoints.restore_latest(abstract(), log=said.append)
  finally:
    checkpoints.close()
  step = manifest['step']
  jax.tree.map(np.testing.assert_array_equal, tuple(state), tuple(state_of(step)))
  assert step == 2 or 'checkpoint 2 rejected' in said[0]
  return step


@pytest.mark.parametrize('way', WAYS)
def test_no_mutation_of_a_checkpoint_is_restored(saved, tmp_path, way):
  used = []
  names = [path.relative_to(saved) for path in files_of(saved / 'checkpoints' / '2')]
  for i, name in enumerate(names):
    for seed in range(4 if way == 'flip' else 1):
      workdir = tmp_path / f'{i}-{seed}'
      shutil.copytree(saved, workdir)
      folder, older = workdir / 'checkpoints' / '2', workdir / 'checkpoints' / '1'
      mutate(workdir / name, way, like(folder, older, workdir / name), seed)
      used.append(assert_right(workdir))
      shutil.rmtree(workdir)
  assert 1 in used and len(names) > 6  # else nothing that counts was mutated


@pytest.mark.slow
def test_what_one_host_cannot_read_is_skipped_by_all(corpus, cache_dir, tmp_path):
  """Each of two hosts reads its own half of the arrays: the one that fails must not leave the other waiting."""
  leaves = {'train.steps': 8, 'mesh.fsdp': 2, 'hosts.lost_seconds': 60}

  def run(steps):
    words = commands.arguments('causal_lm', corpus, cache_dir, tmp_path / 'run', **(leaves | {'train.steps': steps}))
    flags = [f'--coordinator=localhost:{free_port()}', '--num_processes=2']
    started = [commands.start([*words, *flags, f'--process_id={i}']) for i in range(2)]
    said = commands.outputs_of(started)
    assert [one.returncode for one in started] == [0, 0], said
    return said

  run(8)
  files = files_of(tmp_path / 'run/checkpoints/8/state/ocdbt.process_1/d')
  assert files
  for file in files:
    mutate(file, 'truncate', file)
  said, of_host_1 = run(12)
  assert 'checkpoint 8 rejected: host 1 of 2 cannot read it; look at its messages' in said, said
  assert 'resuming from step 4' in said and 'done: step 12' in said, said
  assert re.search(r'^lmjax: host 1 of 2: .*checkpoints/8: cannot be read: ', of_host_1, re.MULTILINE), of_host_1
  assert locate.saved_steps(locate.directory_of(tmp_path / 'run'))[-1] == 12
  assert len(os.listdir(tmp_path / 'run/rejected_checkpoints')) == 1


def test_a_checkpoint_that_is_another_steps_is_found(saved, tmp_path):
  """All files swapped at once: every digest is right, the step is not."""
  workdir = tmp_path / 'run'
  shutil.copytree(saved, workdir)
  shutil.rmtree(workdir / 'checkpoints' / '2')
  shutil.copytree(workdir / 'checkpoints' / '1', workdir / 'checkpoints' / '2')
  assert assert_right(workdir) == 1


def test_where_none_is_intact_nothing_starts_again(saved, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(saved, workdir)
  for file in files_of(workdir / 'checkpoints'):
    mutate(file, 'random', file)
  checkpoints = checkpoint.Checkpoints(workdir, KEEP, 'loss')
  with pytest.raises(CheckpointError, match='none of 2 checkpoints is intact'):
    checkpoints.restore_latest(abstract())
  checkpoints.close()
  assert locate.saved_steps(locate.directory_of(workdir)) == [1, 2]


def test_one_element_of_any_array_is_seen(saved):
  """The verification that a resume makes, on every array: each of its elements has its own place in the digest."""
  flat = checkpoint.paths.flatten(state_of(2)._asdict())
  before = checkpoint.describe_arrays(flat)
  for path, leaf in flat.items():
    for place in {(0,) * leaf.ndim, tuple(size - 1 for size in leaf.shape)}:
      after = checkpoint.describe_arrays(flat | {path: leaf.at[place].add(1)})
      assert [p for p in flat if after[p] != before[p]] == [path]


@pytest.mark.parametrize('way', WAYS)
def test_no_mutation_of_a_corpus_is_read(way, corpus, tokenizer, tmp_path):
  """It is refused, or made again: what is read is what was written."""
  sources, trained = {'main': SourceConfig(corpus, 'text', 1.0)}, TokenizerConfig(None, 320, 1000, False)
  folder = tmp_path / 'cache'
  config = DataConfig(sources, trained, 'concat', 32, 8, False, 0.1, None, 'raise', str(folder))

  def read():
    [found] = store.open_or_build(config, tokenizer).values()
    documents = [found.train(list(range(len(found.row.shards)))), found.held_out.documents]
    return found.fingerprint, [one.ids(i).tolist() for one in documents for i in range(len(one.lengths))]

  expected, refused = read(), 0
  shutil.copytree(folder, tmp_path / 'kept')
  names = [path.relative_to(folder) for path in files_of(folder)]
  assert len(names) == 7
  for i, name in enumerate(names):
    mutate(folder / name, way, folder / names[i - 1])
    try:
      assert read() == expected, name
    except DataError as error:
      assert str(folder / name) in str(error) and 'remove' in str(error), error
      refused += 1
      (folder / name).unlink()
      assert read() == expected, name
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / 'kept', folder)
  assert refused <= 4
