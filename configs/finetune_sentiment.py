"""Fine-tunes a pre-trained checkpoint to label texts: sentiment.

  python -m lmjax.main --config=configs/finetune_sentiment.py:demo
  python -m lmjax.main --config=configs/finetune_sentiment.py:train=train.tsv,valid=dev.tsv
  python -m lmjax.main --config=configs/finetune_sentiment.py --config.init_from.path=runs/pretrain_mlm

It starts from runs/pretrain_clm, and takes SST-2 from TFDS. Arguments: demo, the embedded sentences; train=, valid=,
test=, files of .tsv, .csv or .jsonl, or tfds:NAME@SPLIT; fields=TEXT,LABEL or TEXT,PAIR,LABEL; length=TOKENS; epochs=;
head_only, the backbone stays as it is; lora=RANK, adapters beside it; preset=NAME, a model from random weights; smoke,
a run of seconds from runs/pretrain_clm-smoke.

Measured (demo, 2 cores of an AMD EPYC): 67 s of training steps, test accuracy 0.735 (most frequent label: 0.5).
"""

from ml_collections import ConfigDict

from lmjax.models import presets
from lmjax.schema.command_line import parse_argument


def get_config(argument=None):
  """The config of a run."""
  sources = dict(train='tfds:glue/sst2@train', valid=None, test=None, fields=(tuple[str, ...] | None, None))
  size = dict(length=64, epochs=(float | None, None), preset=None, lora=(int | None, None))
  arg = parse_argument(argument, **sources, **size, head_only=False, demo=False, smoke=False)
  demo = arg.demo or arg.smoke
  valid = 'tfds:glue/sst2@validation' if arg.train.startswith('tfds:glue/sst2') else None
  c = ConfigDict(dict(task='classification', seed=0))
  c.model = dict(residual_dropout=0.1) if arg.preset is None else presets.get(arg.preset)['model']
  adapters = ('*/lora_a', '*/lora_b')
  if arg.lora is not None:
    c.model.lora = dict(rank=arg.lora, alpha=2.0 * arg.lora, dropout=0.1, targets=('*/query/kernel', '*/value/kernel'))
  c.mesh = dict(data=None, fsdp=1, tensor=1)
  source = None if arg.preset else 'runs/pretrain_clm-smoke' if arg.smoke else 'runs/pretrain_clm'
  c.init_from = dict(path=source, step='latest', convert=None, drop=('head/*',))
  c.init_from.take = ('embeddings/*', 'layers/*/kernel', 'layers/*/bias', 'layers/*/scale', 'final_norm/*')
  c.init_from.fresh = ('classifier/*',) if arg.lora is None else ('classifier/*', *adapters)
  c.objective = dict(labels=None, pooling=None, dropout=0.1, label_smoothing=None, class_weights=None)
  c.data = dict(
    train='demo' if demo else arg.train,
    valid='demo' if demo else arg.valid or valid,
    valid_fraction=None if demo or arg.valid or valid else 0.1,
    test=None if arg.smoke else 'demo' if demo else arg.test,
    fields=arg.fields,
    train_share=1.0,
    valid_examples=64 if arg.smoke else None,
    tokenizer=None
    if arg.preset is None
    else dict(path=None, vocab_size=4096, sample_bytes=10_000_000, lowercase=False),
    length=arg.length,
    batch_size=8 if arg.smoke else 16,
    bad_text='raise',
  )
  c.optim = dict(name='adamw', learning_rate=5e-4, schedule='linear', warmup_steps=None, decay_steps=None)
  c.optim.update(final_rate=0.0, weight_decay=0.01, no_decay=('*/bias', '*/scale', '*/embedding'))
  c.optim.update(b1=0.9, b2=0.999, eps=1e-8, momentum=None, clip_norm=1.0, frozen=())
  head = ('classifier/*',) if arg.lora is None else ('classifier/*', *adapters)
  c.optim.update(trainable=head if arg.head_only or arg.lora else ('*',), layer_decay=None, head_learning_rate=None)
  epochs = arg.epochs or (6.0 if demo else 3.0)
  c.train = dict(steps=20 if arg.smoke else None, epochs=None if arg.smoke else epochs)
  c.train.update(log_every=1 if arg.smoke else 10, accumulate=1, max_skipped=5, seeds=1)
  c.eval = dict(every=10 if arg.smoke else None, patience=None)
  c.samples = dict(count=5)
  c.checkpoint = dict(every=None, keep_last=2, keep_best=1)
  c.writer, c.profile = dict(tensorboard=not arg.smoke, wandb_project=None), dict(start=None, steps=3)
  c.hosts = dict(start_seconds=300, lost_seconds=100, hang_seconds=1800)
  return c
