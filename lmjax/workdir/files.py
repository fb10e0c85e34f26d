"""JSON and its digests, files written whole or not at all, and the lines of metrics.jsonl."""

import glob
import hashlib
import json
import math
import os
import tempfile

from etils import epath

from lmjax.console import redacted
from lmjax.errors import CheckpointError, ConfigError


def canonical_json(value) -> bytes:
  """JSON with sorted keys: equal values give equal bytes."""
  return json.dumps(value, sort_keys=True).encode()


def json_digest(value) -> str:
  """Hex sha256 of the canonical JSON."""
  return hashlib.sha256(canonical_json(value)).hexdigest()


def write_atomically(path: str, data: str | bytes) -> None:
  """Writes a whole file or none: first under another name, then renamed."""
  folder = os.path.dirname(os.path.abspath(path))
  handle, temporary = tempfile.mkstemp(dir=folder, prefix=f'.{os.path.basename(path)}.', suffix='.tmp')
  try:
    with os.fdopen(handle, 'wb') as file:
      file.write(data.encode() if isinstance(data, str) else data)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
  except BaseException:
    os.unlink(temporary)
    raise


def out_file(out: str) -> str:
  """The path that `--out` names. Raises ConfigError, before any work is done: no file can be made there."""
  path = os.path.abspath(os.path.expanduser(out))
  folder = os.path.dirname(path)
  if os.path.isdir(path) or not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
    rule = 'is a folder' if os.path.isdir(path) else f'no folder {folder} that can be written to'
    raise ConfigError(f'--out = {out}: {rule}; name a file in a folder that is there')
  return path


def write_out(path: str, data: str | bytes) -> None:
  """Writes what `out_file` named, whole or not at all. Raises CheckpointError: it cannot be written."""
  try:
    write_atomically(path, data)
  except OSError as error:
    raise CheckpointError(f'--out = {path}: cannot be written ({error.strerror}); name another file') from error


def clear_temporary(folder: str) -> None:
  """Removes what a killed run has left of `write_atomically`; nobody else may be writing there."""
  for path in glob.glob(os.path.join(glob.escape(folder), '.*.tmp')):
    os.unlink(path)


def write_json(path: str, value) -> None:
  """Readable JSON, atomically; NaN and infinities become null, and secrets are redacted."""
  write_atomically(path, json.dumps(redacted(without_non_finite(value)), indent=2) + '\n')


def read_metrics(workdir) -> list[dict]:
  """The lines of metrics.jsonl, without those that are cut short or damaged."""
  file, lines = epath.Path(workdir) / 'metrics.jsonl', []
  if not file.exists():
    return lines
  for text in file.read_bytes().decode('utf-8', 'replace').split('\n'):
    try:
      line = json.loads(text)
    except ValueError:
      continue
    if isinstance(line, dict) and isinstance(line.get('step'), int) and 'split' in line:
      lines.append(line)
  return lines


def without_non_finite(value):
  """A JSON value with None for NaN and infinities, which JSON does not have."""
  if isinstance(value, dict):
    return {k: without_non_finite(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [without_non_finite(v) for v in value]
  return None if isinstance(value, float) and not math.isfinite(value) else value
