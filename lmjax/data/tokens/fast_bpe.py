"""Byte-level BPE by tiktoken, several times as fast as by tokenizers, where it provably gives the same ids.

tiktoken merges two neighbours wherever what they make is a token, the earliest made first; tokenizers merges the pairs
that it was given, in their order. These are the same where each token is made by a merge and, encoded alone, is itself:
as what happens inside a token depends on nothing outside, it is made in the same way wherever it is made, and its place
in the order is that of its last merge there. What is around the merges must be the same, too: `reason_against` checks
it; and for the regular expression, whose tables of Unicode are of another library, both encode a text of all kinds of
characters (`probe`).
"""

import functools
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import tiktoken

# That of the byte-level pre-tokenizer: https://github.com/openai/gpt-2/blob/master/src/encoder.py
_BYTE_LEVEL = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# How it and most others end: white space, but for a last one before a word.
_SPACES = r'|\s+(?!\S)|\s+'
# Stands for nothing: it is text where it is in a text.
_UNUSED = '<|lmjax unused|>'
# Longer runs of white space are not for tiktoken, whose expression goes back over them.
_LONGEST_SPACE = re.compile(r'\s{100001}')
# Texts of fewer characters, together, are not worth the threads.
_WORTH_THREADS = 100_000


class FastBPE:
  """Encodes texts of a byte-level BPE.

  Args:
    pattern: the regular expression that splits a text.
    tokens: the tokens as bytes, those of one byte first, then in the order of their merges.
    ids: their ids.
    trims: whether the places of a token leave out the spaces around it; 'first': of the first token all but one.
  """

  def __init__(self, pattern: str, tokens: Sequence[bytes], ids: Sequence[int], trims: bool | Literal['first']):
    ranks = {token: rank for rank, token in enumerate(tokens)}
    # with no special token its search for one, which is never used, would stop at each character
    special = {_UNUSED: len(tokens)}
    self._encoding = tiktoken.Encoding(
      'lmjax', pat_str=_grouped(pattern), mergeable_ranks=ranks, special_tokens=special
    )
    self._id_of_rank, self._trims = np.array(ids, np.int32), trims
    self._sizes = np.zeros((max(ids) + 1, 3), np.int64)  # by id: bytes, spaces before and after
    sizes = [(len(t), len(t) - len(t.lstrip(b' ')), len(t) - len(t.rstrip(b' '))) for t in tokens]
    self._sizes[self._id_of_rank] = sizes

  def encode(self, text: str) -> np.ndarray:
    """int32 ids of a text that it `takes`."""
    return self._id_of_rank[self._encoding.encode_to_numpy(text, disallowed_special=())]

  def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids of each text, on all cores where that pays (unless the variable TOKENIZERS_PARALLELISM says false)."""
    is_alone = os.environ.get('TOKENIZERS_PARALLELISM', '').lower() in ('false', '0', 'off', 'no', 'n', 'f')
    if is_alone or len(texts) < 2 or sum(map(len, texts)) < _WORTH_THREADS:
      return [self.encode(text) for text in texts]
    return list(_threads().map(self.encode, texts))

  def places(self, text: str, ids: np.ndarray) -> np.ndarray:
    """int32 [N, 2]: (begin, end), in characters, of each token; of a part of a character, the whole one's."""
    n_bytes, before, after = self._sizes[ids].T
    ends = np.cumsum(n_bytes)
    begins = ends - n_bytes
    if not text.isascii():
      data = np.frombuffer(text.encode('utf-8'), np.uint8)
      character = np.cumsum(data & 0xC0 != 0x80) - 1  # of each byte
      begins, ends = character[begins], character[ends - 1] + 1
    if self._trims:
      before = before - ((before > 0) & (begins == 0)) if self._trims == 'first' else before
      begins = np.minimum(begins + before, ends)
      ends = np.where(ends >= after, np.maximum(ends - after, begins), ends)
    return np.stack([begins, ends], axis=1).astype(np.int32)


def _grouped(pattern: str) -> str:
  """The same expression, with what stands before `_SPACES` as one alternative, which is tried at once.

  The library tries each alternative by itself where one of them looks ahead: it took 41 ms a megabyte, and 31 grouped.
  """
  words = pattern.removesuffix(_SPACES)
  return pattern if words == pattern or words.endswith('\\') else f'(?:{words}){_SPACES}'


def takes(text: str) -> bool:
  """Whether a text is for tiktoken, which would replace half a surrogate pair."""
  try:
    text.encode('utf-8')
  except UnicodeEncodeError:
    return False
  return len(text) <= 100_000 or _LONGEST_SPACE.search(text) is None


@functools.cache
def _threads() -> ThreadPoolExecutor:
  return ThreadPoolExecutor(os.cpu_count())


def make(
  parts: Mapping[str, Any], special: set[str], bytes_of: Callable[[str], bytes], alone: Callable[[str], list[int]]
) -> FastBPE | str:
  """The fast encoder of a tokenizer, or why it has none.

  Args:
    parts: its tokenizer.json.
    special: the added tokens that no text can write.
    bytes_of: (token of the vocabulary) -> the bytes that it stands for.
    alone: (token) -> ids of these characters by the model alone.
  """
  if (reason := reason_against(parts, special)) is not None:
    return reason
  model = parts['model']
  vocabulary = {token: index for token, index in model['vocab'].items() if token not in special}
  merges = [tuple(merge.split(' ')) if isinstance(merge, str) else tuple(merge) for merge in model['merges']]
  rank_of = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
  order: dict[str, int] = {}
  for (left, right), rank in rank_of.items():
    order[left + right] = _rank_alone(left + right, rank_of) if left + right in order else rank
  tokens = sorted(vocabulary, key=lambda token: order.get(token, -1))
  single = {bytes_of(token) for token in tokens if token not in order}
  if single != {bytes([byte]) for byte in range(256)}:
    return 'it has tokens, besides those of the 256 bytes, that no merge makes, or lacks one of these'
  if order.keys() - vocabulary.keys():
    return 'a merge makes what is no token'
  for token in tokens:
    if alone(token) != [vocabulary[token]]:
      return f'the token {token!r}, encoded alone, is not itself'
  ids, pattern = [vocabulary[token] for token in tokens], _pattern(parts['pre_tokenizer'])
  try:
    return FastBPE(pattern, [bytes_of(token) for token in tokens], ids, _trims(parts['post_processor']))
  except ValueError as error:
    return f'tiktoken cannot read its regular expression ({error})'


def _trims(processor: Mapping[str, Any] | None) -> bool | Literal['first']:
  """See `FastBPE`, of a post-processor."""
  if processor is None:
    return False
  if processor['type'] == 'Sequence':
    return next(filter(None, map(_trims, processor['processors'])), False)
  if processor['type'] not in ('ByteLevel', 'RobertaProcessing') or not processor['trim_offsets']:
    return False
  return 'first' if processor['add_prefix_space'] else True


def _rank_alone(token: str, rank_of: Mapping[tuple[str, str], int]) -> int:
  """Which of the merges that make a token makes it where it stands alone, and so wherever it is made."""
  parts, last = list(token), -1
  while len(parts) > 1:
    pairs = [rank_of.get(pair, len(rank_of)) for pair in itertools.pairwise(parts)]
    last = min(pairs)
    if last == len(rank_of):
      break
    place = pairs.index(last)
    parts[place : place + 2] = [parts[place] + parts[place + 1]]
  return last


def reason_against(parts: Mapping[str, Any], special: set[str]) -> str | None:
  """What of a tokenizer.json, but for its vocabulary, tiktoken does not do; None: nothing."""
  model = parts['model']
  if model.get('type') != 'BPE':
    return f'its model is {model.get("type")}, not BPE'
  if parts['normalizer'] is not None:
    return f'it has a normalizer ({parts["normalizer"]["type"]})'
  for name in ('dropout', 'byte_fallback', 'continuing_subword_prefix', 'end_of_word_suffix'):
    if model.get(name):
      return f'its model has {name}'
  if _pattern(parts['pre_tokenizer']) is None:
    return 'its pre-tokenizer is another than ByteLevel, after one Split at most'
  texts = [token['content'] for token in parts['added_tokens'] if token['content'] not in special]
  return f'its added token {texts[0]!r} is not special' if texts else None


def _pattern(pre_tokenizer: Mapping[str, Any] | None) -> str | None:
  """The regular expression by which a pre-tokenizer splits; None: it does something else."""
  if pre_tokenizer is None:
    return None
  split, byte_level = None, pre_tokenizer
  if pre_tokenizer['type'] == 'Sequence' and len(pre_tokenizer['pretokenizers']) == 2:
    split, byte_level = pre_tokenizer['pretokenizers']
  elif pre_tokenizer['type'] == 'Sequence' and len(pre_tokenizer['pretokenizers']) == 1:
    [byte_level] = pre_tokenizer['pretokenizers']
  if byte_level['type'] != 'ByteLevel' or byte_level['add_prefix_space']:
    return None
  if split is None:
    return _BYTE_LEVEL if byte_level['use_regex'] else None
  is_plain = split['type'] == 'Split' and split['behavior'] == 'Isolated' and not split['invert']
  pattern = split['pattern'].get('Regex') if is_plain and not byte_level['use_regex'] else None
  return pattern


@functools.cache
def probe() -> str:
  """A text with the first and last of each run of characters of one kind, and some that Unicode has not assigned yet.

  Two libraries whose tables of Unicode differ, by their version or otherwise, split it in two ways.
  """
  found, last, before = [], '', ''
  # without surrogates, planes in which Unicode has nothing, and all but the ends of those for private use
  ends = range(0xF0000, 0x110000, 0xFFFF)
  for code in itertools.chain(range(0xD800), range(0xE000, 0x40000), range(0xE0000, 0xE0200), ends):
    char = chr(code)
    kind = unicodedata.category(char) + str(char.isspace())
    if kind != before:
      found += [last, char] if last else [char]
    elif code % 16 == 0 and kind.startswith('Cn'):
      found.append(char)
    last, before = char, kind
  return ''.join(f'a{char}{char} {char}1{char}\n' for char in found)
