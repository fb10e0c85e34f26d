#!/usr/bin/env bash
# tied_embeddings_that_differ: config.json says `tie_word_embeddings: true`, and the file holds an input and an output table
# that differ. One would expect the config to count, as in transformers 4, or the folder to be refused. transformers 5 takes
# both tables from the file and does not tie them: a warning, while `config.tie_word_embeddings` stays True, and the folder
# that it saves says so again. So the same folder is two models, by the version that reads it; tools that go by the config
# (or by the absence of `lm_head.weight`, which is how a tied model is saved) compute a third.
# Seen with transformers 4.57.1 and 5.24.0, torch 2.13.0, on Python 3.11.7, CPU, on 2026-11-29. Output:
#   4.57.1: config says tied True; tied True; the output table is the file's False
#   5.24.0: config says tied True; tied False; the output table is the file's True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 4.57.1 5.24.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q torch==2.13.0 "transformers==$version"
  "$folder/$version/bin/python" - "$folder/model" "$version" 2>/dev/null <<'PYTHON'
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

folder, version = sys.argv[1:]
sizes = dict(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)).save_pretrained(folder)
tensors = load_file(f'{folder}/model.safetensors')
assert 'lm_head.weight' not in tensors
tensors['lm_head.weight'] = tensors['model.embed_tokens.weight'] + 1.0
save_file(tensors, f'{folder}/model.safetensors', metadata={'format': 'pt'})
model = LlamaForCausalLM.from_pretrained(folder)
tied = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
files = torch.equal(model.lm_head.weight, tensors['lm_head.weight'])
print(f"{version}: config says tied {model.config.tie_word_embeddings}; tied {tied}; the output table is the file's {files}")
assert model.config.tie_word_embeddings and (tied, files) == (version[0] == '4', version[0] == '5'), 'this has changed'
PYTHON
done
