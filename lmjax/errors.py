"""What can go wrong for a user. Each message gives value, rule and remedy; each class its exit code."""

GCS_REMEDY = "check address, network and credentials, and install what gs:// needs: pip install 'lmjax[gcs]'"


def reason(error: BaseException) -> str:
  """Kind and first line of an error of another library.

  >>> reason(KeyError('bucket'))
  "KeyError: 'bucket'"
  """
  return f'{type(error).__name__}: {(str(error).splitlines() or ["no reason given"])[0]}'


class LmjaxError(ValueError):
  """A problem that the user can fix. `main` prints it without a traceback and exits with `exit_code`."""

  exit_code = 1


class ConfigError(LmjaxError):
  """The command line or the config. Holds every problem found, one line each.

  Attributes:
    problems: tuple of lines, each `path = value: rule; remedy`.
  """

  exit_code = 2

  def __init__(self, problems):
    self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
    super().__init__('\n'.join(self.problems))


class DataError(LmjaxError):
  """A corpus, a record, a tokenizer or a token store."""

  exit_code = 3


class CheckpointError(LmjaxError):
  """A checkpoint that is missing, broken, or of another run."""

  exit_code = 4


class NonFiniteError(LmjaxError):
  """Too many steps in a row whose loss or gradient was not finite."""

  exit_code = 5


class Stalled(LmjaxError):
  """A host did not come, is lost, or hangs; or nothing went on for too long."""

  exit_code = 6


class Stopped(LmjaxError):
  """The run was asked to stop, and has saved."""

  exit_code = 143
