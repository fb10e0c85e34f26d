"""Very small runs that the tests of fine-tuning start from: pre-trained ones, made once, and what is read of them."""

import functools
import json
import pathlib
import random

import jax
import numpy as np
import tokenizers

from lmjax import paths, sharding
from lmjax import train as train_lib
from lmjax.checkpoint import locate, manifest
from lmjax.checkpoint.locate import open_source
from lmjax.checkpoint.manifest import read_manifest
from lmjax.training import initialize, reopen
from lmjax.training import state as state_lib
from lmjax.training import step as step_lib
from tests.conftest import FINE_TUNING, config_dict, shared

GOOD = 'clear quick fine'.split()
BAD = 'broken vague poor'.split()


def train(raw, workdir, log=lambda line: None, devices=1) -> dict:
  """Runs a config on the first devices."""
  return train_lib.train(raw, str(workdir), log=log, devices=jax.devices()[:devices])


def pre_trained(task: str, raw_config, tmp_path_factory) -> str:
  """The workdir of a run of 6 steps with checkpoints at 3 and 6; what it printed is in `log.txt` next to it."""

  def make(folder):
    with open(folder / 'log.txt', 'w') as file:
      train(raw_config(task, **{'model.layers': 2}), folder / 'run', lambda line: print(line, file=file))

  return str(shared(tmp_path_factory, task, make) / 'run')


SIX = {'train.steps': 6, 'eval.every': 3, 'optim.learning_rate': 0.01}


def six_steps(source, folder, **leaves):
  """The ConfigDict of a run of six steps with dropout, and a test split."""
  return classification_config(source, folder, rows={'test': texts(9, seed=2)}, **SIX | leaves)


def fine_tuned(raw_config, tmp_path_factory) -> pathlib.Path:
  """The workdir of `six_steps` from the masked model, its files next to it."""

  def make(folder):
    train(six_steps(pre_trained('masked_lm', raw_config, tmp_path_factory), folder), folder / 'run')

  return shared(tmp_path_factory, 'fine_tuned', make) / 'run'


def texts(count: int, seed: int = 0) -> list[tuple[str, str]]:
  """(text, label): the label can be read off one word of the text."""
  draw = random.Random(seed)
  rows = []
  for i in range(count):
    label = ('good', 'bad')[i % 2]
    words = draw.choices('the model reads this line of text and that one'.split(), k=3)
    words.insert(draw.randrange(4), draw.choice(GOOD if label == 'good' else BAD))
    rows.append((' '.join([*words, str(i)]), label))
  return rows


def save_words(path, words) -> str:
  """A tokenizer.json that knows some words and no other: all else is [UNK]."""
  names = dict.fromkeys(['[UNK]', '[PAD]', '[BOS]', '[EOS]', '[MASK]', '[CLS]', '[SEP]', *words])
  backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({n: i for i, n in enumerate(names)}, unk_token='[UNK]'))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  backend.save(str(path))
  return str(path)


def write_tsv(path, rows, header=('text', 'label')) -> str:
  """A table; returns its path."""
  lines = ['\t'.join(row) for row in [header, *rows]]
  content = '\n'.join(lines) + '\n'
  if not path.exists() or path.read_text(encoding='utf-8') != content:  # another worker may be reading it
    path.write_text(content, encoding='utf-8')
  return str(path)


def classification_config(source, folder, arguments='', lora=None, rows=None, **leaves):
  """The ConfigDict of configs/finetune_sentiment.py on 24 training and 10 validation examples in `folder`.

  Args:
    source: the workdir to start from, or None for random weights of the preset that `arguments` name.
    folder: where the examples are written.
    arguments: of the config file, besides the files.
    lora: rank of adapters, or None.
    rows: {'train': rows, 'valid': rows, 'test': rows} in place of the examples; a test split only if given.
    leaves: {'optim.learning_rate': 0.1}.
  """
  rows = {'train': texts(24), 'valid': texts(10, seed=1)} | (rows or {})
  files = [f'{split}={write_tsv(folder / f"{split}.tsv", found)}' for split, found in rows.items()]
  more = [argument for argument in (arguments, '' if lora is None else f'lora={lora}') if argument]
  small = {
    'data.length': 24,
    'data.batch_size': 8,
    'train.epochs': None,
    'train.steps': 6,
    'train.log_every': 1,
    'eval.every': 3,
    'optim.warmup_steps': 0,
    'writer.tensorboard': False,
  }
  if source is not None:
    small['init_from.path'] = source
  return config_dict(FINE_TUNING['classification'], ','.join([*files, *more]), small | leaves)


def manifest_of(workdir, step: int | None = None) -> dict:
  """The manifest of a checkpoint, the newest unless told."""
  directory = locate.directory_of(workdir)
  return read_manifest(directory, step or locate.saved_steps(directory)[-1])


def edit_manifest(workdir, step: int, change) -> None:
  """Calls `change` on the manifest of a checkpoint, whose checksum is made again."""
  file = pathlib.Path(workdir) / f'checkpoints/{step}/manifest/manifest.json'
  found = json.loads(file.read_text())
  change(found)
  file.write_text(json.dumps(found | {'checksum': manifest.checksum(found)}))


def params_of(workdir, step='latest') -> dict[str, np.ndarray]:
  """{path: array} of a checkpoint."""
  return {path: np.asarray(leaf) for path, leaf in paths.flatten(reopen.load_run(str(workdir), step).params).items()}


def metrics_of(workdir, split: str) -> list[dict]:
  """The lines of metrics.jsonl of one split."""
  lines = (pathlib.Path(workdir) / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
  return [found for found in map(json.loads, lines) if found['split'] == split]


@functools.cache
def _init(model):
  return jax.jit(model.init)


def random_params(task, seed: int = 0):
  """Random parameters of a task's model, on one device."""
  return _init(task.model)(jax.random.key(seed))


def random_state(task, tx, seed: int = 0) -> state_lib.TrainState:
  """The state that a run on one device begins with."""
  mesh = sharding.one_device_mesh()
  return state_lib.init_state(task, tx, mesh, state_lib.init_params(task, mesh, seed))


def train_step(task, tx, config):
  """The train step of a Config; its key is that of the run's dropout."""
  step = step_lib.make_train_step(task, tx, config.optim, config.train.steps, config.train.accumulate)
  return lambda state, batch, key=None: step(state, batch, step_lib.dropout_key(config.seed) if key is None else key)


def source_of(config):
  """(the checkpoint that a Config starts from, its tokenizer)."""
  source = open_source(config.init_from)
  return source, initialize.tokenizer_of(source, config.data.tokenizer)
