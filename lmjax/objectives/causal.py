"""Causal language modelling: each token from those before it (GPT, https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf).

Legend: B batch, T length.
"""

import functools

import jax

from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import documents_of
from lmjax.objectives.config import CausalConfig


@functools.lru_cache(maxsize=8)
def make_loss(model: LanguageModel, config: CausalConfig):
  """The jitted loss `(params, batch, key) -> (loss_sum, weight_sum, metrics)`, metrics as (sum, weight) pairs.

  The batch holds inputs_BT, targets_BT, weights_BT (float32, 0 where nothing is predicted), and where documents
  are kept apart what `documents_of` reads. Evaluation batches also hold bytes_BT and majority_BT, what each
  target stands for; their weighted sums are reported. `key` is for dropout, None for none.
  """

  z_loss, smoothing = config.z_loss or 0.0, config.label_smoothing or 0.0

  @jax.jit
  def causal_loss(params, batch, key):
    x_BTD = model.backbone.apply(params, batch['inputs'], **documents_of(batch), key=key)
    weights_BT = batch['weights']
    arrays = (batch['targets'], weights_BT, weights_BT)
    sums = model.cross_entropy(params, x_BTD, *arrays, config.chunk, z_loss, smoothing)
    weight = weights_BT.sum()
    metrics = {'loss': (sums.nll, weight), 'accuracy': (sums.correct, weight)}
    if 'majority' in batch:
      metrics['majority_accuracy'] = ((batch['majority'] * weights_BT).sum(), weight)
    if 'bytes' in batch:
      metrics['nats_per_byte'] = (sums.nll, (batch['bytes'] * weights_BT).sum())
    return sums.loss, weight, metrics

  return causal_loss
