"""`python -m lmjax.verify --workdir=DIR`: reads everything that a run keeps against its checksums, and repairs nothing.

Checkpoints (every array of each), the tokenizer, the token stores, and what people read. Exit code 0: all is intact;
4: something of the run is damaged; 3: a token store alone is, which the next run that needs it builds again.
"""

import json
import sys
from collections.abc import Iterator

from etils import epath

from lmjax.checkpoint import checkpoints, locate
from lmjax.checkpoint.manifest import SchemaError, read_manifest
from lmjax.data.tokens import store
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import CheckpointError, DataError, LmjaxError
from lmjax.schema import command_line
from lmjax.workdir import files


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.command(run, argv, __doc__)


def run(flags: command_line.CommandLine) -> None:
  """Prints a line for each thing that was looked at; raises the worst that was found."""
  folder = locate.reach('--workdir', flags.workdir)
  seeds = sorted(path for path in folder.glob('seed*') if (path / 'checkpoints').exists()) if folder.exists() else []
  if not seeds and not (folder / 'checkpoints').exists():
    rule = 'holds no checkpoints' if folder.exists() else 'no such folder'
    raise CheckpointError(f'--workdir = {flags.workdir}: {rule}; name a folder that lmjax.main made')
  looked, damaged = 0, []
  for workdir in seeds or [folder]:
    for what, found in look_at(workdir):
      looked += 1
      if isinstance(found, LmjaxError):
        damaged.append(found)
      print(f'{"DAMAGED" if isinstance(found, LmjaxError) else "intact":8} {what}: {found}', flush=True)
  if damaged:
    worst = next((error for error in damaged if not isinstance(error, DataError)), damaged[0])
    rule = f'{len(damaged)} of {looked} things are damaged, marked above'
    remedy = 'put them back from a copy; the same training command continues from the newest checkpoint that is intact'
    raise type(worst)(f'{flags.workdir}: {rule}; {remedy}')
  print(f'verdict: intact ({looked} things)')


def look_at(workdir: epath.Path) -> Iterator[tuple[str, str | LmjaxError]]:
  """(what, what it holds or how it is damaged) of everything that a run keeps."""
  directory, newest = workdir / 'checkpoints', None
  for step in locate.saved_steps(directory):
    try:
      arrays = checkpoints.verify(directory, step)
      newest = read_manifest(directory, step)
      yield f'checkpoint {step}', f'{len(arrays)} arrays'
    except SchemaError:
      raise  # nothing is wrong with it
    except CheckpointError as error:
      yield f'checkpoint {step}', error
  if newest is None:
    yield 'checkpoints', CheckpointError(f'{directory}: none is intact')
  yield 'config.json', _read_json(workdir / 'config.json')
  yield 'tokenizer.json', _tokenizer(workdir, newest)
  yield 'metrics.jsonl', _metrics(workdir)
  if (workdir / 'results.json').exists():
    yield 'results.json', _results(workdir / 'results.json', newest)
  if newest is not None:
    for name, fingerprint in newest['token_stores'].items():
      yield f'token store {name}', _token_store(newest['config']['data']['cache_dir'], name, fingerprint)


def _read_json(file: epath.Path) -> str | LmjaxError:
  try:
    return f'{len(json.loads(file.read_bytes()))} entries'
  except (OSError, ValueError, TypeError) as error:
    return CheckpointError(f'{file}: {type(error).__name__}: {error}')


def _results(file: epath.Path, manifest: dict | None) -> str | LmjaxError:
  found = _read_json(file)
  if isinstance(found, LmjaxError) or manifest is None:
    return found
  results, newest = json.loads(file.read_bytes()), manifest['step']
  ended = results.get('step') if isinstance(results, dict) else None
  if not isinstance(ended, int) or ended > newest:  # a run that was made longer since may have later checkpoints
    return CheckpointError(f'{file}: the run ended at step {ended}, the newest checkpoint that is intact is {newest}')
  return found


def _tokenizer(workdir: epath.Path, manifest: dict | None) -> str | LmjaxError:
  file = workdir / 'tokenizer.json'
  try:
    found = Tokenizer.load(str(file))
  except DataError as error:
    return CheckpointError(str(error))
  if manifest is not None and found.hash != manifest['tokenizer_hash']:
    said = manifest['tokenizer_hash']
    return CheckpointError(f'{file}: its hash is {found.hash[:12]}, the checkpoints were made with {said[:12]}')
  return f'{found.vocab_size:,} tokens'


def _metrics(workdir: epath.Path) -> str | LmjaxError:
  file = workdir / 'metrics.jsonl'
  try:
    lines = sum(1 for line in file.read_bytes().split(b'\n') if line.strip())
  except OSError as error:
    return CheckpointError(f'{file}: {type(error).__name__}: {error}')
  if bad := lines - len(files.read_metrics(workdir)):
    return CheckpointError(f'{file}: {bad} of {lines} lines cannot be read')
  return f'{lines} lines'


def _token_store(cache_dir: str, name: str, fingerprint: str) -> str | LmjaxError:
  folder = store.folder_of(cache_dir, name, fingerprint)
  if not epath.Path(folder).exists():
    return f'{folder} is not on this machine'
  try:
    found = store.verify(folder, name, fingerprint)
  except DataError as error:
    return error
  return f'{sum(found.meta["tokens"].values()):,} tokens in {folder}'


if __name__ == '__main__':
  sys.exit(main())
