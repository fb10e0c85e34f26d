#!/usr/bin/env bash
# olmo3_rope_theta: transformers 5 reads the rotary base of an OLMo 3 config.json of transformers 4 for one kind of layer
# alone. Such a file has one `rope_theta`, which transformers 4 used in all layers. Version 5 keeps a base for each kind,
# and moves the old key there: the layers that see everything get it, those with a window get the class's default, 500,000,
# without a word. For the released models, whose base is the default, nothing changes; one that was trained with another
# base is another model.
# Seen with transformers 4.57.1 and 5.24.0 on Python 3.11.7, on 2026-11-29. Output:
#   4.57.1: {'all layers': 10000.0}
#   5.24.0: {'full_attention': 10000.0, 'sliding_attention': 500000.0}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
printf '{"model_type": "olmo3", "num_hidden_layers": 4, "rope_theta": 10000.0}' >"$folder/config.json"
for version in 4.57.1 5.24.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q "transformers==$version"
  "$folder/$version/bin/python" - "$folder" "$version" 2>/dev/null <<'PYTHON'
import sys

from transformers import AutoConfig

config, version = AutoConfig.from_pretrained(sys.argv[1]), sys.argv[2]
if version.startswith('4'):
  found, expected = {'all layers': config.rope_theta}, {'all layers': 10000.0}
else:
  found = {kind: config.rope_parameters[kind]['rope_theta'] for kind in ('full_attention', 'sliding_attention')}
  expected = {'full_attention': 10000.0, 'sliding_attention': 500000.0}
print(f'{version}: {found}')
assert found == expected, 'this has changed'
PYTHON
done
