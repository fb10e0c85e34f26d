"""Where texts may be cut for a tokenizer without changing a token, and what its normalizer keeps of them."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Literal

# How SentencePiece shows a space.
SPACE = '\u2581'
# What is encoded at once, at most.
_PART_TEXTS = 1_024
_PART_CHARACTERS = 1_000_000
# Normalizers that drop no character (but white space).
_KEEPS_ALL = ('Lowercase', 'NFC', 'NFD', 'NFKC', 'NFKD', 'Prepend', 'ByteLevel')
# Before a single space between two words every byte-level pre-tokenizer ends a token anyway.
_SAFE_CUT = re.compile(r'(?<=\S) (?=\w)')


def cut_at_spaces(parts: dict, byte_level: bool, tokens: Collection[str]) -> Literal['before', 'after'] | None:
  """Where a long text may be cut, before or after a space between two words, or not at all.

  No token may reach over the cut. A byte-level pre-tokenizer sees to that; where there is none (Llama 2, Gemma), text
  is a sequence of merges, and those of both sides are the same whatever stands on the other as long as no token has a
  space inside. Where a space is put before each text, the cut takes one away.

  Args:
    parts: a tokenizer.json.
    byte_level: whether it has a byte-level pre-tokenizer.
    tokens: its vocabulary.
  """
  if byte_level:
    return 'before' if parts['normalizer'] is None else None
  odd = ('ignore_merges', 'dropout', 'continuing_subword_prefix', 'end_of_word_suffix')
  if parts['model'].get('type') != 'BPE' or any(parts['model'].get(name) for name in odd):
    return None
  splits = parts['pre_tokenizer'] or {}  # Gemma's splits at spaces, of which its normalizer leaves none
  if splits and (splits['type'], splits.get('pattern')) != ('Split', {'String': ' '}):
    return None
  steps = [] if parts['normalizer'] is None else parts['normalizer'].get('normalizers', [parts['normalizer']])
  prepends, replaces = ([step for step in steps if step['type'] == kind] for kind in ('Prepend', 'Replace'))
  if len(prepends) + len(replaces) != len(steps) or [step['prepend'] for step in prepends] not in ([], [SPACE]):
    return None
  if [(step['pattern'], step['content']) for step in replaces] != [({'String': ' '}, SPACE)]:
    return None
  inside = any(re.search(f'[^{SPACE}]{SPACE}', token) for token in tokens)
  return None if inside else 'after' if prepends else 'before'


def keeps_all(normalizer: dict | None) -> bool:
  """Whether a normalizer, as its JSON has it, drops no character but white space."""
  if normalizer is None or normalizer['type'] in _KEEPS_ALL:
    return True
  if normalizer['type'] == 'Sequence':
    return all(map(keeps_all, normalizer['normalizers']))
  return normalizer['type'] == 'Replace' and bool(normalizer['content'])


def parts(
  texts: Iterable[Any],
  most: int = _PART_TEXTS,
  size_of_part: int = _PART_CHARACTERS,
  size_of: Callable[[Any], int] = len,
) -> Iterator[list]:
  """Some texts, or what else has a size, at a time: as given, enough to keep all cores busy."""
  part: list = []
  size = 0
  for text in texts:
    part.append(text)
    size += size_of(text)
    if len(part) == most or size >= size_of_part:
      yield part
      part, size = [], 0
  if part:
    yield part


def cut(text: str, size: int) -> Iterator[str]:
  """Pieces of `size` characters or a little more, cut before a space between two words; none of an empty text."""
  start = 0
  while start < len(text):
    match = _SAFE_CUT.search(text, start + size)
    end = match.start() if match else len(text)
    yield text[start:end]
    start = end
