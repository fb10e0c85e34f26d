"""A trained model as EleutherAI's lm-evaluation-harness asks for one: https://github.com/EleutherAI/lm-evaluation-harness

Texts are cut and framed as its own class for models of transformers does, so that numbers are those of the exported
folder. Legend: B batch, T length, C positions of a chunk, D width, V rows of the vocabulary, N new tokens.
"""

import functools
import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models import utils as model_utils

from lmjax.errors import ConfigError
from lmjax.models import decode
from lmjax.models.heads import LanguageModel
from lmjax.tasks.base import Run

# Rows are padded to so many tokens, or twice, four times, ... as many: each length compiles once.
BUCKET = 64
# Positions of a row whose logits exist at one time; it divides BUCKET.
CHUNK = 16
# Of generation, lengths of prompts that are compiled for a task: the longest, and halves of it.
_LENGTHS = 3
_SAMPLING = ('temperature', 'top_k', 'top_p', 'do_sample')
Request = tuple[Any, list[int], list[int]]  # (what it is kept by, context, continuation)


class HarnessModel(TemplateLM):
  """A decoder with its tokenizer.

  Args:
    model, params: the language model.
    tokenizer: that of the exported folder, in which a special token that a text spells is one.
    prefix: the id that stands before a text that is scored from its first token.
    ends: the ids that end a text; the first one fills rows.
    max_length: tokens that a row may have.
    batch_size: rows at a time.
    run: runs a function of (params, batch) on all devices.

  Attributes:
    cut: how many contexts were longer than a row, and lost their beginning.
  """

  def __init__(
    self,
    model: LanguageModel,
    params,
    tokenizer: tokenizers.Tokenizer,
    prefix: int,
    ends: tuple[int, ...],
    max_length: int,
    batch_size: int,
    run: Run,
  ):
    super().__init__()
    self._model, self._params, self._tokenizer, self._run = model, params, tokenizer, run
    self._prefix, self._ends = prefix, ends
    self.max_length, self.batch_size, self.cut = max_length, batch_size, 0

  @property
  def eot_token_id(self) -> int:
    """The id that ends a text."""
    return self._ends[0]

  @property
  def prefix_token_id(self) -> int:
    """The id before a text that is scored from its first token."""
    return self._prefix

  @property
  def tokenizer_name(self) -> str:
    """A name for caches: a digest of the tokenizer."""
    return hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()

  def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
    """Ids of a text, after what stands before a text unless that is not wanted or is spelled there."""
    spelled = model_utils.has_bos_prefix(string, self._tokenizer.id_to_token(self._prefix))
    wanted = not spelled if add_special_tokens is None else add_special_tokens
    return self._tokenizer.encode(string, add_special_tokens=wanted).ids

  def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
    """The log-probability of whole texts, each token scored once."""
    pieces: list[Request] = []
    owners = []
    for owner, request in enumerate(requests):
      windows = utils.get_rolling_token_windows(
        token_list=self.tok_encode(request.args[0]),
        prefix_token=self._prefix,
        max_seq_len=self.max_length,
        context_len=1,
      )
      for window in windows:
        pieces.append((None, *utils.make_disjoint_window(window)))
        owners.append(owner)
    totals = [0.0] * len(requests)
    for owner, (value, _) in zip(owners, self._loglikelihood_tokens(pieces)):
      totals[owner] += value
    return totals

  def _loglikelihood_tokens(self, requests: Sequence[Request], **kwargs) -> list[tuple[float, bool]]:
    """(log-probability of a continuation, whether it is what greedy decoding gives) of each request."""
    answers: list[Any] = [None] * len(requests)
    rows = [([*context, *continuation])[-(self.max_length + 1) :] for _, context, continuation in requests]
    longest = max((len(continuation) for _, _, continuation in requests), default=0)
    if longest > self.max_length:
      rule = f'a continuation of {longest:,} tokens is longer than the {self.max_length:,} that the model reads'
      raise ConfigError(f'--tasks: {rule}; choose other tasks')
    self.cut += sum(len(c) + len(new) > self.max_length + 1 for _, c, new in requests)
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    score = _scorer(self._model)
    for first in range(0, len(order), self.batch_size):
      chosen = order[first : first + self.batch_size]
      length = _bucket(len(rows[chosen[0]]) - 1)
      batch = {name: np.zeros((self.batch_size, length), np.int32) for name in ('inputs', 'segments', 'targets')}
      batch['segments'][:, 0] = 1
      for place, i in enumerate(chosen):
        size = len(rows[i]) - 1
        batch['inputs'][place, :size], batch['targets'][place, :size] = rows[i][:-1], rows[i][1:]
        batch['segments'][place, :size] = 1
      found = self._run(score, self._params, batch)
      for place, i in enumerate(chosen):
        size, scored = len(rows[i]) - 1, len(requests[i][2])
        span = slice(size - scored, size)
        answers[i] = float(found['log_p'][place, span].sum()), bool(found['is_likeliest'][place, span].all())
        if requests[i][0] is not None:
          self.cache_hook.add_partial('loglikelihood', requests[i][0], answers[i])
    return answers

  def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
    """Continuations of texts, up to the first of some strings."""
    made: list[Any] = [None] * len(requests)
    groups: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
      groups.setdefault(repr(sorted(request.args[1].items())), []).append(i)
    for indices in groups.values():
      settings = dict(model_utils.normalize_gen_kwargs(requests[indices[0]].args[1], 256))
      ending = self._tokenizer.id_to_token(self._ends[0])
      until = model_utils.handle_stop_sequences(settings.pop('until', None), eos=ending)
      new_tokens = settings.pop('max_gen_toks')
      if unknown := sorted(settings.keys() - set(_SAMPLING)):
        raise ConfigError(f'generation_kwargs.{unknown[0]}: no such setting here; choose a task without it')
      left = self.max_length - new_tokens
      if left < 1:
        rule = f'leaves nothing for a prompt, of {self.max_length:,} tokens that the model reads'
        raise ConfigError(f'generation_kwargs.max_gen_toks = {new_tokens}: {rule}; set it to less')
      encoded = {i: self.tok_encode(requests[i].args[0]) or [self._prefix] for i in indices}
      self.cut += sum(len(ids) > left for ids in encoded.values())
      prompts = {i: ids[-left:] for i, ids in encoded.items()}
      for i, ids in self._generated(prompts, new_tokens, settings).items():
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        made[i] = model_utils.postprocess_generated_text(generation=text, stop=until, think_end_token=None)
        self.cache_hook.add_partial('generate_until', requests[i].args, made[i])
    return made

  def _generated(self, prompts: dict[int, list[int]], new_tokens: int, settings: dict) -> dict[int, list[int]]:
    """{number: new ids} of prompts, of which like lengths share a program."""
    is_sampled = settings.get('do_sample') and settings.get('temperature', 1.0) > 0
    temperature = float(settings.get('temperature', 1.0)) if is_sampled else 0.0
    sampling = (settings.get('top_k') or None, settings.get('top_p') or None) if is_sampled else (None, None)
    longest = _bucket(max(map(len, prompts.values())))
    lengths = sorted({max(longest // 2**i, BUCKET) for i in range(_LENGTHS)})
    fill = self._ends[0]
    generate = _generator(self._model, new_tokens, temperature, *sampling, fill)
    order = sorted(prompts, key=lambda i: len(prompts[i]))
    new: dict[int, list[int]] = {}
    for number, first in enumerate(range(0, len(order), self.batch_size)):
      chosen = order[first : first + self.batch_size]
      filled = [*chosen, *chosen[:1] * (self.batch_size - len(chosen))]
      tokens_BP, segments_BP = decode.pad_left([prompts[i] for i in filled], fill)
      more = next(length for length in lengths if length >= tokens_BP.shape[1]) - tokens_BP.shape[1]
      padded = ((0, 0), (more, 0))
      batch = {'inputs': np.pad(tokens_BP, padded, constant_values=fill), 'segments': np.pad(segments_BP, padded)}
      batch['number'] = np.full(self.batch_size, number, np.int32)
      for i, ids in zip(chosen, self._run(generate, self._params, batch)['tokens'].tolist()):
        new[i] = list(itertools.takewhile(lambda index: index not in self._ends, ids))
    return new


def _bucket(length: int) -> int:
  size = BUCKET
  while size < length:
    size *= 2
  return size


@functools.lru_cache(maxsize=4)
def _scorer(model: LanguageModel):
  """`(params, batch) -> {'log_p': float32 [B, T], 'is_likeliest': bool [B, T]}` of the targets."""

  def score(params, batch):
    x_BTD = model.backbone.apply(params, batch['inputs'], lengths_B=batch['segments'].sum(axis=1))

    def of_chunk(chunk):  # logits of a few positions at a time: those of whole rows may not fit
      x_BCD, targets_BC = chunk
      logits_BCV = model.logits(params, x_BCD, whole=True)
      log_p_BCV = jax.nn.log_softmax(logits_BCV)
      log_p_BC = jnp.take_along_axis(log_p_BCV, targets_BC[..., None], axis=2)[..., 0]
      return {'log_p': log_p_BC, 'is_likeliest': jnp.argmax(logits_BCV, axis=2) == targets_BC}

    def chunks(a):
      return jnp.swapaxes(a.reshape(a.shape[0], -1, CHUNK, *a.shape[2:]), 0, 1)

    found = jax.lax.map(of_chunk, (chunks(x_BTD), chunks(batch['targets'])))
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1).reshape(batch['targets'].shape), found)

  return score


@functools.lru_cache(maxsize=8)
def _generator(model: LanguageModel, new_tokens: int, temperature: float, top_k, top_p, stop: int):
  """`(params, batch) -> {'tokens': [B, N]}`."""

  def generate(params, batch):
    cache = model.backbone.init_cache(batch['inputs'].shape[0], batch['inputs'].shape[1] + new_tokens)
    key = jax.random.fold_in(jax.random.key(0), batch['number'][0])
    settings: dict[str, Any] = dict(new_tokens=new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, stop=stop)
    step = model.decode_step(params)
    return {'tokens': decode.generate(step, cache, batch['inputs'], batch['segments'], key, **settings)}

  return generate
