"""Does pre-training on legal text help to summarize legal documents?

  python -m lmjax.experiment --config=experiments/legal_summarization.py:data=opinions/*.jsonl.xz,\
general=books/*.txt,train=train.jsonl,valid=valid.jsonl,test=test.jsonl

A causal model is pre-trained on general text, goes on with legal text, and learns to summarize. It is compared with
the general model, with the general model after as many more steps on general text (so that it is the text that makes
the difference, not the steps), with random weights, and with the legal model without fine-tuning.
Arguments: data=, legal text; general=, the general text, on which the tokenizer is trained too; train=, valid=, test=,
records with document and summary (valid: a share of train where it is not given); preset=NAME, with the sizes of its
recipe; seeds=; smoke, demonstration data and no legal text.

Measured: see experiments/README.md.
"""

from ml_collections import ConfigDict

from lmjax.errors import ConfigError
from lmjax.schema.command_line import parse_argument

# What decides the time it takes: seeds, and overrides of each kind of stage. The tiny model reads rows as long in
# pre-training as in fine-tuning. ROUGE of so small a model is noisy: checkpoints are ranked by the loss.
SEEDS = 3
SUMMARIZE = ('train.epochs=6.0', 'objective.best=loss')
_ROWS = ('data.length=384', 'data.batch_size=8')
_MODEL = (*_ROWS, 'data.tokenizer.vocab_size=8192', 'model.layers=2')
TINY = {
  'general': (*_MODEL, 'train.steps=400', 'eval.every=100', 'checkpoint.every=100'),
  'domain': (*_MODEL, 'train.steps=1000', 'eval.every=250', 'checkpoint.every=250'),
  'summarize': (*_ROWS, 'objective.max_summary=112', 'objective.chunk=113'),
}

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
  sizes = TINY if arg.preset == 'tiny' and not arg.smoke else dict.fromkeys(TINY, ())
  for name, text, overrides, source in (
    ('pretrain_general', general, sizes['general'], None),
    ('pretrain_general_longer', general, sizes['domain'], 'pretrain_general'),
    ('pretrain_legal', legal, sizes['domain'], 'pretrain_general'),
  ):
    c.stages[name] = dict(config=f'configs/pretrain_clm.py:{text}', overrides=overrides, init_from=source)
  given = ','.join(f'{name}={getattr(arg, name)}' for name in ('train', 'valid', 'test') if getattr(arg, name))
  config = f'configs/finetune_summarization.py:{"smoke" if arg.smoke else given}'
  for name, source, overrides in ARMS.values():
    overrides = (*(() if arg.smoke else SUMMARIZE), *sizes['summarize'], f'train.seeds={seeds}', *overrides)
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
