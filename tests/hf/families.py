"""A tiny model of each family, with random weights, as transformers saves it. Needs the `parity` extra."""

import functools
import pathlib
from typing import NamedTuple

import numpy as np
import torch
import transformers

from tests.hf.imports import LENGTH, VOCAB

# The scaled rotary models were "trained" on so many positions, fewer than a row has.
SCALED = {'original_max_position_embeddings': 24}


class Tiny(NamedTuple):
  """One kind of model: its class and configuration in transformers."""

  model: str
  config: str
  settings: dict


_ENCODER = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
_DECODER = _ENCODER | dict(num_key_value_heads=1, max_position_embeddings=128)
_NO_IDS = dict(pad_token_id=None, bos_token_id=None, eos_token_id=None)
_LLAMA = functools.partial(Tiny, 'LlamaForCausalLM', 'LlamaConfig')


def _rope(**settings):
  return dict(rope_parameters=dict(rope_theta=10000.0) | settings)


TINY = {
  'bert': Tiny('BertForMaskedLM', 'BertConfig', _ENCODER | dict(max_position_embeddings=LENGTH)),
  'bert_body': Tiny('BertModel', 'BertConfig', _ENCODER | dict(max_position_embeddings=LENGTH)),
  'roberta': Tiny(
    'RobertaForMaskedLM',
    'RobertaConfig',
    _ENCODER | dict(max_position_embeddings=LENGTH + 2, type_vocab_size=1, layer_norm_eps=1e-5),
  ),
  'xlm_roberta': Tiny(
    'XLMRobertaForMaskedLM',
    'XLMRobertaConfig',
    _ENCODER | dict(max_position_embeddings=LENGTH + 2, type_vocab_size=1, layer_norm_eps=1e-5),
  ),
  'distilbert': Tiny(
    'DistilBertForMaskedLM',
    'DistilBertConfig',
    dict(dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=LENGTH),
  ),
  'modernbert': Tiny(
    'ModernBertForMaskedLM',
    'ModernBertConfig',
    _ENCODER
    | dict(num_hidden_layers=5, local_attention=16, max_position_embeddings=128)
    | _NO_IDS
    | dict(pad_token_id=0, cls_token_id=1, sep_token_id=2),
  ),
  'gpt2': Tiny('GPT2LMHeadModel', 'GPT2Config', dict(n_embd=16, n_layer=2, n_head=2, n_positions=LENGTH) | _NO_IDS),
  'llama': _LLAMA(_DECODER | _NO_IDS),
  'llama_tied_linear': _LLAMA(
    _DECODER | _NO_IDS | dict(tie_word_embeddings=True) | _rope(rope_type='linear', factor=2.0)
  ),
  'llama_3_1': _LLAMA(
    _DECODER
    | _NO_IDS
    | dict(head_dim=16)
    | _rope(rope_type='llama3', factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, **SCALED)
  ),
  'llama_yarn': _LLAMA(_DECODER | _NO_IDS | _rope(rope_type='yarn', factor=4.0, **SCALED)),
  'mistral': Tiny('MistralForCausalLM', 'MistralConfig', _DECODER | _NO_IDS | dict(sliding_window=9)),
  'qwen2': Tiny('Qwen2ForCausalLM', 'Qwen2Config', _DECODER | _NO_IDS),
  'qwen3': Tiny('Qwen3ForCausalLM', 'Qwen3Config', _DECODER | _NO_IDS | dict(head_dim=16, tie_word_embeddings=True)),
  'smollm3': Tiny('SmolLM3ForCausalLM', 'SmolLM3Config', _DECODER | _NO_IDS | dict(num_hidden_layers=5)),
  'phi3': Tiny('Phi3ForCausalLM', 'Phi3Config', _DECODER | _NO_IDS | dict(sliding_window=9)),
  'phi3_partial': Tiny('Phi3ForCausalLM', 'Phi3Config', _DECODER | _NO_IDS | _rope(partial_rotary_factor=0.5)),
  'olmo2': Tiny('Olmo2ForCausalLM', 'Olmo2Config', _DECODER | _NO_IDS),
  'olmo3': Tiny(
    'Olmo3ForCausalLM',
    'Olmo3Config',
    _DECODER
    | _NO_IDS
    | dict(num_hidden_layers=5, sliding_window=9)
    | dict(
      rope_parameters={
        'full_attention': dict(rope_type='yarn', rope_theta=500000.0, factor=4.0, **SCALED),
        'sliding_attention': dict(rope_type='default', rope_theta=500000.0),
      }
    ),
  ),
  'gemma': Tiny('GemmaForCausalLM', 'GemmaConfig', _DECODER | _NO_IDS | dict(head_dim=16)),
  'gemma2': Tiny(
    'Gemma2ForCausalLM',
    'Gemma2Config',
    _DECODER
    | _NO_IDS
    | dict(num_hidden_layers=3, head_dim=16, sliding_window=9, query_pre_attn_scalar=24)
    | dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0),
  ),
  'gemma3': Tiny(
    'Gemma3ForCausalLM',
    'Gemma3TextConfig',
    _DECODER
    | _NO_IDS
    | dict(num_hidden_layers=7, head_dim=16, sliding_window=9, query_pre_attn_scalar=24)
    | dict(
      rope_parameters={
        'full_attention': dict(rope_type='linear', rope_theta=1000000.0, factor=8.0),
        'sliding_attention': dict(rope_type='default', rope_theta=10000.0),
      }
    ),
  ),
  'gpt_neox': Tiny('GPTNeoXForCausalLM', 'GPTNeoXConfig', _ENCODER | _NO_IDS | _rope(partial_rotary_factor=0.25)),
  'gpt_neox_serial': Tiny(
    'GPTNeoXForCausalLM', 'GPTNeoXConfig', _ENCODER | _NO_IDS | dict(use_parallel_residual=False)
  ),
  'opt': Tiny(
    'OPTForCausalLM',
    'OPTConfig',
    dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=24, max_position_embeddings=LENGTH)
    | _NO_IDS
    | dict(pad_token_id=1),
  ),
}


def make(name: str, vocab_size: int = VOCAB, seed: int = 0, **settings):
  """The model in float32: weights ten times as large as drawn, so that attention attends; the others with noise."""
  tiny = TINY[name]
  torch.manual_seed(seed)
  config = getattr(transformers, tiny.config)(**tiny.settings | dict(vocab_size=vocab_size) | settings)
  config._attn_implementation = 'eager'
  model = getattr(transformers, tiny.model)(config).float().eval()
  with torch.no_grad():
    for parameter in model.parameters():
      if parameter.ndim == 1:
        parameter += 0.2 * torch.randn(parameter.shape)
      else:
        parameter *= 10.0
  return model


def outputs(model, tokens, mask) -> np.ndarray:
  """Float32 logits of a model, or the last hidden states of one without a head."""
  with torch.no_grad():
    found = model(input_ids=torch.from_numpy(tokens).long(), attention_mask=torch.from_numpy(mask).long())
  return (found.logits if 'logits' in found else found.last_hidden_state).numpy()


def save(model, folder: pathlib.Path, dtype=None) -> None:
  """As `save_pretrained` writes it, in float32 or another dtype."""
  (model if dtype is None else model.to(dtype)).save_pretrained(folder)
