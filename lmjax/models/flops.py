"""Floating-point operations of a model, and what devices can do."""

from lmjax.models.config import ModelConfig

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
  '3 x forward; forward = 2 x multiplied weights + 4 x heads x head width x keys per query and layer; masked positions '
  'of the attention count, recomputation does not (PaLM, arXiv:2204.02311, appendix B)'
)


def peak_flops(device) -> float | None:
  """Highest FLOP/s of a device, or None where it is not known (a CPU)."""
  return next((flops for kind, flops in PEAK_FLOPS.items() if device.device_kind.startswith(kind)), None)


def train_flops(config: ModelConfig, vocab_rows: int, batch_size: int, length: int, predicted: int) -> float:
  """Floating-point operations of one training step, counted as FLOPS_COUNT says.

  The output embedding has `vocab_rows` columns, padding included; logits are computed at `predicted` positions a row.
  """
  c = config
  matrices = 3 if c.is_gated else 2
  layer = 2 * c.width * (c.heads + c.kv_heads) * c.head_width + matrices * c.width * c.mlp_width
  attention = 4 * c.heads * c.head_width * length
  head = c.width * vocab_rows + (c.width**2 if c.mlm_transform else 0)
  forward = c.layers * length * (2 * layer + attention) + predicted * 2 * head
  return 3.0 * batch_size * forward
