"""Secrets do not belong into what is written: config.json, manifests, messages. They are kept out here.

What counts as one: user and password in a URL, the value of a query parameter that is named like one, and the value of
an environment variable that is named like one, wherever it turns up.
"""

import contextlib
import os
import re
import sys

SHOWN = '[redacted]'

_NAMES = 'token|secret|password|passwd|api_?key|access_?key|signature|credential'
_USER = re.compile(r'(\w+://)[^/\s]+@')
_PARAMETER = re.compile(rf'([?&;](?:[\w-]*(?:{_NAMES})[\w-]*|sig|key|auth)=)[^&;\s]+', re.IGNORECASE)
_VARIABLE = re.compile(_NAMES, re.IGNORECASE)
_SHORTEST = 8  # a shorter value may be a word


def redact(text: str) -> str:
  """A text without secrets.

  >>> redact('gs://me:pass@bucket/x?token=abc')
  'gs://[redacted]@bucket/x?token=[redacted]'
  """
  for name, value in os.environ.items():
    if len(value) >= _SHORTEST and not os.path.exists(value) and _VARIABLE.search(name):
      text = text.replace(value, SHOWN)
  return _PARAMETER.sub(rf'\1{SHOWN}', _USER.sub(rf'\1{SHOWN}@', text))


def print_line(text: str, file=None) -> None:
  """Prints a text without secrets, at once; a terminal that is gone, or a reader that has seen enough, ends nothing."""
  file = sys.stdout if file is None else file
  try:
    print(redact(text), file=file, flush=True)
  except OSError:
    silence(file)


def silence(file) -> None:
  """What is printed from here on goes nowhere; else Python would complain once more as it ends."""
  with contextlib.suppress(OSError, ValueError):
    with open(os.devnull, 'w') as nowhere:
      os.dup2(nowhere.fileno(), file.fileno())


def redacted(value):
  """A JSON value with every text in it redacted."""
  if isinstance(value, dict):
    return {key: redacted(inner) for key, inner in value.items()}
  if isinstance(value, list | tuple):
    return [redacted(inner) for inner in value]
  return redact(value) if isinstance(value, str) else value
