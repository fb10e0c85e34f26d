"""Pre-trains by masked language modelling (BERT), without next-sentence prediction.

  python -m lmjax.main --config=configs/pretrain_mlm.py
  python -m lmjax.main --config=configs/pretrain_mlm.py:preset=bert_base,data=tfds:wiki40b/en

Arguments: common.py.
Measured (preset=tiny_encoder, pydoc, 2 cores of an AMD EPYC, other work): 179 s of training steps, accuracy 0.174 at
held-out `[MASK]` positions (most frequent token: 0.071). Other presets: not measured.
"""

import common


def get_config(argument=None):
  arg, recipe, c = common.pretraining(argument, 'masked_lm', 'bidirectional', 'tiny_encoder', smallest='mini_encoder')

  c.objective = dict(masking=common.MASKING, chunk=recipe['chunk'])
  c.data = common.corpus(arg, recipe, cls_sep=True)
  c.optim = common.pretraining_optimizer(recipe, weight_decay=0.01, eps=1e-6)

  # Held-out rows, with the likeliest tokens for each mask
  c.samples = dict(count=3, top=5)
  return c
