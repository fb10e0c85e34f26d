"""Patterns of names: {a,b} and {00..13}, which each stand for several, and * and ** over the names of a listing."""

import re

_INNERMOST = re.compile(r'\{([^{}]*)\}')
_RANGE = re.compile(r'(\d+)\.\.(\d+)')


def braces(pattern: str) -> list[str]:
  """The patterns that one with {a,b} or {00..13} stands for; braces around anything else stand for themselves.

  >>> braces('{a,b{1,2}}.txt'), braces('{08..10}'), braces('{x}')
  (['a.txt', 'b1.txt', 'b2.txt'], ['08', '09', '10'], ['{x}'])
  """
  for match in _INNERMOST.finditer(pattern):
    choices = _choices(match.group(1))
    if choices:
      whole = (pattern[: match.start()] + choice + pattern[match.end() :] for choice in choices)
      return list(dict.fromkeys(name for one in whole for name in braces(one)))
  return [pattern]


def _choices(inside: str) -> list[str]:
  if limits := _RANGE.fullmatch(inside):
    first, last = limits.groups()
    return [f'{number:0{len(first)}}' for number in range(int(first), int(last) + 1)]
  return inside.split(',') if ',' in inside else []


def matches(pattern: str, name: str) -> bool:
  """Whether a name matches a pattern, in which * stays within a folder and ** does not.

  >>> matches('data/*.parquet', 'data/a.parquet'), matches('*', 'data/a'), matches('**/a?', 'x/y/ab')
  (True, False, True)
  """
  parts = re.split(r'(\*\*/|\*\*|\*|\?)', pattern)
  signs = {'**/': '(?:.*/)?', '**': '.*', '*': '[^/]*', '?': '[^/]'}
  return re.fullmatch(''.join(signs.get(part, re.escape(part)) for part in parts), name) is not None
