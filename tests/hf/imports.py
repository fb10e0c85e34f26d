"""Public models on one device, without a run."""

import jax
import numpy as np

from lmjax import paths, sharding
from lmjax.hf import weights
from lmjax.hf.source import PublicModel
from lmjax.models.config import ModelConfig
from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import Transformer


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
