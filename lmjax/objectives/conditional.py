"""A text from a text, with one decoder: the loss counts the second text alone (GPT-2's and T5's fine-tuning).

Legend: B batch, T length, K slots: places whose next token counts, D width.
"""

import functools

import jax
import jax.numpy as jnp

from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import documents_of
from lmjax.objectives.config import ConditionalConfig


@functools.lru_cache(maxsize=8)
def make_loss(model: LanguageModel, config: ConditionalConfig):
  """The jitted loss `(params, batch, key) -> (loss_sum, weight_sum, metrics)`, metrics as (sum, weight) pairs.

  The batch holds inputs_BT, segments_BT, prefix_BT (1 on the document), slots_BK, targets_BK and weights_BK (0 for an
  unused slot). Logits exist at the slots alone.
  """

  @jax.jit
  def conditional_loss(params, batch, key):
    prefix_BT = batch['prefix'] > 0 if config.prefix else None
    x_BTD = model.backbone.apply(params, batch['inputs'], **documents_of(batch), prefix_BT=prefix_BT, key=key)
    x_BKD = jnp.take_along_axis(x_BTD, batch['slots'][:, :, None], axis=1)
    weights_BK = batch['weights']
    arrays = (batch['targets'], weights_BK, weights_BK)
    sums = model.cross_entropy(params, x_BKD, *arrays, config.chunk, label_smoothing=config.label_smoothing or 0.0)
    weight = weights_BK.sum()
    return sums.loss, weight, {'loss': (sums.nll, weight), 'accuracy': (sums.correct, weight)}

  return conditional_loss
