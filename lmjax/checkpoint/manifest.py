"""The manifest of a checkpoint: what made it, and a digest of every array, under a checksum of its own; and what the
manifests of a run say together.

`WORKDIR/checkpoints/<step>/manifest/manifest.json`. Schemas that were written, all of which are read for ever:

  1  step, versions, git_commit, devices, best, task, model, objective, optim, tokenizer_hash, data_fingerprint,
     batch_size, seed, init_from, hand_off, frozen, arrays
  2  also config (the whole of it), token_stores, checksum; best stands there without a value too, where the
     evaluation was cut short
"""

import functools
import hashlib
import importlib.metadata
import json
import math
import os
import subprocess

import jax
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
  return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


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


def saved_steps(directory: epath.Path) -> list[int]:
  """Steps that have a folder, oldest first, whatever is in it; one on an object store, once it is whole there."""
  if not directory.is_dir():
    return []
  folders = [p for p in directory.iterdir() if p.name.isdecimal()]
  if '://' in str(directory):
    # no folder is renamed there: Orbax writes under the final name, and this file last
    folders = [p for p in folders if (p / 'commit_success.txt').exists()]
  return sorted(int(p.name) for p in folders)


def best_step(directory: epath.Path) -> int:
  """The step with the best validation metric, as its own run ranks them; the earliest of equals.

  Raises:
    CheckpointError: no checkpoint was evaluated.
  """
  ranked = evaluated(directory)
  if not ranked:
    raise CheckpointError(f'{directory}: no checkpoint was evaluated when it was saved; choose a step')
  return max(ranked, key=lambda step: (ranked[step], -step))


def evaluated(directory: epath.Path) -> dict[int, float]:
  """{step: how good it is} of the checkpoints that were evaluated; higher is better.

  By the manifest; where the run was stopped while it evaluated, by the line that it wrote when it went on. A
  checkpoint whose manifest is damaged is passed over here, and told when it is opened.
  """
  found, lines = {}, None
  for step in saved_steps(directory):
    try:
      best = read_manifest(directory, step)['best']
    except SchemaError:
      raise
    except CheckpointError:
      continue
    value = best['value']
    if value is None:
      if lines is None:
        lines = {x['step']: x for x in files.read_metrics(directory.parent) if x['split'] == 'valid'}
      value = lines.get(step, {}).get(best['metric'])
    if value is not None and not math.isnan(value):
      found[step] = value if best['highest'] else -value
  return found
