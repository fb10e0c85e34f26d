"""Vectors of texts, in their order.

python -m lmjax.embed --workdir=DIR [--out=vectors.npy] TEXT ...    by the backbone of a run
python -m lmjax.embed --model=hf:X [--out=vectors.npy] TEXT ...     by a public model, such as a sentence encoder
    --file=FILE     a text a line; .jsonl (.gz, .xz): the field --field=text; without it and TEXT: standard input
    --out=FILE      .npy: float32 [texts, width]; .jsonl: a line {"id", "vector"} each, as is printed without it
    --pooling=P     mean, cls (the first token) or last; default: that of the folder, else mean, last for decoders
    --normalize     to length 1; default: as in the folder, else not
    --length=N      tokens of a text that are read; default: as many as in the folder, or in the run
    --batch=N       texts at a time, 32 unless given
    --step=N        another checkpoint than the best (fine-tuned) or newest (pre-training)
    --mesh=N        on N devices; default: all
    --bad_text=P    text that is not UTF-8: raise (default), replace, or skip, which makes it an empty one
    --dtype=D       float32 (default) or bfloat16, faster on accelerators: what is computed in
    -- TEXT ...     after --, texts may begin with -
"""

import io
import json
import sys
from collections.abc import Iterable
from typing import Literal

from lmjax.data.config import BadText
from lmjax.errors import ConfigError, DataError
from lmjax.schema import command_line
from lmjax.schema.types import PositiveInt

FLAGS = {
  'model': str,
  'file': str,
  'field': str,
  'out': str,
  'pooling': Literal['mean', 'cls', 'last'],
  'normalize': bool,
  'length': PositiveInt,
  'batch': PositiveInt,
  'step': int,
  'mesh': PositiveInt,
  'bad_text': BadText,
  'dtype': Literal['float32', 'bfloat16'],
}


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.command(run, argv, __doc__, FLAGS, config='none', words=True)


def run(flags: command_line.CommandLine) -> None:
  """Reads texts, makes their vectors, writes them."""
  import jax

  from lmjax.hf.source import PublicModel
  from lmjax.hosts import allocator
  from lmjax.training import reopen, vectors
  from lmjax.workdir.files import out_file, write_out

  given, out = flags.values, flags.values['out']
  if (flags.workdir is None) == (given['model'] is None):
    raise ConfigError('--workdir, --model: exactly one is needed; --workdir=DIR, or --model=hf:FOLDER')
  if given['step'] is not None and flags.workdir is None:
    raise ConfigError(f'--step = {given["step"]}: has no effect without --workdir; leave it out')
  if given['field'] is not None and not _holds_records(given['file']):
    raise ConfigError(f'--field = {given["field"]}: has no effect without --file=FILE.jsonl; leave it out')
  if out is not None and not out.endswith(('.npy', '.jsonl')):
    raise ConfigError(f'--out = {out}: must end in .npy or .jsonl; rename it')
  path = None if out is None else out_file(out)
  allocator.keep_freed_memory()
  texts = read(flags.words, given['file'], given['field'], given['bad_text'] or 'raise')
  dtype = given['dtype'] or 'float32'
  chosen = {name: given[name] for name in ('pooling', 'normalize', 'length')}
  if flags.workdir is not None:
    embed = vectors.of_run(reopen.open_run(flags.workdir, given['step']), given['mesh'], chosen, dtype)
  else:
    embed = vectors.of_public(PublicModel(given['model'], '--model'), given['mesh'], chosen, dtype)
  with jax.set_mesh(embed.mesh):
    found, counts = embed(texts, given['batch'] or 32)
  print('lmjax: ' + ', '.join(f'{what}: {count:,}' for what, count in counts.items()), file=sys.stderr)
  lines = (json.dumps({'id': i, 'vector': vector.tolist()}) + '\n' for i, vector in enumerate(found))
  if path is None:
    for line in lines:
      print(line, end='')
  else:
    write_out(path, _npy(found) if path.endswith('.npy') else ''.join(lines))


def _npy(vectors) -> bytes:
  import numpy as np

  file = io.BytesIO()
  np.save(file, vectors)
  return file.getvalue()


def read(words: list[str], file: str | None, field: str | None, bad_text: BadText = 'raise') -> list[str]:
  """The texts, in their order, empty ones among them. Raises DataError: there is none, or one is broken."""
  from lmjax.data.sources import documents, files

  found: Iterable[tuple[str, str | bytes]]
  if not words and file is not None and _holds_records(file):
    found = files.documents(file, field or 'text')
  else:
    whole = '' if words else command_line.read_text('--file', file)
    lines = words or (whole.removesuffix('\n').split('\n') if whole else [])
    found = ((f'text {number}', line) for number, line in enumerate(lines))
  texts = [documents.clean(text, where, bad_text)[0] or '' for where, text in found]
  if not texts:
    raise DataError(f'{file or "standard input"}: holds no text; give some')
  return texts


def _holds_records(file: str | None) -> bool:
  from lmjax.data.sources import files

  return file is not None and file.lower().endswith(files.JSONL_ENDINGS)


if __name__ == '__main__':
  sys.exit(main())
