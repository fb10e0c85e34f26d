"""How a folder of sentence-transformers makes vectors of texts, and the same for an export.

Keys that are written are those of its versions 2 to 5, which 6 reads too.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from lmjax.errors import CheckpointError

Pool = Literal['mean', 'cls', 'last']
MODULES, POOLING, NORMALIZE = 'modules.json', '1_Pooling', '2_Normalize'
# Of the tokens, by the kind of model that a folder was once saved with; the first is written.
_KINDS = ('bert', 'roberta', 'distilbert', 'camembert', 'albert', 'xlm-roberta', 'xlnet')
SETTINGS = tuple(f'sentence_{kind}_config.json' for kind in _KINDS)
_PROMPTS = 'config_sentence_transformers.json'
_KEYS = {'mean': 'pooling_mode_mean_tokens', 'cls': 'pooling_mode_cls_token', 'last': 'pooling_mode_lasttoken'}
# As version 6 names them.
_NAMES = {'mean': 'mean', 'cls': 'cls', 'lasttoken': 'last'}
# What transformers writes where a tokenizer has no limit is greater.
_NO_LIMIT = 10**9


class Vectors(NamedTuple):
  """How a text becomes a vector."""

  pooling: Pool
  normalize: bool  # to length 1
  length: int | None  # tokens that are read; None: as many as the model has positions for
  prompt: str = ''  # text before each
  lowercase: bool = False  # whether texts are made lower case, whatever the tokenizer does


def read(folder: pathlib.Path, pooling: Pool | None = None) -> Vectors | None:
  """How a folder makes vectors, but for a `pooling` that was asked for; None where the folder is of a model alone.

  Raises CheckpointError: it is damaged, or does what cannot be done here.
  """
  if not (folder / MODULES).exists():
    return None
  try:
    modules = [(module['type'].rpartition('.')[2], module['path']) for module in _json(folder / MODULES)]
    kinds = [kind for kind, _ in modules]
    if kinds not in (['Transformer', 'Pooling'], ['Transformer', 'Pooling', 'Normalize']):
      rule = f'{", ".join(kinds)}: must be Transformer, Pooling and perhaps Normalize'
      raise CheckpointError(f'{folder / MODULES}: {rule}; make these vectors with sentence-transformers')
    settings = next((_json(folder / name) for name in SETTINGS if (folder / name).exists()), {})
    length = settings.get('max_seq_length') or _limit(folder)
    given = _json(folder / modules[1][1] / 'config.json')
    prompt = _prompt(folder)
    if prompt and given.get('include_prompt') is False:
      rule = 'leaves the prompt out of the mean (include_prompt = false), which cannot be done here'
      raise CheckpointError(f'{folder / modules[1][1]}: {rule}; make these vectors with sentence-transformers')
    chosen = pooling or _pooling(folder / modules[1][1], given)
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    if isinstance(error, CheckpointError):
      raise
    raise CheckpointError(
      f'{folder / MODULES}: no folder of sentence-transformers ({error}); download it again'
    ) from error
  return Vectors(chosen, 'Normalize' in kinds, length, prompt, settings.get('do_lower_case') is True)


def _pooling(where: pathlib.Path, given: Mapping[str, Any]) -> Pool:
  mode = given.get('pooling_mode')
  if mode is None:
    found = [key for key, value in given.items() if key.startswith('pooling_mode_') and value is True]
  else:
    found = [mode] if isinstance(mode, str) else list(mode)
  known = _NAMES | {key: pooling for pooling, key in _KEYS.items()}
  if len(found) != 1 or found[0] not in known:
    shown = ', '.join(map(str, found)) or 'nothing'
    raise CheckpointError(f'{where}: pools by {shown}; it must be one of {", ".join(_KEYS)}: give --pooling')
  return known[found[0]]  # type: ignore[return-value]


def _limit(folder: pathlib.Path) -> int | None:
  """What the tokenizer cuts texts to."""
  file = folder / 'tokenizer_config.json'
  limit = _json(file).get('model_max_length') if file.exists() else None
  return int(limit) if limit and limit < _NO_LIMIT else None


def _prompt(folder: pathlib.Path) -> str:
  file = folder / _PROMPTS
  given = _json(file) if file.exists() else {}
  name = given.get('default_prompt_name')
  return '' if name is None else given['prompts'][name]


def known(folder: pathlib.Path) -> dict | None:
  """How a folder makes vectors, as JSON has it; None where it does not, or not in a way that is known here."""
  try:
    found = read(folder)
  except CheckpointError:
    return None
  return None if found is None else found._asdict()


def of_run(origin: Mapping[str, Any] | None, length: int, pooling: Pool = 'mean') -> Vectors:
  """What counts for a run: as the public model that it began as, else `pooling` of `length` tokens."""
  found = None if origin is None else origin.get('vectors')  # earlier runs do not keep it
  vectors = Vectors(pooling, False, None) if found is None else Vectors(**found)
  return vectors if vectors.length is not None else vectors._replace(length=length)


def files_of(vectors: Vectors, width: int) -> dict[str, bytes]:
  """{path: content} of what such a folder has besides the model."""
  modules = [('', 'Transformer'), (POOLING, 'Pooling'), *([(NORMALIZE, 'Normalize')] if vectors.normalize else [])]
  described = [
    {'idx': i, 'name': str(i), 'path': path, 'type': f'sentence_transformers.models.{kind}'}
    for i, (path, kind) in enumerate(modules)
  ]
  pooling = {'word_embedding_dimension': width} | {key: name == vectors.pooling for name, key in _KEYS.items()}
  files: dict[str, Any] = {
    MODULES: described,
    SETTINGS[0]: {'max_seq_length': vectors.length, 'do_lower_case': vectors.lowercase},
    f'{POOLING}/config.json': pooling,
  }
  if vectors.prompt:
    files[_PROMPTS] = {'prompts': {'default': vectors.prompt}, 'default_prompt_name': 'default'}
  return {name: (json.dumps(content, indent=2) + '\n').encode() for name, content in files.items()}


def _json(file: pathlib.Path):
  return json.loads(file.read_text(encoding='utf-8'))
