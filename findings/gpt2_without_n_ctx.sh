#!/usr/bin/env bash
# gpt2_without_n_ctx: a GPT-2 that was made with transformers does not become GGUF. llama.cpp's converter reads its context
# length from `n_ctx` of config.json, a key of the files of 2019 that GPT2Config no longer has: it says the same as
# `n_positions`. One would expect the converter to read that. Who tests with OpenAI's GPT-2 sees nothing of it: its old key
# is kept, unused, whenever transformers saves that model again.
# Seen with transformers 5.24.0, torch 2.13.0 and the converter in llama-cpp-python 0.3.36 on Python 3.11, on 2026-11-30.
# Output:
#   n_positions in config.json: True, n_ctx: False
#   n_ctx is kept when the config is read and saved again: True
#   as saved: KeyError: 'n_ctx'
#   with n_ctx: converted
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 sentencepiece==0.2.1
cd "$folder"
venv/bin/pip download -q --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
tar xzf llama_cpp_python-0.3.36.tar.gz
cat >make.py <<'PYTHON'
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

backend = tokenizers.Tokenizer(models.BPE())
backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=['<|endoftext|>'], show_progress=False)
trainer.initial_alphabet = pre_tokenizers.ByteLevel.alphabet()
backend.train_from_iterator([], trainer)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token='<|endoftext|>')
sizes = dict(n_layer=1, n_embd=32, n_head=2, n_positions=64, vocab_size=len(tokenizer))
config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
GPT2LMHeadModel(config).save_pretrained('model')
tokenizer.save_pretrained('model')
PYTHON
# The vocabulary is none that the converter knows; it is told that it is cut as GPT-2's is.
cat >convert.py <<'PYTHON'
import sys

sys.path[:0] = ['llama_cpp_python-0.3.36/vendor/llama.cpp', 'llama_cpp_python-0.3.36/vendor/llama.cpp/gguf-py']
from conversion.base import TextModel

TextModel.get_vocab_base_pre = lambda self, tokenizer: 'gpt-2'
import convert_hf_to_gguf

convert_hf_to_gguf.main()
PYTHON
venv/bin/python make.py
cat >check.py <<'PYTHON'
import json
import pathlib
import subprocess
import sys

from transformers import AutoConfig

file = pathlib.Path('model/config.json')
values = json.loads(file.read_text())
print(f'n_positions in config.json: {"n_positions" in values}, n_ctx: {"n_ctx" in values}')
older = pathlib.Path('older')
older.mkdir()
(older / 'config.json').write_text(json.dumps(values | {'n_ctx': values['n_positions']}))
AutoConfig.from_pretrained('older').save_pretrained('again')
kept = 'n_ctx' in json.loads(pathlib.Path('again/config.json').read_text())
print(f'n_ctx is kept when the config is read and saved again: {kept}')
found = []
for name in ('as saved', 'with n_ctx'):
  command = [sys.executable, 'convert.py', 'model', '--outfile', 'model.gguf']
  done = subprocess.run(command, capture_output=True, text=True)
  found.append('converted' if done.returncode == 0 else done.stderr.strip().splitlines()[-1])
  print(f'{name}: {found[-1]}')
  file.write_text(json.dumps(values | {'n_ctx': values['n_positions']}))
assert found == ["KeyError: 'n_ctx'", 'converted'] and kept, found
PYTHON
venv/bin/python check.py
