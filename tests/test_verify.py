"""`python -m lmjax.verify`: looks at everything, finds what is damaged, repairs nothing."""

import hashlib
import json
import pathlib
import shutil

import pytest

from lmjax import verify
from tests import runs


@pytest.fixture(scope='module')
def saved(raw_config, tmp_path_factory):
  """A workdir with checkpoints 3 and 6, and a token store of its own."""
  folder = tmp_path_factory.mktemp('saved')
  runs.train(raw_config('masked_lm', **{'data.cache_dir': str(folder / 'cache')}), folder / 'run')
  return folder


def contents(folder: pathlib.Path) -> dict:
  return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob('*') if path.is_file()}


def test_what_is_intact_is_reported(saved, capsys, caplog):
  before = contents(saved)
  assert verify.main([f'--workdir={saved / "run"}']) == 0
  said = capsys.readouterr().out
  assert not caplog.records  # nothing that a library has to say
  assert said.count('intact   ') == 7 and said.endswith('verdict: intact (7 things)\n')
  for what in ('checkpoint 3: ', 'checkpoint 6: ', 'tokenizer.json: 320 tokens', 'token store main: ', 'results.json'):
    assert what in said
  assert contents(saved) == before


DAMAGES = {
  'checkpoints/6/state/d/*': ('checkpoint 6', 4),
  'checkpoints/3/manifest/manifest.json': ('checkpoint 3', 4),
  'config.json': ('config.json', 4),
  'tokenizer.json': ('tokenizer.json', 4),
  'metrics.jsonl': ('metrics.jsonl', 4),
  'results.json': ('results.json', 4),
  '../cache/shards/*': ('token store main', 3),
  '../cache/corpora/*.roles': ('token store main', 3),
  '../cache/corpora/*.json': ('token store main', 3),
  '../cache/corpora/*.safetensors': ('token store main', 3),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_what_is_damaged_is_found(saved, tmp_path, capsys, name):
  what, code = DAMAGES[name]
  folder = shutil.copytree(saved / 'run', tmp_path / 'run')
  pattern = (saved, name.removeprefix('../')) if code == 3 else (folder, name)
  file = sorted(pattern[0].glob(pattern[1]), key=lambda path: path.stat().st_size)[-1]
  kept = file.read_bytes()
  file.write_bytes(bytes([kept[0] ^ 255]) + kept[1 : len(kept) // 2] + bytes([kept[len(kept) // 2] ^ 1]))
  before = contents(folder)
  try:
    assert verify.main([f'--workdir={folder}']) == code
  finally:
    file.write_bytes(kept) if code == 3 else None
  said = capsys.readouterr()
  marked = [line for line in said.out.splitlines() if line.startswith('DAMAGED')]
  assert any(line.startswith(f'DAMAGED  {what}: ') for line in marked), said.out
  assert 'things are damaged, marked above; put them back from a copy' in said.err
  assert code == 3 or contents(folder) == before


def test_a_checkpoint_that_is_gone_is_missed(saved, tmp_path, capsys):
  folder = shutil.copytree(saved / 'run', tmp_path / 'run')
  shutil.rmtree(folder / 'checkpoints' / '6')
  assert verify.main([f'--workdir={folder}']) == 4
  assert 'the run ended at step 6, the newest checkpoint that is intact is 3' in capsys.readouterr().out
  shutil.rmtree(folder / 'checkpoints' / '3')
  assert verify.main([f'--workdir={folder}']) == 4
  assert 'DAMAGED  checkpoints: ' in capsys.readouterr().out


def test_a_run_that_was_made_longer_is_intact(saved, tmp_path, capsys):
  """Its results are those of its first end until it ends again."""
  folder = shutil.copytree(saved / 'run', tmp_path / 'run')
  results = json.loads((folder / 'results.json').read_text())
  (folder / 'results.json').write_text(json.dumps(results | {'step': 3}))
  assert verify.main([f'--workdir={folder}']) == 0, capsys.readouterr()


def test_a_newer_schema_is_not_called_damage(saved, tmp_path, capsys):
  folder = shutil.copytree(saved / 'run', tmp_path / 'run')
  file = folder / 'checkpoints' / '6' / 'manifest' / 'manifest.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | {'schema': 99}))
  assert verify.main([f'--workdir={folder}']) == 4
  said = capsys.readouterr()
  assert 'schema 99' in said.err and 'install the newer lmjax' in said.err and 'DAMAGED' not in said.out


@pytest.mark.parametrize('given,code,said', [([], 2, '--workdir: missing'), (['--workdir=x'], 4, 'no such folder')])
def test_what_is_no_run(given, code, said, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  assert verify.main(given) == code and said in capsys.readouterr().err
