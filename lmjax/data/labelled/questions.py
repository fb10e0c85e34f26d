"""Questions of files in SQuAD's format, an article at a time."""

import itertools
from collections.abc import Iterator

from lmjax.data.sources import files, json_items
from lmjax.data.sources.formats import endings
from lmjax.data.sources.opening import opened
from lmjax.errors import DataError


def records(path: str) -> Iterator[tuple[str, dict]]:
  """(where, record) of each question of the files that a path names, as `nested` has them of `files.records`."""
  names = files.expand(path)
  if not all(name.lower().endswith(endings('json')) for name in names):
    yield from nested(files.records(path))
    return
  for name in names:
    done = 0
    try:
      for article in _articles(name):
        for question in _of_article(article, name):
          yield question
          done += 1
      continue
    except (DataError, KeyError, TypeError):
      pass  # it is read as a whole, which says what is wrong, or that it is of another kind
    with opened(name) as file:
      yield from itertools.islice(nested(json_items.records(name, file)), done, None)


def _articles(name: str) -> Iterator[dict]:
  with opened(name) as file:
    yield from json_items.inner_items(name, file, 'data')


def nested(raw: Iterator[tuple[str, dict]]) -> Iterator[tuple[str, dict]]:
  """SQuAD's files nest questions in paragraphs in articles; TFDS, and .jsonl, have a record a question."""
  for where, record in raw:
    if 'data' not in record:
      yield where, record
      continue
    try:
      for article in record['data']:
        yield from _of_article(article, where)
    except (KeyError, TypeError) as error:
      problem = f"not in SQuAD's format ({type(error).__name__}: {error})"
      rule = 'it must be data[].paragraphs[].qas[] with id, question and answers'
      raise DataError(f'{where}: {problem}; {rule}; see rajpurkar.github.io/SQuAD-explorer') from None


def _of_article(article: dict, where: str) -> Iterator[tuple[str, dict]]:
  for paragraph in article['paragraphs']:
    for question in paragraph['qas']:
      yield f'{where}, question {question["id"]}', {**question, 'context': paragraph['context']}
