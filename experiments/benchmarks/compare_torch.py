"""Times lmjax against transformers with torch: the same model shape and batch, taking turns in one run.

  python experiments/benchmarks/compare_torch.py
  python experiments/benchmarks/compare_torch.py --model=bert --length=128 --rounds=5

A step is forward, loss, backward, clipping and AdamW, in float32. Each contender lives in a process of its own, so
that its peak memory is its own; the parent tells them in turn to take some steps. Shared machines change their speed
by the minute: so ratios are taken within a round, and only their median over the rounds says something.

Needs the `parity` extra (torch, transformers); torch.compile also needs a C++ compiler.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib import metadata

import numpy as np

CONTENDERS = ('lmjax', 'torch eager', 'torch.compile')
ADAMW = dict(learning_rate=3e-4, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)
CLIP_NORM = 1.0
MASK_RATE = 0.15  # of BERT
LABEL_IGNORED = -100  # by the losses of transformers


@dataclasses.dataclass(frozen=True)
class Shape:
  """What is computed; `chunk` (positions a row whose logits exist at one time) concerns lmjax alone."""

  model: str
  layers: int
  width: int
  heads: int
  vocab: int
  batch: int
  length: int
  chunk: int
  attention: str

  @property
  def mlp_width(self) -> int:
    """Llama's gated layers have three matrices where the others have two."""
    return 8 * self.width // 3 // 32 * 32 if self.model == 'llama' else 4 * self.width


def main():
  """Runs the rounds and prints the table."""
  args = parse_arguments()
  if args.worker:
    return work(args.worker, Shape(**json.loads(args.shape)))
  names = [field.name for field in dataclasses.fields(Shape)]
  shape = Shape(**{name: getattr(args, name) for name in names})
  print(f'{shape}\n{machine()}', flush=True)
  workers = {}
  for name in args.contenders.split(','):
    workers[name] = worker = Worker(name, shape)
    said = f'failed: {worker.error}' if worker.error else f'first step after {worker.first["first_step"]:.1f} s'
    print(f'{name}: {said}', flush=True)
  running = [name for name, worker in workers.items() if not worker.error]
  rates = {name: [] for name in running}
  for round_ in range(args.rounds):
    shift = round_ % max(len(running), 1)  # nobody always goes first
    for name in running[shift:] + running[:shift]:
      answer = workers[name].ask(steps=args.steps)
      rates[name].append(args.steps * shape.batch * shape.length / answer['seconds'])
    print(
      f'round {round_ + 1}: ' + ', '.join(f'{name} {rates[name][-1]:,.0f} tokens/s' for name in running), flush=True
    )
  print('\n' + table(workers, rates, {name: workers[name].ask(steps=0) for name in running}))
  for worker in workers.values():
    worker.end()


def parse_arguments():
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--model', choices=('gpt2', 'bert', 'llama'), default='gpt2')
  defaults = dict(layers=6, width=384, heads=6, vocab=8192, batch=16, length=256, chunk=64, rounds=7, steps=2)
  for name, value in defaults.items():
    parser.add_argument(f'--{name}', type=int, default=value)
  parser.add_argument('--attention', default='auto', help="lmjax's model.attention_implementation")
  parser.add_argument('--contenders', default=','.join(CONTENDERS))
  parser.add_argument('--worker', help=argparse.SUPPRESS)
  parser.add_argument('--shape', help=argparse.SUPPRESS)
  return parser.parse_args()


class Worker:
  """One contender in a process of its own, spoken to in lines of JSON.

  Attributes:
    first: its answer after the first step, None where it failed.
    error: why it failed, or None.
  """

  def __init__(self, name, shape):
    command = [sys.executable, __file__, f'--worker={name}', f'--shape={json.dumps(dataclasses.asdict(shape))}']
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    self.process = subprocess.Popen(command, text=True, **pipes)
    self.first = self._read()
    self.error = self.first.get('error')

  def ask(self, steps: int) -> dict:
    """Has it take so many steps: seconds, loss and peak memory."""
    self.process.stdin.write(json.dumps({'steps': steps}) + '\n')
    self.process.stdin.flush()
    answer = self._read()
    if 'error' in answer:
      raise RuntimeError(answer['error'])
    return answer

  def end(self):
    """Closes its input, at which it ends."""
    self.process.stdin.close()
    self.process.wait()

  def _read(self):
    line = self.process.stdout.readline()
    return json.loads(line) if line else {'error': f'ended with exit code {self.process.wait()}'}


def work(name: str, shape: Shape):
  """The other side of `Worker`: the first step at once, then as many as each line of the input asks for."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # whatever a library prints is not an answer

  def answer(**values):
    answers.write(json.dumps(values) + '\n')
    answers.flush()

  try:
    began = time.perf_counter()
    step = make_lmjax(shape) if name == 'lmjax' else make_torch(shape, compiled=name == 'torch.compile')
    built = time.perf_counter()
    step()
    first = time.perf_counter() - built
    step()  # what is done once more (allocation, recompilation) stays out of the first round
    answer(first_step=first, build=built - began)
  except Exception as error:  # a missing compiler, an operation that is not there: said in the table
    return answer(error=f'{type(error).__name__}: {str(error).strip().splitlines()[0]}')
  for line in sys.stdin:
    steps = json.loads(line)['steps']
    began = time.perf_counter()
    for _ in range(steps):
      loss = step()
    seconds = time.perf_counter() - began
    answer(seconds=seconds, loss=loss, peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def make_batch(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
  """Rows of random ids, one longer than the model's input, and for BERT the masked places of each row, sorted."""
  rng = np.random.default_rng(0)
  rows = rng.integers(0, shape.vocab, (shape.batch, shape.length + 1), dtype=np.int32)
  slots = math.ceil(MASK_RATE * shape.length)
  places = np.argsort(rng.random((shape.batch, shape.length)), axis=1)[:, :slots]
  return rows, np.sort(places, axis=1).astype(np.int32)


def make_lmjax(shape: Shape):
  """A function that takes one step and returns the loss, through the step that training runs."""
  import types

  import jax

  from lmjax import optim, sharding
  from lmjax.data.config import MaskingConfig
  from lmjax.models import presets
  from lmjax.models.config import ModelConfig
  from lmjax.models.heads import LanguageModel
  from lmjax.models.transformer import Transformer
  from lmjax.objectives import causal, masked
  from lmjax.training import state
  from lmjax.training.step import make_train_step

  preset = {'gpt2': 'gpt2_small', 'bert': 'bert_base', 'llama': 'llama_60m'}[shape.model]
  model = presets.PRESETS[preset]['model'] | dict(
    layers=shape.layers,
    width=shape.width,
    heads=shape.heads,
    kv_heads=shape.heads,
    mlp_width=shape.mlp_width,
    vocab_multiple=1,
    embedding_dropout=0.0,
    attention_dropout=0.0,
    residual_dropout=0.0,
    scan=False,
    remat='none',
    dtype='float32',
    attention_implementation=shape.attention,
  )
  if model['max_length'] is not None:
    model['max_length'] = shape.length + 1
  config = ModelConfig(**model)
  language_model = LanguageModel(Transformer(config, shape.vocab))
  rows, slots = make_batch(shape)
  if shape.model == 'bert':
    loss = masked.make_loss(language_model, masked.MaskedConfig(_bert_masking(MaskingConfig), shape.chunk))
    ones, targets = np.ones(slots.shape, np.float32), np.take_along_axis(rows, slots, axis=1)
    batch = dict(inputs=rows[:, :-1], slots=slots, targets=targets, weights=ones, shown=ones)
  else:
    loss = causal.make_loss(language_model, causal.CausalConfig(None, None, shape.chunk))
    batch = dict(inputs=rows[:, :-1], targets=rows[:, 1:], weights=np.ones(rows[:, 1:].shape, np.float32))
  no_decay = ('*/bias', '*/scale', '*/embedding') if config.biases else ('*/scale', '*/embedding')
  settings = optim.OptimConfig(
    name='adamw',
    schedule='constant',
    warmup_steps=0,
    decay_steps=None,
    final_rate=None,
    no_decay=no_decay,
    momentum=None,
    clip_norm=CLIP_NORM,
    **ADAMW,
  )
  shapes = jax.eval_shape(language_model.init, jax.random.key(0))
  task = types.SimpleNamespace(
    loss=loss, model=language_model, axes=language_model.axes, shapes=lambda: shapes, has_dropout=config.has_dropout
  )
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 1, 1))
  jax.set_mesh(mesh)
  tx = optim.make(settings, shapes)
  current = state.init_state(task, tx, mesh, seed=0)
  places = jax.tree.map(lambda a: a.sharding, current)
  train_step = jax.jit(
    make_train_step(task, tx, settings, steps=1000, accumulate=1),
    in_shardings=(places, sharding.batch_shardings(batch, mesh), None),
    out_shardings=(places, sharding.replicated(mesh)),
    donate_argnums=0,
  )
  batch = sharding.shard_batch(batch, mesh)

  def step():
    nonlocal current
    current, report = train_step(current, batch, None)
    total, weight = report['pairs']['loss']
    return float(total) / float(weight)

  return step


def _bert_masking(cls):
  shares = dict(mask_share=0.8, random_share=0.1, keep_share=0.1)
  return cls(unit='token', rate=MASK_RATE, mean_span=None, max_span=None, **shares)


def make_torch(shape: Shape, compiled: bool):
  """The same with transformers and torch.optim.AdamW, both at their fastest: SDPA attention, the fused optimizer."""
  import torch

  torch.manual_seed(0)
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  model = transformers_model(shape).train()
  tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
  decayed = [p for p in model.parameters() if p.ndim == 2 and id(p) not in tables]
  kept = [p for p in model.parameters() if p.ndim != 2 or id(p) in tables]
  optimizer = torch.optim.AdamW(
    [dict(params=decayed, weight_decay=ADAMW['weight_decay']), dict(params=kept, weight_decay=0.0)],
    lr=ADAMW['learning_rate'],
    betas=(ADAMW['b1'], ADAMW['b2']),
    eps=ADAMW['eps'],
    fused=True,
  )
  rows, slots = (torch.from_numpy(a.astype(np.int64)) for a in make_batch(shape))
  if shape.model == 'bert':
    inputs = rows[:, :-1].contiguous()
    labels = torch.full_like(inputs, LABEL_IGNORED).scatter(1, slots, inputs.gather(1, slots))
  else:
    inputs = labels = rows  # the labels are shifted by transformers
  forward = torch.compile(model) if compiled else model

  def step():
    loss = forward(input_ids=inputs, labels=labels).loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    return loss.item()

  return step


def transformers_model(shape: Shape):
  """The model of the same shape, with random weights and without dropout."""
  import transformers

  c = shape
  if c.model == 'gpt2':
    sizes = dict(vocab_size=c.vocab, n_positions=c.length + 1, n_embd=c.width, n_layer=c.layers, n_head=c.heads)
    off = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False)
    return transformers.GPT2LMHeadModel(
      transformers.GPT2Config(**sizes, **off, bos_token_id=0, eos_token_id=0, attn_implementation='sdpa')
    )
  sizes = dict(
    vocab_size=c.vocab,
    hidden_size=c.width,
    num_hidden_layers=c.layers,
    num_attention_heads=c.heads,
    intermediate_size=c.mlp_width,
    max_position_embeddings=c.length + 1,
    attn_implementation='sdpa',
  )
  if c.model == 'bert':
    off = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return transformers.BertForMaskedLM(transformers.BertConfig(**sizes, **off))
  return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, use_cache=False))


def table(workers, rates, last) -> str:
  """Markdown: a row a contender."""
  rows = [
    '| | tokens/s, median (range) | lmjax is ... times as fast (range) | peak memory | first step | loss |',
    '|---|---|---|---|---|---|',
  ]
  for name, worker in workers.items():
    if worker.error:
      rows.append(f'| {name} | failed: {worker.error} | | | | |')
      continue
    tokens = rates[name]
    against = [mine / theirs for mine, theirs in zip(rates.get('lmjax', []), tokens)]
    ratio = f'{statistics.median(against):.2f} ({min(against):.2f} to {max(against):.2f})' if against else ''
    rows.append(
      f'| {name} | {statistics.median(tokens):,.0f} ({min(tokens):,.0f} to {max(tokens):,.0f}) | {ratio} '
      f'| {last[name]["peak_bytes"] / 1e6:,.0f} MB | {worker.first["first_step"]:.1f} s | {last[name]["loss"]:.3f} |'
    )
  return '\n'.join(rows)


def machine() -> str:
  """Processor, cores and versions."""
  model = platform.processor()
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo') as file:
      model = next((line.split(':')[1].strip() for line in file if line.startswith('model name')), model)
  versions = ', '.join(f'{name} {metadata.version(name)}' for name in ('jax', 'flax', 'torch', 'transformers'))
  return f'{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {versions}'


if __name__ == '__main__':
  main()
