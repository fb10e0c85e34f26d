"""A class, a number or many classes of a text or a pair (BERT, https://arxiv.org/abs/1810.04805, section 4.1).

Legend: B batch, T length, D width, C classes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lmjax.models.heads import HeadedModel
from lmjax.models.transformer import documents_of
from lmjax.objectives.config import ClassificationConfig
from lmjax.ops.dropout import dropout


def pool(x_BTD: jax.Array, segments_BT: jax.Array, pooling: str) -> jax.Array:
  """One vector a row [B, D], of its real tokens (segment 1; padding, which comes last, is segment 0)."""
  if pooling == 'cls':
    return x_BTD[:, 0]
  count_B = segments_BT.sum(axis=1)
  if pooling == 'last':
    return jnp.take_along_axis(x_BTD, (count_B - 1)[:, None, None], axis=1)[:, 0]
  total_BD = jnp.einsum('BTD,BT->BD', x_BTD, segments_BT.astype(x_BTD.dtype), preferred_element_type=jnp.float32)
  return (total_BD / count_B[:, None]).astype(x_BTD.dtype)


@functools.lru_cache(maxsize=8)
def make_logits(model: HeadedModel, config: ClassificationConfig):
  """`(params, batch, key) -> float32 logits_BC`; the batch holds inputs_BT, segments_BT, and segment_types_BT."""

  def logits(params, batch, key):
    keys = (None, None) if key is None else jax.random.split(key)
    x_BTD = model.backbone.apply(
      params, batch['inputs'], **documents_of(batch), segment_types_BT=batch['segment_types'], key=keys[0]
    )
    pooled_BD = pool(x_BTD, batch['segments'], config.pooling)
    return model.logits(params, pooled_BD, lambda x: dropout(x, config.dropout, keys[1]))

  return logits


@functools.lru_cache(maxsize=8)
def make_loss(model: HeadedModel, config: ClassificationConfig):
  """The jitted loss `(params, batch, key) -> (loss_sum, weight_sum, metrics)`, metrics as (sum, weight) pairs.

  Besides what `make_logits` reads, the batch holds labels_B (of many classes, labels_BC: 1 for those that a text has)
  and weights_B (0 for a row that does not count). The loss is the cross-entropy of a class; of a number, the squared
  error; of many classes, the mean of the cross-entropies of whether a text has each.
  """
  logits_of = make_logits(model, config)
  loss_of: Any = {'class': _of_classes, 'number': _of_numbers, 'many': _of_many}[config.target]
  settings: tuple = (config.class_weights, config.label_smoothing or 0.0) if config.target == 'class' else ()

  @jax.jit
  def classification_loss(params, batch, key):
    return loss_of(logits_of(params, batch, key), batch, *settings)

  return classification_loss


def _of_classes(logits_BC, batch, class_weights, smoothing):
  log_p_BC = jax.nn.log_softmax(logits_BC)
  labels_B, weights_B = batch['labels'], batch['weights']
  correct_B = jnp.argmax(log_p_BC, axis=-1) == labels_B
  weight = weights_B.sum()
  counts_B = weights_B
  if class_weights is not None:
    counts_B = weights_B * jnp.asarray(class_weights, jnp.float32)[labels_B]
  nll_B = -jnp.take_along_axis(log_p_BC, labels_B[:, None], axis=1)[:, 0]
  loss_B = (1.0 - smoothing) * nll_B - smoothing * log_p_BC.mean(axis=-1)
  metrics = {'loss': ((nll_B * weights_B).sum(), weight), 'accuracy': ((correct_B * weights_B).sum(), weight)}
  return (loss_B * counts_B).sum(), counts_B.sum(), metrics


def _of_numbers(logits_B1, batch):
  return _weighted(jnp.square(logits_B1[:, 0] - batch['labels']), batch['weights'])


def _of_many(logits_BC, batch):
  return _weighted(optax.sigmoid_binary_cross_entropy(logits_BC, batch['labels']).mean(axis=-1), batch['weights'])


def _weighted(loss_B, weights_B):
  total, weight = (loss_B * weights_B).sum(), weights_B.sum()
  return total, weight, {'loss': (total, weight)}
