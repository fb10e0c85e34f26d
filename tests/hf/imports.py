"""Public models on one device, without a run."""

import jax
import numpy as np

from lmjax import paths, sharding
from lmjax.hf import weights
from lmjax.hf.source import PublicModel
from lmjax.models.config import ModelConfig
from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import Transformer

LENGTH, VOCAB = 64, 64


def rows(seed: int = 0, count: int = 3, length: int = LENGTH, vocab_size: int = VOCAB):
  """int32 tokens and mask [count, length]: the first row is full, the others are padded on the right."""
  draw = np.random.default_rng(seed)
  tokens = draw.integers(5, vocab_size, (count, length)).astype(np.int32)
  lengths = [length, length // 2 + 3, 5, length - 1][:count]
  mask = (np.arange(length) < np.array(lengths)[:, None]).astype(np.int32)
  return np.where(mask, tokens, 0).astype(np.int32), mask


def loaded(source: PublicModel) -> dict[str, jax.Array]:
  """All of its parameters by path, whole on the first device."""
  place = sharding.replicated(sharding.one_device_mesh())
  wanted = {
    path: jax.ShapeDtypeStruct(tuple(array['shape']), np.float32, sharding=place)
    for path, array in source.arrays.items()
  }
  return weights.load(source, wanted)


def imported(source: PublicModel, **changes) -> tuple[LanguageModel, dict]:
  """(the model, its parameters) in float32 with settings changed."""
  usual = dict(dtype='float32', scan=False, attention_implementation='xla')
  config = ModelConfig(**source.model | usual | changes)
  return LanguageModel(Transformer(config, source.model['vocab_size'])), paths.unflatten(loaded(source))
