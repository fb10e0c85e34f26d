"""What the five configs share, which find it next to them; no run of its own.

Arguments of pre-training: preset=NAME; data=pydoc, a path or glob, or tfds:NAME; mix=the same, a second source of equal
weight; field=NAME, where the text stands in JSONL records and TFDS examples; lowercase, all text; smoke, a run of
seconds. Arguments of fine-tuning: demo, embedded records; train=, valid=, test=, files or tfds:NAME@SPLIT;
length=TOKENS; epochs=; lora=RANK, adapters next to a backbone that stays as it is; head_only, without them;
preset=NAME, a model from random weights; smoke, a run of seconds from the smoke run of pre-training.
"""

from ml_collections import ConfigDict

from lmjax.data.config import default_field
from lmjax.models import presets
from lmjax.schema.command_line import parse_argument

LAYERS = ('layers/*/kernel', 'layers/*/bias', 'layers/*/scale', 'final_norm/*')
ADAPTERS = ('*/lora_a', '*/lora_b')
NO_DECAY = ('*/bias', '*/scale', '*/embedding')
# Byte-level BPE, learned from the training text
TOKENIZER = dict(path=None, vocab_size=4096, sample_bytes=10_000_000, lowercase=False)


def pretraining(argument, task, attention, usual, smallest):
  """(arguments, recipe, config): from random weights, with four evaluations and checkpoints."""
  arg = parse_argument(argument, preset=usual, data='pydoc', mix=None, field='text', lowercase=False, smoke=False)
  preset = presets.get(smallest if arg.smoke else arg.preset, attention)
  model, recipe = preset['model'], preset['recipe']
  steps, every = recipe['steps'], max(recipe['steps'] // 4, 1)
  c = ConfigDict(dict(task=task, seed=0, model=model, mesh=recipe['mesh']))
  c.init_from = dict(path=None, step='latest', take=('*',), fresh=(), drop=(), convert=None)
  c.update(bookkeeping(arg, max(steps // 1000, 10), evaluate=every, save=every, steps=steps))
  return arg, recipe, c


def fine_tuning(argument, task, train, length, fields=(tuple[str, ...] | None, None), **switches):
  """(arguments, config): the checkpoint's model with dropout, or a preset; LoRA (https://arxiv.org/abs/2106.09685)."""
  files = dict(train=train, valid=None, test=None) | (dict(fields=fields) if fields else {})
  size = dict(length=(int | None, length), epochs=(float | None, None), preset=None, lora=(int | None, None))
  arg = parse_argument(argument, **files, **size, **switches, demo=False, smoke=False)
  arg.demo = arg.demo or arg.smoke
  model = dict(residual_dropout=0.1) if arg.preset is None else presets.get(arg.preset)['model']
  if arg.lora is not None:
    targets = ('*/query/kernel', '*/value/kernel')
    model = model | dict(lora=dict(rank=arg.lora, alpha=2.0 * arg.lora, dropout=0.1, targets=targets))
  return arg, ConfigDict(dict(task=task, seed=0, model=model, mesh=dict(data=None, fsdp=1, tensor=1)))


def hand_off(arg, path, take, new, drop=()):
  """A checkpoint's weights, or random ones with preset=; adapters are new."""
  path = None if arg.preset else f'{path}-smoke' if arg.smoke else path
  fresh = new if arg.lora is None else (*new, *ADAPTERS)
  return dict(path=path, step='latest', convert=None, take=take, fresh=fresh, drop=drop)


def corpus(arg, recipe, cls_sep):
  """Text in rows of `length` tokens, its documents end to end; 5% of them are held out."""
  paths = {'main': arg.data} if arg.mix is None else {'main': arg.data, 'mix': arg.mix}
  sources = {name: dict(path=path, field=default_field(path, arg.field), weight=1.0) for name, path in paths.items()}
  tokenizer = TOKENIZER | dict(vocab_size=recipe['vocab_size'], lowercase=arg.lowercase)
  rows = dict(rows='concat', length=recipe['length'], batch_size=recipe['batch_size'], cls_sep=cls_sep)
  held_out = dict(valid_fraction=0.05, valid_bytes=20_000 if arg.smoke else 1_000_000)
  return dict(sources=sources, tokenizer=tokenizer, bad_text='raise', cache_dir='~/.cache/lmjax', **rows, **held_out)


def records(arg, valid=None, test=None, fields=None, valid_examples=None):
  """Labelled records; where there are none for validation, 10% of those for training."""
  demo = 'demo' if arg.demo else None
  valid = demo or arg.valid or valid
  splits = dict(train=demo or arg.train, valid=valid, test=None if arg.smoke else demo or arg.test or test)
  splits |= dict(valid_fraction=None if valid else 0.1, fields=fields, train_share=1.0, valid_examples=valid_examples)
  rows = dict(tokenizer=TOKENIZER if arg.preset else None, length=arg.length, batch_size=8 if arg.smoke else 16)
  return splits | rows | dict(bad_text='raise', separator=getattr(arg, 'separator', None))


def optimizer(**given):
  """AdamW on all weights at one rate; the norm of the whole gradient is at most 1."""
  adamw = dict(name='adamw', decay_steps=None, b1=0.9, eps=1e-8, momentum=None, clip_norm=1.0, no_decay=NO_DECAY)
  return adamw | dict(trainable=('*',), frozen=(), layer_decay=None, head_learning_rate=None) | given


def pretraining_optimizer(recipe, **given):
  """That of the recipe: a warm-up, then a cosine to a tenth of the highest rate."""
  rate = dict(learning_rate=recipe['learning_rate'], warmup_steps=recipe['warmup_steps'], final_rate=0.1)
  rate |= dict(schedule='cosine', b2=0.95, momentum=0.95 if recipe['optimizer'] == 'muon' else None)
  return optimizer(name=recipe['optimizer'], **rate) | given


def fine_tuning_optimizer(arg, new, **given):
  """Warm-up over a tenth of the steps (None), then down to 0 in a line; new weights alone with lora= or head_only."""
  rate = dict(schedule='linear', warmup_steps=None, final_rate=0.0)
  trainable = new if arg.lora or getattr(arg, 'head_only', False) else ('*',)
  return optimizer(**rate, b2=0.999, trainable=trainable) | given


def bookkeeping(arg, log_every, evaluate, save, steps=None, epochs=None):
  """The sections of length, logs, evaluations and checkpoints, in batches where no unit is named."""
  every = 1 if arg.smoke else log_every
  return dict(
    train=dict(steps=steps, epochs=epochs, log_every=every, accumulate=1, max_skipped=5, seeds=1),
    eval=dict(every=evaluate, patience=None),
    checkpoint=dict(every=save, keep_last=2, keep_best=1),
    writer=dict(tensorboard=not arg.smoke),
  )


def fine_tuning_bookkeeping(arg, epochs):
  """An evaluation and a checkpoint each epoch (None); five samples at each."""
  length = dict(steps=20, evaluate=10) if arg.smoke else dict(epochs=arg.epochs or epochs, evaluate=None)
  return bookkeeping(arg, log_every=10, save=None, **length) | dict(samples=dict(count=5))
