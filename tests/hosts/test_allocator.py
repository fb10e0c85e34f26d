"""Memory that is freed stays with the process, so that the kernel need not map it again."""

import os
import subprocess
import sys

import pytest

# A thread, as XLA's are, takes 64 MB, writes to them and frees them, ten times; prints how many pages were mapped after
# the first time, in shares of one time.
PROGRAM = """
import ctypes, resource, threading
from lmjax.hosts import allocator

allocator.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size, faults = 64 << 20, []

def work():
  for _ in range(10):
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

thread = threading.Thread(target=work)
thread.start()
thread.join()
print((faults[-1] - faults[0]) * resource.getpagesize() / size)
"""


def mapped_again(**environment) -> float:
  environment = {name: value for name, value in os.environ.items() if not name.startswith('MALLOC_')} | environment
  return float(subprocess.run([sys.executable, '-c', PROGRAM], env=environment, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != 'linux', reason='of glibc')
def test_freed_memory_is_used_again():
  assert mapped_again(JAX_PLATFORMS='cpu') < 0.5
  assert mapped_again(JAX_PLATFORMS='cpu', MALLOC_ARENA_MAX='8') > 5, 'the environment has settings of its own'
