"""Causal language modelling: each token from those before it (GPT, https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf).

Legend: B batch, T length.
"""

import dataclasses

import jax

from lmjax.models.heads import LanguageModel
from lmjax.ops.cross_entropy import cross_entropy
from lmjax.schema.fields import PositiveFloat, PositiveInt, Rate


@dataclasses.dataclass(frozen=True)
class CausalConfig:
  """The causal objective.

  z_loss: coefficient of log(Z) ** 2 (PaLM, arXiv:2204.02311, section 5); None for off
  label_smoothing: share of each label spread over the vocabulary (arXiv:1512.00567, section 7); None for off
  chunk: positions of each row whose logits exist at one time
  """

  z_loss: PositiveFloat | None
  label_smoothing: Rate | None
  chunk: PositiveInt


def make_loss(model: LanguageModel, config: CausalConfig):
  """The jitted loss `(params, batch, key) -> (loss_sum, weight_sum, metrics)`, metrics as (sum, weight) pairs.

  The batch holds inputs_BT, targets_BT, weights_BT (float32, 0 where nothing is predicted), and where documents
  are kept apart segments_BT and positions_BT. Evaluation batches also hold bytes_BT and majority_BT, what each
  target stands for; their weighted sums are reported. `key` is for dropout, None for none.
  """

  @jax.jit
  def causal_loss(params, batch, key):
    x_BTD = model.backbone.apply(
      params,
      batch['inputs'],
      segments_BT=batch.get('segments'),
      positions_BT=batch.get('positions'),
      key=key,
    )
    weights_BT = batch['weights']
    sums = cross_entropy(
      *model.output(params, x_BTD),
      batch['targets'],
      weights_BT,
      weights_BT,
      model.backbone.vocab_size,
      config.chunk,
      config.z_loss or 0.0,
      config.label_smoothing or 0.0,
    )
    weight = weights_BT.sum()
    metrics = {'loss': (sums.nll, weight), 'accuracy': (sums.correct, weight)}
    if 'majority' in batch:
      metrics['majority_accuracy'] = ((batch['majority'] * weights_BT).sum(), weight)
    if 'bytes' in batch:
      metrics['nats_per_byte'] = (sums.nll, (batch['bytes'] * weights_BT).sum())
    return sums.loss, weight, metrics

  return causal_loss
