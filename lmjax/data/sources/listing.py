"""What files a path names: a file, a folder, a glob, an address, or a data set of the Hugging Face Hub.

It is known from the listing alone, without reading a file.
"""

import collections
import glob
import json
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from lmjax.data.sources import formats, hub, remote
from lmjax.data.sources.notes import note
from lmjax.data.sources.patterns import braces
from lmjax.errors import DataError

# How `datasets` names what it saves.
_SAVED = re.compile(r'data-\d+-of-\d+\.arrow')
# What may be the id of a data set, written without hf:
_ID = re.compile(r'[\w-]+(/[\w-]+)?')
_SAVED_SPLITS = 'dataset_dict.json'
_SAVED_STATE = 'state.json'


class File(NamedTuple):
  """A file of a source, as it was listed."""

  name: str
  size: int  # -1 where nobody says
  stamp: str  # another for another content: its time, or what a store says of its version; '' where nobody says


def files_of(path: str) -> list[File]:
  """The files that a path names, sorted by name: all of them can be read, as far as their endings say.

  Of a folder those with other endings, and hidden ones, are left out; how many is printed. So are token files next to
  text. The arrow files of a folder that `save_to_disk` wrote stand in its own order.

  Raises DataError: there is none, one that is named has an ending that is not read, or it cannot be reached.
  """
  found = _with_indices(path, named(path))
  for file in found:
    formats.check(file.name)
  tokens = [file.name for file in found if formats.holds_tokens(file.name)]
  if 0 < len(tokens) < len(found):
    other = next(file.name for file in found if file.name not in tokens)
    rule = f'tokens ({tokens[0]}) and text ({other}); a source must be of one kind'
    raise DataError(f'{path}: names files of {rule}; make two sources of them')
  return found


def _with_indices(path: str, found: list[File]) -> list[File]:
  """Token files by their own name, once, with a stamp that changes when their index does.

  Raises DataError: an index is missing, or alone, or they are at an address.
  """
  files = {file.name: file for file in found}
  for file in found:
    if not formats.holds_tokens(file.name):
      continue
    if remote.is_url(file.name):
      rule = 'files of tokens must be on this machine, since they are mapped'
      raise DataError(f'{file.name}: is at an address; {rule}; copy them here')
    if (name := formats.owner_of(file.name)) != file.name:
      del files[file.name]
    files[name] = File(*_row_of_tokens(name))
  return list(files.values())


def _row_of_tokens(name: str) -> tuple[str, int, str]:
  """As `_row`, of a token file with its index."""
  ending, other = formats.INDEX.get(formats.check(name).kind, ('', ''))
  index = name.removesuffix(ending) + other
  if not os.path.isfile(name):
    raise DataError(f'{index}: has no {os.path.basename(name)} next to it, which holds the tokens; copy that too')
  if not os.path.isfile(index):
    rule = f'has no {os.path.basename(index)} next to it, which says where its documents are'
    raw = f"np.save('new.npy', np.memmap({os.path.basename(name)!r}, 'uint16', 'r'))"
    raise DataError(f'{name}: {rule}; copy that too, or save bare numbers as a .npy, as {raw}')
  row = _row(name)
  return row if index == name else (*row[:2], ' '.join([row[2], *map(str, _row(index)[1:])]))


def named(path: str) -> list[File]:
  """As `files_of`, but files may have any ending, unless they lie in a folder that is named as a whole."""
  if path.startswith('hf:') and not remote.is_url(path):
    return [File(*row) for row in hub.files_of(path)]
  found: list[File] = []
  has_folder = False  # whose files have an order of their own
  for pattern in [path] if os.path.isfile(path) else braces(path):
    is_folder, rows = remote.listed(pattern) if remote.is_url(pattern) else _local(os.path.expanduser(pattern))
    files = sorted(File(*row) for row in rows)
    found += _readable(pattern, files) if is_folder else files
    has_folder = has_folder or is_folder
  found = list(dict.fromkeys(found))
  if not found:
    rule = 'the glob matches no file' if glob.has_magic(path) else 'there is no such file'
    place = '' if remote.is_url(path) else f' (relative to {os.getcwd()})'
    other = f', or write hf:{path} for a data set of the Hugging Face Hub' if _ID.fullmatch(path) else ''
    raise DataError(f'{path}: {rule}; a source must exist; check the path{place}{other}')
  return found if has_folder else sorted(found)


def _local(path: str) -> tuple[bool, list[tuple[str, int, str]]]:
  """(whether a path is a folder, what it names or what lies below it)."""
  if os.path.isdir(path):
    return True, [_row(name) for name in _below(path)]
  names = [path] if os.path.isfile(path) else glob.glob(path, recursive=True)
  if not names and os.path.isfile(f'{path}.bin'):  # as Megatron-LM names a pair of files
    names = [f'{path}.bin']
  return False, [_row(name) for name in names if os.path.isfile(name)]


def _row(name: str) -> tuple[str, int, str]:
  status = os.stat(name)
  return name, status.st_size, str(status.st_mtime_ns)


def is_changed(file: File) -> bool:
  """Whether a file of this machine is another one than it was when it was listed."""
  try:
    _, size, stamp = _row(file.name)
  except OSError:
    return True
  return file.stamp != '' and (size, stamp) != (file.size, file.stamp.partition(' ')[0])


def _below(folder: str) -> Iterator[str]:
  """All files below a folder, through links to other folders too, each of which is entered once."""
  entered = set()
  for place, folders, names in os.walk(folder, followlinks=True):
    if (real := os.path.realpath(place)) in entered:
      folders.clear()
      continue
    entered.add(real)
    folders.sort()  # by which name it is entered is the same on every machine
    yield from (path for name in names if os.path.isfile(path := os.path.join(place, name)))


def _readable(folder: str, files: list[File]) -> list[File]:
  """Those of a folder that are read. Raises DataError: there is none, or it holds the splits of a data set."""
  start = len(folder.rstrip('/')) + 1 if remote.is_url(folder) else len(os.path.join(os.path.expanduser(folder), ''))
  inside = {file.name[start:]: file for file in files}
  inside = {name: file for name, file in inside.items() if not any(part.startswith('.') for part in name.split('/'))}
  _check_splits(folder, inside)
  has_text = any(formats.format_of(name) and not formats.holds_tokens(name) for name in inside)
  saved = {os.path.dirname(name) for name in inside if os.path.basename(name) == _SAVED_STATE}
  kept, left_out = {}, collections.Counter()
  for name, file in inside.items():
    place, base = os.path.split(name)
    is_saved = place in saved and any(map(_SAVED.fullmatch, _bases(inside, place)))
    if formats.holds_tokens(name):
      is_read = not has_text
    else:
      is_read = bool(_SAVED.fullmatch(base) if is_saved else formats.format_of(name))
    if is_read:
      kept[name] = file
    elif not is_saved:
      left_out[os.path.splitext(base)[1] or 'no ending'] += 1
  shown = ', '.join(f'{ending} {count:,}' for ending, count in left_out.most_common(5))
  if not kept:
    rule = f'a folder without a file that is read ({shown or "it is empty"})'
    raise DataError(f'{folder}: {rule}; its files must end in one of {formats.known()}; check the path')
  if left_out:
    rest = sum(left_out.values())
    read = len(set(map(formats.owner_of, kept)))
    note(f'{folder}: {read:,} files are read; {rest:,} with other endings are left out ({shown})')
  order = {} if remote.is_url(folder) else {n: key for place in saved for n, key in _saved_order(folder, place)}
  return [kept[name] for name in sorted(kept, key=lambda name: order.get(name, name))]


def _bases(names, place: str) -> list[str]:
  return [os.path.basename(name) for name in names if os.path.dirname(name) == place]


def _check_splits(folder: str, inside: dict[str, File]) -> None:
  for name in inside:
    if os.path.basename(name) == _SAVED_SPLITS:
      place = os.path.dirname(name)
      start = f'{place}/' if place else ''
      splits = {n.removeprefix(start).split('/')[0] for n in inside if n.startswith(start) and n.endswith('.arrow')}
      if len(splits) > 1:
        shown = ', '.join(sorted(splits))
        path = os.path.join(folder, place, min(splits, key=lambda split: (split != 'train', split)))
        raise DataError(f'{folder}: holds the splits {shown} of a data set; a source must be one of them; write {path}')


def _saved_order(folder: str, place: str) -> Iterator[tuple[str, str]]:
  """(name below the folder, what it is sorted by) of the files that a state.json names."""
  file = os.path.join(os.path.expanduser(folder), place, _SAVED_STATE)
  try:
    with open(file, encoding='utf-8') as opened:
      names = [row['filename'] for row in json.load(opened)['_data_files']]
  except (ValueError, KeyError, TypeError) as error:
    raise DataError(f'{file}: is not what save_to_disk writes ({error!r}); save the data set again') from None
  for number, name in enumerate(names):
    yield os.path.join(place, name), os.path.join(place, f'data-{number:08}')
