"""What a reader reports besides errors: each line once a process, on standard error, as `place: what; more`."""

import functools
import sys

from lmjax.console import print_line


@functools.cache
def note(line: str) -> None:
  """Prints a line, unless it was printed before: a source is read more than once."""
  print_line(f'lmjax: {line}', file=sys.stderr)
