"""Pre-trains by causal language modelling (GPT).

  python -m lmjax.main --config=configs/pretrain_clm.py
  python -m lmjax.main --config=configs/pretrain_clm.py:data=mytext/*.txt
  python -m lmjax.main --config=configs/pretrain_clm.py:preset=gpt2_small,data=tfds:wiki40b/en

Arguments: common.py.
Measured (preset=tiny, pydoc, 2 cores of an AMD EPYC, other work): 166 s of training steps, 1.92 bits per byte
on held-out documents (gzip -9: 2.96). Other presets: not measured.
"""

import common


def get_config(argument=None):
  arg, recipe, c = common.pretraining(argument, 'causal_lm', 'causal', 'tiny', smallest='mini')

  # Each next token; `chunk` positions of a row at a time, since all logits at once would not fit into memory
  c.objective = dict(z_loss=None, label_smoothing=None, chunk=recipe['chunk'])
  c.data = common.corpus(arg, recipe, cls_sep=False)
  c.optim = common.pretraining_optimizer(recipe, weight_decay=0.1)

  # Completions of held-out text, lengths in tokens
  c.samples = dict(count=3, prompt_tokens=16, new_tokens=32 if arg.smoke else 64, temperature=0.8)
  c.samples.update(top_k=None, top_p=0.95)
  return c
