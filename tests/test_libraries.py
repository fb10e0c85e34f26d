"""What lmjax works around, or relies on, in libraries: a test here fails when one of them changes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers

from lmjax import metrics


def test_optax_sums_a_norm_in_the_dtype_of_the_leaves():
  """Of 1,000 bfloat16 leaves of norm 1 it finds 16: lmjax takes squares to float32 first."""
  leaves = {f'layers/{i}/attention/kernel': jnp.ones((1,), jnp.bfloat16) for i in range(1000)}
  assert float(optax.global_norm(leaves)) == 16.0
  [found] = metrics.group_norms(
    {'layers': {str(i): {'attention': {'kernel': a}} for i, a in enumerate(leaves.values())}}
  ).values()
  np.testing.assert_allclose(found, np.sqrt(1000), rtol=1e-6)


def test_random_bits_are_the_same_in_every_version_of_jax():
  """A run that is resumed after an upgrade draws what it would have drawn."""
  bits = jax.random.bits(jax.random.fold_in(jax.random.key(3), 7), (4,), np.uint32)
  assert bits.tolist() == [1876654423, 1575774796, 3466474743, 3854236509]


def test_a_composing_normalizer_leaves_a_last_accent_to_no_token():
  """Qwen's and ModernBERT's: of cafe and a combining accent the offsets cover cafe."""
  backend = tokenizers.Tokenizer(
    tokenizers.models.BPE({c: i for i, c in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}, [])
  )
  backend.normalizer = tokenizers.normalizers.NFC()
  backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  assert backend.encode('cafe\u0301').offsets[-1] == (3, 4)
