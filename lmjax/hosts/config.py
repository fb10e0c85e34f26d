"""How long hosts wait for each other."""

from lmjax.schema.types import PositiveInt, section

# JAX's own timeouts come after ours by so many seconds, since its way to end a process reports less.
BACKSTOP_SECONDS = 15


@section
class HostsConfig:
  """How long hosts wait for each other, and for themselves.

  start_seconds: after so long every host must have come
  lost_seconds: a host that is silent for so long is lost, and the others end with exit code 6
  hang_seconds: so long without a step, or a batch of an evaluation, ends the run with exit code 6; None for off
  """

  start_seconds: PositiveInt = 300
  lost_seconds: PositiveInt = 100
  hang_seconds: PositiveInt | None = 1800
