"""Fine-tunes an encoder to find clauses of contracts: questions of CUAD (https://arxiv.org/abs/2103.06268).

  python -m lmjax.main --config=configs/legal_qa.py
  python -m lmjax.main --config=configs/legal_qa.py:model=hf:answerdotai/ModernBERT-base,lora=16

It starts from runs/legal_mlm, and takes what `python experiments/split.py CUAD_v1.json cuad` wrote. Arguments:
common.py; model=; length=TOKENS of a window of a contract, 8192 unless given; BERT's positions end at 512.
Measured (MiniLM, 1,884 questions once, 2 cores of an AMD EPYC): 369 s, test F1 0.810; more in docs/legal.md.
"""

import common

CUAD = 'cuad/train.json'


def get_config(argument=None):
  task = dict(fields=None, model='runs/legal_mlm')
  arg, c = common.fine_tuning(argument, 'extractive_qa', CUAD, None, **task)
  arg.length = arg.length or (64 if arg.smoke else 8192)
  c.model.dtype = 'bfloat16'
  taken = ('embeddings/*', *common.LAYERS)
  c.init_from = common.hand_off(arg, common.public_model(arg, 'bert'), taken, new=('span/*',), drop=('head/*',))

  # Lengths in tokens: windows overlap by half; many questions have no answer, or a whole paragraph for one
  c.objective = dict(
    max_question=min(arg.length // 8, 96), max_answer=min(arg.length // 4, 128), stride=arg.length // 2
  )
  c.objective.update(n_best=20, no_answer=None)
  valid, test = ('cuad/valid.json', 'cuad/test.json') if arg.train == CUAD else (None, None)
  c.data = common.records(arg, valid, test, valid_examples=64 if arg.smoke else None)

  rate = common.public_rate(arg)
  c.optim = common.fine_tuning_optimizer(arg, c.init_from.fresh, learning_rate=rate, weight_decay=0.01)
  c.update(common.fine_tuning_bookkeeping(arg, epochs=3.0))
  return c
