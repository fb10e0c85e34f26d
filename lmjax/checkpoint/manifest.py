"""The manifest of a checkpoint: what made it, and a digest of every array, under a checksum of its own.

`WORKDIR/checkpoints/<step>/manifest/manifest.json`. Schema 2, the only one that is read: step, versions, git_commit,
devices, best (without a value where the evaluation was cut short), task, model, objective, optim, tokenizer_hash,
data_fingerprint, batch_size, seed, init_from, hand_off, config (the whole of it), token_stores, arrays, checksum.
"""

import functools
import importlib.metadata
import json
import os
import subprocess

from etils import epath

import lmjax
from lmjax.errors import CheckpointError
from lmjax.workdir import files

SCHEMA = 2


class SchemaError(CheckpointError):
  """A checkpoint of another schema: nothing is wrong with it, so it must not be skipped or moved."""


@functools.cache
def _git_commit() -> str | None:
  """The commit of the code that runs, if it runs from a checkout."""
  here = os.path.dirname(os.path.abspath(lmjax.__file__))
  try:
    found = subprocess.run(
      ['git', '-C', here, 'rev-parse', 'HEAD'], capture_output=True, text=True, timeout=5, check=True
    )
    return found.stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None


def versions() -> dict[str, str]:
  """Versions of what wrote a checkpoint."""
  names = ('jax', 'flax', 'orbax-checkpoint')
  return {'lmjax': lmjax.__version__, **{name: importlib.metadata.version(name) for name in names}}


def make_manifest(step: int, best: dict, facts: dict, arrays: dict[str, dict]) -> dict:
  """The manifest of a step.

  Args:
    step: batches seen.
    best: {'metric', 'value', 'highest'} that checkpoints are ranked by.
    facts: what else it says of its run.
    arrays: see `digests.describe_arrays`.
  """
  import jax  # not at the top: manifests are read before the config is known to be right

  manifest = {
    'schema': SCHEMA,
    'step': step,
    'versions': versions(),
    'git_commit': _git_commit(),
    'devices': jax.device_count(),
    'best': best,
    **facts,
    'arrays': arrays,
  }
  return manifest | {'checksum': checksum(manifest)}


def checksum(manifest: dict) -> str:
  """Hex sha256 of all of a manifest but its checksum, in canonical JSON."""
  rest = {name: value for name, value in manifest.items() if name != 'checksum'}
  return files.json_digest(rest)


def read_manifest(directory: epath.Path, step: int) -> dict:
  """The manifest of a step.

  Args:
    directory: WORKDIR/checkpoints.
    step: which.

  Raises:
    SchemaError: its schema is another one.
    CheckpointError: it is missing, broken, or another step's.
  """
  file = directory / str(step) / 'manifest' / 'manifest.json'
  try:
    manifest = json.loads(file.read_text())
    schema, said, arrays = manifest['schema'], manifest['step'], manifest['arrays']
    newer, known = schema > SCHEMA, schema == SCHEMA
    if known and not all({'shape', 'dtype', 'digest'} <= facts.keys() for facts in arrays.values()):
      raise ValueError('arrays')
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise CheckpointError(
      f'{file}: no readable manifest ({type(error).__name__}); the save was cut short; choose another step'
    ) from error
  if not known:
    remedy = 'install the newer lmjax' if newer else 'use the lmjax that wrote it'
    raise SchemaError(f'{file}: schema {schema}, this lmjax reads schema {SCHEMA} alone; {remedy}')
  if said != step:
    raise CheckpointError(f'{file}: is that of step {said}; a folder was renamed or copied; choose another step')
  if manifest.get('checksum') != checksum(manifest):
    raise CheckpointError(f'{file}: differs from its checksum; choose another step')
  return manifest
