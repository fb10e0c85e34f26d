"""The settings of a study."""

from lmjax.schema.types import Float, section


@section
class ArmConfig:
  """One line of a picture.

  stages: names of stages: one, or one for each value of x
  """

  stages: tuple[str, ...]


@section
class ComparisonConfig:
  """One claim, and what is compared to decide it.

  title: of the picture and its section
  claim: the expectation, as a sentence; it says that the candidate scores higher than the other arms
  metric: valid/NAME or test/NAME, as in results.json
  candidate: the arm that the claim is about
  arms: by label; each one is compared with the candidate
  x: for a learning curve, what the stages of an arm differ in, such as 0.01, 0.1, 1.0 (log scale); None for bars
  x_name: what x is; None without x
  """

  title: str
  claim: str
  metric: str
  candidate: str
  arms: dict[str, ArmConfig]
  x: tuple[Float, ...] | None
  x_name: str | None

  def problems(self):
    """A split's metric, two arms or more, and one stage for each x."""
    if self.metric.partition('/')[0] not in ('valid', 'test'):
      yield 'metric', 'must be valid/NAME or test/NAME', 'name one as in results.json'
    if self.candidate not in self.arms or len(self.arms) < 2:
      rule = f'must be one of two or more arms; there are {", ".join(self.arms) or "none"}'
      yield 'candidate', rule, 'name one, and what it is compared with'
    if (self.x is None) != (self.x_name is None):
      yield 'x_name', 'must be given where x is, and only there', 'give both, or None for both'
    if self.x is not None and (not self.x or min(self.x) <= 0):
      yield 'x', 'must be values above 0, since the axis is logarithmic', 'change them, or None for bars'
    wanted = 1 if self.x is None else len(self.x)
    for label, arm in self.arms.items():
      if len(arm.stages) != wanted:
        rule = 'must be one stage' if self.x is None else f'must be one stage for each of the {wanted} values of x'
        yield f'arms.{label}.stages', rule, 'change them, or x'


@section
class StageConfig:
  """One run.

  config: its config file with arguments, FILE.py[:arg,name=value]
  overrides: settings to change, path=value each, as after --config.
  init_from: the stage whose checkpoint it starts from; None: what the config file says
  """

  config: str
  overrides: tuple[str, ...]
  init_from: str | None

  def problems(self):
    """Each override has a value, and one thing says what the run starts from."""
    for text in self.overrides:
      path, equals, _ = text.partition('=')
      if not equals:
        yield 'overrides', f'{text!r} is not path=value', 'write it as train.steps=100'
      if path.strip() == 'init_from.path' and self.init_from is not None:
        yield 'overrides', 'has init_from.path, which init_from sets', 'leave one of them out'


@section
class ExperimentConfig:
  """A study.

  stages: runs, by the name of their folder
  comparisons: of what the runs gave, by the name of their picture
  """

  stages: dict[str, StageConfig]
  comparisons: dict[str, ComparisonConfig]
