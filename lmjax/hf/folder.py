"""The weights of a Hugging Face folder: names, shapes and types from the headers, numbers one part at a time."""

import contextlib
import json
import pathlib
import shlex
from typing import NamedTuple

# it gives NumPy the type bfloat16: without it safetensors cannot read such tensors as NumPy arrays
import ml_dtypes  # noqa: F401
from safetensors import SafetensorError, safe_open

from lmjax.errors import CheckpointError, reason

ONE_FILE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
FLOATS = {'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
# Without running what a pickle may hold; tied tables, which it holds once, are written twice.
_CONVERT = (
  '(cd {folder} && python -c "import glob, torch; from safetensors.torch import save_file; '
  "t = {{k: v for f in glob.glob('{files}') for k, v in torch.load(f, weights_only=True).items()}}; "
  "save_file({{k: v.clone().contiguous() for k, v in t.items()}}, '{target}')\")"
)
_PICKLES = ('pytorch_model*.bin', '*.bin')


class Tensor(NamedTuple):
  """What a header knows of a tensor."""

  file: pathlib.Path
  name: str  # there
  shape: tuple[int, ...]
  dtype: str  # as safetensors names it


class Weights:
  """The tensors of a folder, by name."""

  def __init__(self, folder: pathlib.Path, source: str, remedy: str = 'download the weights'):
    self.folder, self.source, self._remedy = folder, source, remedy
    self.tensors: dict[str, Tensor] = {}
    files = self._files()
    listed = {name for names in files.values() for name in names or ()}
    for file, names in files.items():  # a tensor that lies in two is the one in the file that the index names
      with self._opened(file) as opened:
        held = set(opened.keys())
        if names is not None and (absent := sorted(names - held)):
          rule = f'has no {absent[0]}, which {INDEX} says it holds'
          raise CheckpointError(f'{file}: {rule} ({len(absent)} such); download it again')
        for name in held if names is None else held - (listed - names):
          part = opened.get_slice(name)
          self.tensors[_today(name)] = Tensor(file, name, tuple(part.get_shape()), part.get_dtype())

  @staticmethod
  def are_in(folder: pathlib.Path) -> bool:
    """Whether a folder holds all: not, where config.json and tokenizer.json alone are there for a dry run.

    An index is none: it is downloaded with what is small.
    """
    if (folder / ONE_FILE).exists():
      return True
    try:
      files = json.loads((folder / INDEX).read_text(encoding='utf-8'))['weight_map'].values()
      return all((folder / file).exists() for file in files)
    except OSError:
      return False
    except (ValueError, KeyError, TypeError, AttributeError):  # what is wrong with it is reported when it is read
      return True

  def _files(self) -> dict[pathlib.Path, set[str] | None]:
    """{file: the names that the index says it holds}; None: there is one file."""
    if (self.folder / ONE_FILE).exists():
      return {self.folder / ONE_FILE: None}
    index = self.folder / INDEX
    if not index.exists():
      for pattern in _PICKLES:
        if pickled := sorted(path.name for path in self.folder.glob(pattern)):
          rule = f'holds {pickled[0]}, a pickle, which may run code when it is opened'
          named = pattern if len(pickled) > 1 else pickled[0]
          line = _CONVERT.format(folder=shlex.quote(str(self.folder)), files=named, target=ONE_FILE)
          raise CheckpointError(f'{self.source}: {rule}; convert it, with torch: {line}')
      raise CheckpointError(f'{self.source}: no {ONE_FILE} and no {INDEX} there; {self._remedy}')
    try:
      placed = json.loads(index.read_text(encoding='utf-8'))['weight_map']
      files: dict[pathlib.Path, set[str] | None] = {}
      for name, file in placed.items():
        if pathlib.PurePath(file).name != file:
          raise ValueError(f'{file!r} is no file name')
        files.setdefault(self.folder / file, set()).add(name)  # type: ignore[union-attr]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
      raise CheckpointError(f'{index}: no readable index ({reason(error)}); download it again') from error
    if missing := [file for file in files if not file.exists()]:
      rule = f'no such file, {len(missing)} of the {len(files)} that {INDEX} names are missing'
      raise CheckpointError(f'{missing[0]}: {rule}; download them')
    return files

  @contextlib.contextmanager
  def _opened(self, file: pathlib.Path):
    try:
      with safe_open(file, 'np') as opened:
        yield opened
    except (OSError, SafetensorError) as error:
      raise CheckpointError(f'{file}: cannot be read ({reason(error)}); download it again') from error

  @contextlib.contextmanager
  def opened(self, name: str):
    """A tensor of which `[a:b, c:d]` reads a part.

    The file is mapped for its time alone: pages of a mapped file that were read count as memory of the process.
    """
    with self._opened(self.tensors[name].file) as file:
      yield file.get_slice(self.tensors[name].name)


def _today(name: str) -> str:
  """What files of 2019 call gamma and beta has other names since."""
  return name.replace('LayerNorm.gamma', 'LayerNorm.weight').replace('LayerNorm.beta', 'LayerNorm.bias')
