"""Splits a file of records into train, valid and test (70, 10 and 20%), whole articles or documents at a time.

  python experiments/split.py squad.json.xz FOLDER    FOLDER/{train,valid,test}.json, and text.jsonl, all contexts
  python experiments/split.py bills.jsonl.xz FOLDER   FOLDER/{train,valid,test}.jsonl

The order is that of a digest of the article's title, or of the record: the same file is always split alike.
"""

import hashlib
import json
import os
import sys

from lmjax.data.sources import files
from lmjax.errors import ConfigError, DataError
from lmjax.schema.command_line import run_command

SHARES = {'train': 0.7, 'valid': 0.1, 'test': 0.2}


def split(path, folder):
  """Writes the splits; returns how many articles or records each has."""
  found = [record for _, record in files.records(path)]
  squad = bool(found) and 'data' in found[0]
  try:
    items = [article for record in found for article in record['data']] if squad else found
    names = [item['title'] if squad else json.dumps(item) for item in items]
    texts = [[paragraph['context'] for paragraph in item['paragraphs']] if squad else [] for item in items]
  except (KeyError, TypeError) as error:
    rule = f"not in SQuAD's format ({type(error).__name__}: {error})"
    raise DataError(f'{path}: {rule}; it must be data[] of title and paragraphs[].context; fix it') from error
  if len(items) < 10:
    raise DataError(f'{path}: {len(items)} articles or records; it must have 10 to be split; name a larger file')
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise ConfigError(f'{folder}: cannot be made ({error.strerror}); name another folder') from error
  digests = [hashlib.blake2b(name.encode()).digest() for name in names]
  order = sorted(range(len(items)), key=digests.__getitem__)
  items = [items[i] for i in order]
  counts, start = {}, 0
  for name, share in SHARES.items():
    part = items[start:] if name == 'test' else items[start : start + round(share * len(items))]
    start += len(part)
    lines = [{'version': '1.1', 'data': part}] if squad else part
    write_lines(os.path.join(folder, f'{name}.{"json" if squad else "jsonl"}'), lines)
    counts[name] = len(part)
  if squad:
    write_lines(os.path.join(folder, 'text.jsonl'), [{'text': text} for i in order for text in texts[i]])
  return counts


def write_lines(path, objects):
  """One JSON object a line."""
  with open(path, 'w', encoding='utf-8') as file:
    file.writelines(json.dumps(item) + '\n' for item in objects)


def run(argv):
  """Splits a file; says how many articles or records each split has."""
  if len(argv) != 2:
    raise ConfigError([f'arguments {argv}: must be FILE and FOLDER; give both'])
  print(', '.join(f'{count} {name}' for name, count in split(*argv).items()))


if __name__ == '__main__':
  sys.exit(run_command(run, None))
