"""A cache at an address: the same files as on a disk, claimed by one process at a time, read through copies."""

import os
import pathlib
import time

import fsspec
import pytest

from lmjax.data.corpus import address
from lmjax.data.corpus import build as build_lib
from lmjax.data.corpus.cache import Cache
from lmjax.data.corpus.store import open_or_build, verify
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.errors import DataError
from tests.data.corpus.corpora import DOCUMENTS, build, config_of, content, ids_of, train_of, write

CACHE = 'memory://bucket/cache'


@pytest.fixture
def system(tmp_path, monkeypatch):
  """A file system of fsspec in memory; copies lie in tmp_path."""
  monkeypatch.setenv(address.VARIABLE, str(tmp_path / 'copies'))
  yield fsspec.filesystem('memory')
  fsspec.filesystem('memory').rm('/', recursive=True)


@pytest.fixture
def tokenizer():
  return train_tokenizer(DOCUMENTS, 320, 20_000)


def at_address(system):
  """{name: bytes} of all files."""
  return {path.removeprefix('/bucket/cache/'): system.cat_file(path) for path in system.find('/bucket/cache')}


def test_a_corpus_at_an_address_has_the_same_files(tmp_path, system, tokenizer, monkeypatch):
  monkeypatch.setattr(build_lib, 'WORK_BYTES', 2_000)
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  here = build(tmp_path, tokenizer, source)
  config = config_of(CACHE, {'corpus': source})
  for _ in ('made', 'found'):
    there = open_or_build(config, tokenizer)['corpus']
    assert there.fingerprint == here.fingerprint and len(there.row.shards) > address._ASKED_ONE_BY_ONE
    assert ids_of(train_of(there)) == ids_of(train_of(here))
    assert there.held_out.n_bytes.tolist() == here.held_out.n_bytes.tolist()
  assert at_address(system) == content(tmp_path / 'cache')
  assert 'tokens in' in verify(CACHE, 'corpus', here.fingerprint)
  name = there.row.shards[3].name
  system.rm_file(f'/bucket/cache/shards/{name}.safetensors')
  open_or_build(config, tokenizer)
  assert at_address(system) == content(tmp_path / 'cache')


def test_a_claim_is_of_one_process_until_it_ends_or_is_killed(system, monkeypatch, capsys):
  monkeypatch.setattr(address, '_POLL_SECONDS', 0.01)
  cache, waited = Cache(CACHE), []
  with cache.claimed('a.lock') as first, cache.claimed('a.lock') as second:
    assert (first, second) == (True, False)
    system.pipe_file('/bucket/cache/a.lock', str(float(address._time()) - address._STALE_SECONDS - 1).encode())
    with cache.claimed('a.lock', 'waiting for it') as third:  # its process was killed a while ago
      waited.append(third)
  assert waited == [True] and capsys.readouterr().out == 'waiting for it\n' and not cache.has('a.lock')


def test_a_claim_is_renewed(system, monkeypatch):
  monkeypatch.setattr(address, '_RENEWED_SECONDS', 0.01)
  with Cache(CACHE).claimed('a.lock'):
    found, deadline = {system.cat_file('/bucket/cache/a.lock')}, time.monotonic() + 5
    while len(found) < 3 and time.monotonic() < deadline:
      found.add(system.cat_file('/bucket/cache/a.lock'))
  assert len(found) == 3 and not system.exists('/bucket/cache/a.lock')


def test_the_copies_that_were_used_longest_ago_go(tmp_path, system, monkeypatch):
  monkeypatch.setattr(address, '_LARGEST', 2_500)
  cache, copies = Cache(CACHE), tmp_path / 'copies'
  for number in range(3):
    cache.write(f'{number}', bytes([number]) * 1_000)
  paths = [cache.local('0'), cache.local('1')]
  for path, used in zip(paths, (2_000, 1_000)):
    os.utime(path, (used, used))
  cache.fetch(['2', 'none'])
  assert sorted(map(str, copies.iterdir())) == sorted([paths[0], cache.local('2')])
  assert pathlib.Path(cache.local('1')).read_bytes() == b'\1' * 1_000


def test_what_cannot_be_reached_or_copied_is_an_error(tmp_path, system, tokenizer, monkeypatch):
  source = write(tmp_path / 'a.jsonl', DOCUMENTS)
  with pytest.raises(DataError, match='nowhere://a/.*: nothing reads nowhere://; an address must begin with'):
    open_or_build(config_of('nowhere://a', {'corpus': source}), tokenizer)
  with pytest.raises(DataError, match=r'memory://bucket/cache/a: cannot be reached \(FileNotFoundError'):
    Cache(CACHE).local('a')
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv(address.VARIABLE, str(tmp_path / 'file'))
  Cache(CACHE).write('a', b'')
  with pytest.raises(DataError, match=f'file: .*; there must be room for copies .*{address.VARIABLE}'):
    Cache(CACHE).local('a')

  def broken(*arguments, **named):
    raise ValueError('quota')

  monkeypatch.setattr(type(system), 'pipe_file', broken)
  with pytest.raises(DataError, match=r'cannot be reached \(ValueError: quota\)'):
    Cache(CACHE).write('a', b'')
