"""Masked language modelling: hidden tokens from both sides (BERT, https://arxiv.org/abs/1810.04805, section 3.1).

Legend: B batch, T length, K slots (masked positions) a row, D width.
"""

import functools

import jax
import jax.numpy as jnp

from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import documents_of
from lmjax.objectives.config import MaskedConfig


@functools.lru_cache(maxsize=8)
def make_loss(model: LanguageModel, config: MaskedConfig):
  """The jitted loss `(params, batch, key) -> (loss_sum, weight_sum, metrics)`, metrics as (sum, weight) pairs.

  The batch holds inputs_BT, slots_BK (the masked positions), targets_BK, weights_BK (0 for an unused slot),
  shown_BK (1 where `[MASK]` is shown), and where rows are padded or packed what `documents_of` reads.
  Logits exist at the slots alone. Accuracy counts the positions shown as `[MASK]`: kept tokens are copied.
  Evaluation batches also hold majority_BK. `key` is for dropout, None for none.
  """

  @jax.jit
  def masked_loss(params, batch, key):
    x_BTD = model.backbone.apply(params, batch['inputs'], **documents_of(batch), key=key)
    x_BKD = jnp.take_along_axis(x_BTD, batch['slots'][:, :, None], axis=1)
    weights_BK = batch['weights']
    counted_BK = weights_BK * batch['shown']
    sums = model.cross_entropy(params, x_BKD, batch['targets'], weights_BK, counted_BK, config.chunk)
    weight, counted = weights_BK.sum(), counted_BK.sum()
    metrics = {'loss': (sums.nll, weight), 'accuracy': (sums.correct, counted)}
    if 'majority' in batch:
      metrics['majority_accuracy'] = ((batch['majority'] * counted_BK).sum(), counted)
    return sums.loss, weight, metrics

  return masked_loss
