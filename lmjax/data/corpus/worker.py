"""A process that makes works: one core's share of a build, started by `build`.

It reads a line of JSON for each work from standard input, and answers with one: the entry (null: another process is
making it), or what went wrong. It ends when its input does, so it does not outlive who started it by more than a work.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
from typing import Any

from lmjax.data.corpus import address, unit
from lmjax.data.corpus.unit import Entry, Job
from lmjax.data.sources.documents import Work
from lmjax.data.sources.listing import File
from lmjax.data.sources.pieces import Piece
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import DataError, reason


class Worker:
  """Such a process, as who started it sees it."""

  def __init__(self):
    # a process of its own kind, not a copy of this one: that may hold an accelerator, or be a script without a guard
    search = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {'PYTHONPATH': search, 'TOKENIZERS_PARALLELISM': 'false'}
    command, pipe = [sys.executable, '-m', __name__], subprocess.PIPE
    streams: Any = {'stdin': pipe, 'stdout': pipe, 'text': True, 'encoding': 'utf-8'}
    # Ctrl-C is for who started it, which ends it
    self._process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)

  def make(self, job: Job, work: Work) -> Entry | None:
    """See `unit.make`. Raises DataError: what it raised there; OSError: the process has ended."""
    stdin, stdout = self._process.stdin, self._process.stdout
    assert stdin is not None and stdout is not None
    stdin.write(json.dumps([job, work]) + '\n')
    stdin.flush()
    answer = stdout.readline()
    if not answer:
      raise OSError(f'its process ended with exit code {self._process.wait()}')
    found = json.loads(answer)
    if 'error' in found:
      raise DataError(found['error']) if found['is_data'] else OSError(found['error'])
    return None if found['entry'] is None else Entry(**found['entry'])

  def close(self) -> None:
    """Ends it."""
    self._process.kill()
    self._process.wait()
    for stream in (self._process.stdin, self._process.stdout):
      if stream is not None:
        with contextlib.suppress(OSError):  # what was not sent to it yet
          stream.close()


@functools.cache
def _tokenizer(path: str) -> Tokenizer:
  return Tokenizer.load(address.local(path))


def parsed(line: str) -> tuple[Job, Work]:
  """What was sent as the JSON of both."""
  job, (path, field, keep, pieces, size) = json.loads(line)
  read = tuple(Piece(File(*file), None if part is None else tuple(part)) for file, part in pieces)
  return Job(job[0], unit.Settings(*job[1]), job[2]), Work(path, field, tuple(keep), read, size)


def make(job: Job, work: Work) -> Entry | None:
  """See `unit.make`; the tokenizer is that of the cache, which is loaded once in a process."""
  tokenizer = _tokenizer(job.tokenizer_file)
  if tokenizer.hash != job.settings.tokenizer:
    raise DataError(f'{job.tokenizer_file}: is another tokenizer; remove it, and it is written again')
  return unit.make(job, tokenizer, work)


def _answer(line: str) -> dict[str, Any]:
  try:
    entry = make(*parsed(line))
    return {'entry': None if entry is None else entry._asdict()}
  except Exception as error:
    is_data = isinstance(error, DataError)
    return {'error': str(error) if is_data else reason(error), 'is_data': is_data}


def main() -> None:
  """Answers until there is nothing left to read."""
  answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
  os.dup2(2, 1)  # what is printed is no answer
  for line in sys.stdin:
    answers.write(json.dumps(_answer(line)) + '\n')
    answers.flush()


if __name__ == '__main__':
  main()
