"""A decoder written out in plain PyTorch, as people do who need no library: the GPT-2 and Llama of `Shape`.

One matrix for queries, keys and values, attention by `scaled_dot_product_attention`, the loss over whole logits.
"""

import math

import torch
from contenders import Shape
from torch import nn
from torch.nn import functional

ROPE_THETA = 10000.0


class Decoder(nn.Module):
  """Token ids [B, T] and the ids that follow them [B, T] to their mean loss in nats."""

  def __init__(self, shape: Shape):
    super().__init__()
    is_llama = shape.model == 'llama'
    self.token = nn.Embedding(shape.vocab, shape.width)
    self.position = None if is_llama else nn.Embedding(shape.length, shape.width)
    self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
    self.norm = nn.RMSNorm(shape.width) if is_llama else nn.LayerNorm(shape.width)
    self.output = nn.Linear(shape.width, shape.vocab, bias=False)
    for p in self.parameters():
      if p.ndim == 2:
        nn.init.normal_(p, std=0.02)
    if shape.tied or not is_llama:
      self.output.weight = self.token.weight

  def forward(self, inputs_BT, targets_BT):
    """See the class."""
    x_BTD = self.token(inputs_BT)
    if self.position is not None:
      x_BTD = x_BTD + self.position.weight[: inputs_BT.shape[1]]
    for layer in self.layers:
      x_BTD = layer(x_BTD)
    logits_BTV = self.output(self.norm(x_BTD))
    return functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


class Layer(nn.Module):
  """Norms before attention and before the hidden layer, each with its residual."""

  def __init__(self, shape: Shape):
    super().__init__()
    self.is_llama, self.heads, self.kv_heads = shape.model == 'llama', shape.heads, shape.kv_heads or shape.heads
    width, hidden = shape.width, shape.mlp_width
    self.head_width = width // shape.heads
    bias = not self.is_llama
    self.norms = nn.ModuleList((nn.RMSNorm if self.is_llama else nn.LayerNorm)(width) for _ in range(2))
    self.qkv = nn.Linear(width, width + 2 * self.kv_heads * self.head_width, bias=bias)
    self.out = nn.Linear(width, width, bias=bias)
    self.up = nn.Linear(width, 2 * hidden if self.is_llama else hidden, bias=bias)
    self.down = nn.Linear(hidden, width, bias=bias)
    if self.is_llama:
      frequency = ROPE_THETA ** -(torch.arange(0, self.head_width, 2) / self.head_width)
      angle_TK = torch.outer(torch.arange(shape.length), frequency).repeat(1, 2)
      self.register_buffer('cos_TK', angle_TK.cos(), persistent=False)
      self.register_buffer('sin_TK', angle_TK.sin(), persistent=False)

  def forward(self, x_BTD):
    """Of the same shape."""
    x_BTD = x_BTD + self._attend(self.norms[0](x_BTD))
    hidden_BTF = self.up(self.norms[1](x_BTD))
    if self.is_llama:
      gate_BTF, hidden_BTF = hidden_BTF.chunk(2, dim=-1)
      hidden_BTF = functional.silu(gate_BTF) * hidden_BTF
    else:
      hidden_BTF = functional.gelu(hidden_BTF, approximate='tanh')
    return x_BTD + self.down(hidden_BTF)

  def _attend(self, x_BTD):
    B, T, D = x_BTD.shape
    rest = self.kv_heads * self.head_width
    q_BHTK, k_BGTK, v_BGTK = (
      part.view(B, T, -1, self.head_width).transpose(1, 2) for part in self.qkv(x_BTD).split((D, rest, rest), dim=-1)
    )
    if self.is_llama:
      q_BHTK, k_BGTK = self._rotate(q_BHTK), self._rotate(k_BGTK)
    mixed_BHTK = functional.scaled_dot_product_attention(
      q_BHTK,
      k_BGTK,
      v_BGTK,
      is_causal=True,
      scale=1 / math.sqrt(self.head_width),
      enable_gqa=self.kv_heads != self.heads,
    )
    return self.out(mixed_BHTK.transpose(1, 2).reshape(B, T, D))

  def _rotate(self, x_BHTK):
    T = x_BHTK.shape[2]
    first, second = x_BHTK.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BHTK * self.cos_TK[:T] + turned * self.sin_TK[:T]).to(x_BHTK.dtype)
