"""What stands on the backbone. Legend: B batch, T length, D width, V rows of the vocabulary."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lmjax.models.axes import Named, Parameters
from lmjax.models.config import ModelConfig
from lmjax.models.layers import PLAIN, Linear, Norm
from lmjax.models.transformer import Transformer
from lmjax.ops.cross_entropy import CrossEntropySums, cross_entropy
from lmjax.ops.softcap import soft_cap


class MlmTransform(nn.Module):
  """BERT's dense layer, activation and norm before the output embedding (https://arxiv.org/abs/1810.04805)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x_BTD):
    """x_BTD -> x_BTD."""
    c = self.config
    x_BTD = Linear(c, (c.width,), ('embed', None), c.init_std, name='dense')(x_BTD)
    # a gated activation has no gate here: ModernBERT, too, takes its plain GELU
    activation = PLAIN['gelu'] if c.is_gated else PLAIN[c.activation]
    return Norm(c, name='norm')(activation(x_BTD))


@dataclasses.dataclass(frozen=True)
class LanguageModel(Parameters):
  """Backbone and output embedding: what both pre-training objectives train.

  `init` gives {'embeddings', 'layers', 'final_norm', 'head'}; the head is empty (absent) where embeddings are tied
  and there is no transform.
  """

  backbone: Transformer

  def boxed(self, key: jax.Array) -> dict:
    """See `Parameters`."""
    c, rows = self.backbone.config, self.backbone.padded_vocab_size
    backbone_key, head_key = jax.random.split(key)
    transform_key, output_key = jax.random.split(head_key)
    params, head = self.backbone.boxed(backbone_key), {}
    if c.mlm_transform:
      head['transform'] = MlmTransform(c).init(transform_key, jnp.zeros((1, 1, c.width), c.dtype))['params']
      head['bias'] = Named(jnp.zeros((rows,)), ('vocab',))
    if not c.tied_embeddings:
      kernel = nn.initializers.normal(c.init_std)(output_key, (c.width, rows))
      head['output'] = {'kernel': Named(kernel, ('embed', 'vocab'))}
    return {**params, 'head': head} if head else params

  def output(self, params: dict, x_BTD: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """What the logits are made of: x_BTD (transformed), kernel_DV, bias_V or None; x @ kernel + bias is then capped."""
    c = self.backbone.config
    if c.mlm_transform:
      x_BTD = MlmTransform(c).apply({'params': params['head']['transform']}, x_BTD)
    tied = c.tied_embeddings
    kernel_DV = params['embeddings']['token']['embedding'].T if tied else params['head']['output']['kernel']
    return x_BTD, kernel_DV, params['head']['bias'] if c.mlm_transform else None

  def cross_entropy(
    self, params: dict, x_BTD, targets_BT, weights_BT, counted_BT, chunk, z_loss=0.0, label_smoothing=0.0
  ) -> CrossEntropySums:
    """That of `ops.cross_entropy`, at every position of x."""
    arrays = (*self.output(params, x_BTD), targets_BT, weights_BT, counted_BT)
    softcap = self.backbone.config.logit_softcap
    return cross_entropy(*arrays, self.backbone.vocab_rows, chunk, z_loss, label_smoothing, softcap)

  def logits(self, params: dict, x_BTD: jax.Array, whole: bool = False) -> jax.Array:
    """Float32 logits [B, T, vocab_size] at every position of x: for generation and tests, not for training.

    With `whole` those of rows that no token has, too, which count in a probability: [B, T, vocab_rows].
    """
    x_BTD, kernel_DV, bias_V = self.output(params, x_BTD)
    logits = jnp.einsum('BTD,DV->BTV', x_BTD, kernel_DV.astype(x_BTD.dtype), preferred_element_type=jnp.float32)
    logits = logits if bias_V is None else logits + bias_V
    rows = self.backbone.vocab_rows if whole else self.backbone.vocab_size
    return soft_cap(logits[..., :rows], self.backbone.config.logit_softcap)

  def decode_step(self, params: dict, prefix: bool = False):
    """The model as a `decode.Step`; with `prefix` prompts (of more than one token) are read from both sides."""

    def step(cache, tokens_BT, positions_BT, segments_BT, visible_BTS=None):
      info = dict(positions_BT=positions_BT, segments_BT=segments_BT, visible_BTS=visible_BTS)
      info |= {'prefix_BT': segments_BT > 0} if prefix and visible_BTS is None and tokens_BT.shape[1] > 1 else {}
      x_BTD, cache = self.backbone.apply(params, tokens_BT, **info, cache=cache)
      if visible_BTS is None:
        return self.logits(params, x_BTD[:, -1:])[:, 0], cache
      return self.logits(params, x_BTD), cache

    return step


class HeadTransform(nn.Module):
  """A dense layer and tanh, as before BERT's classifier, or relu, as before DistilBERT's."""

  config: ModelConfig
  activation: str

  @nn.compact
  def __call__(self, x):
    """[..., D] -> [..., D]."""
    c = self.config
    y = Linear(c, (c.width,), ('embed', None), c.init_std, name='dense')(x)
    return jnp.tanh(y) if self.activation == 'tanh' else jax.nn.relu(y)


@dataclasses.dataclass(frozen=True)
class HeadedModel(Parameters):
  """Backbone and a head: what classification and extractive question answering train.

  `init` gives {'embeddings', 'layers', 'final_norm', NAME: {'kernel' [D, outputs], 'bias' [outputs], and of what comes
  before, 'dense' and 'norm'}}.
  """

  backbone: Transformer
  name: str  # of the head in the parameter tree
  outputs: int
  form: str  # as `objective.head` names it

  @property
  def _transform(self) -> nn.Module | None:
    if self.form in ('tanh', 'relu'):
      return HeadTransform(self.backbone.config, self.form)
    return MlmTransform(self.backbone.config) if self.form == 'gelu_norm' else None

  def boxed(self, key: jax.Array) -> dict:
    """See `Parameters`."""
    backbone_key, head_key = jax.random.split(key)
    c, transform = self.backbone.config, self._transform
    kernel = nn.initializers.normal(c.init_std)(head_key, (c.width, self.outputs))
    head: dict = {'kernel': Named(kernel, ('embed', None))}
    if self.form != 'linear_no_bias':
      head['bias'] = Named(jnp.zeros(self.outputs), (None,))
    if transform is not None:
      transform_key = jax.random.fold_in(head_key, 1)
      head |= transform.init(transform_key, jnp.zeros((1, 1, c.width), c.dtype))['params']
    return {**self.backbone.boxed(backbone_key), self.name: head}

  def logits(self, params: dict, x: jax.Array, dropout: Callable = lambda x: x) -> jax.Array:
    """[..., D] -> float32 [..., outputs]; `dropout` is applied to what the last layer is given."""
    head, transform = params[self.name], self._transform
    x = dropout(x if transform is None else transform.apply({'params': head}, x))
    logits = jnp.matmul(x, head['kernel'].astype(x.dtype), preferred_element_type=jnp.float32)
    return logits + head['bias'] if 'bias' in head else logits
