"""Does pre-training help? Masked and causal models, handed to sentiment, question answering and summarization.

  python -m lmjax.experiment --config=experiments/pretraining_helps.py
  python -m lmjax.experiment --config=experiments/pretraining_helps.py:data=reviews.jsonl,lowercase,tasks=sentiment,\
sentiment_train=train.tsv,sentiment_test=test.tsv

Each task starts from the pre-trained weights, and for comparison from random ones (same model, tokenizer and number of
steps) and from the pre-trained ones without fine-tuning; sentiment also with a part of its labels. Random weights get a
learning rate of 1e-3; so do pre-trained ones on embedded data (on validation about as good as half of it, or better),
and half of it on one's own.

Arguments: seeds=; objectives=masked,causal; tasks=sentiment,qa,summarization; data=, the text to pre-train on; steps=,
of pre-training; lowercase, its text; sentiment_train=, _valid=, _test=, and the same for qa and summarization (without
train, the embedded demonstration data); smoke, one model a task.

Measured (embedded data, 2 cores of an AMD EPYC, much other work): 27 minutes; F1 of questions 0.301 after masked
pre-training against 0.208 from random weights; other gains are not decided. All figures: experiments/README.md.
"""

from typing import Literal

from ml_collections import ConfigDict

from lmjax.errors import ConfigError
from lmjax.schema.command_line import parse_argument

# What decides the time it takes, with embedded data and with one's own: epochs by share of the labels (sentiment), and
# overrides of each kind of stage (both models are pooled alike, and have one linear layer).
SHARES = {'demo': {0.01: 12.0, 0.1: 12.0, 1.0: 6.0}, 'own': {0.01: 12.0, 0.1: 6.0, 1.0: 3.0}}
SEEDS = {'demo': {'sentiment': 2, 'qa': 1, 'summarization': 1}, 'own': {'sentiment': 3, 'qa': 3, 'summarization': 3}}
OVERRIDES = {
  'demo': {
    'masked': ('model.layers=2', 'train.steps=560', 'eval.every=140', 'checkpoint.every=140'),
    'causal': ('model.layers=2', 'train.steps=440', 'eval.every=110', 'checkpoint.every=110'),
    'sentiment': ('data.length=32', 'objective.pooling=mean', 'objective.head=linear', 'optim.learning_rate=1e-3'),
    'qa': ('train.epochs=2.0', 'objective.head=linear', 'optim.learning_rate=1e-3'),
    'summarization': (
      'data.length=128',
      'objective.max_summary=32',
      'objective.chunk=33',
      'train.epochs=1.0',
      'optim.learning_rate=1e-3',
    ),
  },
  'own': {
    'masked': ('data.batch_size=16', 'data.tokenizer.vocab_size=8192', 'model.layers=2'),
    'causal': ('data.batch_size=16', 'data.tokenizer.vocab_size=8192', 'model.layers=2'),
    'sentiment': ('data.length=48', 'objective.pooling=mean', 'objective.head=linear'),
    'qa': ('objective.head=linear',),
    'summarization': (),
  },
}

PRETRAIN = {'masked': 'configs/pretrain_mlm.py', 'causal': 'configs/pretrain_clm.py'}
METRICS = {'sentiment': 'accuracy', 'qa': 'f1', 'summarization': 'rougeL'}
OBJECTIVES = {'sentiment': ('masked', 'causal'), 'qa': ('masked', 'causal'), 'summarization': ('causal',)}
# label -> how the stage is called, and what is different there
ARMS = {
  'pre-trained': ('', ()),
  'random weights': ('_random', ('init_from.take=()', 'optim.learning_rate=1e-3')),
  'not fine-tuned': ('_untuned', ('train.epochs=None', 'train.steps=0')),
}


def get_config(argument=None):
  """The experiment."""
  files = {f'{task}_{split}': None for task in METRICS for split in ('train', 'valid', 'test')}
  text = dict(data='pydoc', steps=(int | None, None), lowercase=False)
  tasks = (tuple[Literal[tuple(METRICS)], ...], tuple(METRICS))
  objectives = (tuple[Literal[tuple(PRETRAIN)], ...], tuple(PRETRAIN))
  arg = parse_argument(
    argument, seeds=(int | None, None), objectives=objectives, tasks=tasks, **text, smoke=False, **files
  )
  alone = [name for name in files if getattr(arg, name) and not getattr(arg, f'{name.partition("_")[0]}_train')]
  if alone:
    rule = 'has no effect without the training file of its task; add that'
    raise ConfigError([f'argument {name}: {rule}' for name in alone])
  c = ConfigDict(dict(stages={}, comparisons={}))
  for objective in arg.objectives:
    lowercase = ',lowercase' if arg.lowercase else ''
    config = f'{PRETRAIN[objective]}:{"smoke" if arg.smoke else f"data={arg.data}{lowercase}"}'
    overrides = () if arg.smoke else OVERRIDES['demo' if arg.data == 'pydoc' else 'own'][objective]
    if arg.steps is not None:
      quarter = max(arg.steps // 4, 1)
      overrides += f'train.steps={arg.steps}', f'eval.every={quarter}', f'checkpoint.every={quarter}'
    c.stages[f'pretrain_{objective}'] = dict(config=config, overrides=overrides, init_from=None)
  given = {task: [o for o in OBJECTIVES[task] if o in arg.objectives][: 1 if arg.smoke else None] for task in arg.tasks}
  pairs = [(task, objective) for task, objectives in given.items() for objective in objectives]
  for task, objective in pairs:
    kind = 'own' if getattr(arg, f'{task}_train') else 'demo'
    has_test = not arg.smoke and (kind == 'demo' or getattr(arg, f'{task}_test'))
    shared = dict(candidate='pre-trained', metric=f'{"test" if has_test else "valid"}/{METRICS[task]}')
    claim = f'{objective.capitalize()} pre-training and then fine-tuning help {task}.'
    arms = {label: dict(stages=(add_stage(c, arg, task, objective, label, 1.0),)) for label in ARMS}
    shared |= dict(title=f'{task}, {objective} model', claim=claim, x=None, x_name=None)
    c.comparisons[f'{task}_{objective}'] = shared | dict(arms=arms)
    if task == 'sentiment':
      shares = tuple(SHARES[kind])[-2:] if arg.smoke else tuple(SHARES[kind])
      curves = {label: [add_stage(c, arg, task, objective, label, s) for s in shares] for label in list(ARMS)[:2]}
      shared |= dict(title=f'{task} with few labels, {objective} model', x=shares, x_name='share of the labels')
      shared |= dict(claim=f'{objective.capitalize()} pre-training helps {task}, however few labels there are.')
      c.comparisons[f'{task}_{objective}_curve'] = shared | dict(arms={k: dict(stages=v) for k, v in curves.items()})
  return c


def add_stage(c, arg, task, objective, label, share):
  """Adds a fine-tuning stage; returns its name."""
  files = {split: getattr(arg, f'{task}_{split}') for split in ('train', 'valid', 'test')}
  given = ','.join(f'{split}={path}' for split, path in files.items() if path is not None)
  kind = 'own' if given else 'demo'
  seeds = arg.seeds or (1 if arg.smoke else SEEDS[kind][task])
  suffix, different = ARMS[label]
  overrides = (f'train.seeds={seeds}', f'data.train_share={share}')
  if not arg.smoke:
    epochs = (f'train.epochs={SHARES[kind][share]}',) if task == 'sentiment' else ()
    overrides += OVERRIDES[kind][task] + epochs
  name = f'{task}_{objective}{suffix}' + ('' if share == 1 else f'_{100 * share:g}percent')
  given += ',match' if given and task == 'qa' else ''
  config = f'configs/finetune_{task}.py:{"smoke" if arg.smoke else given or "demo"}'
  c.stages[name] = dict(config=config, overrides=overrides + different, init_from=f'pretrain_{objective}')
  return name
