"""Fine-tunes adapters (LoRA) next to a public decoder to write summaries of bills.

  python -m lmjax.main --config=configs/legal_summaries.py
  python -m lmjax.main --config=configs/legal_summaries.py:model=hf:meta-llama/Llama-3.2-1B,train=train.jsonl
  python -m lmjax.main --config=configs/legal_summaries.py:lora=None,long_documents=head_tail

It takes BillSum, bills of the US Congress, from TFDS. Arguments: common.py, with lora=16; model=; long_documents= and
beams= as in finetune_summarization.py; lora=None changes all weights.
Measured (SmolLM2-135M-Instruct, 512 bills once, 2 cores of an AMD EPYC): 1,699 s, ROUGE-L 0.169; see docs/legal.md.
"""

import common


def get_config(argument=None):
  task = dict(model='hf:Qwen/Qwen3-0.6B', lora=(int | None, 16), long_documents='head', beams=1)
  arg, c = common.fine_tuning(argument, 'summarization', 'tfds:billsum@train', None, **task)
  arg.length = arg.length or (256 if arg.demo else 2048)
  c.model.dtype = 'bfloat16'
  taken = ('embeddings/*', *common.LAYERS, 'head/*')
  c.init_from = common.hand_off(arg, common.public_model(arg, 'llama_3_1'), taken, new=())
  c.objective = common.summaries(arg)

  # Generating takes long: not all validation records
  test = 'tfds:billsum@test' if arg.train == 'tfds:billsum@train' else None
  c.data = common.records(arg, test=test, fields=arg.fields, valid_examples=16 if arg.smoke else 200)

  rate = common.public_rate(arg)
  c.optim = common.fine_tuning_optimizer(arg, c.init_from.fresh, learning_rate=rate, weight_decay=0.01)
  c.update(common.fine_tuning_bookkeeping(arg, epochs=3.0))
  return c
