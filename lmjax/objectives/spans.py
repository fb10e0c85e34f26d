"""Extractive question answering: where an answer begins and ends in its context (BERT, arXiv:1810.04805, section 4.2).

Legend: B batch, T length.
"""

import functools

import jax
import jax.numpy as jnp

from lmjax.models.heads import HeadedModel
from lmjax.models.transformer import documents_of


@functools.lru_cache(maxsize=8)
def make_logits(model: HeadedModel):
  """`(params, batch, key) -> {'start', 'end'}`, float32 logits_BT, -inf where no answer can begin or end.

  The batch holds inputs_BT, segments_BT, segment_types_BT and candidates_BT: 1 at the context's tokens and at the
  place that stands for no answer.
  """

  def logits(params, batch, key=None):
    x_BTD = model.backbone.apply(
      params, batch['inputs'], **documents_of(batch), segment_types_BT=batch['segment_types'], key=key
    )
    logits_BT2 = jnp.where(batch['candidates'][:, :, None] > 0, model.logits(params, x_BTD), -jnp.inf)
    return {'start': logits_BT2[..., 0], 'end': logits_BT2[..., 1]}

  return logits


@functools.lru_cache(maxsize=8)
def make_loss(model: HeadedModel):
  """The jitted loss `(params, batch, key) -> (loss_sum, weight_sum, metrics)`, metrics as (sum, weight) pairs.

  Besides what `make_logits` reads, the batch holds starts_B and ends_B, places in the row, and weights_B. The loss of
  a row is the mean of the two cross-entropies. `span_accuracy` counts rows whose two places are both the likeliest.
  """
  logits_of = make_logits(model)

  @jax.jit
  def span_loss(params, batch, key):
    weights_B = batch['weights']
    nll_B, right_B = jnp.zeros_like(weights_B), jnp.ones(weights_B.shape, bool)
    for name, logits_BT in logits_of(params, batch, key).items():
      places_B, log_p_BT = batch[f'{name}s'], jax.nn.log_softmax(logits_BT)
      nll_B -= 0.5 * jnp.take_along_axis(log_p_BT, places_B[:, None], axis=1)[:, 0]
      right_B &= jnp.argmax(logits_BT, axis=1) == places_B
    loss, weight = (nll_B * weights_B).sum(), weights_B.sum()
    return loss, weight, {'loss': (loss, weight), 'span_accuracy': ((right_B * weights_B).sum(), weight)}

  return span_loss
