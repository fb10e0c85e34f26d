"""The shape of a model."""

from typing import Literal

from lmjax.schema.types import Bool, NonNegativeFloat, PositiveFloat, PositiveInt, Rate, section

# Path patterns of the adapters' parameters.
ADAPTERS = ('*/lora_a', '*/lora_b')
# What a layer keeps for its backward pass, by the names that it gives to its parts, besides what the attention kernel
# keeps; 'none' keeps all. From the least recomputation to the most.
_ATTENTION = ('query', 'key', 'value', 'attention')
KEPT = {'attention_and_up': (*_ATTENTION, 'up'), 'attention': _ATTENTION, 'full': ()}
RECOMPUTED = ('none', 'dots', *KEPT)


@section
class LoraConfig:
  """Low-rank adapters next to frozen kernels (LoRA, arXiv:2106.09685).

  rank: inner width of an adapter
  alpha: the adapter's output is scaled by alpha / rank
  dropout: dropout on the adapter's input
  targets: path patterns of the kernels that get one, such as */query/kernel
  """

  rank: PositiveInt
  alpha: PositiveFloat
  dropout: Rate
  targets: tuple[str, ...]

  @property
  def scale(self) -> float:
    """What the adapter's output is multiplied by."""
    return self.alpha / self.rank

  def problems(self):
    """An adapter without a kernel does nothing."""
    if not self.targets:
      yield 'targets', 'must name at least one pattern', 'give */query/kernel,*/value/kernel'


@section
class ModelConfig:
  """The backbone and its output head.

  attention: causal (a decoder: GPT) or bidirectional (an encoder: BERT)
  layers: number of blocks
  width: model width D
  heads: query heads; they divide the width
  kv_heads: key and value heads, each shared by heads / kv_heads query heads (GQA, arXiv:2305.13245)
  mlp_width: hidden width F of the feed-forward layers
  positions: learned (a table) or rotary (RoFormer, arXiv:2104.09864)
  max_length: rows of the position table; None with rotary positions
  rope_theta: base of the rotary frequencies; None with learned positions
  rope_theta_local: the same for layers with a window; None: rope_theta
  rope_scaling: positions are divided by this, for texts longer than those trained on (arXiv:2306.15595); None: 1
  norm: layernorm or rmsnorm
  norm_eps: added to the variance
  norm_placement: pre (before each sublayer) or post (after each residual sum, as in BERT)
  activation: gelu, gelu_tanh (GPT-2's approximation), geglu or swiglu (arXiv:2002.05202)
  biases: whether linear layers and LayerNorms have biases
  qk_norm: RMSNorm on queries and keys, per head (arXiv:2302.05442)
  window: sliding window in tokens; None: every layer sees everything
  global_every: with a window, every n-th layer, from the first, sees everything; None: none does
  tied_embeddings: whether the output embedding is the input embedding (arXiv:1608.05859)
  segment_types: rows of the segment (token type) table of BERT; None: no table
  embedding_norm: whether embeddings are normalised before the first layer
  mlm_transform: whether BERT's dense, activation and norm, with a bias a token, precede the output embedding
  embedding_dropout: dropout on the embeddings
  attention_dropout: dropout on the attention weights
  residual_dropout: dropout on each sublayer's output
  init_std: standard deviation of the initial weights
  residual_init: plain, or scaled (sublayer outputs start smaller by sqrt(2 layers), as in GPT-2)
  vocab_multiple: embedding rows are padded to a multiple of this; padding rows get no probability
  scan: whether layers run as one compiled loop (compiles faster) or written out (runs faster)
  remat: what the backward pass computes again (arXiv:1604.06174), from least to most: none, dots (all but matrix
    products), attention_and_up, attention (all but the attention's parts, with or without the first hidden product) or
    full; auto: the least that fits, dots aside, settled when a run begins
  dtype: compute dtype; parameters and their optimizer state stay float32
  attention_implementation: auto, xla (the reference), blockwise (CPU), cudnn (GPU) or splash (TPU)
  lora: low-rank adapters; None: none
  """

  attention: Literal['causal', 'bidirectional']
  layers: PositiveInt
  width: PositiveInt
  heads: PositiveInt
  kv_heads: PositiveInt
  mlp_width: PositiveInt
  positions: Literal['learned', 'rotary']
  max_length: PositiveInt | None
  rope_theta: PositiveFloat | None
  rope_theta_local: PositiveFloat | None
  rope_scaling: PositiveFloat | None
  norm: Literal['layernorm', 'rmsnorm']
  norm_eps: PositiveFloat
  norm_placement: Literal['pre', 'post']
  activation: Literal['gelu', 'gelu_tanh', 'geglu', 'swiglu']
  biases: Bool
  qk_norm: Bool
  window: PositiveInt | None
  global_every: PositiveInt | None
  tied_embeddings: Bool
  segment_types: PositiveInt | None
  embedding_norm: Bool
  mlm_transform: Bool
  embedding_dropout: Rate
  attention_dropout: Rate
  residual_dropout: Rate
  init_std: NonNegativeFloat
  residual_init: Literal['plain', 'scaled']
  vocab_multiple: PositiveInt
  scan: Bool
  remat: Literal['auto', 'none', 'dots', 'attention_and_up', 'attention', 'full']
  dtype: Literal['float32', 'bfloat16']
  attention_implementation: Literal['auto', 'xla', 'blockwise', 'cudnn', 'splash']
  lora: LoraConfig | None

  @property
  def head_width(self) -> int:
    """K, the width of one head."""
    return self.width // self.heads

  @property
  def has_dropout(self) -> bool:
    """Whether training draws random numbers."""
    adapters = self.lora is not None and self.lora.dropout
    return any((self.embedding_dropout, self.attention_dropout, self.residual_dropout, adapters))

  def problems(self):
    """Rules between settings: what cannot be built, and what would be silently without effect."""
    if self.width % self.heads:
      yield 'heads', f'must divide model.width = {self.width}', f'choose one of {_divisors(self.width)}'
    elif self.positions == 'rotary' and self.head_width % 2:
      rule = f'gives heads of odd width {self.head_width}, rotary positions need an even one'
      yield 'heads', rule, 'change it, or model.width'
    if self.heads % self.kv_heads:
      yield 'kv_heads', f'must divide model.heads = {self.heads}', f'choose one of {_divisors(self.heads)}'
    if self.lora is not None and self.lora.rank > self.width:
      yield 'lora.rank', f'must be at most model.width = {self.width}', 'lower it'
    learned = self.positions == 'learned'
    if learned != (self.max_length is not None):
      rule = 'is needed with learned positions' if learned else 'has no effect with rotary positions'
      yield 'max_length', rule, 'give the table its rows' if learned else 'set it to None'
    if learned == (self.rope_theta is not None):
      rule = 'has no effect with learned positions' if learned else 'is needed with rotary positions'
      yield 'rope_theta', rule, 'set it to None' if learned else 'give a base such as 10000'
    if self.rope_theta_local is not None and (learned or self.window is None):
      yield 'rope_theta_local', 'needs rotary positions and a window', 'set it to None'
    if self.rope_scaling is not None and learned:
      yield 'rope_scaling', 'needs rotary positions', 'set it to None'
    if self.global_every is not None and self.window is None:
      yield 'global_every', 'has no effect without model.window', 'set it to None'
    elif self.global_every == 1:
      yield 'global_every', 'leaves no layer with a window', 'set model.window to None'
    if self.attention_dropout and self.attention_implementation in ('cudnn', 'splash'):
      yield 'attention_dropout', 'only the xla attention has dropout', 'set it to 0'
    if self.attention_implementation == 'cudnn' and self.dtype == 'float32':
      yield 'attention_implementation', 'takes no float32', 'set model.dtype to bfloat16'

  def window_of(self, layer: int) -> int | None:
    """The sliding window of a layer, or None where it sees everything."""
    is_global = self.global_every is not None and layer % self.global_every == 0
    return None if is_global else self.window

  def theta_of(self, layer: int) -> float | None:
    """The rotary base of a layer."""
    is_local = self.window_of(layer) is not None and self.rope_theta_local is not None
    return self.rope_theta_local if is_local else self.rope_theta


def _divisors(n):
  return [d for d in range(1, n + 1) if n % d == 0]
