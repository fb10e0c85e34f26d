"""Continues the masked pre-training of a public encoder, on legal text (https://arxiv.org/abs/2004.10964).

  python -m lmjax.main --config=configs/legal_mlm.py:data=mytext/*.txt
  python -m lmjax.main --config=configs/legal_mlm.py:model=hf:nlpaueb/legal-bert-base-uncased,length=512

It takes bills of the US Congress, BillSum, from TFDS. Arguments: data=, mix=, field= and smoke as in common.py; model=;
new_head, for a model without the head of this objective; length=; steps=. Measured (MiniLM, new_head, 1.2M tokens of
the US Code, 2 cores of an AMD EPYC): 721 s of training steps, accuracy 0.380 at held-out tokens; more in docs/legal.md.
"""

import common
from ml_collections import ConfigDict

from lmjax.schema.command_line import parse_argument


def get_config(argument=None):
  text = dict(data=None, mix=None, field='text', length=(int | None, None), steps=10_000)
  arg = parse_argument(argument, model='hf:answerdotai/ModernBERT-base', new_head=False, **text, smoke=False)
  arg.data = arg.data or ('pydoc' if arg.smoke else 'tfds:billsum@train')
  steps = 20 if arg.smoke else arg.steps

  # All of the model, in bfloat16; its tokenizer comes with it
  c = ConfigDict(dict(task='masked_lm', seed=0, model=dict(dtype='bfloat16'), mesh=dict(data=None, fsdp=1, tensor=1)))
  head = ('head/*',) if arg.new_head else ()
  taken = ('embeddings/*', *common.LAYERS) if arg.new_head else ('*',)
  c.init_from = dict(
    path=common.public_model(arg, 'bert'), step='latest', take=taken, fresh=head, drop=head, convert=None
  )
  c.objective = dict(masking=common.MASKING, chunk=128)
  rows = dict(vocab_size=None, length=arg.length or (64 if arg.smoke else 1024), batch_size=8 if arg.smoke else 64)
  c.data = common.corpus(arg, rows, cls_sep=True)

  rate = dict(optimizer='adamw', learning_rate=5e-5, warmup_steps=steps // 16)
  c.optim = common.pretraining_optimizer(rate, weight_decay=0.01, eps=1e-6)
  every = max(steps // 4, 1)
  c.update(common.bookkeeping(arg, max(steps // 1000, 10), evaluate=every, save=every, steps=steps))
  c.samples = dict(count=3, top=5)
  return c
