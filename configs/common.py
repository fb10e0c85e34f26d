"""What the configs share, which find it next to them; no run of its own.

Arguments of pre-training: preset=NAME; data=pydoc, a file, folder or glob, hf:NAME or tfds:NAME; mix=the same, a second
source of equal weight; field=NAME, the field, column or key that holds the text; lowercase, all text; smoke, a run of
seconds. Arguments of fine-tuning: demo, embedded records; train=, valid=, test=, files or tfds:NAME@SPLIT;
length=TOKENS; epochs=; lora=RANK, adapters next to a backbone that stays as it is; head_only, without them;
preset=NAME, a model from random weights; smoke, a run of seconds from the smoke run of pre-training. legal_*.py take
model= besides: hf:FOLDER or hf:ORG/NAME, a public model, or a workdir; their smoke runs start from models of the tests.
"""

import pathlib

from ml_collections import ConfigDict

from lmjax.data.config import default_field
from lmjax.models import presets
from lmjax.schema.command_line import parse_argument

LAYERS = ('layers/*/kernel', 'layers/*/bias', 'layers/*/scale', 'final_norm/*')
ADAPTERS = ('*/lora_a', '*/lora_b')
TINY_MODELS = pathlib.Path(__file__).resolve().parent.parent / 'tests/hf/golden'
NO_DECAY = ('*/bias', '*/scale', '*/embedding')
# Byte-level BPE, learned from the training text
TOKENIZER = dict(path=None, vocab_size=4096, sample_bytes=10_000_000, lowercase=False)
# 30% of the tokens rather than BERT's 15%: https://arxiv.org/abs/2202.08005; 80, 10 and 10% of them as in BERT
MASKING = dict(unit='token', rate=0.3, mask_share=0.8, random_share=0.1, keep_share=0.1, mean_span=None, max_span=None)


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
  arg = parse_argument(argument, **files, **size | switches, demo=False, smoke=False)
  arg.demo = arg.demo or arg.smoke
  model = dict(residual_dropout=0.1) if arg.preset is None else presets.get(arg.preset)['model']
  if arg.lora is not None:
    targets = ('*/query/kernel', '*/value/kernel')
    model = model | dict(lora=dict(rank=arg.lora, alpha=2.0 * arg.lora, dropout=0.1, targets=targets))
  return arg, ConfigDict(dict(task=task, seed=0, model=model, mesh=dict(data=None, fsdp=1, tensor=1)))


def public_model(arg, tiny):
  """`model=`, or the tiny one of the tests that stands for it in a smoke run."""
  return f'hf:{TINY_MODELS / tiny}' if arg.smoke else arg.model


def public_rate(arg):
  """What changes a public model's weights little; adapters begin at nothing."""
  return 2e-4 if arg.lora else 5e-5


def hand_off(arg, path, take, new, drop=()):
  """A checkpoint's weights, or random ones with preset=; adapters are new."""
  path = None if arg.preset else f'{path}-smoke' if arg.smoke and not path.startswith('hf:') else path
  fresh = new if arg.lora is None else (*new, *ADAPTERS)
  return dict(path=path, step='latest', convert=None, take=take, fresh=fresh, drop=drop)


def corpus(arg, recipe, cls_sep):
  """Text in rows of `length` tokens, its documents end to end; 5% of them are held out."""
  paths = {'main': arg.data} if arg.mix is None else {'main': arg.data, 'mix': arg.mix}
  sources = {name: dict(path=path, field=default_field(path, arg.field), weight=1.0) for name, path in paths.items()}
  size = recipe['vocab_size']  # None: the tokenizer comes with the model
  tokenizer = None if size is None else TOKENIZER | dict(vocab_size=size, lowercase=arg.lowercase)
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


def summaries(arg):
  """The objective of writing a short text, lengths in tokens; a third of a row is for it."""
  summary = arg.length // 4 if arg.demo else (arg.length - 2) // 3
  decoding = dict(beams=arg.beams, length_penalty=1.0 if arg.beams > 1 else None)
  decoding |= dict(no_repeat_ngram=3, temperature=0.0, top_k=None, top_p=None)
  objective = dict(max_summary=summary, long_documents=arg.long_documents, prefix=False, label_smoothing=None)
  objective |= dict(chunk=summary + 1, decoding=decoding, scores=('rouge',), best='rougeL')
  return objective | dict(lead=1 if arg.demo else 3)


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
