"""Files of a model on the Hugging Face Hub, through `huggingface_hub` and its own cache."""

import pathlib

from lmjax.errors import CheckpointError, ConfigError, reason

# Besides the weights: what describes a model and its tokenizer.
SMALL = ('*.json', '*.txt', '*.jinja', 'README.md')
# What a push takes the place of: parts of a larger model say.
_REPLACED = [*SMALL, '*.safetensors']
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


def license_of(folder: pathlib.Path) -> str | None:
  """The licence that the card of a model names; None where there is none."""
  from huggingface_hub.repocard import metadata_load

  try:
    found = (metadata_load(folder / 'README.md') or {}).get('license')
  except Exception:  # no card, or one that is damaged
    return None
  return found if isinstance(found, str) else None


def check_token(flag: str) -> None:
  """Raises ConfigError where nobody is logged in."""
  import huggingface_hub

  if not huggingface_hub.get_token():
    raise ConfigError(f'{flag}: there is no token for the Hub; log in with `hf auth login`, or set HF_TOKEN')


def push(folder: pathlib.Path, name: str, private: bool) -> str:
  """Puts a folder into a repository, made where there is none, as one commit: all of it or nothing; its address.

  Raises ConfigError: the Hub refuses name or token. CheckpointError: it cannot be reached.
  """
  import huggingface_hub
  from huggingface_hub import errors

  flag = f'--push = {name}'
  try:
    api = huggingface_hub.HfApi()
    api.create_repo(name, private=private or None, exist_ok=True)
    commit = api.upload_folder(
      repo_id=name, folder_path=folder, commit_message='Export of a run of lmjax', delete_patterns=_REPLACED
    )
    return commit.commit_url
  except (errors.HFValidationError, errors.RepositoryNotFoundError) as error:
    raise ConfigError(f'{flag}: {reason(error)}; give NAME or ORG/NAME, one that the token may write') from error
  except errors.HfHubHTTPError as error:
    status = getattr(error.response, 'status_code', None)
    if status in (401, 403):
      remedy = 'log in with `hf auth login`, with a token that may write there'
      raise ConfigError(f'{flag}: the Hub refuses the token (HTTP {status}); {remedy}') from error
    raise CheckpointError(f'{flag}: {reason(error)}; nothing was pushed, the folder is whole: push again') from error
  except Exception as error:  # of the network, in many classes
    raise CheckpointError(f'{flag}: {reason(error)}; nothing was pushed, the folder is whole: push again') from error
