"""Fine-tunes a pre-trained checkpoint to find the answer to a question in a text.

  python -m lmjax.main --config=configs/finetune_qa.py:demo
  python -m lmjax.main --config=configs/finetune_qa.py:train=train-v2.0.json,valid=dev-v2.0.json
  python -m lmjax.main --config=configs/finetune_qa.py --config.init_from.path=runs/pretrain_clm

It starts from runs/pretrain_mlm, and takes SQuAD 1.1 from TFDS. Arguments: demo, the embedded questions; train=,
valid=, test=, files in SQuAD's format, or tfds:NAME@SPLIT such as tfds:squad/v2.0@train; length=TOKENS; epochs=;
match, mark context tokens that the question has too, for a model that saw little text (demo does); head_only, the
backbone stays as it is; lora=RANK, adapters beside it; preset=NAME, a model from random weights; smoke, a run of
seconds from runs/pretrain_mlm-smoke.
Measured (demo, 2 cores of an AMD EPYC): 148 s of training steps, test F1 0.282. More: experiments/README.md.
"""

from ml_collections import ConfigDict

from lmjax.models import presets
from lmjax.schema.command_line import parse_argument


def get_config(argument=None):
  """The config of a run."""
  sources = dict(train='tfds:squad/v1.1@train', valid=None, test=None)
  size = dict(length=192, epochs=(float | None, None), preset=None, lora=(int | None, None))
  arg = parse_argument(argument, **sources, **size, match=False, head_only=False, demo=False, smoke=False)
  demo = arg.demo or arg.smoke
  match = arg.match or demo
  valid = arg.train.partition('@')[0] + '@validation' if arg.train.startswith('tfds:squad/') else None
  c = ConfigDict(dict(task='extractive_qa', seed=0))
  c.model = dict(residual_dropout=0.1) if arg.preset is None else presets.get(arg.preset)['model']
  if match:
    c.model.segment_types = 3
  if arg.lora is not None:
    c.model.lora = dict(rank=arg.lora, alpha=2.0 * arg.lora, dropout=0.1, targets=('*/query/kernel', '*/value/kernel'))
  c.mesh = dict(data=None, fsdp=1, tensor=1)
  source = None if arg.preset else 'runs/pretrain_mlm-smoke' if arg.smoke else 'runs/pretrain_mlm'
  known, new = ((), ('embeddings/segment/*',)) if match else (('embeddings/segment/*',), ())
  c.init_from = dict(path=source, step='latest', convert=None, drop=('head/*', *new))
  c.init_from.take = ('embeddings/token/*', 'embeddings/position/*', 'embeddings/norm/*', *known)
  c.init_from.take += ('layers/*/kernel', 'layers/*/bias', 'layers/*/scale', 'final_norm/*')
  c.init_from.fresh = ('span/*', *new) if arg.lora is None else ('span/*', *new, '*/lora_a', '*/lora_b')
  c.objective = dict(max_question=32, stride=arg.length // 2, max_answer=30, n_best=20, no_answer=None)
  tokenizer = dict(path=None, vocab_size=4096, sample_bytes=10_000_000, lowercase=False)
  c.data = dict(
    train='demo' if demo else arg.train,
    valid='demo' if demo else arg.valid or valid,
    valid_fraction=None if demo or arg.valid or valid else 0.1,
    test=None if arg.smoke else 'demo' if demo else arg.test,
    fields=None,
    train_share=1.0,
    valid_examples=64 if arg.smoke else None,
    tokenizer=tokenizer if arg.preset else None,
    length=arg.length,
    batch_size=8 if arg.smoke else 16,
    bad_text='raise',
  )
  c.optim = dict(name='adamw', learning_rate=5e-4, schedule='linear', warmup_steps=None, decay_steps=None)
  c.optim.update(final_rate=0.0, weight_decay=0.01, no_decay=('*/bias', '*/scale', '*/embedding'))
  c.optim.update(b1=0.9, b2=0.999, eps=1e-8, momentum=None, clip_norm=1.0, frozen=())
  trainable = c.init_from.fresh if arg.head_only or arg.lora else ('*',)
  c.optim.update(trainable=trainable, layer_decay=None, head_learning_rate=None)
  c.train = dict(steps=20 if arg.smoke else None, epochs=None if arg.smoke else arg.epochs or (4.0 if demo else 2.0))
  c.train.update(log_every=1 if arg.smoke else 10, accumulate=1, max_skipped=5, seeds=1)
  c.eval = dict(every=10 if arg.smoke else None, patience=None)
  c.samples = dict(count=5)
  c.checkpoint = dict(every=None, keep_last=2, keep_best=1)
  c.writer, c.profile = dict(tensorboard=not arg.smoke, wandb_project=None), dict(start=None, steps=3)
  c.hosts = dict(start_seconds=300, lost_seconds=100, hang_seconds=1800)
  return c
