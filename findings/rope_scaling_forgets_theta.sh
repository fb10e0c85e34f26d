#!/usr/bin/env bash
# rope_scaling_forgets_theta: transformers 5 writes the rotary base into config.json as rope_parameters.rope_theta. The
# model cards of Qwen3 (and others) say how to read longer texts: add "rope_scaling" with YaRN's factor to config.json. In a
# file that transformers 5 has saved, that key does not add to rope_parameters: it takes their place, base included, and
# the base becomes the default of the class, 10,000 in place of 1,000,000. Nothing is said; the logits are of another
# model. One would expect the base to stay, or a message. With the base at the top of the file, as transformers 4 wrote
# it, the same key works.
# Seen with transformers 5.24.0 on Python 3.11, on 2026-11-29. Output:
#   saved by transformers 5, as it is: default 1000000.0
#   saved by transformers 5, with the key added: yarn 10000.0
#   as transformers 4 wrote it, with the key added: yarn 1000000.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import pathlib

from transformers import AutoConfig, Qwen3Config

CARD = {'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 32768}}
Qwen3Config(rope_theta=1_000_000.0).save_pretrained('model')
file = pathlib.Path('model/config.json')
saved = json.loads(file.read_text())
older = {key: value for key, value in saved.items() if key != 'rope_parameters'} | {'rope_theta': 1_000_000.0}
found = {}
for name, values in (
  ('saved by transformers 5, as it is', saved),
  ('saved by transformers 5, with the key added', saved | CARD),
  ('as transformers 4 wrote it, with the key added', older | CARD),
):
  file.write_text(json.dumps(values))
  rope = AutoConfig.from_pretrained('model').rope_parameters
  found[name] = rope['rope_type'], rope['rope_theta']
  print(f'{name}: {rope["rope_type"]} {rope["rope_theta"]}')
assert list(found.values()) == [('default', 1_000_000.0), ('yarn', 10_000.0), ('yarn', 1_000_000.0)], found
PYTHON
