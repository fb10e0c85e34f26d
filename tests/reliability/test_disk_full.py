"""No room on the disk, in every phase that writes: a clear error, older checkpoints intact, and the run goes on once
there is room."""

import os
import resource
import shutil
import subprocess

import pytest

from lmjax.checkpoint import checkpoints as checkpoint
from lmjax.checkpoint import locate
from lmjax.errors import CheckpointError
from tests.checkpoint.test_checkpoints import KEEP, assert_is_step, restore, save, state_of
from tests.reliability import commands

LEAVES = {'train.steps': 12, 'data.length': 32}


@pytest.fixture(scope='module')
def uninterrupted(corpus, cache_dir, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted') / 'run'
  code, said = commands.run(commands.arguments('causal_lm', corpus, cache_dir, workdir, **LEAVES))
  assert code == 0, said
  return workdir


def check_refusal(code, said, workdir):
  """A full disk is told in a line, and what was saved before it is whole."""
  assert code in (3, 4) and 'Traceback' not in said, said
  [line] = [line for line in said.splitlines() if line.startswith('lmjax: ')]
  assert ';' in line and ('File too large' in line or 'No space left' in line or 'are free' in line), line
  directory = locate.directory_of(workdir)
  for step in locate.saved_steps(directory):
    checkpoint.verify(directory, step)


# Bytes that one file may have: the token store fails, its held-out text, the tokenizer or config, a checkpoint's
# arrays or its metadata, metrics.jsonl, curves.png.
@pytest.mark.slow
@pytest.mark.parametrize('most', [500, 3_000, 9_000, 16_000, 30_000, 70_000])
def test_no_file_may_grow(most, uninterrupted, corpus, tmp_path):
  """RLIMIT_FSIZE, which needs no root: every write beyond it fails with EFBIG."""
  cache = str(tmp_path / 'cache')
  words = commands.arguments('causal_lm', corpus, cache, tmp_path / 'run', **LEAVES)
  limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
  code, said = commands.run(words, preexec_fn=limit)
  check_refusal(code, said, tmp_path / 'run')
  code, said = commands.run(words)
  assert code == 0, said
  assert commands.metrics(tmp_path / 'run') == commands.metrics(uninterrupted)


@pytest.fixture
def small_disk(tmp_path):
  """A disk of 900 kB; tests are skipped where one cannot be made."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=900k', 'tmpfs', folder], capture_output=True)
  if mount.returncode:
    pytest.skip('mounting a tmpfs needs root; RLIMIT_FSIZE is tested above')
  yield folder
  subprocess.run(['umount', '-l', folder], check=True)


@pytest.mark.slow
def test_a_full_disk(small_disk, uninterrupted, corpus, cache_dir):
  """Full from the start, then in the middle, then roomy."""
  words = commands.arguments('causal_lm', corpus, cache_dir, small_disk / 'run', **LEAVES)
  for ballast in (800_000, 300_000):
    (small_disk / 'ballast').write_bytes(bytes(ballast))
    code, said = commands.run(words)
    check_refusal(code, said, small_disk / 'run')
  subprocess.run(['mount', '-o', 'remount,size=50m', small_disk], check=True)
  code, said = commands.run(words)
  assert code == 0, said
  assert commands.metrics(small_disk / 'run') == commands.metrics(uninterrupted)


def test_room_is_looked_for_before_a_save(tmp_path, monkeypatch):
  save(tmp_path, [1])
  checkpoints = checkpoint.Checkpoints(tmp_path, KEEP, 'loss')
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
  with pytest.raises(CheckpointError, match='a checkpoint takes 1.0 MB, 0.0 MB are free; older checkpoints are intact'):
    checkpoints.save(2, state_of(2), {})
  monkeypatch.undo()
  checkpoints.close()
  assert_is_step(restore(tmp_path)[0], 1)


def test_a_save_that_fails_is_reported_at_the_next_step(tmp_path):
  """Orbax writes in a thread of its own, and would tell at the next save only."""
  checkpoints = checkpoint.Checkpoints(tmp_path, KEEP, 'loss')
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
  try:
    with pytest.raises(CheckpointError, match='saving failed'):
      checkpoints.save(1, state_of(1), {})
      for _ in range(1000):
        checkpoints.poll()
        os.sched_yield()
      checkpoints.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  checkpoints.close()
