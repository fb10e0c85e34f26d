"""What a folder of sentence-transformers says of its vectors, and the same for an export: how outputs are pooled.

Keys are those of its versions 2 to 5, which 6 reads too.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from lmjax.errors import CheckpointError

Pool = Literal['mean', 'cls', 'last']
MODULES, SETTINGS, POOLING, NORMALIZE = 'modules.json', 'sentence_bert_config.json', '1_Pooling', '2_Normalize'
_KEYS = {'mean': 'pooling_mode_mean_tokens', 'cls': 'pooling_mode_cls_token', 'last': 'pooling_mode_lasttoken'}
# As version 6 names them.
_NAMES = {'mean': 'mean', 'cls': 'cls', 'lasttoken': 'last'}


class Vectors(NamedTuple):
  """How a text becomes a vector."""

  pooling: Pool
  normalize: bool  # to length 1
  length: int | None  # tokens that are read; None: as many as the model has positions for


def read(folder: pathlib.Path) -> Vectors | None:
  """What a folder says; None where it is of a model alone.

  Raises CheckpointError: it is damaged, or does what cannot be done here.
  """
  if not (folder / MODULES).exists():
    return None
  try:
    modules = [(module['type'].rpartition('.')[2], module['path']) for module in _json(folder / MODULES)]
    settings = _json(folder / SETTINGS) if (folder / SETTINGS).exists() else {}
    length = settings.get('max_seq_length')
    kinds = [kind for kind, _ in modules]
    if kinds not in (['Transformer', 'Pooling'], ['Transformer', 'Pooling', 'Normalize']):
      raise CheckpointError(
        f'{folder / MODULES}: {", ".join(kinds)}: must be Transformer, Pooling and perhaps Normalize'
      )
    given = _json(folder / modules[1][1] / 'config.json')
    mode = given.get('pooling_mode')
    found = [mode] if isinstance(mode, str) else list(mode or ())
    found += [key for key, value in given.items() if key.startswith('pooling_mode_') and value is True]
    known = _NAMES | {key: pooling for pooling, key in _KEYS.items()}
    if len(found) != 1 or found[0] not in known:
      shown, choices = ', '.join(map(str, found)) or 'nothing', ', '.join(_KEYS)
      raise CheckpointError(f'{folder / modules[1][1]}: pools by {shown}; it must be one of {choices}: give --pooling')
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    if isinstance(error, CheckpointError):
      raise
    raise CheckpointError(
      f'{folder / MODULES}: no folder of sentence-transformers ({error}); download it again'
    ) from error
  return Vectors(known[found[0]], 'Normalize' in kinds, length)  # type: ignore[arg-type]


def known(folder: pathlib.Path) -> dict | None:
  """What a folder says, as JSON has it; None where it says nothing that is known here."""
  try:
    found = read(folder)
  except CheckpointError:
    return None
  return None if found is None else found._asdict()


def of_run(origin: Mapping[str, Any] | None, length: int, pooling: Pool = 'mean') -> Vectors:
  """What counts for a run: what the public model that it began as says, else `pooling` of `length` tokens."""
  found = None if origin is None else origin.get('vectors')  # earlier runs do not keep it
  return Vectors(pooling, False, length) if found is None else Vectors(**found)


def files_of(vectors: Vectors, width: int) -> dict[str, bytes]:
  """{path: content} of what such a folder has besides the model."""
  modules = [('', 'Transformer'), (POOLING, 'Pooling'), *([(NORMALIZE, 'Normalize')] if vectors.normalize else [])]
  described = [
    {'idx': i, 'name': str(i), 'path': path, 'type': f'sentence_transformers.models.{kind}'}
    for i, (path, kind) in enumerate(modules)
  ]
  pooling = {'word_embedding_dimension': width} | {key: name == vectors.pooling for name, key in _KEYS.items()}
  return {
    MODULES: _bytes(described),
    SETTINGS: _bytes({'max_seq_length': vectors.length, 'do_lower_case': False}),
    f'{POOLING}/config.json': _bytes(pooling),
  }


def _json(file: pathlib.Path):
  return json.loads(file.read_text(encoding='utf-8'))


def _bytes(values) -> bytes:
  return (json.dumps(values, indent=2) + '\n').encode()
