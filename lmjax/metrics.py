"""What is counted: sums into means, floating-point operations, norms by group of parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from lmjax import paths

# Highest bfloat16 FLOP/s of one JAX device, from the makers' data sheets (dense, without sparsity).
PEAK_FLOPS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5p': 459e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'TPU7x': 1153.5e12,  # one of the two JAX devices of a chip of 2,307 TFLOP/s
  'NVIDIA A100': 312e12,
  'NVIDIA H100': 989e12,
  'NVIDIA H200': 989e12,
}

FLOPS_COUNT = (
  '3 x forward; forward = 2 x multiplied weights + 4 x width x keys per query and layer; masked positions of '
  'the attention count, recomputation does not (PaLM, arXiv:2204.02311, appendix B)'
)


def peak_flops(device) -> float | None:
  """Highest FLOP/s of a device, or None where it is not known (a CPU)."""
  for kind, flops in PEAK_FLOPS.items():
    if device.device_kind.startswith(kind):
      return flops
  return None


def train_flops(config, vocab_rows: int, batch_size: int, length: int, predicted: int) -> float:
  """Floating-point operations of one training step, counted as FLOPS_COUNT says.

  Args:
    config: a ModelConfig.
    vocab_rows: columns of the output embedding, padding included.
    batch_size: rows.
    length: tokens a row.
    predicted: positions a row whose logits are computed.
  """
  c = config
  matrices = 3 if c.activation in ('geglu', 'swiglu') else 2
  layer = c.width * (2 * c.width + 2 * c.kv_heads * c.head_width) + matrices * c.width * c.mlp_width
  attention = 4 * c.width * length
  head = c.width * vocab_rows + (c.width**2 if c.mlm_transform else 0)
  forward = c.layers * length * (2 * layer + attention) + predicted * 2 * head
  return 3.0 * batch_size * forward


def group_of(path: str) -> str:
  """The group that a parameter is reported under.

  >>> group_of('layers/3/attention/query/kernel')
  'attention'
  """
  parts = path.split('/')
  if parts[0] == 'layers':
    return 'norms' if 'norm' in parts[2] or 'norm' in parts[3] else parts[2]
  return 'norms' if parts[0] == 'final_norm' else parts[0]


def group_norms(tree) -> dict[str, jax.Array]:
  """The L2 norm of each group of a tree like the parameters."""
  squares = {}
  for path, leaf in paths.flatten(tree).items():
    square = jnp.sum(jnp.square(leaf.astype(jnp.float32)))
    squares[group_of(path)] = squares.get(group_of(path), 0.0) + square
  return {group: jnp.sqrt(square) for group, square in sorted(squares.items())}


def means(pairs: dict[str, tuple]) -> dict[str, float]:
  """(sum, weight) pairs -> means; a weight of 0 gives NaN, which is said and not hidden."""
  out = {}
  for name, (total, weight) in pairs.items():
    total, weight = float(np.asarray(total)), float(np.asarray(weight))
    out[name] = total / weight if weight else math.nan
  return out


def add_pairs(first: dict | None, second: dict) -> dict:
  """Adds (sum, weight) pairs in float64 on the host."""
  second = {name: tuple(float(np.asarray(x)) for x in pair) for name, pair in second.items()}
  if first is None:
    return second
  return {name: (first[name][0] + pair[0], first[name][1] + pair[1]) for name, pair in second.items()}


def derive(values: dict[str, float]) -> dict[str, float]:
  """Adds perplexity, and turns nats into bits a byte."""
  out = dict(values)
  if 'loss' in out:
    out['perplexity'] = math.exp(min(out['loss'], 700.0))
  if 'nats_per_byte' in out:
    out['bits_per_byte'] = out.pop('nats_per_byte') / math.log(2.0)
  return out


def count(params) -> int:
  """Number of parameters."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
