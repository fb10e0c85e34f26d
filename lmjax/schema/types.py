"""What a setting may be, and the decorator of the classes that hold settings.

A section of the config is a small frozen dataclass of pydantic's, in the order in which `--help` prints it. The class
documents its settings in its docstring, one `name: text` line each; it may define
`problems(self) -> Iterator[(setting, rule, remedy)]` for the rules between its settings that do not hold, checked by
`validate.check`. A setting has no default, since the config file is the record of a run; only what operates a run
(hosts, profile, writer), and what few runs set, has one.
"""

import math
import numbers
from typing import Annotated, dataclass_transform

import pydantic
from annotated_types import Ge, Gt, Interval
from pydantic import AllowInfNan, BeforeValidator, Strict


@dataclass_transform(frozen_default=True)
def section(cls):
  """Makes a class a section: frozen, without unknown keys, checked when it is constructed."""
  return pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra='forbid'))(cls)


def _whole(value):
  """`1e3` is 1000; what is no whole number stays as it is, for pydantic to refuse."""
  if isinstance(value, numbers.Real) and not isinstance(value, bool | int) and math.isfinite(value):
    value = math.trunc(value) if value == math.trunc(value) else value
  if isinstance(value, int) and abs(value) >= 2**63:
    raise ValueError('must fit into 64 bits')
  return value


def _real(value):
  """NumPy's numbers are floats too; True and '0.1' are not."""
  return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool | int) else value


# pydantic by itself takes True and '7' for an int, 'yes' and 1 for a bool.
Bool = Annotated[bool, Strict()]
Int = Annotated[int, BeforeValidator(_whole), Strict()]
Float = Annotated[float, BeforeValidator(_real), Strict(), AllowInfNan(False)]

PositiveInt = Annotated[Int, Ge(1)]
NonNegativeInt = Annotated[Int, Ge(0)]
PositiveFloat = Annotated[Float, Gt(0)]
NonNegativeFloat = Annotated[Float, Ge(0)]
Share = Annotated[Float, Interval(ge=0, le=1)]
Rate = Annotated[Float, Interval(ge=0, lt=1)]
Fraction = Annotated[Float, Interval(gt=0, lt=1)]
