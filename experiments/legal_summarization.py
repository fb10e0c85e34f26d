"""Does pre-training on legal text help to summarize legal documents?

  python -m lmjax.experiment --config=experiments/legal_summarization.py:data=opinions/*.jsonl.xz,\
train=train.jsonl,valid=valid.jsonl,test=test.jsonl

A causal model is pre-trained on general text, goes on with legal text, and learns to summarize. It is compared with
the general model, with the general model after as many more steps on general text (so that it is the text that makes
the difference, not the steps), with random weights, and with the legal model without fine-tuning.
Arguments: data=, legal text; train=, valid=, test=, records with document and summary (valid: a share of train where
it is not given); general=, the general text; preset=NAME; seeds=; smoke, demonstration data and no legal text.

Measured: see experiments/README.md.
"""

from ml_collections import ConfigDict

from lmjax.command_line import parse_argument
from lmjax.errors import ConfigError

# What decides the time it takes: seeds, and overrides of each kind of stage.
SEEDS = 3
GENERAL, DOMAIN, SUMMARIZE = (), (), ('train.epochs=6.0',)

UNTUNED = ('train.epochs=None', 'train.steps=0')
# label -> stage, what it starts from, and what is different there
ARMS = {
  'legal pre-training': ('legal', 'pretrain_legal', ()),
  'general pre-training': ('general', 'pretrain_general', ()),
  'general pre-training, as long': ('general_longer', 'pretrain_general_longer', ()),
  'random weights': ('random', 'pretrain_legal', ('init_from.take=()',)),
  'not fine-tuned': ('untuned', 'pretrain_legal', UNTUNED),
}


def get_config(argument=None):
  """The experiment."""
  files = dict(data=None, train=None, valid=None, test=None)
  arg = parse_argument(argument, **files, general='pydoc', preset='tiny', seeds=(int | None, None), smoke=False)
  seeds = (1 if arg.smoke else SEEDS) if arg.seeds is None else arg.seeds
  missing = [name for name in ('data', 'train', 'test') if getattr(arg, name) is None and not arg.smoke]
  if missing:
    raise ConfigError([f'argument {name}: missing; give {name}=PATH, or smoke' for name in missing])
  c = ConfigDict(dict(stages={}, comparisons={}))
  general = 'smoke' if arg.smoke else f'preset={arg.preset},data={arg.general}'
  legal = 'smoke' if arg.smoke else f'preset={arg.preset},data={arg.data}'
  for name, text, overrides, source in (
    ('pretrain_general', general, GENERAL, None),
    ('pretrain_general_longer', general, DOMAIN, 'pretrain_general'),
    ('pretrain_legal', legal, DOMAIN, 'pretrain_general'),
  ):
    c.stages[name] = dict(config=f'configs/pretrain_clm.py:{text}', overrides=overrides, init_from=source)
  given = ','.join(f'{name}={getattr(arg, name)}' for name in ('train', 'valid', 'test') if getattr(arg, name))
  config = f'configs/finetune_summarization.py:{"smoke" if arg.smoke else given}'
  for name, source, overrides in ARMS.values():
    overrides = (*(() if arg.smoke else SUMMARIZE), f'train.seeds={seeds}', *overrides)
    c.stages[name] = dict(config=config, overrides=overrides, init_from=source)
  c.comparisons.summarization = dict(
    title='Summarization of legal documents',
    claim='Pre-training on legal text helps to summarize legal documents.',
    metric='valid/rougeL' if arg.smoke else 'test/rougeL',
    candidate='legal pre-training',
    arms={label: dict(stages=(name,)) for label, (name, _, _) in ARMS.items()},
    x=None,
    x_name=None,
  )
  return c
