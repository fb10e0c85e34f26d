"""What a run starts from: another run's checkpoint, or a public model that `init_from.path = hf:...` names."""

import functools
import os
import pathlib
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from lmjax.checkpoint import locate
from lmjax.checkpoint.config import InitFrom
from lmjax.checkpoint.handoff import RESIZABLE
from lmjax.checkpoint.locate import InitCheckpoint
from lmjax.errors import CheckpointError, ConfigError, reason
from lmjax.hf import hub, sentence
from lmjax.hf.config import ConfigFile, settings_of
from lmjax.hf.family import LEFT, TASK_HEADS, TOKEN_TABLE
from lmjax.hf.folder import FLOATS, Weights
from lmjax.hf.table import Line, Table, matching, table
from lmjax.models.config import ModelConfig
from lmjax.schema import validate

PREFIX = 'hf:'
# Keys of config.json that are true of one copy of a model alone.
_OF_A_COPY = ('_name_or_path', 'auto_map', 'dtype', 'torch_dtype', 'transformers_version')


class PublicModel:
  """A Hugging Face folder; only config.json and the headers of its weights are read.

  Attributes:
    name: as `init_from.path`, or another flag, gives it; where: with that flag, for messages.
    folder: where its files are.
    revision: of the repository; None for a folder of one's own.
    model: settings of its ModelConfig.
    step, tokenizer_hash: None, as in no checkpoint of a run.
  """

  step = tokenizer_hash = None

  def __init__(self, name: str, flag: str = 'init_from.path'):
    self.name, self.where, given = name, f'{flag} = {name}', name.removeprefix(PREFIX)
    folder, self.revision = pathlib.Path(os.path.expanduser(given)), None
    if not given or not os.path.isdir(folder):
      if not hub.is_name(given):
        remedy = 'name a folder, or a model of the Hub: hf:ORG/NAME or hf:ORG/NAME@REVISION; a run that began with a '
        remedy += 'folder continues once it is there again'
        raise CheckpointError(f'{self.where}: no such folder, and no id of the Hub; {remedy}')
      folder, self.revision = hub.download(self.where, given, weights=False)
    self.folder = folder
    self.file = ConfigFile.read(folder / 'config.json', self.where)
    try:
      self.model = settings_of(self.file)
    except CheckpointError:
      raise
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:  # a value of another type
      rule = f'holds a value of another type than transformers writes ({reason(error)})'
      raise CheckpointError(f'{self.file.path}: {rule}; download it again') from error
    for line in validate.check(ModelConfig, self.model)[1]:
      setting, _, rest = line.partition(' ')
      key = self.file.family.keys.get(setting, setting)
      raise CheckpointError(f'{self.file.path}: {key} {rest.rpartition("; ")[0]}; check it, or download it again')

  @functools.cached_property
  def origin(self) -> dict[str, Any]:
    """What runs that begin with it keep of it, for an export: the name and revision of its repository, None for a
    folder of one's own; its licence, as far as known; its config.json; the dtype of its files; how its vectors are
    pooled, where sentence-transformers wrote it."""
    dtypes = {array['dtype'] for array in self.arrays.values()}
    return {
      'repository': None if self.revision is None else self._repository,
      'revision': self.revision,
      'license': hub.license_of(self.folder),
      'vectors': sentence.known(self.folder),
      'dtype': dtypes.pop() if len(dtypes) == 1 else 'float32',
      'config': {key: value for key, value in self.file.values.items() if key not in _OF_A_COPY},
    }

  @property
  def tokenizer_file(self) -> str:
    """Its tokenizer.json. Raises CheckpointError: it has none."""
    file = self.folder / 'tokenizer.json'
    if not file.exists():
      line = "AutoTokenizer.from_pretrained('.').backend_tokenizer.save('tokenizer.json')"
      line = f'python -c "from transformers import AutoTokenizer; {line}"'
      remedy = f'write it, with transformers: (cd {shlex.quote(str(self.folder))} && {line})'
      remedy = remedy if self.revision is None else self._remedy
      raise CheckpointError(f'{self.where}: no tokenizer.json there; {remedy}')
    return str(file)

  @property
  def has_weights(self) -> bool:
    """Whether the weights are on this machine: a dry run needs none."""
    return Weights.are_in(self.folder)

  @functools.cached_property
  def weights(self) -> Weights:
    """Headers of the weights, which are downloaded if they are not there."""
    source = self.where
    if self.revision is None:
      return Weights(self.folder, source)
    hub.download(source, f'{self._repository}@{self.revision}', weights=True)
    return Weights(self.folder, source, self._remedy)

  @property
  def _repository(self) -> str:
    return self.name.removeprefix(PREFIX).partition('@')[0]

  @property
  def _remedy(self) -> str:
    """What to do about a repository that lacks a file: what it has in its place may have to be converted."""
    get = f'`hf download {self._repository} --local-dir FOLDER`, then give hf:FOLDER: it says what to convert, and how'
    return f'if the Hub cannot be reached now, try again; else {get}'

  @functools.cached_property
  def _prefix(self) -> str:
    """What the names of the backbone's tensors begin with."""
    family = self.file.family
    first = next(theirs for theirs, ours in family.body.items() if ours == TOKEN_TABLE)
    fitting = (one for one in family.prefixes if f'{one}{first}.weight' in self.weights.tensors)
    return next(fitting, family.prefixes[0])

  @functools.cached_property
  def table(self) -> Table:
    """Where each array stands. Raises CheckpointError: tensors are missing, not known, or of another kind."""
    family, names, prefix = self.file.family, set(self.weights.tensors), self._prefix
    whole = table(family, self.model, prefix)
    head = {line.theirs for line in whole.head}
    is_bare = names.isdisjoint(head) and (family.head or prefix != family.prefixes[0])
    if is_bare or matching(names, TASK_HEADS) and not head <= names:  # the backbone alone, or with the head of a task
      of_head = {line.ours for line in whole.head}
      whole = whole._replace(head=[], copies=[line for line in whole.copies if line.ours not in of_head])
    expected = dict.fromkeys(line.theirs for line in [*whole.lines, *whole.head])
    others = names - whole.names()
    self._refuse('has no tensor', [name for name in expected if name not in names])
    replaced = [f'{theirs}.bias' for theirs, ours in family.head.items() if ours == 'head']  # where it is not tied
    unknown = others - matching(others, (*LEFT, *family.left, *head, *replaced))
    self._refuse('holds a tensor that its family has not,', sorted(unknown))
    for name in sorted(names & whole.names()):
      if self.weights.tensors[name].dtype not in FLOATS:
        dtype = self.weights.tensors[name].dtype
        kind = 'of more bits than are read' if dtype == 'F64' else 'not a float: its weights are quantised'
        remedy = f'take the repository with its weights in {", ".join(FLOATS.values())}'
        raise CheckpointError(f'{self.where}: {name} is {dtype}, {kind}; {remedy}')
    return whole

  def _refuse(self, what: str, names: list[str]) -> None:
    """Raises CheckpointError where there are any."""
    if names:
      others = f' and {len(names) - 1} others' if len(names) > 1 else ''
      remedy = 'check config.json and the weights: they are of two models'
      raise CheckpointError(f'{self.where}: {what} {names[0]}{others}; {remedy}')

  def left_behind(self, taken: Collection[str]) -> list[str]:
    """Names of the tensors that are no part of the model, nor of what was `taken` besides."""
    pooler = {line.theirs for line in self._pooler if line.ours in taken}
    return sorted(set(self.weights.tensors) - self.table.names() - pooler)

  @property
  def lines(self) -> list[Line]:
    """Where each of our arrays stands in the file."""
    return [*self.table.lines, *self.table.head, *self._pooler]

  @functools.cached_property
  def _pooler(self) -> list[Line]:
    """The dense layer before a classifier that was pre-trained with the backbone, as BERT's was."""
    if self.file.family.pooler is None:
      return []
    theirs = f'{self._prefix}{self.file.family.pooler}'
    lines = [
      Line('classifier/dense/kernel', f'{theirs}.weight', transposed=True),
      Line('classifier/dense/bias', f'{theirs}.bias'),
    ]
    return lines if all(line.theirs in self.weights.tensors for line in lines) else []

  @property
  def optional(self) -> set[str]:
    """Paths of parameters that are taken where a model has them, and of no other use."""
    return {line.ours for line in self._pooler}

  @functools.cached_property
  def arrays(self) -> dict[str, dict]:
    """{path: {'shape', 'dtype'}} of its parameters, as ours."""
    arrays = {}
    for line in self.lines:
      tensor = self.weights.tensors[line.theirs]
      try:
        shape = line.shape(tensor.shape)
      except ValueError as error:
        raise CheckpointError(f'{self.where}: {line.theirs}: {error}; check config.json') from error
      arrays[line.ours] = {'shape': list(shape), 'dtype': FLOATS[tensor.dtype]}
    for copy in self.table.copies:
      first = next((line.theirs for line in self.lines if line.ours == copy.ours), copy.theirs)
      if copy.theirs in self.weights.tensors:
        shapes = [list(self.weights.tensors[name].shape) for name in (first, copy.theirs)]
        if shapes[0] != shapes[1]:
          rule = f'{first} has shape {shapes[0]} and {copy.theirs} {shapes[1]}, and config.json says that they are one'
          raise CheckpointError(f'{self.where}: {rule} (tie_word_embeddings); check the file')
    return arrays

  def check_shapes(self, wanted: Mapping[str, Mapping]) -> None:
    """Raises CheckpointError: a tensor of the backbone has not the shape that config.json gives it.

    `wanted` are the arrays of a model with its settings; the position table may be longer there.
    """
    shapes = {path: list(array['shape']) for path, array in wanted.items() if path.startswith(('layers/', TOKEN_TABLE))}
    if self.model['positions'] == 'learned':
      shapes[RESIZABLE] = [self.model['max_length'] + self.model['position_offset'], self.model['width']]
    lines = [line for line in self.lines if line.ours in shapes]
    wrong = [line for line in lines if self.arrays[line.ours]['shape'] != shapes[line.ours]]
    if wrong:
      line = wrong[0]
      there, here = list(self.weights.tensors[line.theirs].shape), list(line.shape_in_file(tuple(shapes[line.ours])))
      what = f'holds arrays of other shapes than config.json gives ({there} in place of {here}),'
      self._refuse(what, [line.theirs for line in wrong])


def origin_of(source: Any) -> dict[str, Any] | None:
  """That of a public model, or of the one that a run began as, and the run before it; None for random weights."""
  return source.origin if isinstance(source, PublicModel) else source and source.manifest.get('origin')


def open_source(config: InitFrom) -> Any:
  """What `init_from` names: an InitCheckpoint or a PublicModel.

  Raises CheckpointError: see `locate.open_source` and PublicModel. ConfigError: a public model has no steps.
  """
  if not config.path.startswith(PREFIX):
    return locate.open_source(config)
  if config.step != 'latest':
    rule = 'a public model has no steps; pin one by hf:ORG/NAME@REVISION'
    raise ConfigError(f'init_from.step = {config.step}: {rule}, and leave this at latest')
  return PublicModel(config.path)


Source = InitCheckpoint | PublicModel
