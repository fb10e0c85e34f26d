"""The C library's memory, where XLA computes on the CPU.

What a program needs besides its inputs and outputs XLA allocates each time that it runs. glibc maps a block of that
size and gives it back when it is freed, so that the kernel zeroes and maps hundreds of MB again in each step.
"""

import ctypes
import glob
import os

# Parameters of mallopt, in malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_ACCELERATORS = ('/dev/accel*', '/dev/vfio/[0-9]*', '/dev/nvidia[0-9]*')


def keep_freed_memory() -> None:
  """Has this process keep what it frees, for what it allocates next; to be called before jax starts threads.

  Of the 108 CPU seconds of a run of 40 steps of MiniLM (rows of 64 tokens, batches of 32; 2 cores of an AMD EPYC) the
  kernel's part was 16 to 17, and is 3 to 9, for 1.2 to 1.6 times the memory. Nothing is done with an accelerator, where
  the host computes little, with another C library, or where the environment sets its own (MALLOC_...).
  """
  on_cpu = os.environ.get('JAX_PLATFORMS') == 'cpu' or not any(map(glob.glob, _ACCELERATORS))
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
  if mallopt is None or not on_cpu or any(name.startswith('MALLOC_') for name in os.environ):
    return
  mallopt(_MMAP_MAX, 0)
  mallopt(_TRIM_THRESHOLD, -1)
  mallopt(_ARENA_MAX, 1)  # other arenas are of 64 MB: what is larger is mapped whatever the two above are
