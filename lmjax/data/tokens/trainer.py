"""Byte-level BPE tokenizers of our own: trained on a sample of the text."""

import heapq
import re
from collections.abc import Iterable

import tokenizers

from lmjax.console import print_line
from lmjax.data.config import SPECIAL_TOKENS
from lmjax.data.digests import digest64
from lmjax.data.tokens import pieces
from lmjax.data.tokens.tokenizer import Tokenizer

# A sample is drawn from so many times its size of text, in pieces of so many characters.
_LOOK_AHEAD, _SAMPLE_PIECE = 32, 8_192
# A run of one kind of character that is longer is cut to train on.
_LONGEST_RUN = 1_000
_LONG_RUN = re.compile(
  '|'.join(kind + f'{{{_LONGEST_RUN + 1},}}' for kind in (r'[^\W\d_]', r'\d', r'(?:[^\w\s]|_)', r'\s'))
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, sample_bytes: int, lowercase: bool = False) -> Tokenizer:
  """Trains a byte-level BPE: every text can be encoded, and decoding gives it back.

  Args:
    texts: the documents, of which `sample` draws.
    vocab_size: entries, special tokens (ids 0 to 6) and the 256 bytes among them. A small corpus may give fewer.
    sample_bytes: UTF-8 bytes of text to train on, at most.
    lowercase: whether it makes all text lower case first, as BERT's uncased ones do; decoding then gives that back.

  Returns:
    The same tokenizer for the same texts, on any machine and number of cores.
  """
  backend = _byte_level(tokenizers.models.BPE())
  if lowercase:
    backend.normalizer = tokenizers.normalizers.Lowercase()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=vocab_size,
    min_frequency=2,
    special_tokens=list(SPECIAL_TOKENS),
    initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    show_progress=False,
  )
  pieces = sample(texts, sample_bytes)
  bounded = [part for piece in pieces for part in _bounded(piece)]
  if len(bounded) > len(pieces):
    print_line(
      f'tokenizer: {len(bounded) - len(pieces):,} cuts in runs of over {_LONGEST_RUN:,} letters, digits or others'
    )
  backend.train_from_iterator(bounded, trainer)
  return Tokenizer(backend)


def _bounded(text: str) -> list[str]:
  """Parts of a text in which no run that the pre-tokenizer leaves whole is longer than the trainer can work with.

  Its time grows with the square of a run's length: DNA, and scripts without spaces.
  """
  cuts = [cut for run in _LONG_RUN.finditer(text) for cut in range(run.start() + _LONGEST_RUN, run.end(), _LONGEST_RUN)]
  return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]


def untrained(vocab_size: int) -> Tokenizer:
  """A byte-level tokenizer for those who ask for sizes alone: a text becomes its bytes, no other entry is used."""
  entries = [*SPECIAL_TOKENS, *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())]
  entries += [f'<{i}>' for i in range(len(entries), vocab_size)]
  backend = _byte_level(tokenizers.models.BPE({entry: i for i, entry in enumerate(entries)}, []))
  backend.add_special_tokens(list(SPECIAL_TOKENS))
  return Tokenizer(backend)


def _byte_level(model) -> tokenizers.Tokenizer:
  backend = tokenizers.Tokenizer(model)
  backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
  backend.decoder = tokenizers.decoders.ByteLevel()
  return backend


def sample(texts: Iterable[str], sample_bytes: int) -> list[str]:
  """Draws pieces of documents, up to `sample_bytes` UTF-8 bytes, spread over the stream rather than its beginning.

  The pieces with the lowest digests are kept, so the draw has no seed and the same text gives the same sample. No more
  than 32 times `sample_bytes` are read: training must not take a pass over a very large corpus. Memory is
  `sample_bytes` and a piece.

  >>> sample(['a ' * 9, 'b ' * 9], 18)  # one of the two
  ['b b b b b b b b b ']
  """
  kept: list[tuple[int, str]] = []  # a heap, highest digest first
  seen = held = 0
  for piece in (piece for text in texts for piece in pieces.cut(text, _SAMPLE_PIECE)):
    data = piece.encode('utf-8')
    seen += len(data)
    heapq.heappush(kept, (-digest64(data), piece))
    held += len(data)
    while held > sample_bytes and len(kept) > 1:
      held -= len(heapq.heappop(kept)[1].encode('utf-8'))
    if seen > _LOOK_AHEAD * sample_bytes:
      break
  return [piece for _, piece in sorted(kept, reverse=True)]
