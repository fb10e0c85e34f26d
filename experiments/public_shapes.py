"""Writes folders with the shapes of public models and no weights, for dry runs before anything is downloaded.

  python experiments/public_shapes.py shapes   shapes/{ModernBERT-base,legal-bert-base-uncased,Qwen3-0.6B,Llama-3.2-1B}

Each has a config.json, with what decides shapes, and an untrained tokenizer.json with as many entries.
"""

import json
import pathlib
import sys

from lmjax.data.tokens.trainer import untrained
from lmjax.errors import ConfigError
from lmjax.schema.command_line import run_command

# Warner et al. 2024, https://arxiv.org/abs/2412.13663, and https://huggingface.co/answerdotai/ModernBERT-base
MODERNBERT = dict(
  model_type='modernbert',
  hidden_size=768,
  num_hidden_layers=22,
  num_attention_heads=12,
  intermediate_size=1152,
  max_position_embeddings=8192,
  vocab_size=50368,
  local_attention=128,
  global_attn_every_n_layers=3,
  global_rope_theta=160000.0,
  local_rope_theta=10000.0,
)
# Chalkidis et al. 2020, https://arxiv.org/abs/2010.02559: the shape of BERT-base;
# https://huggingface.co/nlpaueb/legal-bert-base-uncased
LEGAL_BERT = dict(
  model_type='bert',
  hidden_size=768,
  num_hidden_layers=12,
  num_attention_heads=12,
  intermediate_size=3072,
  max_position_embeddings=512,
  type_vocab_size=2,
  vocab_size=30522,
)
# Qwen team 2025, https://arxiv.org/abs/2505.09388, and https://huggingface.co/Qwen/Qwen3-0.6B
QWEN3 = dict(
  model_type='qwen3',
  hidden_size=1024,
  num_hidden_layers=28,
  num_attention_heads=16,
  num_key_value_heads=8,
  head_dim=128,
  intermediate_size=3072,
  hidden_act='silu',
  max_position_embeddings=40960,
  rope_theta=1000000.0,
  rms_norm_eps=1e-6,
  tie_word_embeddings=True,
  torch_dtype='bfloat16',
  vocab_size=151936,
)
# https://huggingface.co/meta-llama/Llama-3.2-1B
LLAMA_3_2 = dict(
  model_type='llama',
  hidden_size=2048,
  num_hidden_layers=16,
  num_attention_heads=32,
  num_key_value_heads=8,
  head_dim=64,
  intermediate_size=8192,
  hidden_act='silu',
  max_position_embeddings=131072,
  rope_theta=500000.0,
  rope_scaling=dict(
    rope_type='llama3', factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192
  ),
  rms_norm_eps=1e-5,
  tie_word_embeddings=True,
  torch_dtype='bfloat16',
  vocab_size=128256,
)
SHAPES = {
  'ModernBERT-base': MODERNBERT,
  'legal-bert-base-uncased': LEGAL_BERT,
  'Qwen3-0.6B': QWEN3,
  'Llama-3.2-1B': LLAMA_3_2,
}


def write(folder: pathlib.Path) -> None:
  """Writes all of them."""
  for name, shape in SHAPES.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / 'config.json').write_text(json.dumps(shape, indent=2), encoding='utf-8')
    untrained(shape['vocab_size']).save(str(folder / name / 'tokenizer.json'))
    print(f'hf:{folder / name}')


def run(argv):
  """Writes the folders; prints what `init_from.path` takes."""
  if len(argv) != 1:
    raise ConfigError([f'arguments {argv}: must be FOLDER; give one'])
  write(pathlib.Path(argv[0]))


if __name__ == '__main__':
  sys.exit(run_command(run, None))
