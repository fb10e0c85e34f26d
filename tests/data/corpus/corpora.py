"""Small corpora for the tests of this folder."""

import json

from lmjax.data.config import DataConfig, SourceConfig, TokenizerConfig
from lmjax.data.corpus.store import open_or_build

DOCUMENTS = [f'Document {number} tells of {number * number} things.\n' * (1 + number % 4) for number in range(200)]


def config_of(cache_dir, sources, tokenizer=None, valid_fraction=0.2, bad_text='raise', max_unknown=0.01, **more):
  rows = dict(rows='concat', length=32, batch_size=8, cls_sep=False, valid_bytes=None) | more
  tokenizer = tokenizer or TokenizerConfig(None, 320, 200_000, False)
  settings = dict(valid_fraction=valid_fraction, bad_text=bad_text, cache_dir=str(cache_dir), max_unknown=max_unknown)
  return DataConfig(sources=sources, tokenizer=tokenizer, **rows, **settings)


def write(path, documents):
  path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in documents))
  return SourceConfig(str(path), 'text', 1.0)


def build(tmp_path, tokenizer, source, progress=False, **settings):
  """The store of a source that is called corpus."""
  config = config_of(tmp_path / 'cache', {'corpus': source}, **settings)
  return open_or_build(config, tokenizer, progress)['corpus']


def ids_of(documents):
  return [documents.ids(i).tolist() for i in range(len(documents.lengths))]


def train_of(store):
  """All training documents."""
  return store.train(list(range(len(store.row.shards))))


def texts_of(documents, tokenizer):
  return [tokenizer.decode(ids) for ids in ids_of(documents)]


def content(folder):
  """{name: bytes} of all files of a cache but for locks."""
  return {
    str(file.relative_to(folder)): file.read_bytes()
    for file in sorted(folder.rglob('*'))
    if file.is_file() and file.suffix != '.lock'
  }
