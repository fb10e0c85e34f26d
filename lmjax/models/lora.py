"""Low-rank adapters in the parameter tree (LoRA, https://arxiv.org/abs/2106.09685).

`Linear` adds x @ a_DR @ b_RF * (alpha / rank) wherever `lora_a` and `lora_b` stand next to a kernel.

Legend: D inputs, F outputs, R rank.
"""

import fnmatch

import jax
import jax.numpy as jnp
from flax import linen as nn

from lmjax import paths
from lmjax.errors import ConfigError
from lmjax.models.axes import Named
from lmjax.models.config import LoraConfig, ModelConfig


def add(boxed: dict, config: ModelConfig, key: jax.Array) -> dict:
  """Puts adapters next to the kernels that the config names: `a` random, `b` zero, so that nothing changes yet.

  Raises ConfigError: a pattern matches no kernel, or, with scanned layers, not the same kernels in each.
  """
  rank, flat = config.lora.rank, paths.flatten(boxed, is_leaf=nn.meta.is_axis_metadata)
  for number, path in enumerate(_targets(flat, config)):
    above, (D, F), (rows, columns) = path.removesuffix('kernel'), flat[path].value.shape, flat[path].names
    a_DR = D**-0.5 * jax.random.normal(jax.random.fold_in(key, number), (D, rank), jnp.float32)
    flat[f'{above}lora_a'] = Named(a_DR, (rows, None))
    flat[f'{above}lora_b'] = Named(jnp.zeros((rank, F), jnp.float32), (None, columns))
  return paths.unflatten(flat)


def merge(params: dict, config: LoraConfig) -> dict:
  """Adds every adapter to its kernel and takes it out: the same function without adapters, exactly but for rounding."""
  flat = paths.flatten(params)
  for path in fnmatch.filter(flat, '*/lora_a'):
    above = path.removesuffix('lora_a')
    product = jnp.matmul(flat.pop(path), flat.pop(f'{above}lora_b'), precision='highest')
    flat[f'{above}kernel'] = flat[f'{above}kernel'] + config.scale * product
  return paths.unflatten(flat)


def _targets(flat: dict, config: ModelConfig) -> list[str]:
  """Paths of the kernels that get an adapter."""
  kernels = fnmatch.filter(flat, 'layers/*/kernel')
  for pattern in config.lora.targets:
    if not any(paths.matches(path, (pattern,)) for path in kernels):
      raise ConfigError(f'model.lora.targets = {pattern!r}: matches no kernel of a layer; try */query/kernel')
  targets = [path for path in kernels if paths.matches(path, config.lora.targets)]
  names = [{path.split('/', 2)[2] for path in targets if path.startswith(f'layers/{i}/')} for i in range(config.layers)]
  if config.scan and any(other != names[0] for other in names):
    rule = 'must take the same kernels in each layer with model.scan'
    raise ConfigError(f'model.lora.targets = {config.lora.targets}: {rule}; set that to False')
  return targets
