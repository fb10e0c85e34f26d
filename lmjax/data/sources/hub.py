"""The parquet files of a data set of the Hugging Face Hub, hf:[ORG/]NAME, as its own card parts them."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from lmjax.data.sources.notes import note
from lmjax.data.sources.patterns import braces, matches
from lmjax.errors import DataError, reason

# Where the Hub keeps what it converted to parquet itself.
_CONVERTED = 'refs/convert/parquet'
_SPLIT = re.compile(r'(?:^|[/_.-])(train|training|test|testing|eval|evaluation|validation|valid|val|dev)(?=[/_.-])')
_SPLIT_NAMES = {'training': 'train', 'testing': 'test', 'eval': 'test', 'evaluation': 'test'}
_SPLIT_NAMES |= dict.fromkeys(('valid', 'val', 'dev'), 'validation')
_HELP = 'check the id; a private or gated one needs `hf auth login` or HF_TOKEN'


def parse(path: str) -> tuple[str, str | None, str | None]:
  """(repository, configuration, split or revision) of hf:NAME[/CONFIG][@SPLIT]; a name with one / is ORG/NAME.

  Raises DataError: it is none.

  >>> parse('hf:wikimedia/wikipedia/20231101.en@train'), parse('hf:squad')
  (('wikimedia/wikipedia', '20231101.en', 'train'), ('squad', None, None))
  """
  name, _, choice = path.removeprefix('hf:').partition('@')
  parts = name.split('/')
  if not all(parts) or len(parts) > 3:
    rule = 'a data set is hf:ORG/NAME, hf:ORG/NAME/CONFIG or hf:ORG/NAME@SPLIT'
    raise DataError(f'{path}: names no data set; {rule}; to name files, write hf://datasets/ORG/NAME/*.parquet')
  return '/'.join(parts[:2]), parts[2] if len(parts) == 3 else None, choice or None


def files_of(path: str) -> list[tuple[str, int, str]]:
  """(address, size, digest) of the parquet files of a split ('train' unless one is named), sorted, at one commit.

  Raises DataError: no such data set, configuration or split; no parquet; nobody may read it; no network.
  """
  repository, config, choice = parse(path)
  rows, info, splits = _revision(path, repository, config, None)
  if choice is not None and choice not in splits and _SPLIT_NAMES.get(choice, choice) not in splits:
    try:
      rows, info, splits = _revision(path, repository, config, choice)
    except LookupError:
      rule = f'no split and no revision {choice!r}; splits there: {", ".join(sorted(splits))}'
      raise DataError(f'{path}: {rule}; name one after @') from None
    choice = None
  choice = 'train' if choice is None and 'train' in splits else choice
  if choice is None and len(splits) > 1:
    raise DataError(
      f'{path}: has the splits {", ".join(sorted(splits))}; a source must be one of them; name it after @'
    )
  chosen = splits[min(splits) if choice is None else choice if choice in splits else _SPLIT_NAMES[choice]]
  if any('/partial-' in f'/{name}' for name in chosen):
    note(
      f'{path}: the Hub has converted a first part of it to parquet, which is read; name its own files for all of it'
    )
  start = f'hf://datasets/{repository}@{info.sha}'
  return sorted((f'{start}/{name}', *rows[name]) for name in chosen)


def _revision(path: str, repository: str, config: str | None, revision: str | None):
  """(size and digest by name, what the Hub says of a revision, names by split).

  Raises LookupError: no such revision.
  """
  info = _info(path, repository, revision)
  rows = _parquet(path, repository, info.sha)
  if rows:
    return rows, info, _splits(path, rows, config, _configs(info))
  try:
    info = _info(path, repository, _CONVERTED)
    rows = _parquet(path, repository, info.sha)
  except LookupError:
    pass
  if not rows:
    rule = 'holds no .parquet, nor has the Hub converted it'
    remedy = f'name files that it holds, such as hf://datasets/{repository}/**/*.jsonl.gz'
    raise DataError(f'{path}: {rule}; a data set must be parquet; {remedy}')
  return rows, info, _splits(path, rows, config, {})


def _info(path: str, repository: str, revision: str | None) -> Any:
  import huggingface_hub

  with _asking(path):
    return huggingface_hub.HfApi().dataset_info(repository, revision=revision)


def _parquet(path: str, repository: str, commit: str) -> dict[str, tuple[int, str]]:
  """Size and digest of each parquet file of a commit."""
  import huggingface_hub

  with _asking(path):
    found: Iterable[Any] = huggingface_hub.HfApi().list_repo_tree(
      repository, recursive=True, revision=commit, repo_type='dataset'
    )
    return {
      entry.path: (entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
      for entry in found
      if entry.path.endswith('.parquet') and hasattr(entry, 'size')
    }


@contextlib.contextmanager
def _asking(path: str) -> Iterator[None]:
  """A question to the Hub, whose errors become one line; an unknown revision is a LookupError."""
  from huggingface_hub import errors

  try:
    yield
  except errors.RevisionNotFoundError as error:
    raise LookupError(path) from error
  except errors.GatedRepoError as error:
    remedy = 'accept its terms on its page, then log in with `hf auth login` or set HF_TOKEN'
    raise DataError(f'{path}: its owner gives access on request; {remedy}') from error
  except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
    raise DataError(f'{path}: the Hub has no data set of that name that may be read; {_HELP}') from error
  except Exception as error:  # of the network, in many classes
    remedy = 'check the network, or download the data set with `hf download` elsewhere and name its folder'
    raise DataError(f'{path}: the Hub cannot be reached ({reason(error)}); {remedy}') from error


def _configs(info) -> dict[str, dict]:
  """What the card of a data set says of its configurations, by name; empty where it says nothing of files."""
  card = info.card_data
  found = (card.to_dict() if card is not None else {}).get('configs') or []
  rows = [row for row in found if isinstance(row, dict) and (row.get('data_files') or row.get('data_dir'))]
  return {str(row.get('config_name', 'default')): row for row in rows}


def _splits(path: str, rows, config: str | None, configs: dict[str, dict]) -> dict[str, list[str]]:
  """The names of files by split, of one configuration. Raises DataError: it is not there, or must be named."""
  folders = {name.split('/')[0] for name in rows if '/' in name}
  names = list(configs) or sorted(folders - {'data'})
  usual = [name for name in names if name == 'default' or configs.get(name, {}).get('default')]
  if config is None and len(names) > 1 and not usual:
    shown = ', '.join(names[:10]) + ', ...' * (len(names) > 10)
    raise DataError(f'{path}: has the configurations {shown}; one must be named; write hf:ORG/NAME/CONFIG')
  if config is not None and config not in names:
    shown = ', '.join(names[:10]) + ', ...' * (len(names) > 10)
    raise DataError(f'{path}: no configuration {config!r}; there are: {shown or "none"}; name one of them')
  chosen = config or (usual or names or [None])[0]
  if chosen in configs:
    pairs = _declared(configs[chosen], rows)
  else:
    inside = [name for name in rows if chosen is None or name.startswith(f'{chosen}/')]
    pairs = ((_split_of(name), name) for name in inside)
  found: dict[str, list[str]] = {}
  for split, name in pairs:
    found.setdefault(split, []).append(name)
  if not found:
    raise DataError(f'{path}: configuration {chosen!r} names no .parquet; a data set must be parquet; name its files')
  return found


def _declared(config: dict, rows) -> Iterator[tuple[str, str]]:
  """(split, name) of the files that a configuration of a card names."""
  files = config.get('data_files') or f'{config["data_dir"]}/**'
  if isinstance(files, dict):
    files = [{'split': split, 'path': path} for split, path in files.items()]
  for entry in [files] if isinstance(files, str) else files:
    split = str(entry.get('split', 'train')) if isinstance(entry, dict) else None
    paths = entry.get('path', []) if isinstance(entry, dict) else entry
    folder = f'{config["data_dir"]}/' if config.get('data_dir') and config.get('data_files') else ''
    patterns = [folder + one for path in ([paths] if isinstance(paths, str) else paths) for one in braces(path)]
    for name in rows:
      if any(matches(pattern, name) for pattern in patterns):
        yield split or _split_of(name), name


def _split_of(name: str) -> str:
  """The split that a name tells, 'train' where it tells none."""
  found = _SPLIT.findall(name)
  return _SPLIT_NAMES.get(found[-1], found[-1]) if found else 'train'
