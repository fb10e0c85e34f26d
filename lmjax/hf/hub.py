"""Files of a model on the Hugging Face Hub, through `huggingface_hub` and its own cache."""

import pathlib

from lmjax.errors import CheckpointError, reason

# Besides the weights: what describes a model and its tokenizer.
SMALL = ('*.json', '*.txt', '*.jinja')
# Some repositories hold the same weights once more under other names.
WEIGHTS = ('model*.safetensors',)


def is_name(text: str) -> bool:
  """Whether a text can be an id, NAME or ORG/NAME, with or without @REVISION."""
  from huggingface_hub.utils import HFValidationError, validate_repo_id

  try:
    validate_repo_id(text.partition('@')[0])
  except HFValidationError:
    return False
  return True


def download(source: str, name: str, weights: bool) -> tuple[pathlib.Path, str]:
  """(the folder of a snapshot, its revision) of `ORG/NAME` or `ORG/NAME@REVISION`, from the cache where it is there.

  `source` is what the user gave, for messages; without `weights` they are not downloaded.

  Raises CheckpointError: no such repository or revision, one that must be asked for, or no network.
  """
  import huggingface_hub
  from huggingface_hub import errors

  repository, _, revision = name.partition('@')
  patterns = [*SMALL, *(WEIGHTS if weights else ())]
  try:
    folder = huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
  except errors.GatedRepoError as error:
    remedy = 'accept its terms on its page, then log in with `hf auth login` or set HF_TOKEN'
    raise CheckpointError(f'{source}: its owner gives access on request; {remedy}') from error
  except errors.RevisionNotFoundError as error:
    raise CheckpointError(f'{source}: no revision {revision} of {repository}; check it') from error
  except errors.RepositoryNotFoundError as error:
    remedy = 'check the id; a private one needs `hf auth login` or HF_TOKEN'
    raise CheckpointError(f'{source}: no folder, and no repository of the Hub, of that name; {remedy}') from error
  except errors.LocalEntryNotFoundError as error:
    remedy = 'check the network, or name a folder that was downloaded'
    raise CheckpointError(
      f'{source}: is no folder, not in the cache, and the Hub cannot be reached; {remedy}'
    ) from error
  except Exception as error:  # of the network and of the disk, in many classes
    raise CheckpointError(f'{source}: cannot be downloaded ({reason(error)}); the same command tries again') from error
  path = pathlib.Path(folder)
  return path, path.name
