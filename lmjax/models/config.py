"""The shape of a model."""

import dataclasses
import math
from typing import Literal, NamedTuple

from lmjax.schema.types import Bool, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Rate, section

# Path patterns of the adapters' parameters.
ADAPTERS = ('*/lora_a', '*/lora_b')
# What a layer keeps for its backward pass, by the names that it gives to its parts, besides what the attention kernel
# keeps; 'none' keeps all. From the least recomputation to the most.
_ATTENTION = ('query', 'key', 'value', 'attention')
KEPT = {'attention_and_up': (*_ATTENTION, 'up'), 'attention': _ATTENTION, 'full': ()}
# Settings that training alone reads.
DROPOUTS = ('embedding_dropout', 'attention_dropout', 'residual_dropout')
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


class LayerKind(NamedTuple):
  """What tells a layer from another, static in a program."""

  window: int | None  # its sliding window; None: it sees everything
  theta: float | None  # base of its rotary frequencies; None: it has no rotary positions
  is_scaled: bool  # whether these frequencies are scaled
  has_first_norm: bool  # whether a norm comes before its attention, where the config has one there


@section
class ModelConfig:
  """The backbone and its output head.

  attention: causal (a decoder: GPT) or bidirectional (an encoder: BERT)
  layers: number of blocks
  width: model width D
  heads: query heads; they divide the width, unless head_dim is given
  kv_heads: key and value heads, each shared by heads / kv_heads query heads (GQA, arXiv:2305.13245)
  mlp_width: hidden width F of the feed-forward layers
  positions: learned (a table) or rotary (RoFormer, arXiv:2104.09864)
  max_length: rows of the position table; None with rotary positions
  rope_theta: base of the rotary frequencies; None with learned positions
  rope_theta_local: the same for layers with a window; None: rope_theta
  rope_scaling: rotary frequencies are divided by this, for texts longer than those trained on (arXiv:2306.15595),
    all of them or some: see rope_scaling_type; None: 1
  norm: layernorm or rmsnorm
  norm_eps: added to the variance
  norm_placement: pre (before each sublayer), post (after each residual sum, as in BERT), sandwich (before each sublayer
    and on its output: Gemma 2, arXiv:2408.00118) or output (on its output alone: OLMo 2, arXiv:2501.00656)
  activation: gelu, gelu_tanh (GPT-2's approximation), relu; or with a gate geglu, geglu_tanh, swiglu (arXiv:2002.05202)
  biases: whether linear layers and LayerNorms have biases
  qk_norm: RMSNorm on queries and keys (arXiv:2302.05442)
  window: sliding window in tokens; None: every layer sees everything
  global_every: with a window, one of each n layers sees everything, the first or as global_offset says; None: none does
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
  head_dim: width K of one head; None: width / heads
  qkv_bias: biases on queries, keys and values, where other linear layers have none
  first_norm: whether the first layer has a norm before its attention (ModernBERT, arXiv:2412.13663, has none)
  global_offset: which of each global_every layers sees everything, 0 the first
  rotary_skip_every: every n-th layer, the last of n, has no rotary positions (NoPE, arXiv:2305.19466); None: all do
  rotary_width: so many of a head's first numbers are rotated (GPT-NeoX, arXiv:2204.06745); None: all
  rope_scaling_type: how rope_scaling divides frequencies: linear (all of them), or llama3 and yarn (YaRN,
    arXiv:2309.00071) those that turn slowly
  rope_original_length: tokens trained on, over which llama3 and yarn count how often a frequency turns
  rope_rotations: frequencies that turn less than the first number are divided, those that turn more than the second
    stay, between them is a ramp (llama3: in the turns, yarn: in the index); 1,4 in Llama 3, 1,32 in YaRN
  rope_attention_factor: yarn multiplies sines and cosines by it; None: 0.1 ln(rope_scaling) + 1
  rope_scaling_layers: which layers' frequencies are scaled: all, or global (those that see everything)
  position_offset: rows of the position table before that of the first token (RoBERTa: 2), besides max_length
  vocab_size: rows of the token table before padding; None: the tokenizer's. More than it has are trained as never right
  parallel_residual: attention and feed-forward both read the layer's input (GPT-NeoX, arXiv:2204.06745)
  qk_norm_over: what QK-norm normalises: each head, or all heads together, their width (OLMo 2, arXiv:2501.00656)
  norm_offset: added to the scales of RMSNorms, which start at 1 without it (Gemma: 1)
  embedding_scale: token embeddings are multiplied by it (Gemma: the root of the width); None: 1
  attention_scale: attention scores are multiplied by it; None: head width ** -0.5
  attention_softcap: scores become cap * tanh(score / cap) (Gemma 2, arXiv:2408.00118); None: they stay
  logit_softcap: the same for the logits of the output embedding
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
  norm_placement: Literal['pre', 'post', 'sandwich', 'output']
  activation: Literal['gelu', 'gelu_tanh', 'relu', 'geglu', 'geglu_tanh', 'swiglu']
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
  head_dim: PositiveInt | None = None
  qkv_bias: Bool = False
  first_norm: Bool = True
  global_offset: NonNegativeInt = 0
  rotary_skip_every: PositiveInt | None = None
  rotary_width: PositiveInt | None = None
  rope_scaling_type: Literal['linear', 'llama3', 'yarn'] = 'linear'
  rope_original_length: PositiveInt | None = None
  rope_rotations: tuple[PositiveFloat, PositiveFloat] | None = None
  rope_attention_factor: PositiveFloat | None = None
  rope_scaling_layers: Literal['all', 'global'] = 'all'
  position_offset: NonNegativeInt = 0
  vocab_size: PositiveInt | None = None
  parallel_residual: Bool = False
  qk_norm_over: Literal['head', 'width'] = 'head'
  norm_offset: NonNegativeFloat = 0.0
  embedding_scale: PositiveFloat | None = None
  attention_scale: PositiveFloat | None = None
  attention_softcap: PositiveFloat | None = None
  logit_softcap: PositiveFloat | None = None

  @property
  def head_width(self) -> int:
    """K, the width of one head."""
    return self.head_dim or self.width // self.heads

  @property
  def is_gated(self) -> bool:
    """Whether the feed-forward layers have a gate."""
    return self.activation in ('geglu', 'geglu_tanh', 'swiglu')

  @property
  def has_dropout(self) -> bool:
    """Whether training draws random numbers."""
    adapters = self.lora is not None and self.lora.dropout
    return any((self.embedding_dropout, self.attention_dropout, self.residual_dropout, adapters))

  @property
  def period(self) -> int:
    """After so many layers their kinds come again, but for what the first one lacks."""
    return math.lcm(self.global_every or 1, self.rotary_skip_every or 1)

  def layer(self, number: int) -> LayerKind:
    """The kind of a layer."""
    is_global = self.window is None or (
      self.global_every is not None and number % self.global_every == self.global_offset
    )
    is_skipped = self.rotary_skip_every is not None and (number + 1) % self.rotary_skip_every == 0
    theta = self.rope_theta if is_global or self.rope_theta_local is None else self.rope_theta_local
    return LayerKind(
      window=None if is_global else self.window,
      theta=None if is_skipped else theta,
      is_scaled=self.rope_scaling is not None and (is_global or self.rope_scaling_layers == 'all'),
      has_first_norm=self.first_norm or number > 0,
    )

  def problems(self):
    """Rules between settings: what cannot be built, and what would be silently without effect."""
    yield from self._misshapen()
    yield from self._misplaced()
    yield from self._without_effect()
    if self.attention_dropout and self.attention_implementation in ('cudnn', 'splash'):
      rule = f'the {self.attention_implementation} attention has no dropout'
      yield 'attention_dropout', rule, 'set it to 0, or model.attention_implementation to auto'
    if self.attention_implementation == 'cudnn' and self.dtype == 'float32':
      yield 'attention_implementation', 'takes no float32', 'set model.dtype to bfloat16'
    if self.attention_implementation == 'cudnn' and self.attention_softcap is not None:
      yield 'attention_softcap', 'the cudnn attention has none', 'set model.attention_implementation to xla'

  def _misshapen(self):
    """Widths and numbers of heads."""
    if self.head_dim is None and self.width % self.heads:
      yield 'heads', f'must divide model.width = {self.width}', f'choose one of {_divisors(self.width)}'
    elif self.positions == 'rotary' and self.rotary_width is None and self.head_width % 2:
      rule = f'gives heads of odd width {self.head_width}, rotary positions need an even one'
      yield ('heads', rule, 'change it, or model.width') if self.head_dim is None else ('head_dim', rule, 'change it')
    elif self.rotary_width is not None and (self.rotary_width % 2 or self.rotary_width > self.head_width):
      yield 'rotary_width', f'must be even, and at most the head width {self.head_width}', 'change it'
    if self.heads % self.kv_heads:
      yield 'kv_heads', f'must divide model.heads = {self.heads}', f'choose one of {_divisors(self.heads)}'
    if self.lora is not None and self.lora.rank > self.width:
      yield 'lora.rank', f'must be at most model.width = {self.width}', 'lower it'

  def _misplaced(self):
    """Positions and windows."""
    learned, scaling = self.positions == 'learned', self.rope_scaling_type
    if learned != (self.max_length is not None):
      rule = 'is needed with learned positions' if learned else 'has no effect with rotary positions'
      yield 'max_length', rule, 'give the table its rows' if learned else 'set it to None'
    if learned == (self.rope_theta is not None):
      rule = 'has no effect with learned positions' if learned else 'is needed with rotary positions'
      yield 'rope_theta', rule, 'set it to None' if learned else 'give a base such as 10000'
    if scaling != 'linear' and self.rope_original_length is None:
      yield 'rope_original_length', f'is needed with model.rope_scaling_type = {scaling}', 'give the tokens trained on'
    if scaling != 'linear' and self.rope_rotations is None:
      yield 'rope_rotations', f'is needed with model.rope_scaling_type = {scaling}', 'give two numbers such as 1,32'
    elif self.rope_rotations is not None and self.rope_rotations[0] >= self.rope_rotations[1]:
      yield 'rope_rotations', 'must be a lower and a higher number', 'change their order'
    if self.rotary_skip_every == 1:
      yield 'rotary_skip_every', 'leaves no layer with rotary positions', 'choose 2 or more'
    elif self.rotary_skip_every is not None and self.rotary_skip_every > self.layers:
      yield 'rotary_skip_every', f'is more than model.layers = {self.layers}: no layer is left out', 'set it to None'
    if self.window is not None and self.global_every == 1:
      yield 'global_every', 'leaves no layer with a window', 'set model.window to None'
    elif self.global_every is not None and self.global_offset >= self.global_every:
      yield 'global_offset', f'must be below model.global_every = {self.global_every}', 'lower it'

  def _without_effect(self):
    """Settings that are on and need what is off."""
    is_rotary, is_learned = self.positions == 'rotary', self.positions == 'learned'
    is_scaled = self.rope_scaling is not None
    has_ramp = is_scaled and self.rope_scaling_type != 'linear'
    ramp = 'model.rope_scaling, of type llama3 or yarn'
    needs = {
      'rope_theta_local': (is_rotary and self.window is not None, 'rotary positions and a window'),
      'rope_scaling': (is_rotary, 'rotary positions'),
      'rotary_width': (is_rotary, 'rotary positions'),
      'rotary_skip_every': (is_rotary, 'rotary positions'),
      'rope_scaling_type': (is_scaled, 'model.rope_scaling'),
      'rope_original_length': (has_ramp, ramp),
      'rope_rotations': (has_ramp, ramp),
      'rope_attention_factor': (has_ramp and self.rope_scaling_type == 'yarn', 'model.rope_scaling, of type yarn'),
      'rope_scaling_layers': (is_scaled and self.global_every is not None, 'model.rope_scaling and model.global_every'),
      'position_offset': (is_learned, 'learned positions'),
      'global_every': (self.window is not None, 'model.window'),
      'global_offset': (self.global_every is not None, 'model.global_every'),
      'first_norm': (self.norm_placement == 'pre', 'model.norm_placement = pre'),
      'parallel_residual': (self.norm_placement == 'pre', 'model.norm_placement = pre'),
      'norm_offset': (self.norm == 'rmsnorm', 'model.norm = rmsnorm'),
      'qk_norm_over': (self.qk_norm, 'model.qk_norm'),
      'qkv_bias': (not self.biases, 'model.biases = False: with them all linear layers have some'),
      'embedding_scale': (
        not self.embedding_norm or is_learned or self.segment_types is not None,
        'model.embedding_norm = False: that norm takes it out again',
      ),
    }
    for name, (has_effect, needed) in needs.items():
      off = DEFAULTS.get(name)
      if getattr(self, name) != off and not has_effect:
        yield name, f'needs {needed}', f'set it to {off}'


# The settings that a config, or what an earlier version saved, may leave out.
DEFAULTS = {
  field.name: field.default for field in dataclasses.fields(ModelConfig) if field.default is not dataclasses.MISSING
}


def _divisors(n):
  return [d for d in range(1, n + 1) if n % d == 0]
