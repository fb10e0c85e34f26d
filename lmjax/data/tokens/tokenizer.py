"""Hugging Face `tokenizers` behind the few calls that lmjax makes: load or train, encode, decode, look inside."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
import tokenizers
from etils import epath

from lmjax.data.tokens import fast_bpe, pieces, published
from lmjax.errors import DataError
from lmjax.workdir.files import write_atomically

# What a token's first and last character are, for whole-word masking.
STARTS_WORD, LETTER, DIGIT, OTHER, JOINS_WORD = range(5)

# A text of many kinds of characters: who decodes what was encoded of it gets it back, or a tokenizer that changes text.
# Text of so many characters takes longer than to check whether a faster encoder does the same.
_WORTH_CHECKING = 500_000
_PROBE = "It's  1\u00bd caf\u00e9, cafe\u0301;\tNa\u00efve\n\u0416\u0434\u0438 \u0939\u093f \u6587 \ufb01 \U0001f642"


class Encoded(NamedTuple):
  """A text as tokens."""

  ids: np.ndarray  # int32 [N]
  n_bytes: int  # of its UTF-8
  unknown_bytes: int  # of them, but for white space, that no known token stands for


class Tokenizer:
  """A tokenizer whose special tokens are added by the row layout alone, never by encoding.

  Attributes:
    vocab_size: highest id + 1.
    pad, bos, eos, mask, cls, sep, unk: ids or None, as a tokenizer_config.json names them, else by their usual names.
    special_ids: sorted ids of all special tokens.
    frame: how its template stands texts between special tokens; None where it has none.
    companions: {name: content} of the files next to the tokenizer.json that was read.
  """

  def __init__(
    self,
    backend: tokenizers.Tokenizer,
    name: str = 'tokenizer',
    text: str | None = None,
    companions: Mapping[str, bytes] | None = None,
    given: Mapping[str, str | None] | None = None,
  ):
    self._text, self.companions, self._given = text, companions or {}, given
    backend.no_padding()
    backend.no_truncation()
    # '[MASK]' in running text is text: a document must not be able to write a special token.
    backend.encode_special_tokens = True
    self._backend, self._name = backend, name
    self._ids = backend.get_vocab(with_added_tokens=True)
    self._tokens = {index: token for token, index in self._ids.items()}
    self._added = backend.get_added_tokens_decoder()
    self.vocab_size = max(self._tokens) + 1
    self.pad, self.bos, self.eos, self.mask, self.cls, self.sep, self.unk = map(self._role, published.ALIASES)
    self.unk = self._ids.get(getattr(backend.model, 'unk_token', None), self.unk)  # whatever it is called
    roles = {index for index in (*map(self._role, published.ALIASES), self.unk) if index is not None}
    self.special_ids = sorted(roles | {index for index, token in self._added.items() if token.special})
    self.frame = published.frame_of(self._json()['post_processor'])

  @classmethod
  def load(cls, path: str) -> 'Tokenizer':
    """Reads a tokenizer.json and what lies next to it; DataError where there is none, or something else."""
    file = epath.Path(path).expanduser()
    try:
      text, companions = file.read_bytes().decode('utf-8'), published.companions_of(file)
    except (OSError, UnicodeDecodeError) as error:
      raise DataError(f'{path}: cannot be read ({error}); a tokenizer.json must exist; check the path') from None
    try:
      given = published.roles_of(companions)
    except ValueError as error:
      raise DataError(f'{file.parent}: {error}; download it again') from None
    try:
      return cls(tokenizers.Tokenizer.from_str(text), path, text, companions, given)
    except Exception as error:  # the library raises plain Exception
      rule = 'it must be a tokenizer.json in Hugging Face format'
      remedy = 'download it, or save it with `tokenizer.save(path)`, again'
      raise DataError(f'{path}: not a tokenizer ({error}); {rule}; {remedy}') from None

  def save(self, path: str):
    """Writes a tokenizer.json, whole or not at all; one that was read, with its companions, byte for byte."""
    try:
      for name, content in self.companions.items():
        write_atomically(os.path.join(os.path.dirname(path), name), content)
      write_atomically(path, self.text)
    except OSError as error:
      raise DataError(f'{path}: cannot be written ({error}); choose a folder that can be') from None

  @property
  def text(self) -> str:
    """Its tokenizer.json, as it was read where it was."""
    return self._backend.to_str(pretty=True) if self._text is None else self._text

  def _json(self) -> dict:
    return json.loads(self._backend.to_str())

  @functools.cached_property
  def hash(self) -> str:
    """Hex sha256 of the tokenizer's JSON with sorted keys, and of roles named next to it; equal hashes encode alike."""
    parts = self._json() if self._given is None else [self._json(), self._given]
    canonical = json.dumps(parts, sort_keys=True, separators=(',', ':'))
    return hashlib.sha256(canonical.encode('utf-8')).hexdigest()

  @functools.cached_property
  def byte_level(self) -> bool:
    """Whether this is a byte-level BPE, such as GPT-2's and those trained here: a token is some UTF-8 bytes."""
    parts = self._json()
    return parts['model'].get('type') == 'BPE' and '"ByteLevel"' in json.dumps(parts['pre_tokenizer'])

  def require(self, role: str) -> int:
    """The id of a special token by its role: 'pad', 'bos', ...; DataError where there is none."""
    index = getattr(self, role)
    if index is None:
      where, remedy = published.lacking(role, self._given)
      raise DataError(f'{self._name}: has no {role} token ({where}); this objective needs one; {remedy}')
    return index

  @functools.cached_property
  def is_lossless(self) -> bool:
    """Whether every byte of any text has a token: in a byte-level BPE, or where unknown characters become bytes."""
    parts = self._json()
    names = tokenizers.pre_tokenizers.ByteLevel.alphabet() if self.byte_level else [f'<0x{i:02X}>' for i in range(256)]
    has_bytes = self.byte_level or bool(parts['model'].get('byte_fallback'))
    return has_bytes and all(name in self._ids for name in names) and pieces.keeps_all(parts['normalizer'])

  @functools.cached_property
  def gives_bytes_back(self) -> bool:
    """Whether decoding gives the text that was encoded, with case and white space (but for a space before it)."""
    return self.is_lossless and self.decode(self.encode(_PROBE)).removeprefix(' ') == _PROBE

  def vocab_size_in(self, rows: int | None) -> int:
    """`vocab_size` next to a token table of so many rows: a special token that has no part in texts needs none.

    Gemma 3 has one for images, above its table.
    """
    roles = {getattr(self, role) for role in published.ALIASES}
    frame = set() if self.frame is None else {index for part in self.frame for index in part}
    needed = max(set(self._tokens) - (set(self.special_ids) - roles - frame)) + 1
    return self.vocab_size if rows is None or rows < needed else min(rows, self.vocab_size)

  def encode(self, text: str) -> list[int]:
    """Ids of a text, without special tokens. Raises DataError: see `encode_batch`."""
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: list[str]) -> list[list[int]]:
    """Ids of many texts; raises DataError: see `encode_arrays`."""
    return [ids.tolist() for ids in self.encode_arrays(texts)]

  def encode_arrays(self, texts: list[str]) -> list[np.ndarray]:
    """Ids of many texts, int32, on all cores (unless the variable TOKENIZERS_PARALLELISM says false).

    Raises DataError: a character has no token, and the tokenizer has none for unknown ones.
    """
    fast = self._fast_for(texts)
    if fast is None:
      return [np.array(e.ids, np.int32) for e in self._encodings(texts, self._backend.encode_batch_fast)]
    takes = [fast_bpe.takes(text) for text in texts]
    by_tiktoken = iter(fast.encode_batch([text for text, taken in zip(texts, takes) if taken]))
    others = [text for text, taken in zip(texts, takes) if not taken]
    by_tokenizers = iter(self._encodings(others, self._backend.encode_batch_fast) if others else ())
    return [next(by_tiktoken) if taken else np.array(next(by_tokenizers).ids, np.int32) for taken in takes]

  @functools.cached_property
  def fast(self) -> fast_bpe.FastBPE | str:
    """tiktoken with the same ids, or what of this tokenizer it does not do."""
    special = {token.content for token in self._added.values() if token.special}
    alone = lambda token: [one.id for one in self._backend.model.tokenize(token)]
    made = fast_bpe.make(self._json(), special, _bytes_of, alone)
    if isinstance(made, str):
      return made
    [encoding] = self._backend.encode_batch_fast([fast_bpe.probe()], add_special_tokens=False)
    is_same = np.array_equal(encoding.ids, made.encode(fast_bpe.probe()))
    return made if is_same else 'its regular expression splits other characters in tiktoken'

  @property
  def by_tokenizers(self) -> str | None:
    """Why it was encoded by tokenizers where tiktoken would have been worth it; None: it was not."""
    found = self.__dict__.get('fast')
    return found if isinstance(found, str) else None

  def _fast_for(self, texts: list[str]) -> fast_bpe.FastBPE | None:
    """tiktoken, where so much text is worth the check, and this tokenizer passes it."""
    is_worth_it = 'fast' in self.__dict__ or sum(map(len, texts)) >= _WORTH_CHECKING
    return self.fast if is_worth_it and isinstance(self.fast, fast_bpe.FastBPE) else None

  def encode_counted(self, texts: list[str]) -> list[tuple[np.ndarray, int]]:
    """As `encode_arrays`, each with the bytes of its text that no known token stands for."""
    if self.is_lossless:
      return [(ids, 0) for ids in self.encode_arrays(texts)]
    encodings = self._encodings(texts, self._backend.encode_batch)
    return [(np.array(e.ids, np.int32), self._unknown_bytes(t, e.ids, e.offsets)) for t, e in zip(texts, encodings)]

  def encode_each(self, texts: Iterable[str]) -> Iterator[Encoded]:
    """Each text as tokens; the library's lists, ten times as large, are there for a part of them at a time."""
    for part in pieces.parts(texts):
      for text, (ids, unknown) in zip(part, self.encode_counted(part)):
        yield Encoded(ids, len(text.encode('utf-8')), unknown)

  def encode_with_offsets(self, texts: Iterable[str]) -> Iterator[tuple[Encoded, np.ndarray]]:
    """Each text as tokens, and int32 [N, 2], the characters that a token stands for, as (begin, end)."""
    for part in pieces.parts(texts):
      fast = self._fast_for(part)
      if fast is not None and all(map(fast_bpe.takes, part)):
        for text, ids in zip(part, fast.encode_batch(part)):
          yield Encoded(ids, len(text.encode('utf-8')), 0), fast.places(text, ids)
        continue
      for text, e in zip(part, self._encodings(part, self._backend.encode_batch)):
        unknown = 0 if self.is_lossless else self._unknown_bytes(text, e.ids, e.offsets)
        encoded = Encoded(np.array(e.ids, np.int32), len(text.encode('utf-8')), unknown)
        yield encoded, np.array(e.offsets, np.int32).reshape(-1, 2)

  def _encodings(self, texts: list[str], encode: Callable) -> list:
    try:
      return encode(texts, add_special_tokens=False)
    except Exception as error:  # the library raises plain Exception
      for text in texts if len(texts) > 1 else ():
        self._encodings([text], encode)  # which of them it is
      begin = repr(texts[0] if len(texts[0]) <= 60 else texts[0][:60] + '...')
      rule = 'each character must have a token, or the tokenizer one for unknown ones'
      raise DataError(
        f'{self._name}: cannot encode the text that begins {begin} ({error}); {rule}; take another tokenizer'
      ) from None

  def _unknown_bytes(self, text: str, ids: list[int], offsets: list[tuple[int, int]]) -> int:
    """Bytes of a text, but for white space, that only unknown tokens stand for, or none."""
    known = [place for index, place in zip(ids, offsets) if index != self.unk]
    places_N2 = np.array(known, np.int64).reshape(-1, 2)
    changes = np.bincount(places_N2[:, 0], minlength=len(text) + 1)
    changes = changes - np.bincount(places_N2[:, 1], minlength=len(text) + 1)
    missed = np.flatnonzero(np.cumsum(changes)[: len(text)] == 0).tolist()
    return sum(len(text[i].encode('utf-8')) for i in missed if not text[i].isspace())

  def decode(self, ids, skip_special: bool = True) -> str:
    """Text of ids; for a byte-level tokenizer `decode(encode(text)) == text`."""
    return self._backend.decode([int(index) for index in ids], skip_special_tokens=skip_special)

  def decode_batch(self, ids: Iterable[np.ndarray]) -> list[str]:
    """As `decode`, of many, on all cores."""
    return self._backend.decode_batch([one.tolist() for one in ids])

  @functools.cached_property
  def has_id(self) -> np.ndarray:
    """bool [V]: whether there is a token of this id; some vocabularies have gaps."""
    found_V = np.zeros(self.vocab_size, bool)
    found_V[list(self._tokens)] = True
    return found_V

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
  def _cut_at_spaces(self) -> Literal['before', 'after'] | None:
    if any(' ' in token.content.strip() for token in self._added.values()):
      return None
    return pieces.cut_at_spaces(self._json(), self.byte_level, self._ids)

  @functools.cached_property
  def takes_whole_texts(self) -> bool:
    """Whether it has no pre-tokenizer, and texts cannot be cut: its time grows faster than a text."""
    return self._cut_at_spaces is None and self._json()['pre_tokenizer'] is None

  def pieces(self, text: str, size: int) -> Iterator[str]:
    """Cuts a long text into pieces of `size` characters or a little more, so that all cores can share it.

    The ids of all pieces, end to end, are those of the text. A text that may not be cut stays whole.
    """
    where = None if pieces.SPACE in text and not self.byte_level else self._cut_at_spaces
    cut = pieces.cut(text, size) if where and text else [text]
    for number, piece in enumerate(cut):
      yield piece.removeprefix(' ') if number and where == 'after' else piece

  def _role(self, role: str) -> int | None:
    names = published.ALIASES[role] if self._given is None else (self._given[role],)
    return next((self._ids[name] for name in names if name in self._ids), None)


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
