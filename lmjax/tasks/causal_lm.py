"""Causal language modelling as a task. Legend: B batch, T length, V vocabulary."""

import functools
import itertools

import jax
import numpy as np

from lmjax.data.batches.masking import causal_examples
from lmjax.data.batches.packing import RowSpec
from lmjax.models import decode
from lmjax.models.heads import LanguageModel
from lmjax.objectives import causal
from lmjax.tasks.language_model import LanguageModelTask


class CausalLM(LanguageModelTask):
  """GPT's objective."""

  NAME = 'causal_lm'
  MAIN_METRIC, BASELINE = 'bits_per_byte', 'gzip_bits_per_byte'

  def __init__(self, *arguments):
    super().__init__(*arguments)
    self.loss = causal.make_loss(self.model, self.objective)
    if not self.tokenizer.gives_bytes_back:  # bits a byte would be those of another text
      self.MAIN_METRIC, self.BASELINE = 'perplexity', None

  def row_spec(self) -> RowSpec:
    """Rows of length + 1 tokens that overlap by one, so that every token but the first is predicted once."""
    begin = () if self.data.rows == 'concat' else (self.tokenizer.require('bos'),)
    length, end, frame = self.data.length, self.document_end(), self.tokenizer.frame
    if frame is not None and not begin:  # what its template puts before each document
      end += frame.begin
    return RowSpec(size=length + 1, stride=length, begin=begin, end=end, prefix=(), suffix=(), pad=self.pad)

  @property
  def predicted(self) -> int:
    """Positions a row whose logits are computed."""
    return self.data.length

  def batch_of(self, rows, keys_B, keep_segments=False) -> dict[str, np.ndarray]:
    """Rows -> inputs, targets, weights [B, T]; segments and positions as `documents_of` wants them."""
    del keys_B, keep_segments  # in concat rows padding comes last: causal attention never sees it
    batch = causal_examples(rows)
    if self.data.rows == 'concat':
      del batch['segments']
    if self.data.rows != 'packed':
      del batch['positions']
    return batch

  def complete(self, params, prompts, key, *, new_tokens, temperature, top_k, top_p) -> list[list[int]]:
    """Continues token prompts; each continuation ends before the end-of-document token."""
    stop = self.document_end()[0]
    settings = dict(new_tokens=new_tokens, temperature=float(temperature), top_k=top_k, top_p=top_p, stop=stop)
    rows = np.asarray(_generate(self.model, params, *decode.pad_left(prompts, self.pad), key, **settings)).tolist()
    return [row[: row.index(stop)] if stop in row else row for row in rows]

  def samples(self, params, stores, key) -> str:
    """Markdown: continuations of the beginnings of held-out documents."""
    c = self.samples_config
    # a model of concatenated rows knows a document's beginning by the end of the one before
    first = self.row_spec().begin or self.row_spec().end
    documents = _held_out(stores, c.count, c.prompt_tokens + c.new_tokens)
    prompts = [[*first, *document[: c.prompt_tokens]] for document in documents]
    truths = [document[c.prompt_tokens : c.prompt_tokens + c.new_tokens] for document in documents]
    settings = dict(new_tokens=c.new_tokens, temperature=c.temperature, top_k=c.top_k, top_p=c.top_p)
    completions = self.complete(params, prompts, key, **settings)
    blocks = []
    for texts in zip(prompts, completions, truths):
      prompt, completion, truth = (quote(self.tokenizer.decode(ids)) for ids in texts)
      blocks.append(f'Prompt\n\n{prompt}\n\nModel\n\n{completion}\n\nThe document itself\n\n{truth}\n')
    return '\n---\n\n'.join(blocks)


@functools.partial(jax.jit, static_argnames=('model', 'new_tokens', 'temperature', 'top_k', 'top_p', 'stop'))
def _generate(model: LanguageModel, params, tokens_BP, segments_BP, key, **settings):
  cache = model.backbone.init_cache(tokens_BP.shape[0], tokens_BP.shape[1] + settings['new_tokens'])
  return decode.generate(model.decode_step(params), cache, tokens_BP, segments_BP, key, **settings)


def quote(text: str) -> str:
  """Text as a Markdown block that nothing inside it can end.

  >>> print(quote('a b'))
      a b
  """
  return '\n'.join('    ' + line for line in text.replace('\r', '').split('\n'))


def _held_out(stores, count, at_least):
  """Ids of the first held-out documents, in turn from each source; short ones only where none is long enough."""
  by_source = []
  for store in stores.values():
    valid = store.held_out.documents
    long_enough = np.flatnonzero(valid.lengths >= at_least)
    chosen = (long_enough if len(long_enough) else np.arange(len(valid.lengths)))[:count]
    by_source.append([valid.ids(i).tolist() for i in chosen])
  turns = itertools.zip_longest(*by_source)
  return [document for turn in turns for document in turn if document is not None][:count]
