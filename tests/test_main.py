"""The command as a user types it: configs, resuming, exit codes, what is left on disk."""

import json
import os
import re
import subprocess
import sys

import pytest

from lmjax import main
from lmjax.checkpoint import locate
from tests.conftest import CONFIGS, FINE_TUNING, FROM_PUBLIC, QUICK, ROOT, TASKS


def start(arguments, cwd):
  """Starts `python -m lmjax.main`, on one device, compiled as quickly as possible."""
  quick = {'XLA_FLAGS': QUICK, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)}
  command = [sys.executable, '-m', 'lmjax.main', *arguments]
  return subprocess.Popen(
    command, cwd=cwd, env=os.environ | quick, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def run(arguments, cwd):
  process = start(arguments, cwd)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def lines(workdir, split):
  with open(os.path.join(workdir, 'metrics.jsonl')) as file:
    return [line for line in map(json.loads, file) if line['split'] == split]


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_smoke(name, tmp_path, cache_dir):
  """Each config runs here, offline, on the embedded corpus, and leaves what the contract says."""
  flags = [f'--config={ROOT / CONFIGS[name]}:smoke', f'--config.data.cache_dir={cache_dir}']
  code, out, err = run(flags, tmp_path)
  assert code == 0, err
  stem = 'pretrain_clm' if name == 'causal_lm' else 'pretrain_mlm'
  workdir = tmp_path / 'runs' / f'{stem}-smoke'
  files = {'config.json', 'tokenizer.json', 'metrics.jsonl', 'checkpoints', 'curves.png', 'samples.md', 'results.json'}
  assert files <= {f.name for f in workdir.iterdir()}
  train = lines(workdir, 'train')
  assert len(train) >= 20 and [line['step'] for line in train] == list(range(1, len(train) + 1))
  assert {'step', 'split', 'loss', 'tokens_per_second', 'seconds', 'grad_norm', 'learning_rate'} <= train[0].keys()
  assert any(key.startswith('update_ratio/') for key in train[0])
  assert train[-1]['loss'] < train[0]['loss'] - 0.3
  results = json.loads((workdir / 'results.json').read_text())
  assert results['status'] == 'done' and results['step'] == len(train) and results['hand_off'] is None
  wanted = {'valid/loss', 'valid/perplexity', 'valid/accuracy', 'valid/majority_accuracy'}
  wanted |= {'valid/bits_per_byte', 'valid/gzip_bits_per_byte'} if name == 'causal_lm' else set()
  assert wanted <= results['metrics'].keys()
  last_valid = lines(workdir, 'valid')[-1]
  assert results['metrics']['valid/loss'] == last_valid['loss']
  saved = locate.saved_steps(locate.directory_of(workdir))
  assert len(saved) >= 2 and saved[-1] == len(train)
  [manifest] = (workdir / 'checkpoints' / str(saved[-1])).rglob('manifest.json')
  assert 'params/layers/1/attention/query/kernel' in json.loads(manifest.read_text())['arrays']
  assert json.loads((workdir / 'config.json').read_text())['data']['tokenizer']['vocab_size'] > 512
  assert '## step 20' in (workdir / 'samples.md').read_text()
  for expected in ('parameters', 'FLOPs a step', 'workdir', 'starting from random weights', 'compiling ... done in'):
    assert expected in out
  assert re.search(r'^step 20/20 \| train \| loss [\d.]+ .*tokens/s \| eta', out, flags=re.MULTILINE)
  assert 'lmjax.inspect --workdir' in out

  # the same command again: done already, nothing is trained, and nothing is lost
  before = (workdir / 'metrics.jsonl').read_text(), (workdir / 'samples.md').read_text()
  code, again, err = run(flags, tmp_path)
  assert code == 0 and 'resuming from step 20' in again and '| train |' not in again, err
  assert before == ((workdir / 'metrics.jsonl').read_text(), (workdir / 'samples.md').read_text())
  assert json.loads((workdir / 'results.json').read_text()) == results


@pytest.fixture(scope='module')
def pre_trained(tmp_path_factory, cache_dir):
  """A folder with the run that each `:smoke` of the fine-tuning configs starts from."""
  folder = tmp_path_factory.mktemp('pre_trained')
  for name in TASKS:
    code, _, err = run([f'--config={ROOT / CONFIGS[name]}:smoke', f'--config.data.cache_dir={cache_dir}'], folder)
    assert code == 0, err
  return folder


@pytest.mark.slow
@pytest.mark.parametrize('name', FINE_TUNING)
def test_smoke_of_fine_tuning(name, pre_trained):
  code, out, err = run([f'--config={ROOT / FINE_TUNING[name]}:smoke'], pre_trained)
  assert code == 0, err
  stem = os.path.basename(FINE_TUNING[name]).removesuffix('.py')
  workdir = pre_trained / 'runs' / f'{stem}-smoke'
  files = {'config.json', 'tokenizer.json', 'metrics.jsonl', 'checkpoints', 'curves.png', 'samples.md', 'results.json'}
  assert files | {'predictions_valid.jsonl'} <= {f.name for f in workdir.iterdir()}
  train = lines(workdir, 'train')
  assert [line['step'] for line in train] == list(range(1, 21))
  saved = locate.saved_steps(locate.directory_of(workdir))
  assert saved == [10, 20]
  results = json.loads((workdir / 'results.json').read_text())
  assert results['status'] == 'done' and results['step'] == 20 and results['best_step'] in saved
  table = results['hand_off']
  source = 'pretrain_mlm' if name == 'extractive_qa' else 'pretrain_clm'
  assert table['source'] == str(pre_trained / 'runs' / f'{source}-smoke') and table['step'] == 20
  assert (workdir / 'tokenizer.json').read_bytes() == (pre_trained / f'runs/{source}-smoke/tokenizer.json').read_bytes()
  arrays = json.loads(next((workdir / 'checkpoints' / '20').rglob('manifest.json')).read_text())['arrays']
  params = {path.removeprefix('params/') for path in arrays if path.startswith('params/')}
  assert {*table['taken'], *table['resized'], *table['fresh']} == params and not table['dropped']
  best = next(line for line in lines(workdir, 'valid') if line['step'] == results['best_step'])
  assert results['metrics']['valid/loss'] == pytest.approx(best['loss'], rel=1e-5)
  wanted = {'classification': {'accuracy', 'majority_accuracy', 'macro_f1'}, 'extractive_qa': {'f1', 'exact_match'}}
  wanted['summarization'] = {'rouge1', 'rouge2', 'rougeL', 'rougeLsum', 'lead_rougeL'}
  assert {f'valid/{metric}' for metric in wanted[name]} <= results['metrics'].keys()
  assert '## step 20' in (workdir / 'samples.md').read_text() and f'starting from step 20 of {table["source"]}' in out
  before = (workdir / 'metrics.jsonl').read_text(), (workdir / 'samples.md').read_text()
  code, again, err = run([f'--config={ROOT / FINE_TUNING[name]}:smoke'], pre_trained)
  assert code == 0 and 'resuming from step 20' in again and '| train |' not in again, err
  assert before == ((workdir / 'metrics.jsonl').read_text(), (workdir / 'samples.md').read_text())
  assert json.loads((workdir / 'results.json').read_text()) == results


@pytest.mark.slow
@pytest.mark.parametrize('task', FROM_PUBLIC)
def test_smoke_from_a_public_model(task, tmp_path, cache_dir):
  """Each of these configs runs here, offline, from a tiny model, in any working directory."""
  flags = [f'--config={ROOT / FROM_PUBLIC[task]}:smoke', f'--workdir={tmp_path / "run"}']
  flags += [f'--config.data.cache_dir={cache_dir}'] if task == 'masked_lm' else []
  code, out, err = run(flags, tmp_path)
  assert code == 0 and 'done: step 20' in out, err
  assert [line['step'] for line in lines(tmp_path / 'run', 'train')] == list(range(1, 21))
  assert len(locate.saved_steps(locate.directory_of(tmp_path / 'run'))) >= 2
  table = json.loads((tmp_path / 'run/results.json').read_text())['hand_off']
  name = 'llama_3_1' if task == 'summarization' else 'bert'
  assert table['source'] == f'hf:{ROOT / "tests/hf/golden" / name}' and not table['resized']
  fresh = {path.rpartition('/')[2] if 'lora' in path else path for path in table['fresh']}
  new = {'extractive_qa': {'span/bias', 'span/kernel'}, 'summarization': {'lora_a', 'lora_b'}}
  assert fresh == new.get(task, set())


@pytest.fixture
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize(
  'flags,message',
  [
    ([], '--config: missing'),
    (['--config=nothing.py'], 'nothing.py: no such file'),
    ([f'--config={ROOT}/configs/pretrain_clm.py:preset=gpt2_smal'], 'did you mean gpt2_small?'),
    ([f'--config={ROOT}/configs/pretrain_clm.py:preset=bert_base'], 'is bidirectional'),
    (
      [f'--config={ROOT}/configs/pretrain_clm.py:smoke,data=a.txt', '--config.model.positions=learned'],
      'model.max_length',
    ),
    ([f'--config={ROOT}/configs/pretrain_mlm.py:smoke', '--config.model.attention=causal'], 'must be bidirectional'),
    (
      [f'--config={ROOT}/configs/pretrain_clm.py:smoke', '--config.data.batch_size=9'],
      'data.batch_size = 9: must be divis',
    ),
    (
      [f'--config={ROOT}/configs/pretrain_clm.py:smoke', '--num_processes=2'],
      '--num_processes = 2: needs the other two',
    ),
    (
      [f'--config={ROOT}/configs/pretrain_clm.py:smoke', '--processes=2'],
      '--processes = 2: unknown flag; did you mean --num_processes?',
    ),
    (
      [f'--config={ROOT}/configs/pretrain_clm.py:smoke', '--process', '0'],
      '--process = 0: unknown flag; did you mean --process_id?',
    ),
    ([f'--config={ROOT}/configs/pretrain_clm.py:smoke', '--config.train.steps=None'], 'train.steps = None: must be'),
    (
      [f'--config={ROOT}/configs/finetune_sentiment.py:smoke,preset=mini', '--config.data.tokenizer=None'],
      'data.tokenizer = None: must be given with init_from.path = None',
    ),
    (
      [f'--config={ROOT}/configs/finetune_summarization.py:smoke,preset=mini_encoder'],
      "model.attention = 'bidirectional': must be causal",
    ),
    (
      [f'--config={ROOT}/configs/pretrain_clm.py:preset=gpt2_small', '--config.data.length=2048'],
      'longer than the position',
    ),
  ],
)
def test_mistakes_exit_2(here, capsys, flags, message):
  assert main.main(flags) == 2
  assert message in capsys.readouterr().err
  assert not list(here.iterdir())


def test_a_missing_corpus_exits_3_and_makes_no_workdir(here, capsys, cache_dir):
  flags = [f'--config={ROOT}/configs/pretrain_clm.py:smoke,data=nowhere/*.txt', f'--config.data.cache_dir={cache_dir}']
  assert main.main(flags) == 3
  assert 'nowhere/*.txt' in capsys.readouterr().err
  assert not (here / 'runs').exists()


def test_a_reader_that_has_seen_enough_is_no_error():
  """Gone before the first line, which is the worst moment: what is left in the buffer is written as Python ends."""
  command = [sys.executable, '-m', 'lmjax.main', '--help']
  read, write = os.pipe()
  os.close(read)
  with open(write, 'w') as pipe:
    env = os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONUNBUFFERED': ''}
    done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=120, env=env)
  assert done.returncode == 0 and not done.stderr, done.stderr


def test_a_hand_off_from_nowhere_exits_4_and_makes_no_workdir(here, capsys):
  for name in FINE_TUNING:
    assert main.main([f'--config={ROOT / FINE_TUNING[name]}:smoke']) == 4
    assert 'init_from.path = runs/pretrain_' in (said := capsys.readouterr().err) and 'no such folder' in said
  assert not list(here.iterdir())
