"""The manifest of a checkpoint: what made it, and a digest of every array, under a checksum of its own.

`WORKDIR/checkpoints/<step>/manifest/manifest.json`. Schema 2, the only one that is read: step, versions, git_commit,
devices, best (without a value where the evaluation was cut short), task, model, objective, optim, tokenizer_hash,
data_fingerprint, batch_size, seed, init_from, hand_off, origin (the public model that the run, or one before it, began
as), config (the whole of it), token_stores, arrays, checksum.
"""

import functools
import importlib.metadata
import json
import os
import subprocess

from etils import epath

import lmjax
from lmjax.errors import CheckpointError
from lmjax.models.config import DEFAULTS
from lmjax.workdir import files

SCHEMA = 2


class SchemaError(CheckpointError):
  """A checkpoint of another schema: nothing is wrong with it, so it must not be skipped or moved."""


@functools.cache
def _git_commit() -> str | None:
  """The commit of the code that runs, if it runs from a checkout."""
  here = os.path.dirname(os.path.abspath(lmjax.__file__))
  try:
    command = ['git', '-C', here, 'rev-parse', 'HEAD']
    return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


def make_manifest(step: int, best: dict, metadata: dict, arrays: dict[str, dict]) -> dict:
  """The manifest of a step; `best` is the {'metric', 'value', 'highest'} that checkpoints are ranked by."""
  import jax  # not at the top: manifests are read before the config is known to be right

  versions = {name: importlib.metadata.version(name) for name in ('jax', 'flax', 'orbax-checkpoint')}
  manifest = {
    'schema': SCHEMA,
    'step': step,
    'versions': {'lmjax': lmjax.__version__, **versions},
    'git_commit': _git_commit(),
    'devices': jax.device_count(),
    'best': best,
    **metadata,
    'arrays': arrays,
  }
  return manifest | {'checksum': checksum(manifest)}


def checksum(manifest: dict) -> str:
  """Hex sha256 of all of a manifest but its checksum, in canonical JSON."""
  return files.json_digest({name: value for name, value in manifest.items() if name != 'checksum'})


def read_manifest(directory: epath.Path, step: int) -> dict:
  """The manifest of a step in WORKDIR/checkpoints, its model with the settings that are newer than it, at their
  defaults.

  Raises SchemaError: its schema is another one. Raises CheckpointError: it is missing, broken, or another step's.
  """
  file = directory / str(step) / 'manifest' / 'manifest.json'
  try:
    manifest = json.loads(file.read_text())
    schema, saved_step, arrays = manifest['schema'], manifest['step'], manifest['arrays']
    remedy = 'install the newer lmjax' if schema > SCHEMA else 'use the lmjax that wrote it'
    if schema == SCHEMA and not all({'shape', 'dtype', 'digest'} <= array.keys() for array in arrays.values()):
      raise ValueError('arrays')
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise CheckpointError(
      f'{file}: no readable manifest ({type(error).__name__}); the save was cut short; choose another step'
    ) from error
  if schema != SCHEMA:
    raise SchemaError(f'{file}: schema {schema}, this lmjax reads schema {SCHEMA} alone; {remedy}')
  if saved_step != step:
    raise CheckpointError(f'{file}: is that of step {saved_step}; a folder was renamed or copied; choose another step')
  if manifest.get('checksum') != checksum(manifest):
    raise CheckpointError(f'{file}: differs from its checksum; choose another step')
  for holder in (manifest, manifest.get('config')):
    if isinstance(holder, dict) and isinstance(holder.get('model'), dict):
      holder['model'] = DEFAULTS | holder['model']
  return manifest
