"""Hugging Face `tokenizers` behind the few calls that lmjax makes: load or train, encode, decode, look inside."""

import functools
import hashlib
import heapq
import json
import re
from collections.abc import Iterable, Iterator

import numpy as np
import tokenizers
from etils import epath

from lmjax.console import print_line
from lmjax.data.config import SPECIAL_TOKENS
from lmjax.errors import DataError
from lmjax.workdir.files import write_atomically

# The names that published tokenizers give to the same roles, most specific first.
_ALIASES = {
  'pad': ('[PAD]', '<pad>', '<|pad|>', '<|padding|>', '<|finetune_right_pad_id|>'),
  'bos': ('[BOS]', '<s>', '<bos>', '<|begin_of_text|>', '<|startoftext|>', '<|endoftext|>'),
  'eos': ('[EOS]', '</s>', '<eos>', '<|end_of_text|>', '<|endoftext|>'),
  'mask': ('[MASK]', '<mask>', '<|mask|>'),
  'cls': ('[CLS]', '<cls>', '<s>'),
  'sep': ('[SEP]', '<sep>', '</s>'),
  'unk': ('[UNK]', '<unk>', '<|unk|>'),
}

# What a token's first and last character are, for whole-word masking.
STARTS_WORD, LETTER, DIGIT, OTHER, JOINS_WORD = range(5)

# A sample is drawn from so many times its size of text, in pieces of so many characters.
_LOOK_AHEAD = 32
_SAMPLE_PIECE = 8_192
# A run of one kind of character that is longer is cut to train on.
_LONGEST_RUN = 1_000
_LONG_RUN = re.compile(
  '|'.join(kind + f'{{{_LONGEST_RUN + 1},}}' for kind in (r'[^\W\d_]', r'\d', r'(?:[^\w\s]|_)', r'\s'))
)
# What is encoded at once, at most.
_PART_TEXTS = 1_024
_PART_CHARACTERS = 1_000_000
# Before a single space between two words every byte-level pre-tokenizer ends a token anyway.
_SAFE_CUT = re.compile(r'(?<=\S) (?=\w)')


class Tokenizer:
  """A tokenizer whose special tokens are added by the row layout alone, never by encoding.

  Attributes:
    vocab_size: highest id + 1.
    pad, bos, eos, mask, cls, sep, unk: ids, None where the tokenizer.json has no such token.
    special_ids: sorted ids of all special tokens.
  """

  def __init__(self, backend: tokenizers.Tokenizer, name: str = 'tokenizer'):
    backend.no_padding()
    backend.no_truncation()
    # '[MASK]' in running text is text: a document must not be able to write a special token.
    backend.encode_special_tokens = True
    self._backend, self._name = backend, name
    self._ids = backend.get_vocab(with_added_tokens=True)
    self._tokens = {index: token for token, index in self._ids.items()}
    self._added = backend.get_added_tokens_decoder()
    self.vocab_size = max(self._tokens) + 1
    self.pad, self.bos, self.eos, self.mask, self.cls, self.sep, self.unk = map(self._role, _ALIASES)
    roles = {index for index in map(self._role, _ALIASES) if index is not None}
    self.special_ids = sorted(roles | {index for index, token in self._added.items() if token.special})

  @classmethod
  def load(cls, path: str) -> 'Tokenizer':
    """Reads a tokenizer.json; DataError where there is none, or something else."""
    try:
      text = epath.Path(path).expanduser().read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
      raise DataError(f'{path}: cannot be read ({error}); a tokenizer.json must exist; check the path') from None
    try:
      return cls(tokenizers.Tokenizer.from_str(text), path)
    except Exception as error:  # the library raises plain Exception
      rule = 'it must be a tokenizer.json in Hugging Face format'
      raise DataError(f'{path}: not a tokenizer ({error}); {rule}; save it again with `tokenizer.save(path)`') from None

  def save(self, path: str):
    """Writes a tokenizer.json, whole or not at all."""
    try:
      write_atomically(path, self._backend.to_str(pretty=True))
    except OSError as error:
      raise DataError(f'{path}: cannot be written ({error}); choose a folder that can be') from None

  def _json(self) -> dict:
    return json.loads(self._backend.to_str())

  @functools.cached_property
  def hash(self) -> str:
    """Hex sha256 of the tokenizer's JSON with sorted keys; equal hashes encode alike."""
    canonical = json.dumps(self._json(), sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(canonical.encode('utf-8')).hexdigest()

  @functools.cached_property
  def byte_level(self) -> bool:
    """Whether this is a byte-level BPE, such as GPT-2's and those trained here: a token is some UTF-8 bytes."""
    parts = self._json()
    return parts['model'].get('type') == 'BPE' and '"ByteLevel"' in json.dumps(parts['pre_tokenizer'])

  def require(self, role: str) -> int:
    """The id of a special token by its role: 'pad', 'bos', ...; DataError where there is none."""
    index, aliases = getattr(self, role), _ALIASES[role]
    if index is None:
      rule = f'has no {role} token (looked for {", ".join(aliases)}); this objective needs one'
      remedy = f"add it with `tokenizer.add_special_tokens(['{aliases[0]}'])` of the tokenizers library and save it"
      raise DataError(f'{self._name}: {rule}; {remedy}')
    return index

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without special tokens."""
    return self._backend.encode(text, add_special_tokens=False).ids

  def encode_batch(self, texts: list[str]) -> list[list[int]]:
    """Ids of many texts, on all cores (unless the variable TOKENIZERS_PARALLELISM says false)."""
    return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]

  def encode_each(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Ids of each text, int32 [N]; the library's lists, ten times as large, are there for a part of them at a time."""
    for part in _parts(texts):
      yield from (np.array(ids, np.int32) for ids in self.encode_batch(part))

  def encode_with_offsets(self, texts: Iterable[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids int32 [N], offsets int32 [N, 2]) of each text: the characters that a token stands for, as (begin, end)."""
    for part in _parts(texts):
      for encoding in self._backend.encode_batch(part, add_special_tokens=False):
        yield np.array(encoding.ids, np.int32), np.array(encoding.offsets, np.int32).reshape(-1, 2)

  def decode(self, ids, skip_special: bool = True) -> str:
    """Text of ids; for a byte-level tokenizer `decode(encode(text)) == text`."""
    return self._backend.decode([int(index) for index in ids], skip_special_tokens=skip_special)

  def token(self, index: int) -> str:
    """One token as readable text: ' the', '[MASK]', or '\\xe2\\x80' for part of a character."""
    if index not in self._tokens:
      return f'<id {index}>'
    text = self._tokens[index]
    if index in self._added or not self.byte_level:
      return text
    return _bytes_of(text).decode('utf-8', 'backslashreplace')

  def token_bytes(self) -> np.ndarray | None:
    """float32 [V]: UTF-8 bytes that each token stands for (special tokens 0); None if not byte-level.

    Exact, but for tokenizers that change the text first: a normalizer, or a space put before each document.
    """
    if not self.byte_level:
      return None
    counts_V = np.zeros(self.vocab_size, np.float32)
    for index, token in self._tokens.items():
      counts_V[index] = len(token.encode('utf-8')) if index in self._added else len(token)
    counts_V[self.special_ids] = 0
    return counts_V

  def random_ids(self) -> np.ndarray:
    """int64: the ids of all tokens that are not special, sorted; what random replacement draws from."""
    return np.array(sorted(set(self._tokens) - set(self.special_ids)), np.int64)

  def word_classes(self) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [V] each: classes of each token's first and last character, for whole-word masking.

    The first is STARTS_WORD for a space, JOINS_WORD for WordPiece's '##'.
    """
    model = self._json()['model']
    first_V = np.full(self.vocab_size, STARTS_WORD, np.uint8)
    last_V = np.full(self.vocab_size, OTHER, np.uint8)
    for index, token in self._tokens.items():
      if index in self._added:
        continue
      if model.get('type') == 'WordPiece':
        joins = token.startswith(model.get('continuing_subword_prefix') or '##')
        first_V[index] = JOINS_WORD if joins else STARTS_WORD
      else:
        text = _bytes_of(token).decode('utf-8', 'surrogateescape') if self.byte_level else token
        first_V[index], last_V[index] = _character_class(text[:1]), _character_class(text[-1:])
    return first_V, last_V

  @functools.cached_property
  def _may_be_cut(self) -> bool:
    prefixed = any(' ' in token.content.strip() for token in self._added.values())
    return self.byte_level and not prefixed and self._json()['normalizer'] is None

  def pieces(self, text: str, size: int) -> list[str]:
    """Cuts a long text into pieces of `size` characters or a little more, so that all cores can share it.

    `sum(map(encode, pieces(text, n)), []) == encode(text)`: where that does not hold the text stays whole.
    """
    return list(_cut(text, size)) if self._may_be_cut and text else [text]

  def _role(self, role: str) -> int | None:
    return next((self._ids[alias] for alias in _ALIASES[role] if alias in self._ids), None)


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
  for piece in (piece for text in texts for piece in _cut(text, _SAMPLE_PIECE)):
    data = piece.encode('utf-8')
    seen += len(data)
    heapq.heappush(kept, (-digest64(data), piece))
    held += len(data)
    while held > sample_bytes and len(kept) > 1:
      held -= len(heapq.heappop(kept)[1].encode('utf-8'))
    if seen > _LOOK_AHEAD * sample_bytes:
      break
  return [piece for _, piece in sorted(kept, reverse=True)]


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
  """Some texts at a time: enough to keep all cores busy."""
  part: list[str] = []
  size = 0
  for text in texts:
    part.append(text)
    size += len(text)
    if len(part) == _PART_TEXTS or size >= _PART_CHARACTERS:
      yield part
      part, size = [], 0
  if part:
    yield part


def _cut(text: str, size: int) -> Iterator[str]:
  """Pieces of `size` characters or a little more, cut before a space between two words; none of an empty text."""
  start = 0
  while start < len(text):
    match = _SAFE_CUT.search(text, start + size)
    end = match.start() if match else len(text)
    yield text[start:end]
    start = end


def digest64(data: bytes) -> int:
  """The first 64 bits of blake2b: what stands for a document in the token store."""
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), 'little')


@functools.cache
def _byte_of_character() -> dict[str, int]:
  """GPT-2's table: each byte is shown as one printable character, itself where it is printable Latin-1.

  https://github.com/openai/gpt-2/blob/master/src/encoder.py
  """
  printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
  rest = [byte for byte in range(256) if byte not in printable]
  return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(rest)}


def _bytes_of(token: str) -> bytes:
  table = _byte_of_character()
  return b''.join(bytes([table[char]]) if char in table else char.encode('utf-8') for char in token)


def _character_class(char: str) -> int:
  """Class of one character. Part of one (a lone byte of UTF-8) counts as a letter, as most of them are."""
  if not char or char.isspace() or char == '▁':
    return STARTS_WORD
  if char.isnumeric():
    return DIGIT
  if char.isalpha() or char == '\ufffd' or '\udc80' <= char <= '\udcff':
    return LETTER
  return OTHER
