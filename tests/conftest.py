"""Eight virtual CPU devices, tiny configs, and a corpus made on the spot."""

import atexit
import gc
import importlib.metadata
import os
import shutil
import tempfile

# compiling takes most of the time of such small models: level 0 halves it, and the other two halve it again
# (jax 0.10.2 on two cores: 38 s of CPU for a run of four steps, then 18). XLA aborts at a flag that it does not know.
QUICK = '--xla_backend_optimization_level=0'
if importlib.metadata.version('jaxlib').startswith(('0.10.', '0.11.', '0.12.')):
  QUICK += ' --xla_cpu_parallel_codegen_split_count=1'
if importlib.metadata.version('jaxlib').startswith('0.10.'):  # 0.12.0.1 no longer knows it
  QUICK += ' --xla_cpu_use_fusion_emitters=false'
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8 {QUICK}'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# what two tests share is compiled once: workers of pytest-xdist, and commands that tests start, inherit the folder
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  os.environ['JAX_COMPILATION_CACHE_DIR'] = tempfile.mkdtemp(prefix='lmjax-xla-')
  atexit.register(shutil.rmtree, os.environ['JAX_COMPILATION_CACHE_DIR'], ignore_errors=True)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '0'
# much of the rest is Python's, which traces: without a stack for each operation, and with fewer looks for garbage among
# the many objects that stay, the tests of the backbone took 0.95 times the CPU time (three alternating pairs)
os.environ['JAX_TRACEBACK_IN_LOCATIONS_LIMIT'] = '0'
gc.set_threshold(200_000, 20, 20)
# a run that takes what an earlier one kept would not test how it is made
os.environ['LMJAX_CACHE'] = 'none'

import fcntl
import json
import pathlib
import random
import signal
from collections.abc import Callable

import jax
import pytest

from lmjax import config as config_lib
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.schema import command_line, overrides

# A shell that starts this in the background, or nohup, has it ignore signals; so would all that the tests start.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
  if signal.getsignal(_number) is signal.SIG_IGN:
    signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = {'causal_lm': 'configs/pretrain_clm.py', 'masked_lm': 'configs/pretrain_mlm.py'}
TASKS = tuple(CONFIGS)
FINE_TUNING = {
  'classification': 'configs/finetune_sentiment.py',
  'extractive_qa': 'configs/finetune_qa.py',
  'summarization': 'configs/finetune_summarization.py',
}
# These start from public models; their smoke runs from one of tests/hf/golden.
FROM_PUBLIC = {
  'masked_lm': 'configs/legal_mlm.py',
  'extractive_qa': 'configs/legal_qa.py',
  'summarization': 'configs/legal_summaries.py',
}
WORDS = (
  'the model reads a line of text and learns which word comes next because words follow each other in sentences '
  'that people wrote about trees rivers numbers and the weather of the north where snow falls early every year'
).split()


# Real text and labelled data beside the checkout; tests that read it are skipped where it is not there.
REAL_DATA = pathlib.Path(os.environ.get('LMJAX_SHARED_DATA') or ROOT.parent / 'shared' / 'data')


def config_dict(file: str, argument: str, leaves: dict):
  """The ConfigDict of a config file with leaves changed, {'model.layers': 1}."""
  config = command_line.load_config_file(str(ROOT / file), argument)
  config, problems = overrides.override(config_lib.Config, config, [(path, str(v)) for path, v in leaves.items()])
  assert not problems, problems
  return config


def text(seed: int, words: int) -> str:
  """Pseudo-random sentences of real words."""
  draw = random.Random(seed)
  return ' '.join(draw.choice(WORDS) + draw.choice(['', '', '', ',', '.']) for _ in range(words)) + '.'


def shared(tmp_path_factory, name: str, make: Callable[[pathlib.Path], object]) -> pathlib.Path:
  """The folder that `make(folder)` fills, once a pytest run: workers wait for each other, and change nothing in it."""
  root = tmp_path_factory.getbasetemp()
  root = root.parent if 'PYTEST_XDIST_WORKER' in os.environ else root
  with open(root / f'{name}.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (root / f'{name}.done').exists():
      shutil.rmtree(root / name, ignore_errors=True)  # what a worker left whose `make` failed
      (root / name).mkdir()
      make(root / name)
      (root / f'{name}.done').touch()
  return root / name


@pytest.fixture(scope='session')
def corpus(tmp_path_factory) -> str:
  """A JSONL file of 300 documents of 5 to 125 words."""

  def make(folder):
    with open(folder / 'corpus.jsonl', 'w', encoding='utf-8') as out:
      for i in range(300):
        out.write(json.dumps({'text': text(i, 5 + i % 121)}) + '\n')

  return str(shared(tmp_path_factory, 'corpus', make) / 'corpus.jsonl')


@pytest.fixture(scope='session')
def cache_dir(tmp_path_factory) -> str:
  """Token stores of this pytest run."""
  return str(shared(tmp_path_factory, 'cache', lambda folder: None))


@pytest.fixture(scope='session')
def tokenizer():
  """A small byte-level tokenizer with all special tokens."""
  return train_tokenizer((text(i, 60) for i in range(200)), vocab_size=320, sample_bytes=100_000)


@pytest.fixture(scope='session')
def raw_config(corpus, cache_dir):
  """`raw_config(task, **{'model.layers': 1})` -> the ConfigDict of a very small run.

  To pre-train it is on `corpus`; to fine-tune on the demonstration data, from random weights.
  """

  def make(task: str, **leaves):
    small = {
      'data.tokenizer.vocab_size': 320,
      'data.length': 32,
      'model.layers': 1,
      'model.width': 32,
      'model.heads': 4,
      'model.kv_heads': 2,
      'model.mlp_width': 64,
      'train.steps': 6,
      'optim.warmup_steps': 2,
      'eval.every': 3,
    }
    if task in CONFIGS:
      file, argument = CONFIGS[task], f'smoke,data={corpus}'
      small |= {'data.cache_dir': cache_dir, 'data.valid_fraction': 0.1, 'data.valid_bytes': 4000}
      small |= {'objective.chunk': 5, 'checkpoint.every': 3}
    else:
      file, argument = FINE_TUNING[task], 'smoke,preset=mini'
    if task == 'causal_lm':
      small |= {'samples.prompt_tokens': 4, 'samples.new_tokens': 8, 'samples.count': 1}
    elif task == 'extractive_qa':
      small |= {'objective.max_question': 8, 'objective.stride': 12, 'objective.max_answer': 6}
    elif task == 'summarization':
      small |= {'objective.max_summary': 8, 'objective.chunk': 5}
    return config_dict(file, argument, small | leaves)

  return make


@pytest.fixture(scope='session')
def make_config(raw_config):
  """The same, built."""
  return lambda task, **leaves: config_lib.build(raw_config(task, **leaves))


@pytest.fixture
def one_device():
  """The first device alone, for runs that are not about sharding."""
  return jax.devices()[:1]


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
  """The tests of a file share fixtures and what was traced, so one worker takes all of them; slow ones are spread."""
  if config.option.markexpr != 'not slow' or config.option.dist != 'load':
    return None
  from xdist.scheduler import LoadFileScheduling

  return LoadFileScheduling(config, log)
