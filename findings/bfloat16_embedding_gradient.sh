#!/usr/bin/env bash
# bfloat16_embedding_gradient: the gradient of an embedding table in bfloat16 stops at 256. Sums in bfloat16 (`jnp.sum`,
# products of matrices) are held in float32 until they end, so one would expect that of a gradient, too. But that of
# `table[ids]` is a scatter that adds in bfloat16, whose next number after 256 is 258: a token that stands at 4,096 places
# gets a sixteenth of its gradient. The same look-up as a product with one-hot rows gets the whole; a table in float32
# that is rounded after the look-up, too. `torch.nn.Embedding` does as jax does.
# Seen with jax 0.10.2 and torch 2.13.0 on Python 3.11.7, CPU, on 2026-11-29. Output:
#   places   256: table[ids]    256, one-hot product    256, rounded after    256, torch.nn.Embedding    256
#   places   257: table[ids]    256, one-hot product    256, rounded after    257, torch.nn.Embedding    256
#   places 4,096: table[ids]    256, one-hot product  4,096, rounded after  4,096, torch.nn.Embedding    256
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 torch==2.13.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import torch


def of_jax(look_up, places, dtype):
  """The gradient of row 1 where each of so many places adds 1 to it."""
  ids, table = jnp.ones(places, jnp.int32), jnp.zeros((4, 2), dtype)
  return float(jax.grad(lambda table: look_up(table, ids).astype(jnp.float32).sum())(table)[1, 0])


def of_torch(places):
  table = torch.nn.Embedding(4, 2, dtype=torch.bfloat16)
  table(torch.ones(places, dtype=torch.long)).float().sum().backward()
  return table.weight.grad[1, 0].item()


found = {}
for places in (256, 257, 4096):
  found[places] = {
    'table[ids]': of_jax(lambda table, ids: table[ids], places, jnp.bfloat16),
    'one-hot product': of_jax(lambda table, ids: jax.nn.one_hot(ids, 4, dtype=table.dtype) @ table, places, jnp.bfloat16),
    'rounded after': of_jax(lambda table, ids: table[ids].astype(jnp.bfloat16), places, jnp.float32),
    'torch.nn.Embedding': of_torch(places),
  }
  print(f'places {places:5,}:', ', '.join(f'{name} {value:6,.0f}' for name, value in found[places].items()))
assert list(found[4096].values()) == [256, 4096, 4096, 256], 'this has changed'
PYTHON
