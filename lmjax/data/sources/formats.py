"""What a file is read as, by its ending, and what to do with one that is not read."""

from typing import Literal, NamedTuple

from lmjax.errors import DataError

Kind = Literal['text', 'lines', 'json', 'table', 'parquet', 'arrow', 'tar', 'megatron', 'datatrove', 'npy']
# Kinds that hold tokens, and no text.
TOKENS: tuple[Kind, ...] = ('megatron', 'datatrove', 'npy')

PACKED = ('.gz', '.xz', '.bz2', '.zst')
KINDS: dict[str, Kind] = {
  '.txt': 'text',
  '.md': 'text',
  '.tokens': 'text',
  '.jsonl': 'lines',
  '.ndjson': 'lines',
  '.json': 'json',
  '.csv': 'table',
  '.tsv': 'table',
  '.parquet': 'parquet',
  '.arrow': 'arrow',
  '.feather': 'arrow',
  '.tar': 'tar',
  '.bin': 'megatron',
  '.ds': 'datatrove',
  '.npy': 'npy',
}
# Files that belong to another, whose name has the second ending in place of the first.
PARTS_OF = {'.idx': '.bin', '.ds.index': '.ds', '.ds.metadata': '.ds'}
# What says where the documents of a file are: the ending of its name that another takes the place of.
INDEX: dict[Kind, tuple[str, str]] = {'megatron': ('.bin', '.idx'), 'datatrove': ('.ds', '.ds.index')}
# Compressed inside, if at all.
_NEVER_PACKED = ('parquet', 'arrow', *TOKENS)
_SHORT = {'.tgz': '.tar.gz', '.txz': '.tar.xz', '.tbz2': '.tar.bz2'}

_TO_TEXT = 'convert it to text (.txt), or to .jsonl with one document a line'
_UNPACK = 'unpack it, and name the folder or its files'
_SHEET = 'save it as .csv with a header'
_PICKLE = 'may run code when it is opened; convert it to .jsonl or .parquet where it was made'
_CRAWL = 'extract its text into .jsonl, with datatrove or trafilatura'
_NPZ = 'save the array of tokens that it holds as .npy'
_LOSS = 'holds a mask of the loss; name the .ds'
# Endings of files that are known but not read: what is to be done with them.
REMEDIES = {
  **dict.fromkeys(('.pdf', '.docx', '.doc', '.odt', '.rtf', '.epub', '.pptx', '.ps', '.djvu'), _TO_TEXT),
  **dict.fromkeys(('.html', '.htm', '.xhtml', '.xml'), f'take the text out of its markup: {_TO_TEXT}'),
  **dict.fromkeys(('.zip', '.7z', '.rar'), _UNPACK),
  **dict.fromkeys(('.xlsx', '.xls', '.ods'), _SHEET),
  **dict.fromkeys(('.pkl', '.pickle', '.pt', '.pth', '.joblib'), _PICKLE),
  **dict.fromkeys(('.warc', '.warc.gz', '.wet', '.wet.gz', '.wat', '.wat.gz'), _CRAWL),
  **dict.fromkeys(('.tfrecord', '.array_record'), 'name the data set that it is part of, as tfds:NAME, or convert it'),
  '.npz': _NPZ,
  '.ds.loss': _LOSS,
  **dict.fromkeys(('.db', '.sqlite', '.sqlite3'), 'save its table as .csv with a header'),
  **dict.fromkeys(('.orc', '.avro', '.h5', '.hdf5', '.lance'), 'convert it to .parquet'),
  **dict.fromkeys(('.yaml', '.yml'), 'convert it to .jsonl with one document a line'),
  **dict.fromkeys(('.z', '.lz4', '.br', '.lzma'), 'unpack it, or compress it again as .gz, .xz, .bz2 or .zst'),
}


class Format(NamedTuple):
  """How a file is read."""

  kind: Kind
  packed: str  # the ending of its compression, '' for none


def endings(*kinds: Kind) -> tuple[str, ...]:
  """The endings of files of these kinds, with each compression.

  >>> endings('parquet'), endings('tar')[:2]
  (('.parquet',), ('.tar', '.tar.gz'))
  """
  found = []
  for ending, kind in KINDS.items():
    if kind in kinds:
      found += [ending] if kind in _NEVER_PACKED else [ending + packed for packed in ('', *PACKED)]
  return tuple(found)


def plain_name(name: str) -> str:
  """A name in lower case, without what a web address asks for after its path.

  >>> plain_name('https://host/a.JSONL.gz?download=true'), plain_name('a?.txt')
  ('https://host/a.jsonl.gz', 'a?.txt')
  """
  if name.startswith(('http://', 'https://')):
    name = name.partition('?')[0].partition('#')[0]
  return name.lower()


def format_of(name: str) -> Format | None:
  """How a file of this name is read; None where its ending is not one of those that are.

  >>> format_of('c4.json.gz'), format_of('a.tgz'), format_of('a.parquet.gz')
  (Format(kind='json', packed='.gz'), Format(kind='tar', packed='.gz'), None)
  """
  name = plain_name(name)
  for short, long in _SHORT.items():
    name = name.removesuffix(short) + long if name.endswith(short) else name
  packed = next((ending for ending in PACKED if name.endswith(ending)), '')
  name = name.removesuffix(packed)
  kind = next((kind for ending, kind in KINDS.items() if name.endswith(ending)), None)
  if kind is None or (packed and kind in _NEVER_PACKED):
    return None
  return Format(kind, packed)


def check(name: str) -> Format:
  """How a file is read. Raises DataError: its ending is not one of those that are, with what to do about it."""
  if (found := format_of(name)) is not None:
    return found
  plain = plain_name(name)
  for ending in sorted(REMEDIES, key=len, reverse=True):
    if plain.endswith(ending):
      raise DataError(f'{name}: {ending} is not read as text; {REMEDIES[ending]}')
  raise DataError(f'{name}: unknown ending; a source must end in one of {known()}; rename or convert the file')


def known() -> str:
  """The endings that are read, for a message."""
  packed = [ending for ending, kind in KINDS.items() if kind not in _NEVER_PACKED]
  others = [ending for ending, kind in KINDS.items() if kind in _NEVER_PACKED]
  return f'{", ".join(packed)} (also with {", ".join(PACKED)}), {", ".join(others)}'


def owner_of(name: str) -> str:
  """The file that one belongs to; itself, if to none.

  >>> owner_of('a.idx'), owner_of('a.ds.index'), owner_of('a.txt')
  ('a.bin', 'a.ds', 'a.txt')
  """
  ending = next((ending for ending in PARTS_OF if name.endswith(ending)), None)
  return name if ending is None else name.removesuffix(ending) + PARTS_OF[ending]


def has_fields(path: str) -> bool:
  """Whether some of what a path names may have fields, as plain text and tokens have none, as far as it says."""
  found = format_of(path)
  return not (found is not None and found.kind == 'text') and not holds_tokens(path)


def holds_tokens(path: str) -> bool:
  """Whether a path names token files, as far as it says."""
  found = format_of(owner_of(path))
  return found is not None and found.kind in TOKENS
