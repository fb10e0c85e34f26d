"""Runs of a few steps whose models are exported, and texts to compare tokenizers on."""

import json
import pathlib
import random
import shutil

from ml_collections import ConfigDict

from lmjax import export
from lmjax.models import presets
from tests import runs
from tests.conftest import FINE_TUNING, config_dict, text

GOLDEN = pathlib.Path(__file__).parent / 'golden'
# A preset in small.
SMALL = {'model.layers': 2, 'model.width': 32, 'model.heads': 4, 'model.kv_heads': 4, 'model.mlp_width': 48}
SMALL |= {'model.dtype': 'float32', 'model.scan': False}
LEARNED = SMALL | {'model.max_length': 256}
STEPS = {'train.steps': 3, 'eval.every': 3, 'data.length': 48, 'writer.tensorboard': False}
SPANS = {'objective.max_question': 12, 'objective.stride': 12, 'objective.max_answer': 6, 'train.epochs': None}
SUMMARIES = {'objective.max_summary': 8, 'objective.prefix': False, 'objective.chunk': 4, 'train.epochs': None}
SUMMARIES |= {'data.valid_examples': 4, 'data.batch_size': 4}

LEGAL = (
  'Pursuant to § 1983, the Petitioner’s claim — see 42 U.S.C. §§ 1981–1988 — is DENIED.',
  'Café, naïve, Ångström: décidé le 3\u00a0mai; e\u0301clair, u\u0308ber, A\u030angstro\u0308m',
  'NOTWITHSTANDING anything\tto the contrary\nherein, the "Party" (as defined in ¶ 4(b)) shall…',
  'fee of $1,250.00 ½ 100% & 3 < 4 > 2 {a} [b] \\ | ~ ^',
)


def texts(count: int = 200, seed: int = 0) -> list[str]:
  """Sentences, legal text with section signs and combining accents, odd white space; none of them empty."""
  draw = random.Random(seed)
  made = list(LEGAL)
  while len(made) < count:
    words = text(len(made), 2 + draw.randrange(12)).split(' ')
    words.insert(draw.randrange(len(words)), draw.choice(draw.choice(LEGAL).split(' ')))
    made.append(draw.choice([' ', ' ', '  ', '\n']).join(words))
  return made


def pre_trained(task: str, raw_config, folder: pathlib.Path, preset: str | None = None, **leaves) -> str:
  """The workdir of a run of three steps, of a preset in small; without one of Qwen3's or ModernBERT's shape."""
  more = {
    'train.steps': 3,
    'optim.warmup_steps': 1,
    'eval.every': 3,
    'checkpoint.every': 3,
    'writer.tensorboard': False,
  }
  raw = raw_config(task, **more | leaves)
  if 'init_from.path' not in leaves:
    raw.model = ConfigDict(presets.get(preset or ('mini' if task == 'causal_lm' else 'modernbert_base'))['model'])
    shape = LEARNED if raw.model.positions == 'learned' else SMALL
    raw.model.update({path.removeprefix('model.'): value for path, value in shape.items()})
  runs.train(raw, folder / 'run')
  return str(folder / 'run')


def fine_tuned(task: str, folder: pathlib.Path, preset: str | None, source: str | None = None, **leaves) -> str:
  """The workdir of a run of three steps, from random weights of a preset or from a source."""
  argument = 'smoke' if preset is None else f'smoke,preset={preset}'
  usual = STEPS | ({'train.epochs': None} if task == 'classification' else {})
  usual |= {'extractive_qa': SPANS, 'summarization': SUMMARIES}.get(task, {})
  usual |= {} if source is None else {'init_from.path': source}
  runs.train(config_dict(FINE_TUNING[task], argument, usual | {'optim.warmup_steps': 1} | leaves), folder / 'run')
  return str(folder / 'run')


def with_adapters(task: str, folder, source: str | None, preset: str | None = None, targets: str | None = None, **more):
  """The workdir of a run of three steps with adapters of rank 4."""
  argument = ','.join(['smoke', 'lora=4', *([f'preset={preset}'] if preset else [])])
  usual = STEPS | {'train.epochs': None, 'optim.warmup_steps': 1, 'optim.learning_rate': 0.05}
  usual |= {'extractive_qa': SPANS, 'summarization': SUMMARIES}.get(task, {})
  usual |= {} if source is None else {'init_from.path': source}
  usual |= {} if targets is None else {'model.lora.targets': targets}
  runs.train(config_dict(FINE_TUNING[task], argument, usual | more), folder / 'run')
  return str(folder / 'run')


def with_reserved_token(kind: str, folder: pathlib.Path) -> pathlib.Path:
  """A copy of a golden decoder, whose tokenizer has a special token that nothing uses, as those of Llama 3 and Qwen."""
  shutil.copytree(GOLDEN / {'from_llama': 'llama_3_1', 'from_qwen': 'qwen3'}[kind], folder)
  file = folder / 'tokenizer.json'
  content = json.loads(file.read_text())
  flags = dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized'), False)
  index = max(content['model']['vocab'].values()) + 1
  content['added_tokens'].append({'id': index, 'content': '<|reserved_special_token_0|>', 'special': True} | flags)
  file.write_text(json.dumps(content))
  return folder


def exported(workdir: str, folder: pathlib.Path, *flags: str) -> pathlib.Path:
  """The folder of an export."""
  assert export.main([f'--workdir={workdir}', f'--out={folder}', *flags]) == 0
  return folder
