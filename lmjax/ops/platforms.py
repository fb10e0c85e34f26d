"""What a program is to run on, while it is traced: kernels and ways to compute are chosen by it."""

import jax


def target() -> str:
  """'cpu', 'gpu' or 'tpu': of the mesh, which may be described and not here, or else this backend."""
  described = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if described is None else described.platform
