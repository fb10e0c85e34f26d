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
from lmjax.data.corpus import store
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
    for what, content in look_at(workdir):
      looked += 1
      damaged += [content] if isinstance(content, LmjaxError) else []
      print(f'{"DAMAGED" if isinstance(content, LmjaxError) else "intact":8} {what}: {content}', flush=True)
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
  yield 'config.json', _checked(_entries, workdir / 'config.json')
  yield 'tokenizer.json', _checked(_tokens, workdir / 'tokenizer.json', newest)
  yield 'metrics.jsonl', _checked(_lines, workdir / 'metrics.jsonl')
  if (workdir / 'results.json').exists():
    yield 'results.json', _checked(_results, workdir / 'results.json', newest)
  if newest is not None:
    for name, fingerprint in newest['token_stores'].items():
      yield f'token store {name}', _token_store(newest['config']['data']['cache_dir'], name, fingerprint)


def _checked(check, file: epath.Path, *rest) -> str | CheckpointError:
  """What a file of the run holds, or how it is damaged."""
  try:
    return check(file, *rest)
  except (CheckpointError, DataError) as error:
    return CheckpointError(str(error))
  except (OSError, ValueError, TypeError) as error:
    return CheckpointError(f'{file}: {type(error).__name__}: {error}')


def _entries(file: epath.Path) -> str:
  return f'{len(json.loads(file.read_bytes()))} entries'


def _results(file: epath.Path, manifest: dict | None) -> str:
  entries, results = _entries(file), json.loads(file.read_bytes())
  ended = results.get('step') if isinstance(results, dict) else None
  # a run that was made longer since may have later checkpoints
  if manifest is not None and (not isinstance(ended, int) or ended > manifest['step']):
    newest = manifest['step']
    raise CheckpointError(f'{file}: the run ended at step {ended}, the newest checkpoint that is intact is {newest}')
  return entries


def _tokens(file: epath.Path, manifest: dict | None) -> str:
  tokenizer = Tokenizer.load(str(file))
  if manifest is not None and tokenizer.hash != (saved := manifest['tokenizer_hash']):
    raise CheckpointError(f'{file}: its hash is {tokenizer.hash[:12]}, the checkpoints were made with {saved[:12]}')
  return f'{tokenizer.vocab_size:,} tokens'


def _lines(file: epath.Path) -> str:
  lines = sum(1 for line in file.read_bytes().split(b'\n') if line.strip())
  if bad := lines - len(files.read_metrics(file.parent)):
    raise CheckpointError(f'{file}: {bad} of {lines} lines cannot be read')
  return f'{lines} lines'


def _token_store(cache_dir: str, name: str, corpus: str) -> str | DataError:
  try:
    return store.verify(cache_dir, name, corpus) or f'not in {cache_dir} on this machine'
  except DataError as error:
    return error


if __name__ == '__main__':
  sys.exit(main())
