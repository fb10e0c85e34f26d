"""What parallelism moves between devices, against theory, on the program that is partitioned for eight CPU devices.

Legend: K bytes of all layers' kernels, V of one table of the vocabulary, A of the activations [batch, length, width]
of the whole batch. All are float32. What is over is named: vectors of norms, sums of metrics, token ids.
"""

import math

import jax
import pytest

from lmjax import paths
from lmjax.dry_run import fit, hlo, topology

LAYERS, WIDTH, ROWS, LENGTH, VOCABULARY, CHUNK = 2, 64, 16, 32, 1024, 16
A = 4 * ROWS * LENGTH * WIDTH
V = 4 * VOCABULARY * WIDTH
IDS = 4 * ROWS * LENGTH
SCALARS = 4 * 64  # at most: norms of groups, losses and weights


@pytest.fixture
def moved(make_config):
  """`moved(data, fsdp, tensor, tied)` -> ({kind: bytes}, K, bytes of vectors)."""

  def measure(data, fsdp, tensor, tied):
    leaves = {'model.layers': LAYERS, 'model.width': WIDTH, 'model.mlp_width': 2 * WIDTH, 'data.length': LENGTH}
    leaves |= {'model.heads': 8, 'model.kv_heads': 8, 'data.batch_size': ROWS, 'objective.chunk': CHUNK}
    leaves |= {'data.tokenizer.vocab_size': VOCABULARY, 'model.tied_embeddings': tied}
    leaves |= {'mesh.data': data, 'mesh.fsdp': fsdp, 'mesh.tensor': tensor}
    compiled = fit.compile_for(make_config('causal_lm', **leaves), topology.Target(None, jax.devices(), None))
    flat = paths.flatten(compiled.abstract.params)
    kernels = sum(4 * math.prod(a.shape) for path, a in flat.items() if path.startswith('layers') and a.ndim == 2)
    vectors = sum(4 * math.prod(a.shape) for a in flat.values() if a.ndim == 1)
    traffic = hlo.collectives(compiled.program.as_text())
    return {kind: found.bytes for kind, found in traffic.items()}, kernels, vectors

  return measure


@pytest.mark.slow
def test_data_parallelism_sums_each_gradient_once(moved):
  found, K, vectors = moved(8, 1, 1, tied=False)
  assert set(found) == {'all-reduce'}
  assert 0 <= found['all-reduce'] - (K + 2 * V + vectors) <= SCALARS


@pytest.mark.slow
def test_a_tied_table_has_two_gradients(moved):
  """As input and as output embedding; the partitioner sums each over the devices."""
  tied, K, vectors = moved(8, 1, 1, tied=True)
  assert 0 <= tied['all-reduce'] - (K + 2 * V + vectors) <= SCALARS


@pytest.mark.parametrize('tied', [pytest.param(False, marks=pytest.mark.slow), True])
def test_fsdp_gathers_each_kernel_twice_and_sums_its_gradient_once(moved, tied):
  """ZeRO-3 (arXiv:1910.02054, section 7.2): forward and backward pass gather, then the gradients are summed.

  The output table is gathered once, since its gradient is computed in the forward pass. The input table stays where
  it is: each device looks its share of the width up for every row, and shares are exchanged for rows.
  """
  found, K, vectors = moved(1, 8, 1, tied=tied)
  assert found.pop('all-gather') == 2 * K + V + IDS
  assert found.pop('all-to-all') == 2 * A // 8
  # on CPU the sums are not scattered: a device gets all of each, and keeps its share
  assert 0 <= found.pop('all-reduce') - (K + V + vectors) <= SCALARS
  assert not found


@pytest.mark.slow
@pytest.mark.parametrize('data,fsdp', [(2, 4), (4, 2)])
def test_groups_of_fsdp_sum_the_shares_of_gradients_between_them(moved, data, fsdp):
  """As two slices do: within a group as above; between groups a device sums its share of each gradient alone."""
  found, K, vectors = moved(data, fsdp, 1, tied=True)
  assert found.pop('all-gather') == 2 * K + V + IDS // data
  assert found.pop('all-to-all') == 2 * A // 8
  shares = (K + V) // fsdp
  assert 0 <= found.pop('all-reduce') - (K + V + shares + vectors) <= SCALARS
  assert not found


@pytest.mark.slow
def test_tensor_parallelism_sums_activations(moved):
  """Megatron (arXiv:1909.08053, section 3): two sums of activations a layer in each direction, and for the vocabulary
  one in each; and three numbers a position: largest logit, partition, the target's logit.

  Here the gradients of query, key and value are summed one by one, three for Megatron's one, and those of gate and up,
  two for one: the TPU compiler adds them first (tests/dry_run/test_tpu_compile.py).
  """
  found, _, _ = moved(1, 1, 8, tied=True)
  sums = LAYERS * (2 + 2 + 3) + 2
  vectors = 4 * 8 * 2 * LAYERS  # gradients of the norms of queries and keys, whose heads are split
  assert 0 <= found.pop('all-reduce') - (sums * A + 3 * IDS + vectors) <= SCALARS
  assert not found
