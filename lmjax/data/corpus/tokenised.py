"""Documents that come as tokens: checked against the tokenizer, with the text that they stand for."""

import collections
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lmjax.data.sources import documents, token_files
from lmjax.data.sources.formats import check
from lmjax.data.tokens import pieces
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import DataError

# What is decoded at once.
_CHUNK_TOKENS, _CHUNK_DOCUMENTS = 500_000, 16_384


class Tokens(NamedTuple):
  """A document."""

  ids: np.ndarray  # int32 [N]
  text: str  # that they stand for


def documents_of(work: documents.Work, tokenizer: Tokenizer, counts: collections.Counter) -> Iterator[Tokens]:
  """The documents of a work of token files, in their order, as `documents.texts_of` gives texts.

  The tokenizer's token for the beginning of a document, and that for its end, are taken off there, once each: rows add
  their own. All other ids are those of the file.

  Args:
    work: what to read.
    tokenizer: that of the file.
    counts: filled as the stream is read: 'documents' and 'bytes' (UTF-8) given out, 'empty' ones without text skipped.

  Raises DataError: a broken file, or an id that is none of the tokenizer.
  """
  for chunk in pieces.parts(_without_ends(work, tokenizer), _CHUNK_DOCUMENTS, _CHUNK_TOKENS):
    yield from _with_texts(chunk, tokenizer, counts)


def _without_ends(work: documents.Work, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
  for where, raw in _raw(work, tokenizer):
    _check(where, raw, tokenizer)
    ids = raw[int(len(raw) > 0 and raw[0] == tokenizer.bos) :]
    ids = ids[: len(ids) - int(len(ids) > 0 and ids[-1] == tokenizer.eos)]
    yield ids.astype(np.int32)


def _raw(work: documents.Work, tokenizer: Tokenizer) -> Iterator[tuple[str, np.ndarray]]:
  if work.keep:
    raise DataError(f'{work.path}: holds tokens, which have no fields; keep needs some; set it to ()')
  for file, part in work.pieces:
    yield from token_files.documents(file.name, check(file.name).kind, part, tokenizer.eos, tokenizer.pad)


def _check(where: str, ids: np.ndarray, tokenizer: Tokenizer) -> None:
  if not len(ids):
    return
  known_V = tokenizer.has_id
  wrong = ids[(ids < 0) | (ids >= len(known_V))]
  wrong = wrong if len(wrong) else ids[~known_V[ids]]
  if len(wrong):
    rule = f'the vocabulary has {len(known_V):,} ids, from 0, and not this one'
    remedy = 'name the tokenizer that they were made with, as data.tokenizer.path'
    raise DataError(f'{where}: token {wrong[0]}; {rule}; {remedy}')


def _with_texts(chunk: list[np.ndarray], tokenizer: Tokenizer, counts: collections.Counter) -> Iterator[Tokens]:
  for ids, text in zip(chunk, tokenizer.decode_batch(chunk)):
    if not text or text.isspace():
      counts['empty'] += 1
      continue
    counts['documents'] += 1
    counts['bytes'] += len(text.encode('utf-8'))
    yield Tokens(ids, text)
