"""Vectors of texts: the outputs of a backbone, pooled. Legend: B batch, T length, D width, N texts."""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lmjax import paths, sharding
from lmjax.data.tokens.published import Frame
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import ConfigError
from lmjax.hf import export, sentence, weights
from lmjax.hf.sentence import Vectors
from lmjax.hf.source import PublicModel
from lmjax.models.config import ModelConfig
from lmjax.models.transformer import Transformer
from lmjax.objectives.classification import pool
from lmjax.schema.slices import MeshConfig
from lmjax.training import evaluator, reopen
from lmjax.training.reopen import OpenedRun

# Rows are padded to a multiple of so many tokens: each length compiles once.
BUCKET = 16
# Tokens of a text that are read, at most, where nothing else says so.
LONGEST = 8_192


@dataclasses.dataclass(frozen=True)
class Embedder:
  """Makes vectors of texts."""

  backbone: Transformer
  params: dict  # of the backbone, on `mesh`
  mesh: jax.sharding.Mesh
  tokenizer: Tokenizer
  frame: Frame  # what stands before and after a text
  how: Vectors  # its length is that of a row; of a longer text the beginning is read

  def __call__(self, texts: Sequence[str], batch_size: int) -> tuple[np.ndarray, dict[str, int]]:
    """(float32 [N, D] in the order of the texts, {what: how many})."""
    how, around = self.how, len(self.frame.begin) + len(self.frame.end)
    given = [how.prompt + text for text in texts]
    encoded = [text.ids for text in self.tokenizer.encode_each(map(str.lower, given) if how.lowercase else given)]
    left = how.length - around
    rows = [[*self.frame.begin, *ids[:left], *self.frame.end] or [self.pad] for ids in encoded]
    nothing = len(self.tokenizer.encode(how.prompt))
    counts = {'texts': len(rows), 'empty': sum(len(ids) <= nothing for ids in encoded)}
    counts[f'cut to {how.length:,} tokens'] = sum(len(ids) > left for ids in encoded)
    devices = self.mesh.shape['data'] * self.mesh.shape['fsdp']
    size = -(-min(batch_size, len(rows)) // devices) * devices
    # longest first: rows of a batch are of like length, and what does not fit into memory fails at once
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    vectors = np.zeros((len(rows), self.backbone.config.width), np.float32)
    run, function = evaluator.Runner(self.mesh), _vectors(self.backbone, how.pooling, how.normalize)
    for first in range(0, len(order), size):
      chosen = order[first : first + size]
      found = run(function, self.params, self._batch([rows[i] for i in chosen], size))
      vectors[chosen] = found['vectors'][: len(chosen)]
    return vectors, counts

  @property
  def pad(self) -> int:
    """The id that fills a row: any valid one."""
    return self.tokenizer.pad or 0

  def _batch(self, rows: list[list[int]], size: int) -> dict[str, np.ndarray]:
    """inputs and segments (0 for padding), int32 [B, T]; what is missing of a batch is rows of one token."""
    longest = min(-(-len(rows[0]) // BUCKET) * BUCKET, self.how.length)
    inputs_BT = np.full((size, longest), self.pad, np.int32)
    segments_BT = np.zeros_like(inputs_BT)
    segments_BT[:, 0] = 1
    for i, row in enumerate(rows):
      inputs_BT[i, : len(row)], segments_BT[i, : len(row)] = row, 1
    return {'inputs': inputs_BT, 'segments': segments_BT}


def of_run(run: OpenedRun, devices: int | None, given: dict[str, Any], dtype: str) -> Embedder:
  """An embedder with the backbone of a run, computing in `dtype` on so many devices (None: all).

  `given` holds fields of `Vectors`; those that are not None count.
  """
  params, mesh = run.params(devices)
  backbone, layout = reopen.in_dtype(run.task.model.backbone, dtype), export.layout_of(run.task)
  usual = sentence.of_run(run.manifest.get('origin'), layout.length, _pooling(backbone))
  return _embedder(backbone, params, mesh, run.tokenizer, layout.single or _frame(run.tokenizer), usual, given)


def of_public(source: PublicModel, devices: int | None, given: dict[str, Any], dtype: str) -> Embedder:
  """The same with a public model; as its folder does, where it is one of sentence-transformers."""
  tokenizer = Tokenizer.load(source.tokenizer_file)
  config = ModelConfig(**source.model | {'dtype': dtype})
  backbone = Transformer(config, tokenizer.vocab_size_in(config.vocab_size))
  mesh = sharding.make_mesh(MeshConfig(None, 1, 1), jax.devices()[:devices])
  places, shapes = sharding.shardings(backbone.axes(), mesh), backbone.shapes()
  wanted = jax.tree.map(lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), shapes, places)
  params = paths.unflatten(weights.load(source, paths.flatten(wanted)))
  usual = sentence.read(source.folder, given['pooling']) or Vectors(_pooling(backbone), False, None)
  longest = config.max_length or source.file.values.get('max_position_embeddings') or LONGEST
  usual = usual._replace(length=min(usual.length or LONGEST, longest))
  return _embedder(backbone, params, mesh, tokenizer, _frame(tokenizer), usual, given)


def _frame(tokenizer: Tokenizer) -> Frame:
  """The ids that the template of a tokenizer puts around one text."""
  return Frame((), (), ()) if tokenizer.frame is None else tokenizer.frame._replace(between=())


def _pooling(backbone: Transformer) -> sentence.Pool:
  return 'last' if backbone.config.attention == 'causal' else 'mean'


def _embedder(backbone, params, mesh, tokenizer, frame: Frame, usual: Vectors, given) -> Embedder:
  how = usual._replace(**{name: value for name, value in given.items() if value is not None})
  least, most = len(frame.begin) + len(frame.end) + 1, backbone.config.max_length or sys.maxsize
  if not least <= how.length <= most:
    rule = f'must be {least} or more' if how.length < least else f'the model has positions for {most:,} tokens'
    raise ConfigError(f'--length = {how.length}: {rule}; give another')
  return Embedder(backbone, params, mesh, tokenizer, frame, how)


@functools.lru_cache(maxsize=8)
def _vectors(backbone: Transformer, pooling: str, normalize: bool):
  """`(params, batch) -> {'vectors': float32 [B, D]}`."""

  def vectors(params, batch):
    segments_BT = batch['segments']
    x_BTD = backbone.apply(params, batch['inputs'], lengths_B=segments_BT.sum(axis=1))
    pooled_BD = pool(x_BTD, segments_BT, pooling).astype(jnp.float32)
    if normalize:
      pooled_BD /= jnp.maximum(jnp.linalg.norm(pooled_BD, axis=1, keepdims=True), 1e-12)
    return {'vectors': pooled_BD}

  return vectors
