"""The settings of what is shown of a model during training."""

from lmjax.schema.types import NonNegativeFloat, PositiveFloat, PositiveInt, section


@section
class CausalSamples:
  """What is generated during training: continuations of held-out documents.

  count: how many documents
  prompt_tokens: tokens of each that the model is given
  new_tokens: tokens that it writes
  temperature: divides the logits; 0 always takes the likeliest token
  top_k: only the k likeliest tokens are drawn from; None for all
  top_p: only the likeliest tokens that make up this probability; None for all (arXiv:1904.09751)
  """

  count: PositiveInt
  prompt_tokens: PositiveInt
  new_tokens: PositiveInt
  temperature: NonNegativeFloat
  top_k: PositiveInt | None
  top_p: PositiveFloat | None

  def problems(self):
    """Greedy decoding draws nothing."""
    for setting in ('top_k', 'top_p'):
      if self.temperature == 0 and getattr(self, setting) is not None:
        yield setting, 'has no effect with samples.temperature = 0', 'set it to None'
    if self.top_p is not None and self.top_p >= 1:
      yield 'top_p', 'must be below 1', 'set it to None for all tokens'


@section
class MaskedSamples:
  """What is filled in during training: masked tokens of held-out rows.

  count: how many rows
  top: how many of the likeliest tokens are shown for each mask
  """

  count: PositiveInt
  top: PositiveInt


@section
class ExampleSamples:
  """What is shown during training: validation examples, with what the model makes of them.

  count: how many
  """

  count: PositiveInt
