"""The settings of the losses."""

from typing import Literal

from lmjax.data.config import MaskingConfig
from lmjax.schema.types import Bool, Float, NonNegativeFloat, PositiveFloat, PositiveInt, Rate, section

Score = Literal['rouge', 'bleu', 'chrf']
Head = Literal['linear', 'linear_no_bias', 'tanh', 'relu', 'gelu_norm']
RankingMetric = Literal['accuracy', 'macro_f1', 'rmse', 'pearson', 'spearman', 'micro_f1', 'loss']
# By what checkpoints of a classifier may be ranked, the usual one first.
RANKING_METRICS = {
  'class': ('accuracy', 'macro_f1', 'loss'),
  'number': ('rmse', 'pearson', 'spearman', 'loss'),
  'many': ('micro_f1', 'macro_f1', 'loss'),
}


@section
class CausalConfig:
  """The causal objective.

  z_loss: coefficient of log(Z) ** 2 (PaLM, arXiv:2204.02311, section 5); None for off
  label_smoothing: share of each label spread over the vocabulary (arXiv:1512.00567, section 7); None for off
  chunk: positions of each row whose logits exist at one time
  """

  z_loss: PositiveFloat | None
  label_smoothing: Rate | None
  chunk: PositiveInt


@section
class MaskedConfig:
  """The masked objective.

  masking: which tokens are hidden, and how
  chunk: slots of each row whose logits exist at one time
  """

  masking: MaskingConfig
  chunk: PositiveInt


@section
class ClassificationConfig:
  """The objective of labelling texts.

  target: what a label is: a class, a number (regression), or many classes, of which a text may have any or none
  labels: class names, in the order of the logits; None: those of the training examples, sorted
  pooling: what is classified: the output at the first token (cls), at the last (last), or their mean (mean); None: last
    where the model reads from the left, else mean, or cls with norms after the sums, as in BERT
  dropout: dropout on what the last layer is given
  label_smoothing: share of each label spread over the classes (arXiv:1512.00567, section 7); None for off
  class_weights: what an example of each class counts, in the order of the labels; balanced: the classes count alike
    in all; None: all examples do
  scale: mean and standard deviation of the numbers, in units of which they are learned; None: those of the training
    examples
  ranking_metric: the validation score that checkpoints are ranked by; None: accuracy, rmse (number) or micro_f1 (many)
  head: what is applied to it: a linear layer (linear, linear_no_bias), or a dense one before it, with tanh, relu, or
    GELU and a norm (gelu_norm); None: that of public models of this shape (BERT: tanh, DistilBERT: relu, ModernBERT:
    gelu_norm, decoders: linear_no_bias)
  """

  labels: tuple[str, ...] | None
  pooling: Literal['cls', 'last', 'mean'] | None
  dropout: Rate
  label_smoothing: Rate | None
  class_weights: Literal['balanced'] | tuple[PositiveFloat, ...] | None = None
  target: Literal['class', 'number', 'many'] = 'class'
  scale: tuple[Float, Float] | None = None
  ranking_metric: RankingMetric | None = None
  head: Head | None = None

  def problems(self):
    """One weight a label; and what each target reads."""
    if self.labels is not None and len(set(self.labels)) < max(len(self.labels), 1 + (self.target == 'class')):
      yield 'labels', 'must be two or more different names', 'correct them'
    unused = {'class': ('scale',), 'number': ('labels',), 'many': ('scale',)}[self.target]
    for name in unused + (() if self.target == 'class' else ('label_smoothing', 'class_weights')):
      if getattr(self, name) is not None:
        yield name, f'has no effect with objective.target = {self.target}', 'set it to None'
    if self.scale is not None and self.scale[1] <= 0:
      yield 'scale', 'must be a mean and a deviation above 0', 'correct it'
    if self.ranking_metric not in (None, *RANKING_METRICS[self.target]):
      rule = f'must be one of {", ".join(RANKING_METRICS[self.target])} with objective.target = {self.target}'
      yield 'ranking_metric', rule, 'choose one'
    if isinstance(self.class_weights, tuple):
      if self.labels is None:
        yield 'class_weights', 'needs objective.labels, which say its order', 'give both'
      elif len(self.class_weights) != len(self.labels):
        yield 'class_weights', f'must be {len(self.labels)} numbers, one a label', 'correct it'


@section
class SpanConfig:
  """The objective of extractive question answering.

  max_question: tokens of a question that are read
  stride: tokens from the beginning of one window of a long context to that of the next
  max_answer: longest answer in tokens
  n_best: how many answers are kept for each question
  no_answer: whether a question may have none (SQuAD 2.0); None: whether some of the training examples have none
  head: see ClassificationConfig; None: linear, and gelu_norm in an encoder with norms before its sublayers
  """

  max_question: PositiveInt
  stride: PositiveInt
  max_answer: PositiveInt
  n_best: PositiveInt
  no_answer: Bool | None
  head: Head | None = None


@section
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
      yield 'length_penalty', rule, 'give a number such as 1.0' if self.beams > 1 else 'set it to None'
    if self.beams > 1 and self.temperature:
      yield 'temperature', 'has no effect with beams above 1', 'set it to 0'
    for setting in ('top_k', 'top_p'):
      if self.temperature == 0 and getattr(self, setting) is not None:
        yield setting, 'has no effect with temperature = 0', 'set it to None'


@section
class ConditionalConfig:
  """The objective of summarization, translation, or any other text from a text.

  max_summary: longest second text in tokens: of a longer one the beginning is learned, and no end; none is generated
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
  prefix: Bool
  label_smoothing: Rate | None
  chunk: PositiveInt
  decoding: DecodingConfig
  scores: tuple[Score, ...]
  best: Literal['loss', 'rouge1', 'rouge2', 'rougeL', 'rougeLsum', 'bleu', 'chrf']
  lead: PositiveInt | None

  def problems(self):
    """What checkpoints are ranked by must be computed."""
    if self.best != 'loss' and not any(self.best.startswith(score) for score in self.scores):
      yield 'best', f'must be loss or among objective.scores = {self.scores}', 'change one of them'
