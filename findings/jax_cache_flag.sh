#!/usr/bin/env bash
# jax_cache_flag: jax.config.update('jax_enable_compilation_cache', False) does nothing once a process has compiled: its
# later programs are still written to the persistent compilation cache, and read from it. The setting can be updated and
# reads back as False, so one would expect it to count from then on; but jax asks for it at the first compilation alone.
# Setting it to True after a first compilation without the cache keeps nothing either. `reset_cache()` makes jax ask again.
# Seen with jax 0.10.2 on Python 3.11.7, CPU, on 2026-11-28. Output:
#   the cache is on: 1 program kept
#   jax_enable_compilation_cache = False: 2 programs kept
#   the same after reset_cache(): 2 programs kept
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2 filelock==3.20.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder/cache" <<'PYTHON'
import pathlib
import sys

import jax
from jax.experimental.compilation_cache import compilation_cache

folder = pathlib.Path(sys.argv[1])
jax.config.update('jax_compilation_cache_dir', str(folder))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def kept_after(number):
  """Programs in the cache once another one was compiled."""
  jax.jit(lambda x: x * number).lower(1.0).compile()
  return len(list(folder.glob('*-cache')))


first = kept_after(2)
print(f'the cache is on: {first} program kept')
jax.config.update('jax_enable_compilation_cache', False)
second = kept_after(3)
print(f'jax_enable_compilation_cache = {jax.config.values["jax_enable_compilation_cache"]}: {second} programs kept')
compilation_cache.reset_cache()
third = kept_after(4)
print(f'the same after reset_cache(): {third} programs kept')
assert (first, second, third) == (1, 2, 2), 'this has changed'
PYTHON
