"""Fine-tunes a pre-trained causal checkpoint to write a short text from a long one: summarization.

  python -m lmjax.main --config=configs/finetune_summarization.py:demo
  python -m lmjax.main --config=configs/finetune_summarization.py:train=train.jsonl,valid=dev.jsonl
  python -m lmjax.main --config=configs/finetune_summarization.py:length=512,beams=4

It starts from runs/pretrain_clm, and takes BillSum, bills of the US Congress, from TFDS; a third of length=1024 is for
the summary (94% of the tokens of 734 such summaries). Arguments: common.py; demo, docstrings to their first lines, of
length=256; files of .jsonl, .csv or .tsv; fields=DOCUMENT,SUMMARY; long_documents=head, head_tail or chunks; beams=.
Measured (demo, 2 cores of an AMD EPYC): 258 s of training steps, test ROUGE-L 0.104 (lead-1: 0.165).
"""

import common


def get_config(argument=None):
  arg, c = common.fine_tuning(argument, 'summarization', 'tfds:billsum@train', None, long_documents='head', beams=1)
  arg.length = arg.length or (256 if arg.demo else 1024)
  taken = ('embeddings/*', *common.LAYERS, 'head/*')
  c.init_from = common.hand_off(arg, 'runs/pretrain_clm', taken, new=())

  c.objective = common.summaries(arg)

  # Generating takes long: not all validation records
  test = 'tfds:billsum@test' if arg.train == 'tfds:billsum@train' else None
  c.data = common.records(arg, test=test, fields=arg.fields, valid_examples=16 if arg.smoke else 200)

  c.optim = common.fine_tuning_optimizer(arg, c.init_from.fresh, learning_rate=5e-4, weight_decay=0.01)
  c.update(common.fine_tuning_bookkeeping(arg, epochs=3.0))
  return c
