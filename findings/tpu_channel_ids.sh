#!/usr/bin/env bash
# tpu_channel_ids: in a program that is compiled for TPUs a channel_id is not one collective's. Ids are what the parts of an
# asynchronous collective have in common, so one would expect to count collectives by their ids; but those that the compiler
# makes of several small ones all get channel_id=1, which the first all-gather has as well: in this program of four layers,
# whose parameters eight chips share, an all-gather and two different all-reduces. Who counts ids misses two of three.
# Seen with jax 0.10.2 and libtpu 0.0.42.1 on Python 3.11.7, compiled for v5e:2x4 without a TPU, on 2026-11-29. Output:
#   collectives: 12 all-gathers, 6 all-reduces; channels: 16
#   channel_id=1: 1 all-gather, 2 all-reduces
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 libtpu==0.0.42.1
export JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_ACCELERATOR_TYPE=v5litepod-8 TPU_WORKER_HOSTNAMES=localhost
"$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' || { cat "$folder/log" && exit 1; }
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

chips = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x4').devices
rows = NamedSharding(Mesh(np.array(chips).reshape(8), ('fsdp',)), PartitionSpec('fsdp'))
wide, narrow = 2048, 512


def loss(params, x):
  x = x.astype(jnp.bfloat16)
  for layer in params:
    square, one, other = (kernel.astype(jnp.bfloat16) for kernel in layer)
    x = jnp.tanh(x @ square + jnp.tile(jnp.tanh(x @ one) * (x @ other), (1, wide // narrow)))
  return x.astype(jnp.float32).sum()


def step(params, x):
  gradients = jax.grad(loss)(params, x)
  return jax.tree.map(lambda p, g: jax.lax.with_sharding_constraint(p - g, rows), params, gradients)


array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows)
params = [(array(wide, wide), array(wide, narrow), array(wide, narrow)) for _ in range(4)]
plain_gathers = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': 1_000_000}
text = jax.jit(step).lower(params, array(8192, wide)).compile(compiler_options=plain_gathers).as_text()

# An asynchronous collective's parts, which do say what they are, count as one.
found = set()
for line in text.splitlines():
  if match := re.search(r'^ *(?:ROOT )?(%\S+) = .* (all-gather|all-reduce)\(.*channel_id=(\d+)', line):
    name, kind, channel = match.groups()
    found.add((kind, channel, 'parts' if 'async_collective_fusion_config' in line else name))
count = lambda kind, *channel: len([one for one in found if one[0] == kind and one[1] in (channel or (one[1],))])
channels = len({one[1] for one in found})
print(f'collectives: {count("all-gather")} all-gathers, {count("all-reduce")} all-reduces; channels: {channels}')
print(f'channel_id=1: {count("all-gather", "1")} all-gather, {count("all-reduce", "1")} all-reduces')
assert (count('all-gather', '1'), count('all-reduce', '1')) == (1, 2), 'this has changed'
PYTHON
