"""Fine-tunes a pre-trained checkpoint to label texts: sentiment.

  python -m lmjax.main --config=configs/finetune_sentiment.py:demo
  python -m lmjax.main --config=configs/finetune_sentiment.py:train=train.tsv,valid=dev.tsv
  python -m lmjax.main --config=configs/finetune_sentiment.py --config.init_from.path=runs/pretrain_mlm

It starts from runs/pretrain_clm, and takes SST-2 from TFDS. Arguments: common.py; files of .tsv, .csv or .jsonl;
fields=TEXT,LABEL or TEXT,PAIR,LABEL; target=number or many labels, which are lists, or separator=TEXT between them.
Measured (demo, 2 cores of an AMD EPYC): 44 s of training steps, test accuracy 0.695 (most frequent label: 0.5).
"""

import common


def get_config(argument=None):
  switches = dict(head_only=False, target='class', separator=None)
  arg, c = common.fine_tuning(argument, 'classification', 'tfds:glue/sst2@train', length=64, **switches)

  # A new classifier on the checkpoint's backbone
  taken = ('embeddings/*', *common.LAYERS)
  c.init_from = common.hand_off(arg, 'runs/pretrain_clm', taken, new=('classifier/*',), drop=('head/*',))
  c.objective = dict(labels=None, target=arg.target, pooling=None, dropout=0.1, label_smoothing=None)

  # The test set of SST-2 has no labels
  valid = 'tfds:glue/sst2@validation' if arg.train.startswith('tfds:glue/sst2') else None
  c.data = common.records(arg, valid, fields=arg.fields, valid_examples=64 if arg.smoke else None)

  c.optim = common.fine_tuning_optimizer(arg, c.init_from.fresh, learning_rate=5e-4, weight_decay=0.01)
  c.update(common.fine_tuning_bookkeeping(arg, epochs=6.0 if arg.demo else 3.0))
  return c
