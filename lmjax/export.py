"""A trained model as a folder that transformers, and what reads its folders, load with nothing added.

python -m lmjax.export --workdir=DIR --out=FOLDER
    --step=S        best (default for a fine-tuned run), latest (default for pre-training) or a number
    --dtype=D       float32, bfloat16 or float16; default: that of the public model that it began as, else float32
    --adapter       the run's low-rank adapters alone, for PEFT; without it they are merged into the model
    --overwrite     in place of an earlier export in FOLDER
    --push=ORG/NAME puts the folder into a repository of the Hub, too, with the token of `hf auth login`; --private
    --mesh=N        reads the checkpoint onto N devices; default: all, laid out as in training

What no architecture of transformers computes is refused, with the settings in which the nearest differs.
"""

import pathlib
import shlex
import sys
from typing import Any, Literal

from lmjax import paths
from lmjax.errors import CheckpointError, ConfigError
from lmjax.schema import command_line
from lmjax.schema.types import PositiveInt

FLAGS = {
  'out': str,
  'step': Literal['best', 'latest'] | int,
  'dtype': Literal['float32', 'bfloat16', 'float16'],
  'adapter': bool,
  'overwrite': bool,
  'push': str,
  'private': bool,
  'mesh': PositiveInt,
}


# How the names of what an export writes end: a folder with anything else in it is not replaced.
WRITTEN = ('.safetensors', '.json', '.txt', '.jinja', 'README.md', '1_Pooling', '2_Normalize')
CARD, MARK = 'README.md', '["lmjax"]'


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.command(run, argv, __doc__, FLAGS)


def run(flags: command_line.CommandLine) -> None:
  """Writes a folder, whole or not at all, and pushes it where that is asked for."""
  from lmjax.hf import adapter, card, export, hub
  from lmjax.training import reopen
  from lmjax.workdir import folders
  from lmjax.workdir.files import read_metrics

  given = flags.values
  if not given['out']:
    raise ConfigError('--out: missing; name the folder to make')
  if given['private'] and not given['push']:
    raise ConfigError('--private: has no effect without --push; add it, or leave this out')
  out = folder_of(given['out'], bool(given['overwrite']))
  if given['push']:
    hub.check_token(f'--push = {given["push"]}')
  opened = reopen.open_run(flags.workdir, given['step'])
  origin = opened.manifest.get('origin')
  dtype = given['dtype'] or (origin['dtype'] if origin is not None else 'float32')
  planned: Any = export.plan(opened.task, dtype, origin)
  if given['adapter']:
    planned = adapter.plan(planned, opened.config.optim, origin)
  scores = [line for line in read_metrics(opened.folder) if line['step'] == opened.step and line['split'] != 'train']
  name = given['push'] or out.name
  words = [f'--workdir={opened.folder.name}', f'--step={opened.step}', f'--dtype={dtype}', f'--out={out.name}']
  command = shlex.join(['python', '-m', 'lmjax.export', *words, *(['--adapter'] if given['adapter'] else [])])
  text = card.card(name, planned, opened.manifest['config'], opened.step, scores, origin, command)
  params, _ = opened.params(given['mesh'])
  try:
    with folders.replacing(out) as folder:
      planned.write(params, folder, dtype)
      (folder / CARD).write_text(text, encoding='utf-8')
  except OSError as error:
    what = f'--out = {given["out"]}: cannot be written ({error.strerror or error})'
    raise CheckpointError(f'{what}; nothing of it was left there; make room, or name another folder') from error
  print(f'{out}: {planned.summary}, {dtype}, step {opened.step} of {flags.workdir}')
  for path in sorted(path for path in out.rglob('*') if path.is_file()):
    print(f'  {str(path.relative_to(out)):36} {path.stat().st_size:>14,} bytes')
  if origin is not None and origin['left_behind']:
    print(f'  left behind when it was imported: {", ".join(paths.numbered(origin["left_behind"]))}')
  if given['push']:
    print(hub.push(out, given['push'], bool(given['private'])))


def folder_of(out: str, overwrite: bool) -> pathlib.Path:
  """The folder to make. Raises ConfigError: something is there that is not to be lost."""
  folder = pathlib.Path(out).expanduser()
  if '://' in out:
    raise ConfigError(f'--out = {out}: must be a local folder; copy it from there')
  if folder.exists() and not folder.is_dir():
    raise ConfigError(f'--out = {out}: is a file; name a folder')
  there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
  if there and not overwrite:
    raise ConfigError(f'--out = {out}: holds {there[0]}; name another folder, or give --overwrite')
  foreign = [name for name in there if not name.endswith(WRITTEN)]
  if there and not foreign and MARK not in _text_of(folder / CARD):
    foreign = there
  if foreign:
    raise ConfigError(f'--out = {out}: holds {foreign[0]}, which no export has written; name another folder')
  return folder


def _text_of(file: pathlib.Path) -> str:
  return file.read_text(encoding='utf-8', errors='replace') if file.exists() else ''


if __name__ == '__main__':
  sys.exit(main())
