"""Masked language modelling as a task. Legend: B batch, T length, K slots a row, V vocabulary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lmjax.data.batches.masking import MaskVocabulary, masked_examples
from lmjax.data.batches.packing import RowSpec
from lmjax.data.batches.pipeline import valid_batches
from lmjax.models.heads import LanguageModel
from lmjax.objectives import masked
from lmjax.tasks.causal_lm import quote
from lmjax.tasks.language_model import LanguageModelTask


class MaskedLM(LanguageModelTask):
  """BERT's objective, without next-sentence prediction (RoBERTa, https://arxiv.org/abs/1907.11692, section 4.2)."""

  NAME = 'masked_lm'
  MAIN_METRIC, BASELINE = 'accuracy', 'majority_accuracy'

  def __init__(self, *arguments):
    super().__init__(*arguments)
    self.loss = masked.make_loss(self.model, self.objective)
    self.vocabulary = MaskVocabulary.of(self.tokenizer)

  def row_spec(self) -> RowSpec:
    """Rows of `length` tokens, with `[CLS]` before and `[SEP]` after where the config says so."""
    cls_sep, length = self.data.cls_sep, self.data.length
    prefix, suffix = ((self.tokenizer.require(name),) if cls_sep else () for name in ('cls', 'sep'))
    end = () if cls_sep and self.data.rows == 'padded' else self.document_end()
    stride = length - len(prefix) - len(suffix)
    return RowSpec(size=length, stride=stride, begin=(), end=end, prefix=prefix, suffix=suffix, pad=self.pad)

  @property
  def predicted(self) -> int:
    """Slots a row: the positions whose logits are computed."""
    return self.objective.masking.slots(self.data.length)

  def batch_of(self, rows, keys_B, keep_segments=False) -> dict[str, np.ndarray]:
    """Rows -> inputs [B, T], slots, targets, weights, shown [B, K]; others [B, T] as `documents_of` wants them."""
    batch = masked_examples(rows, keys_B, self.predicted, self.objective.masking, self.vocabulary)
    if self.data.rows == 'concat' and not keep_segments:
      del batch['segments']
    if self.data.rows != 'packed':
      del batch['positions']
    return batch

  def fill(self, params, rows: list[list[int]], top: int):
    """For each row a list, for each of its `[MASK]`, of (token id, probability), likeliest first."""
    longest = max(map(len, rows))
    inputs_BT = np.full((len(rows), longest), self.pad, np.int32)
    segments_BT = np.zeros_like(inputs_BT)
    places = [[i for i, token in enumerate(row) if token == self.tokenizer.mask] for row in rows]
    slots_BK = np.zeros((len(rows), max(1, *map(len, places))), np.int32)
    for i, (row, slots) in enumerate(zip(rows, places)):
      inputs_BT[i, : len(row)], segments_BT[i, : len(row)] = row, 1
      slots_BK[i, : len(slots)] = slots
    probability_BKN, ids_BKN = map(np.asarray, _fill(self.model, params, inputs_BT, segments_BT, slots_BK, top))
    return [
      [list(zip(ids_BKN[i, k].tolist(), probability_BKN[i, k].tolist())) for k in range(len(slots))]
      for i, slots in enumerate(places)
    ]

  def samples(self, params, stores, key) -> str:
    """Markdown: held-out rows with masks, and the likeliest tokens for each."""
    c, blocks = self.samples_config, []
    store = next(iter(stores.values()))
    batches = valid_batches(self.data, store, self.row_spec(), self.eval_batch_of(stores, store), batch_size=c.count)
    batch = next(iter(batches))
    rows = [row_T[segments_T > 0].tolist() for row_T, segments_T in zip(batch['inputs'], batch['segments'])]
    filled = self.fill(params, rows, c.top)
    for i, row in enumerate(rows):
      if not filled[i]:
        continue
      used = batch['weights'][i] > 0
      truth = dict(zip(batch['slots'][i][used].tolist(), batch['targets'][i][used].tolist()))
      masks = [place for place, token in enumerate(row) if token == self.tokenizer.mask]
      table = ['| mask | the text has | the model says |', '|---|---|---|']
      for number, (place, guesses) in enumerate(zip(masks, filled[i]), 1):
        likeliest = ', '.join(f'{self._show(t)} {p:.2f}' for t, p in guesses)
        table.append(f'| {number} | {self._show(truth[place])} | {likeliest} |')
      blocks.append(quote(self.tokenizer.decode(row, skip_special=False)) + '\n\n' + '\n'.join(table) + '\n')
    return '\n---\n\n'.join(blocks)

  def _show(self, token: int) -> str:
    text = repr(self.tokenizer.token(token))[1:-1].replace('|', '\\|').replace('`', "'")
    return f'`{text}`'


@functools.partial(jax.jit, static_argnames=('model', 'top'))
def _fill(model: LanguageModel, params, inputs_BT, segments_BT, slots_BK, top: int):
  x_BTD = model.backbone.apply(params, inputs_BT, lengths_B=segments_BT.sum(axis=1))
  x_BKD = jnp.take_along_axis(x_BTD, slots_BK[:, :, None], axis=1)
  return jax.lax.top_k(jax.nn.softmax(model.logits(params, x_BKD)), top)
