"""Types of config leaves: what a value must be beyond its Python type.

Every module owns a small frozen dataclass of such leaves. A leaf has no default: the config file
is the record of a run, and `config.build` refuses a missing key. A dataclass documents its leaves
in its docstring, one `name: text` line each, which `--help` prints; it may define
`problems(self) -> Iterator[(leaf, value, rule, remedy)]` for rules between its leaves.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated


@dataclasses.dataclass(frozen=True)
class Rule:
  """A rule on one value. `text` completes the sentence 'the value ...'."""

  text: str
  holds: Callable[[float], bool]


PositiveInt = Annotated[int, Rule('must be 1 or more', lambda value: value >= 1)]
NonNegativeInt = Annotated[int, Rule('must be 0 or more', lambda value: value >= 0)]
PositiveFloat = Annotated[float, Rule('must be above 0', lambda value: value > 0)]
NonNegativeFloat = Annotated[float, Rule('must be 0 or more', lambda value: value >= 0)]
Share = Annotated[float, Rule('must lie in [0, 1]', lambda value: 0 <= value <= 1)]
Rate = Annotated[float, Rule('must lie in [0, 1)', lambda value: 0 <= value < 1)]
