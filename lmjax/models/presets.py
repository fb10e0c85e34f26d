"""Model shapes with their sources, each with a recipe meant for eight TPU v5e chips (`v5e:2x4`, 16 GB each).

A preset is {'model': settings of ModelConfig, 'recipe': what a config file needs besides}. Recipes are starting
points, not tuned runs, and but for gpt2_small not yet compiled for that target; the tiny ones were tuned on two CPU
cores.
"""

import difflib

from lmjax.errors import ConfigError
from lmjax.models.config import DROPOUTS

_OFF = ('rope_theta', 'rope_theta_local', 'rope_scaling', 'max_length', 'window', 'global_every', 'segment_types')
# What most families share; each names what it has otherwise.
_COMMON = dict.fromkeys(_OFF) | dict(
  **dict.fromkeys(('biases', 'qk_norm', 'embedding_norm', 'mlm_transform'), False),
  **dict.fromkeys(DROPOUTS, 0.0),
  attention='causal',
  positions='rotary',
  norm='layernorm',
  norm_eps=1e-5,
  norm_placement='pre',
  first_norm=True,
  tied_embeddings=True,
  init_std=0.02,
  residual_init='plain',
  vocab_multiple=128,
  scan=True,
  remat='auto',
  dtype='bfloat16',
  attention_implementation='auto',
  lora=None,
)

# Radford et al. 2019, https://cdn.openai.com/better-language-models/language_models.pdf; shapes as in
# https://huggingface.co/openai-community/gpt2/blob/main/config.json, without dropout, since a web-scale corpus is
# seen about once.
_GPT2 = _COMMON | dict(
  positions='learned',
  max_length=1024,
  activation='gelu_tanh',
  biases=True,
  residual_init='scaled',
)

# Touvron et al. 2023, https://arxiv.org/abs/2302.13971
_LLAMA = _COMMON | dict(rope_theta=10000.0, norm='rmsnorm', norm_eps=1e-6, activation='swiglu', tied_embeddings=False)
_LLAMA_3 = _LLAMA | dict(rope_theta=500000.0, norm_eps=1e-5, tied_embeddings=True)

# Devlin et al. 2019, https://arxiv.org/abs/1810.04805;
# https://huggingface.co/google-bert/bert-base-uncased/blob/main/config.json
_BERT = _COMMON | dict(
  **dict.fromkeys(DROPOUTS, 0.1),
  attention='bidirectional',
  positions='learned',
  max_length=512,
  norm_eps=1e-12,
  norm_placement='post',
  activation='gelu',
  biases=True,
  segment_types=2,
  embedding_norm=True,
  mlm_transform=True,
)

# Warner et al. 2024, https://arxiv.org/abs/2412.13663, appendix D
_MODERNBERT = _COMMON | dict(
  attention='bidirectional',
  rope_theta=160000.0,
  rope_theta_local=10000.0,
  activation='geglu',
  window=128,
  global_every=3,
  embedding_norm=True,
  mlm_transform=True,
  first_norm=False,
)

# For two CPU cores: written-out layers in float32. Each is an architecture that others read: the decoder is Qwen3's
# (https://arxiv.org/abs/2505.09388), with QK-norm, the encoder ModernBERT's, of which every layer sees everything.
# Without the transform before the output embedding, with which it learns nothing but frequencies for longer: the
# accuracy after 380 steps was 0.070, and is 0.177 without.
_ON_CPU = dict(vocab_multiple=64, scan=False, remat='none', dtype='float32')
_TINY = _LLAMA | dict(qk_norm=True, tied_embeddings=True) | _ON_CPU
_TINY_ENCODER = _MODERNBERT | dict(rope_theta=10000.0, rope_theta_local=None, window=None, global_every=None)
_TINY_ENCODER |= dict(mlm_transform=False) | _ON_CPU


# Written out, layers compile for longer, by 4 s of CPU time each, and run faster, since nothing is copied into and out
# of stacked arrays: on eight v5e chips the step of gpt2_small is estimated at 0.33 s instead of 0.41 s (libtpu
# 0.0.42.1). Not with dropout, whose random numbers take bert_base nine minutes of CPU time to compile.
_WRITTEN_OUT = dict(scan=False)


def _preset(family, shape, recipe, warmup_steps=1000, fsdp=1, optimizer='adamw', **model):
  """A preset, from the numbers of its row in the table below; `model` has what differs from its family."""
  sizes = dict(zip(('layers', 'width', 'heads', 'mlp_width'), shape))
  names = ('vocab_size', 'length', 'batch_size', 'learning_rate', 'steps', 'chunk')
  schedule = dict(warmup_steps=warmup_steps, optimizer=optimizer, mesh=dict(data=None, fsdp=fsdp, tensor=1))
  return dict(model=family | sizes | dict(kv_heads=sizes['heads']) | model, recipe=dict(zip(names, recipe)) | schedule)


# Family, (layers, width, heads, mlp_width), (vocab_size, length, batch_size, learning_rate, steps, chunk)
PRESETS = {
  # learns in two minutes on two cores: 300 steps of Muon reach 1.92 bits per byte; with the same order of documents in
  # each epoch they reached 1.99, with a plain GELU, width 1,024, 2.01, and 600 of AdamW 2.16
  'tiny': _preset(_TINY, (4, 256, 4, 672), (4096, 128, 8, 4e-3, 300, 64), 40, optimizer='muon'),
  'tiny_encoder': _preset(_TINY_ENCODER, (4, 256, 4, 672), (4096, 128, 8, 6e-3, 380, 64), 40, optimizer='muon'),
  # for tests: runs a step in milliseconds
  'mini': _preset(_TINY, (2, 64, 4, 96), (768, 64, 8, 3e-3, 20, 16), 2),
  'mini_encoder': _preset(_TINY_ENCODER, (2, 64, 4, 96), (768, 64, 8, 3e-3, 20, 16), 2),
  'gpt2_small': _preset(_GPT2, (12, 768, 12, 3072), (50257, 1024, 256, 6e-4, 100_000, 128), **_WRITTEN_OUT),
  'gpt2_medium': _preset(_GPT2, (24, 1024, 16, 4096), (50257, 1024, 128, 3e-4, 100_000, 128), fsdp=8),
  # Zhao et al. 2024 (GaLore), https://arxiv.org/abs/2403.03507, table 11
  'llama_60m': _preset(_LLAMA, (8, 512, 8, 1376), (32000, 1024, 256, 1e-3, 10_000, 128), **_WRITTEN_OUT),
  # https://huggingface.co/JackFram/llama-160m/blob/main/config.json
  'llama_160m': _preset(_LLAMA, (12, 768, 12, 3072), (32000, 1024, 256, 6e-4, 50_000, 128), **_WRITTEN_OUT),
  # https://huggingface.co/meta-llama/Llama-3.2-1B/blob/main/config.json, without its rotary scaling
  'llama_1b': _preset(_LLAMA_3, (16, 2048, 32, 8192), (128256, 2048, 64, 3e-4, 200_000, 128), fsdp=8, kv_heads=8),
  'bert_base': _preset(_BERT, (12, 768, 12, 3072), (30522, 512, 256, 1e-4, 1_000_000, 128), 10_000),
  'modernbert_base': _preset(_MODERNBERT, (22, 768, 12, 1152), (50368, 1024, 128, 8e-4, 100_000, 128), **_WRITTEN_OUT),
}


def get(name: str, attention: str | None = None) -> dict:
  """A preset by name, for a causal or a bidirectional model; None: for either.

  Raises ConfigError: no such preset, or one of the other kind.
  """
  fitting = [key for key, preset in PRESETS.items() if attention in (None, preset['model']['attention'])]
  if name in fitting:
    return PRESETS[name]
  rule, close = 'no such preset', difflib.get_close_matches(name, fitting, 1)
  if name in PRESETS:
    rule, close = f'is {PRESETS[name]["model"]["attention"]}, this objective needs {attention}', []
  hint = f'did you mean {close[0]}?' if close else f'choose one of {", ".join(fitting)}'
  raise ConfigError(f'preset = {name}: {rule}; {hint}')
