"""A text from a text, with one decoder: the loss counts the second text alone (GPT-2's and T5's fine-tuning).

Legend: B batch, T length, K slots: places whose next token counts, D width.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from lmjax.models.heads import LanguageModel
from lmjax.ops.cross_entropy import cross_entropy
from lmjax.schema.fields import NonNegativeFloat, PositiveFloat, PositiveInt, Rate

Score = Literal['rouge', 'bleu', 'chrf']


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
  """How texts are generated.

  beams: width of the beam search; 1: greedy, or sampled
  length_penalty: a hypothesis is ranked by its log-probability / length ** this; None with one beam
  no_repeat_ngram: no run of so many tokens is generated twice (arXiv:1705.04304); None for off
  temperature: divides the logits when sampling; 0: the likeliest token, or beam search
  top_k: only the k likeliest tokens are drawn from; None for all
  top_p: only the likeliest tokens that make up this probability; None for all (arXiv:1904.09751)
  """

  beams: PositiveInt
  length_penalty: NonNegativeFloat | None
  no_repeat_ngram: PositiveInt | None
  temperature: NonNegativeFloat
  top_k: PositiveInt | None
  top_p: PositiveFloat | None

  def problems(self):
    """Settings that the way of decoding does not read."""
    if (self.beams > 1) != (self.length_penalty is not None):
      rule = 'is needed with beams above 1' if self.beams > 1 else 'has no effect with one beam'
      yield (
        'length_penalty',
        self.length_penalty,
        rule,
        'give a number such as 1.0' if self.beams > 1 else 'set it to None',
      )
    if self.beams > 1 and self.temperature:
      yield 'temperature', self.temperature, 'has no effect with beams above 1', 'set it to 0'
    for leaf in ('top_k', 'top_p'):
      if self.temperature == 0 and getattr(self, leaf) is not None:
        yield leaf, getattr(self, leaf), 'has no effect with temperature = 0', 'set it to None'


@dataclasses.dataclass(frozen=True)
class ConditionalConfig:
  """The objective of summarization, translation, or any other text from a text.

  max_summary: longest second text in tokens: longer ones are cut in training, and none is generated
  long_documents: of a document that does not fit: head (its beginning is read), head_tail (both ends), or chunks (its
    beginning in training; when generating, each piece is summarised, then their summaries: map-reduce)
  prefix: whether the document is read from both sides (prefix LM: arXiv:1910.10683, section 3.2.1)
  label_smoothing: share of each label spread over the vocabulary (arXiv:1512.00567, section 7); None for off
  chunk: slots of each row whose logits exist at one time
  decoding: how texts are generated
  scores: of rouge, bleu and chrf
  best: the score that checkpoints are ranked by: loss, rouge1, rouge2, rougeL, rougeLsum, bleu or chrf
  lead: sentences of the document that the baseline repeats; None: no baseline
  """

  max_summary: PositiveInt
  long_documents: Literal['head', 'head_tail', 'chunks']
  prefix: bool
  label_smoothing: Rate | None
  chunk: PositiveInt
  decoding: DecodingConfig
  scores: tuple[Score, ...]
  best: Literal['loss', 'rouge1', 'rouge2', 'rougeL', 'rougeLsum', 'bleu', 'chrf']
  lead: PositiveInt | None

  def problems(self):
    """What checkpoints are ranked by must be computed."""
    if self.best != 'loss' and not any(self.best.startswith(score) for score in self.scores):
      yield 'best', self.best, f'must be loss or among objective.scores = {self.scores}', 'change one of them'


def make_loss(model: LanguageModel, config: ConditionalConfig):
  """The jitted loss `(params, batch, key) -> (loss_sum, weight_sum, metrics)`, metrics as (sum, weight) pairs.

  The batch holds inputs_BT, segments_BT, prefix_BT (1 on the document), slots_BK, targets_BK and weights_BK (0 for an
  unused slot). Logits exist at the slots alone.
  """

  @jax.jit
  def conditional_loss(params, batch, key):
    x_BTD = model.backbone.apply(
      params,
      batch['inputs'],
      segments_BT=batch['segments'],
      prefix_BT=batch['prefix'] > 0 if config.prefix else None,
      key=key,
    )
    x_BKD = jnp.take_along_axis(x_BTD, batch['slots'][:, :, None], axis=1)
    weights_BK = batch['weights']
    sums = cross_entropy(
      *model.output(params, x_BKD),
      batch['targets'],
      weights_BK,
      weights_BK,
      model.backbone.vocab_size,
      config.chunk,
      0.0,
      config.label_smoothing or 0.0,
    )
    weight = weights_BK.sum()
    return sums.loss, weight, {'loss': (sums.nll, weight), 'accuracy': (sums.correct, weight)}

  return conditional_loss
