"""Reads files whole and in pieces, for the tests of the readers."""

import collections

from lmjax.data.sources import documents
from lmjax.data.sources.files import documents_of
from lmjax.data.sources.listing import files_of
from lmjax.data.sources.pieces import pieces_of

WHOLE = 1 << 40


def read(path, field='text', target=WHOLE):
  """(texts, counts) of what a path names, through pieces of `target` bytes."""
  counts = collections.Counter()
  pieces = [piece for file in files_of(str(path)) for piece in pieces_of(file, target)]
  found = [documents.clean(text, where, 'raise')[0] for p in pieces for where, text in documents_of(p, field, counts)]
  return found, counts


def texts(source, bad_text, counts):
  """The documents of a source."""
  for work in documents.works_of(source, WHOLE):
    yield from documents.texts_of(work, bad_text, counts)


def number_of_pieces(path, target):
  return sum(len(pieces_of(file, target)) for file in files_of(str(path)))
