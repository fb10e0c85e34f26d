"""Fine-tunes a pre-trained checkpoint to find the answer to a question in a text.

  python -m lmjax.main --config=configs/finetune_qa.py:demo
  python -m lmjax.main --config=configs/finetune_qa.py:train=train-v2.0.json,valid=dev-v2.0.json
  python -m lmjax.main --config=configs/finetune_qa.py --config.init_from.path=runs/pretrain_clm

It starts from runs/pretrain_mlm, and takes SQuAD 1.1 from TFDS. Arguments: common.py; files in SQuAD's format, or such
as tfds:squad/v2.0@train; match, mark context tokens that the question has too, as demo does (the model saw little).
Measured (demo, 2 cores of an AMD EPYC): 90 s of training steps, test F1 0.348. More: experiments/README.md.
"""

import common


def get_config(argument=None):
  task = dict(fields=None, match=False, head_only=False)
  arg, c = common.fine_tuning(argument, 'extractive_qa', 'tfds:squad/v1.1@train', length=192, **task)
  match = arg.match or arg.demo

  # Two scores a token, new; segments are too, where a third one marks the question's tokens
  if match:
    c.model.segment_types = 3
  taken, new = ('embeddings/token/*', 'embeddings/position/*', 'embeddings/norm/*'), ('embeddings/segment/*',)
  known, new = ((), new) if match else (new, ())
  taken = (*taken, *known, *common.LAYERS)
  c.init_from = common.hand_off(arg, 'runs/pretrain_mlm', taken, new=('span/*', *new), drop=('head/*', *new))

  # Lengths in tokens: windows of a long context overlap by half
  c.objective = dict(max_question=32, stride=arg.length // 2, max_answer=30, n_best=20, no_answer=None)
  valid = arg.train.partition('@')[0] + '@validation' if arg.train.startswith('tfds:squad/') else None
  c.data = common.records(arg, valid, valid_examples=64 if arg.smoke else None)

  c.optim = common.fine_tuning_optimizer(arg, c.init_from.fresh, learning_rate=5e-4, weight_decay=0.01)
  c.update(common.fine_tuning_bookkeeping(arg, epochs=4.0 if arg.demo else 2.0))
  return c
