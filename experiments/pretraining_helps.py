"""Does pre-training help? Masked and causal models, handed to sentiment, question answering and summarization.

  python -m lmjax.experiment --config=experiments/pretraining_helps.py
  python -m lmjax.experiment --config=experiments/pretraining_helps.py:sentiment_train=train.tsv,sentiment_test=test.tsv

Each task starts from the pre-trained weights, and for comparison from random ones (same model, tokenizer and
training) and from the pre-trained ones without fine-tuning; sentiment also with a part of its labels.
Arguments: seeds=; tasks=sentiment,qa,summarization; data=, the text to pre-train on; sentiment_train=, _valid=, _test=,
and the same for qa and summarization (without train, the embedded demonstration data); smoke, one model a task.

Not measured.
"""

from typing import Literal

from ml_collections import ConfigDict

from lmjax.command_line import parse_argument

# What decides the time it takes: seeds, shares of the labels, and overrides of each kind of stage.
SEEDS, SHARES = 3, (0.01, 0.1, 1.0)
OVERRIDES = {'masked': (), 'causal': (), 'sentiment': ('data.length=32',), 'qa': (), 'summarization': ()}

PRETRAIN = {'masked': 'configs/pretrain_mlm.py', 'causal': 'configs/pretrain_clm.py'}
METRICS = {'sentiment': 'accuracy', 'qa': 'f1', 'summarization': 'rougeL'}
OBJECTIVES = {'sentiment': ('masked', 'causal'), 'qa': ('masked', 'causal'), 'summarization': ('causal',)}
# label -> how the stage is called, and what is different there
ARMS = {
  'pre-trained': ('', ()),
  'random weights': ('_random', ('init_from.take=()',)),
  'not fine-tuned': ('_untuned', ('train.epochs=None', 'train.steps=0')),
}


def get_config(argument=None):
  """The experiment."""
  files = {f'{task}_{split}': None for task in METRICS for split in ('train', 'valid', 'test')}
  tasks = (tuple[Literal[tuple(METRICS)], ...], tuple(METRICS))
  arg = parse_argument(argument, seeds=(int | None, None), tasks=tasks, data='pydoc', smoke=False, **files)
  seeds, shares = (1, SHARES[-2:]) if arg.smoke else (SEEDS, SHARES)
  arg.seeds = seeds if arg.seeds is None else arg.seeds
  c = ConfigDict(dict(stages={}, comparisons={}))
  for objective, config in PRETRAIN.items():
    text = f'{config}:smoke' if arg.smoke else f'{config}:data={arg.data}'
    c.stages[f'pretrain_{objective}'] = dict(config=text, overrides=OVERRIDES[objective], init_from=None)
  for task, objective in [(name, kind) for name in arg.tasks for kind in OBJECTIVES[name][: 1 if arg.smoke else 2]]:
    has_test = not arg.smoke and (getattr(arg, f'{task}_test') or not getattr(arg, f'{task}_train'))
    shared = dict(candidate='pre-trained', metric=f'{"test" if has_test else "valid"}/{METRICS[task]}')
    claim = f'{objective.capitalize()} pre-training and then fine-tuning help {task}.'
    arms = {label: dict(stages=(add_stage(c, arg, task, objective, label, 1.0),)) for label in ARMS}
    shared |= dict(title=f'{task}, {objective} model', claim=claim, x=None, x_name=None)
    c.comparisons[f'{task}_{objective}'] = shared | dict(arms=arms)
    if task == 'sentiment':
      curves = {label: [add_stage(c, arg, task, objective, label, s) for s in shares] for label in list(ARMS)[:2]}
      shared |= dict(title=f'{task} with few labels, {objective} model', x=shares, x_name='share of the labels')
      shared |= dict(claim=f'{objective.capitalize()} pre-training helps {task}, however few labels there are.')
      c.comparisons[f'{task}_{objective}_curve'] = shared | dict(arms={k: dict(stages=v) for k, v in curves.items()})
  return c


def add_stage(c, arg, task, objective, label, share):
  """Adds a fine-tuning stage; returns its name."""
  files = {split: getattr(arg, f'{task}_{split}') for split in ('train', 'valid', 'test')}
  given = ','.join(f'{split}={path}' for split, path in files.items() if path is not None)
  kind, overrides = ARMS[label]
  name = f'{task}_{objective}{kind}' + ('' if share == 1 else f'_{100 * share:g}percent')
  overrides = (*OVERRIDES[task], f'train.seeds={arg.seeds}', f'data.train_share={share}', *overrides)
  config = f'configs/finetune_{task}.py:{"smoke" if arg.smoke else given or "demo"}'
  c.stages[name] = dict(config=config, overrides=overrides, init_from=f'pretrain_{objective}')
  return name
