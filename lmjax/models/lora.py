"""Low-rank adapters in the parameter tree (LoRA, https://arxiv.org/abs/2106.09685).

`Linear` adds x @ a_DR @ b_RF * (alpha / rank) wherever `lora_a` and `lora_b` stand next to a kernel.

Legend: D inputs, F outputs, R rank.
"""

import fnmatch
from typing import Any

import jax
import jax.numpy as jnp

from lmjax import paths
from lmjax.errors import ConfigError
from lmjax.models.config import LoraConfig, ModelConfig


def add(params: dict, config: ModelConfig, key: jax.Array) -> dict:
  """Puts adapters next to the kernels that the config names: `a` random, `b` zero, so that nothing changes yet.

  Raises ConfigError: a pattern matches no kernel, or, with scanned layers, not the same kernels in each.
  """
  rank, grown = config.lora.rank, jax.tree.map(lambda p: p, params)
  for number, path in enumerate(_targets(params, config)):
    layer, kernel = _parent(grown, path), _parent(params, path)['kernel']
    std = kernel.shape[0] ** -0.5
    layer['lora_a'] = std * jax.random.normal(jax.random.fold_in(key, number), (kernel.shape[0], rank), jnp.float32)
    layer['lora_b'] = jnp.zeros((rank, kernel.shape[1]), jnp.float32)
  return grown


def add_axes(axes: dict, config: ModelConfig) -> dict:
  """The same for the tree of logical axis names."""
  grown = jax.tree.map(lambda a: a, axes, is_leaf=_is_axes)
  for path in _targets(axes, config):
    layer = _parent(grown, path)
    rows, columns = layer['kernel']
    layer['lora_a'], layer['lora_b'] = (rows, None), (None, columns)
  return grown


def merge(params: dict, config: LoraConfig) -> dict:
  """Adds every adapter to its kernel and takes it out: the same function without adapters, exactly but for rounding."""

  def walk(node: Any) -> Any:
    if not isinstance(node, dict):
      return node
    merged = {name: walk(child) for name, child in node.items() if name not in ('lora_a', 'lora_b')}
    if 'lora_a' in node:
      product = jnp.matmul(node['lora_a'], node['lora_b'], precision='highest')
      merged['kernel'] = node['kernel'] + config.scale * product
    return merged

  return walk(params)


def _targets(tree: dict, config: ModelConfig) -> list[str]:
  """Paths of the kernels that get an adapter."""
  kernels = fnmatch.filter(paths.flatten(tree, is_leaf=_is_axes), 'layers/*/kernel')
  for pattern in config.lora.targets:
    if not any(paths.matches(path, (pattern,)) for path in kernels):
      raise ConfigError(f'model.lora.targets = {pattern!r}: matches no kernel of a layer; try */query/kernel')
  targets = [path for path in kernels if paths.matches(path, config.lora.targets)]
  names = [{path.split('/', 2)[2] for path in targets if path.startswith(f'layers/{i}/')} for i in range(config.layers)]
  if config.scan and any(other != names[0] for other in names):
    rule = 'must take the same kernels in each layer with model.scan'
    raise ConfigError(f'model.lora.targets = {config.lora.targets}: {rule}; set that to False')
  return targets


def _is_axes(node) -> bool:
  return isinstance(node, tuple)


def _parent(tree: dict, path: str) -> dict:
  for name in path.split('/')[:-1]:
    tree = tree[name]
  return tree
