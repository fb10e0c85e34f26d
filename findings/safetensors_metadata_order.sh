#!/usr/bin/env bash
# safetensors_metadata_order: saved twice, the same tensors with the same metadata give two different files. Tensors are laid
# out in a fixed order, by type and name, so one would expect the same bytes, and name a file by the hash of its content.
# But entries of `__metadata__` stand in the header in the order of a hash map, which is another one in each call, within
# one process, too. With one entry (which may hold the others as JSON) the file is always the same.
# Seen with safetensors 0.8.0 and numpy 2.4.6 on Python 3.11.7, on 2026-11-30. Output:
#   1 entry of metadata: 1 different files of 50
#   2 entries of metadata: 2 different files of 50
#   4 entries of metadata: 20 different files of 50 (or 21: another number in each run)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load, save

tensors = {'weight': np.arange(6, dtype=np.float32), 'bias': np.zeros(2, np.float32)}
found = {}
for entries in (1, 2, 4):
  metadata = {f'key{number}': 'value' for number in range(entries)}
  files = {save(tensors, metadata) for _ in range(50)}
  assert all(np.array_equal(load(file)['weight'], tensors['weight']) for file in files)
  assert len({len(file) for file in files}) == 1
  found[entries] = len(files)
  print(f'{entries} {"entry" if entries == 1 else "entries"} of metadata: {len(files)} different files of 50')
assert found[1] == 1 < found[2] == 2 < found[4], 'this has changed'
PYTHON
