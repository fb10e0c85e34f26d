#!/usr/bin/env bash
# safetensors_numpy_bfloat16: whether a bfloat16 tensor can be read as a NumPy array depends on what else the process has
# imported. One would expect `safe_open(file, 'np')` either to read such tensors or to refuse them. It asks NumPy for a type
# named bfloat16, which NumPy has once `ml_dtypes` was imported by anybody, such as jax: before, it raises TypeError, of a
# slice and of a whole tensor. The header (`get_shape`, `get_dtype`) is read either way.
# Seen with safetensors 0.8.0, numpy 2.4.2 and ml_dtypes 0.6.0 on Python 3.11.7, on 2026-11-29. Output:
#   before: TypeError: data type 'bfloat16' not understood
#   after import ml_dtypes: bfloat16 [1.0, 2.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.2 ml_dtypes==0.6.0
"$folder/venv/bin/python" - "$folder/file.safetensors" <<'PYTHON'
import json
import struct
import sys

from safetensors import safe_open

header = json.dumps({'x': {'dtype': 'BF16', 'shape': [2], 'data_offsets': [0, 4]}}).encode()
header += b' ' * (-len(header) % 8)
with open(sys.argv[1], 'wb') as file:  # 1.0 and 2.0
  file.write(struct.pack('<Q', len(header)) + header + struct.pack('<2H', 0x3F80, 0x4000))


def read():
  with safe_open(sys.argv[1], 'np') as file:
    part = file.get_slice('x')
    assert (part.get_shape(), part.get_dtype()) == ([2], 'BF16')
    return part[0:2]


try:
  read()
  raise SystemExit('this has changed')
except TypeError as error:
  print(f'before: TypeError: {error}')

import ml_dtypes  # noqa: E402, F401

array = read()
print(f'after import ml_dtypes: {array.dtype} {array.tolist()}')
assert array.dtype == ml_dtypes.bfloat16
PYTHON
