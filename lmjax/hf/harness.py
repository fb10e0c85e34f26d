"""A trained model as EleutherAI's lm-evaluation-harness asks for one: https://github.com/EleutherAI/lm-evaluation-harness

Texts are cut and framed as its own class for models of transformers does, so that numbers are those of the exported
folder. Legend: B batch, T length, D width, V rows of the vocabulary, N new tokens.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.models import utils as model_utils

from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import ConfigError
from lmjax.models import decode
from lmjax.models.heads import LanguageModel
from lmjax.tasks.base import Run

# Rows are padded to so many tokens, or twice, four times, ... as many: each length compiles once.
BUCKET = 64
# Of generation, lengths of prompts that are compiled for a task: the longest, and halves of it.
_LENGTHS = 3
_SAMPLING = ('temperature', 'top_k', 'top_p', 'do_sample')
Request = tuple[Any, list[int], list[int]]  # (what it is kept by, context, continuation)


class HarnessModel(TemplateLM):
  """A decoder with its tokenizer.

  Args:
    model, params: the language model.
    tokenizer: its tokenizer.
    begin: ids before a text.
    prefix: the id that stands before a text that is scored from its first token.
    end: the id that ends a text.
    max_length: tokens that a row may have.
    batch_size: rows at a time.
    run: runs a function of (params, batch) on all devices.
  """

  def __init__(
    self,
    model: LanguageModel,
    params,
    tokenizer: Tokenizer,
    begin: tuple[int, ...],
    prefix: int,
    end: int,
    max_length: int,
    batch_size: int,
    run: Run,
  ):
    super().__init__()
    self._model, self._params, self._tokenizer, self._begin = model, params, tokenizer, begin
    self._prefix, self._end, self._run = prefix, end, run
    self.max_length, self.batch_size = max_length, batch_size

  @property
  def eot_token_id(self) -> int:
    """The id that ends a text."""
    return self._end

  @property
  def prefix_token_id(self) -> int:
    """The id before a text that is scored from its first token."""
    return self._prefix

  @property
  def tokenizer_name(self) -> str:
    """What identifies the tokenizer."""
    return self._tokenizer.hash

  def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
    """Ids of a text, after what stands before a text unless that is not wanted or is spelled there."""
    spelled = model_utils.has_bos_prefix(string, self._tokenizer.token(self._prefix))
    wanted = not spelled if add_special_tokens is None else add_special_tokens
    return [*(self._begin if wanted else ()), *self._tokenizer.encode(string)]

  def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
    """The log-probability of whole texts, each token scored once."""
    totals = []
    for (string,) in [request.args for request in requests]:
      windows = utils.get_rolling_token_windows(
        token_list=self.tok_encode(string), prefix_token=self._prefix, max_seq_len=self.max_length, context_len=1
      )
      pieces = [(None, *utils.make_disjoint_window(window)) for window in windows]
      totals.append(sum(value for value, _ in self._loglikelihood_tokens(pieces)))
    return totals

  def _loglikelihood_tokens(self, requests: Sequence[Request], **kwargs) -> list[tuple[float, bool]]:
    """(log-probability of a continuation, whether it is what greedy decoding gives) of each request."""
    answers: list[Any] = [None] * len(requests)
    rows = [([*context, *continuation])[-(self.max_length + 1) :] for _, context, continuation in requests]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    score = _scorer(self._model)
    for first in range(0, len(order), self.batch_size):
      chosen = order[first : first + self.batch_size]
      length = min(_bucket(len(rows[chosen[0]]) - 1), max(self.max_length, len(rows[chosen[0]]) - 1))
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
      ending = self._tokenizer.token(self._end)
      until = model_utils.handle_stop_sequences(settings.pop('until', None), eos=ending)
      new_tokens = settings.pop('max_gen_toks')
      if unknown := sorted(settings.keys() - set(_SAMPLING)):
        raise ConfigError(f'generation_kwargs.{unknown[0]}: no such setting here; the task must do without it')
      room = self.max_length - new_tokens
      if room < 1:
        rule = f'leaves no room for a prompt in {self.max_length:,} tokens'
        raise ConfigError(f'generation_kwargs.max_gen_toks = {new_tokens}: {rule}; set it to less')
      prompts = {i: self.tok_encode(requests[i].args[0])[-room:] for i in indices}
      for i, ids in self._generated(prompts, new_tokens, settings).items():
        text = self._tokenizer.decode(ids)
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
    generate = _generator(self._model, new_tokens, temperature, *sampling, self._end)
    order = sorted(prompts, key=lambda i: len(prompts[i]))
    new: dict[int, list[int]] = {}
    for number, first in enumerate(range(0, len(order), self.batch_size)):
      chosen = order[first : first + self.batch_size]
      filled = [*chosen, *chosen[:1] * (self.batch_size - len(chosen))]
      tokens_BP, segments_BP = decode.pad_left([prompts[i] for i in filled], self._end)
      more = next(length for length in lengths if length >= tokens_BP.shape[1]) - tokens_BP.shape[1]
      padded = ((0, 0), (more, 0))
      batch = {'inputs': np.pad(tokens_BP, padded, constant_values=self._end), 'segments': np.pad(segments_BP, padded)}
      batch['number'] = np.full(self.batch_size, number, np.int32)
      for i, ids in zip(chosen, self._run(generate, self._params, batch)['tokens'].tolist()):
        new[i] = ids[: ids.index(self._end)] if self._end in ids else ids
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

    def of_row(row):  # logits of one row at a time: those of a batch may not fit
      x_TD, targets_T = row
      logits_TV = model.logits(params, x_TD[None], whole=True)[0]
      log_p_TV = jax.nn.log_softmax(logits_TV)
      log_p_T = jnp.take_along_axis(log_p_TV, targets_T[:, None], axis=1)[:, 0]
      return {'log_p': log_p_T, 'is_likeliest': jnp.argmax(logits_TV, axis=1) == targets_T}

    return jax.lax.map(of_row, (x_BTD, batch['targets']))

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
