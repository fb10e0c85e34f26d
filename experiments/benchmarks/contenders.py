"""Train steps that take turns: lmjax's own, and others with torch, each in a process of its own.

As a program this is the other side of `Worker`: `contenders.py NAME SHAPE_AS_JSON`.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import resource
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np

ADAMW = dict(learning_rate=3e-4, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)
CLIP_NORM = 1.0
MASK_RATE = 0.15  # of BERT
LABEL_IGNORED = -100  # by the losses of transformers
CONFIGS = pathlib.Path(__file__).resolve().parents[2] / 'configs'


@dataclasses.dataclass(frozen=True)
class Shape:
  """What is computed; `chunk` (positions a row whose logits exist at one time) concerns lmjax alone."""

  model: str  # gpt2, bert or llama
  layers: int
  width: int
  heads: int
  vocab: int
  batch: int
  length: int
  chunk: int
  kv_heads: int | None = None  # None: as many as heads
  hidden: int | None = None
  tied: bool = False  # Llama's output is its input's table, as it always is in the others
  dtype: str = 'float32'  # of products; parameters are float32

  @property
  def mlp_width(self) -> int:
    """Llama's gated layers have three matrices where the others have two."""
    if self.hidden is not None:
      return self.hidden
    return 8 * self.width // 3 // 32 * 32 if self.model == 'llama' else 4 * self.width

  @property
  def tokens(self) -> int:
    """Of a step."""
    return self.batch * self.length


class Worker:
  """One contender in a process of its own, spoken to in lines of JSON; with `wait`, alone until its first step."""

  def __init__(self, name: str, shape: Shape, environment: dict | None = None, wait: bool = True):
    self._began = time.perf_counter()
    command = [sys.executable, __file__, name, json.dumps(dataclasses.asdict(shape))]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    self.process = subprocess.Popen(command, text=True, env=os.environ | (environment or {}), **pipes)
    if wait:
      _ = self.first

  @functools.cached_property
  def first(self) -> dict:
    """Waits for its first step: {'start': seconds from the start of the process to the end of that}.

    Of lmjax also what its program is: kernels (cuDNN's attention), needed (peak bytes by the compiler), flops (of a
    step), peak_flops (of the device, or None).
    """
    return self._read() | {'start': time.perf_counter() - self._began}

  @property
  def error(self) -> str | None:
    """Why it failed."""
    return self.first.get('error')

  def ask(self, steps: int) -> dict:
    """Has it take so many steps: seconds, loss and peak_bytes, so far, of the GPU, or else the highest resident set."""
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
  """The first step at once, then as many as each line of the input asks for."""
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # whatever a library prints is not an answer

  def answer(**values):
    answers.write(json.dumps(values) + '\n')
    answers.flush()

  try:
    step = Lmjax(shape) if name == 'lmjax' else Torch(shape, name)
    float(step())
    answer(**step.about)
    float(step())  # what is done once more (allocation, recompilation) stays out of the first round
  except Exception as error:  # a missing compiler, an operation that is not there: reported in the table
    return answer(error=f'{type(error).__name__}: {str(error).strip().splitlines()[0]}')
  for line in sys.stdin:
    steps = json.loads(line)['steps']
    began = time.perf_counter()
    for _ in range(steps):
      loss = step()
    loss = float(loss)  # which waits for the last step
    seconds = time.perf_counter() - began
    peak = step.device_peak() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    answer(seconds=seconds, loss=loss, peak_bytes=peak)


def make_batch(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
  """Rows of random ids, one longer than the model's input, and for BERT the masked places of each row, sorted."""
  rng = np.random.default_rng(0)
  rows = rng.integers(0, shape.vocab, (shape.batch, shape.length + 1), dtype=np.int32)
  slots = math.ceil(MASK_RATE * shape.length)
  places = np.argsort(rng.random((shape.batch, shape.length)), axis=1)[:, :slots]
  return rows, np.sort(places, axis=1).astype(np.int32)


def settings(shape: Shape) -> dict[str, object]:
  """The settings of a run of lmjax that computes this shape."""
  given = dict(layers=shape.layers, width=shape.width, heads=shape.heads, kv_heads=shape.kv_heads or shape.heads)
  given |= dict(mlp_width=shape.mlp_width, vocab_multiple=1, scan=False, remat='none', dtype=shape.dtype)
  given |= dict(tied_embeddings=shape.tied or shape.model != 'llama')
  given |= dict.fromkeys(('embedding_dropout', 'attention_dropout', 'residual_dropout'), 0.0)
  if shape.model != 'llama':
    given['max_length'] = shape.length + 1
  of_bert, of_others = {'objective.masking.rate': MASK_RATE}, {'samples.prompt_tokens': 4, 'samples.new_tokens': 4}
  no_decay = ('*/scale', '*/embedding') if shape.model == 'llama' else ('*/bias', '*/scale', '*/embedding')
  return (
    {f'model.{name}': value for name, value in given.items()}
    | {f'optim.{name}': value for name, value in ADAMW.items()}
    | {'optim.schedule': 'constant', 'optim.warmup_steps': 0, 'optim.final_rate': None, 'optim.no_decay': no_decay}
    | {'optim.name': 'adamw', 'optim.clip_norm': CLIP_NORM, 'objective.chunk': shape.chunk, 'train.accumulate': 1}
    | {'data.batch_size': shape.batch, 'data.length': shape.length, 'data.tokenizer.vocab_size': shape.vocab}
    | (of_bert if shape.model == 'bert' else of_others)
    | {f'mesh.{axis}': 1 for axis in ('data', 'fsdp', 'tensor')}
  )


class Lmjax:
  """A run of lmjax; calling it takes one step, compiled as a run's is, and returns what the loss can be read from."""

  def __init__(self, shape: Shape):
    import jax

    from lmjax import config as config_lib
    from lmjax import optim, sharding
    from lmjax.models import flops
    from lmjax.schema.command_line import load_config_file
    from lmjax.tasks import prepare
    from lmjax.training import compiled, progress, state, step

    file, preset = ('pretrain_mlm.py', 'bert_base') if shape.model == 'bert' else ('pretrain_clm.py', 'gpt2_small')
    raw = load_config_file(CONFIGS / file, f'preset={"llama_60m" if shape.model == "llama" else preset}')
    with raw.ignore_type():
      raw.update_from_flattened_dict(settings(shape))
    self.config, self.task = prepare.without_data(config_lib.build(raw))
    mesh = sharding.make_mesh(self.config.mesh, jax.devices()[:1])
    jax.set_mesh(mesh)
    tx = optim.make(self.config.optim, self.task.shapes())
    self.state = state.init_state(self.task, tx, mesh, state.init_params(self.task, mesh, seed=0))
    found = compiled.compile_run(self.task, tx, self.config.optim, self.config.train, mesh, None, print)
    rows, slots = make_batch(shape)
    batch = dict(inputs=rows[:, :-1], targets=rows[:, 1:], weights=np.ones(rows[:, 1:].shape, np.float32))
    if shape.model == 'bert':
      ones, targets = np.ones(slots.shape, np.float32), np.take_along_axis(rows, slots, axis=1)
      batch = dict(inputs=rows[:, :-1], slots=slots, targets=targets, weights=ones, shown=ones)
    key = jax.device_put(step.dropout_key(0), sharding.replicated(mesh))
    self._step, self._rest = found.program, (sharding.shard_batch(batch, mesh), key)
    self.about = dict(
      kernels=found.program.as_text().count('custom_call_target="__cudnn$fmha'),
      needed=found.needed,
      flops=progress.step_flops(self.task),
      peak_flops=flops.peak_flops(jax.devices()[0]),
    )

  def __call__(self) -> 'Loss':
    """Takes a step."""
    self.state, report = self._step(self.state, *self._rest)
    return Loss(*report['pairs']['loss'])

  def device_peak(self) -> int | None:
    """Highest bytes in use on the device, where it counts them."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use')


class Loss(NamedTuple):
  """A sum and its weight, which may still be on their way."""

  total: object
  weight: object

  def __float__(self) -> float:
    return float(self.total) / float(self.weight)


class Torch:
  """The same with torch.optim.AdamW: 'torch eager' and 'torch.compile' are transformers, 'plain torch' is written out
  and compiled. All at their fastest: SDPA attention (on a GPU its flash kernel, or it fails), the fused optimizer."""

  about: dict = {}

  def __init__(self, shape: Shape, name: str):
    import torch

    self._step = make_torch(shape, name, 'cuda' if torch.cuda.is_available() else 'cpu')

  def __call__(self):
    """Takes a step; returns its loss, a tensor."""
    return self._step()

  def device_peak(self) -> int | None:
    """Highest bytes of a GPU's tensors."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def make_torch(shape: Shape, name: str, device: str):
  """A function that takes a step."""
  import torch
  from torch.nn.attention import SDPBackend, sdpa_kernel

  torch.manual_seed(0)
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  if name == 'plain torch':
    import plain_torch

    model = plain_torch.Decoder(shape).train().to(device)
  else:
    model = transformers_model(shape).train().to(device)
  optimizer = torch.optim.AdamW(
    decayed_apart(model, ADAMW['weight_decay']),
    lr=ADAMW['learning_rate'],
    betas=(ADAMW['b1'], ADAMW['b2']),
    eps=ADAMW['eps'],
    fused=True,
  )
  rows, slots = (torch.from_numpy(a.astype(np.int64)).to(device) for a in make_batch(shape))
  inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
  if shape.model == 'bert':
    labels = torch.full_like(inputs, LABEL_IGNORED).scatter(1, slots, inputs.gather(1, slots))
    batch = dict(input_ids=inputs, labels=labels)
  elif name == 'plain torch':
    batch = dict(inputs_BT=inputs, targets_BT=targets)
  else:
    batch = dict(input_ids=inputs, labels=targets, shift_labels=targets)
  forward = model if name == 'torch eager' else torch.compile(model)
  kernels = [SDPBackend.FLASH_ATTENTION] + ([] if device == 'cuda' else [SDPBackend.MATH])
  mixed = torch.autocast(device, torch.bfloat16, enabled=shape.dtype == 'bfloat16')

  def step():
    with mixed, sdpa_kernel(kernels):
      loss = forward(**batch)
    loss = loss if name == 'plain torch' else loss.loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimizer.step()
    return loss.detach()

  return step


def decayed_apart(model, weight_decay: float) -> list[dict]:
  """The parameter groups of an optimizer: kernels are decayed, tables of embeddings, biases and norms are not."""
  import torch

  tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
  decayed = [p for p in model.parameters() if p.ndim == 2 and id(p) not in tables]
  kept = [p for p in model.parameters() if p.ndim != 2 or id(p) in tables]
  return [dict(params=decayed, weight_decay=weight_decay), dict(params=kept, weight_decay=0.0)]


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
  sizes |= dict(num_key_value_heads=c.kv_heads or c.heads, tie_word_embeddings=c.tied, use_cache=False)
  return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))


if __name__ == '__main__':
  work(sys.argv[1], Shape(**json.loads(sys.argv[2])))
