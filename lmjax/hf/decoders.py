"""Families of decoders."""

from lmjax.hf.family import CLASSIFIER, QKV, SIZES, SPAN, TOKEN_TABLE, Family, Head, Modules

# A class is read off the last token; the layer that gives it has no bias.
_CLASSES = {'classification': Head({'score': CLASSIFIER}, 'linear_no_bias', pooling={'last': {}})}
_HEADS = _CLASSES | {'extractive_qa': Head({'qa_outputs': SPAN}, 'linear')}
_RENAMED = _CLASSES | {'extractive_qa': _HEADS['extractive_qa']._replace(prefix='transformer.')}

# Decoders of GPT-2's kind: Radford et al. 2019,
# https://cdn.openai.com/better-language-models/language_models.pdf
GPT2 = Family(
  fixed=dict(attention='causal', positions='learned', norm='layernorm', norm_placement='pre', biases=True),
  keys={
    'layers': 'n_layer',
    'width': 'n_embd',
    'heads': 'n_head',
    'mlp_width': 'n_inner',
    'activation': 'activation_function',
    'init_std': 'initializer_range',
    'vocab_size': 'vocab_size',
    'tied_embeddings': 'tie_word_embeddings',
    'norm_eps': 'layer_norm_epsilon',
    'max_length': 'n_positions',
    'embedding_dropout': 'embd_pdrop',
    'residual_dropout': 'resid_pdrop',
    'attention_dropout': 'attn_pdrop',
  },
  prefixes=('transformer.', ''),
  body={'wte': TOKEN_TABLE, 'wpe': 'embeddings/position', 'ln_f': 'final_norm'},
  layer='h.{}.',
  layers={
    'ln_1': 'attention_norm',
    'attn.c_attn': QKV,
    'attn.c_proj': 'attention/output',
    'ln_2': 'mlp_norm',
    'mlp.c_fc': 'mlp/up',
    'mlp.c_proj': 'mlp/down',
  },
  head={},
  output='lm_head',
  defaults=dict(
    n_inner=None,
    activation_function='gelu_new',
    initializer_range=0.02,
    tie_word_embeddings=True,
    layer_norm_epsilon=1e-5,
    n_positions=1024,
    embd_pdrop=0.1,
    resid_pdrop=0.1,
    attn_pdrop=0.1,
  ),
  only=dict(scale_attn_weights=(True,), scale_attn_by_inverse_layer_idx=(False,), add_cross_attention=(False,)),
  theta=None,
  conv1d=True,
  classes='GPT2',
  language_model='LMHeadModel',
  heads=_HEADS,
  copies={'n_ctx': 'n_positions'},  # llama.cpp's converter
)
# Zhang et al. 2022, https://arxiv.org/abs/2205.01068: its positions are numbered from 2, too
OPT = GPT2._replace(
  fixed=GPT2.fixed | dict(position_offset=2, norm_eps=1e-5),
  keys=SIZES
  | {
    'mlp_width': 'ffn_dim',
    'activation': 'activation_function',
    'init_std': 'init_std',
    'max_length': 'max_position_embeddings',
    'residual_dropout': 'dropout',
    'attention_dropout': 'attention_dropout',
  },
  prefixes=('model.decoder.', 'decoder.'),
  body={
    'embed_tokens': TOKEN_TABLE,
    'embed_positions': 'embeddings/position',
    'final_layer_norm': 'final_norm',
  },
  layer='layers.{}.',
  layers={
    'self_attn_layer_norm': 'attention_norm',
    'self_attn.q_proj': 'attention/query',
    'self_attn.k_proj': 'attention/key',
    'self_attn.v_proj': 'attention/value',
    'self_attn.out_proj': 'attention/output',
    'final_layer_norm': 'mlp_norm',
    'fc1': 'mlp/up',
    'fc2': 'mlp/down',
  },
  defaults=dict(
    activation_function='relu',
    init_std=0.02,
    tie_word_embeddings=True,
    max_position_embeddings=2048,
    dropout=0.1,
    attention_dropout=0.0,
  ),
  only=dict(
    do_layer_norm_before=(True,),
    enable_bias=(True,),
    layer_norm_elementwise_affine=(True,),
    _remove_final_layer_norm=(False,),
  ),
  conv1d=False,
  classes='OPT',
  language_model='ForCausalLM',
  copies={},
)
# Black et al. 2022, https://arxiv.org/abs/2204.06745; Biderman et al. 2023, https://arxiv.org/abs/2304.01373
NEOX = Family(
  fixed=dict(attention='causal', positions='rotary', norm='layernorm', norm_placement='pre', biases=True),
  keys=SIZES
  | {
    'norm_eps': 'layer_norm_eps',
    'parallel_residual': 'use_parallel_residual',
    'embedding_dropout': 'hidden_dropout',
    'residual_dropout': 'hidden_dropout',
    'attention_dropout': 'attention_dropout',
  },
  prefixes=('gpt_neox.', ''),
  body={'embed_in': TOKEN_TABLE, 'final_layer_norm': 'final_norm'},
  layer='layers.{}.',
  layers={
    'input_layernorm': 'attention_norm',
    'attention.query_key_value': QKV,
    'attention.dense': 'attention/output',
    'post_attention_layernorm': 'mlp_norm',
    'mlp.dense_h_to_4h': 'mlp/up',
    'mlp.dense_4h_to_h': 'mlp/down',
  },
  head={},
  output='embed_out',
  defaults=dict(
    hidden_act='gelu',
    initializer_range=0.02,
    tie_word_embeddings=False,
    layer_norm_eps=1e-5,
    use_parallel_residual=True,
    hidden_dropout=0.0,
    attention_dropout=0.0,
  ),
  only=dict(attention_bias=(True,)),
  theta='rotary_emb_base',
  rotary_share=('rotary_pct', 0.25),
  interleaved=True,
  classes='GPTNeoX',
  heads=_HEADS,
)

# Decoders of Llama's kind: Touvron et al. 2023, https://arxiv.org/abs/2302.13971
_DECODER = dict(
  attention='causal',
  positions='rotary',
  norm='rmsnorm',
  norm_placement='pre',
  biases=False,
)
_DECODER_LAYERS: Modules = {
  'input_layernorm': 'attention_norm',
  'self_attn.q_proj': 'attention/query',
  'self_attn.k_proj': 'attention/key',
  'self_attn.v_proj': 'attention/value',
  'self_attn.o_proj': 'attention/output',
  'post_attention_layernorm': 'mlp_norm',
  'mlp.gate_proj': 'mlp/gate',
  'mlp.up_proj': 'mlp/up',
  'mlp.down_proj': 'mlp/down',
}
_QK_NORM: Modules = {'self_attn.q_norm': 'attention/query_norm', 'self_attn.k_norm': 'attention/key_norm'}
LLAMA = Family(
  fixed=_DECODER,
  keys=SIZES
  | {'kv_heads': 'num_key_value_heads', 'norm_eps': 'rms_norm_eps', 'head_dim': 'head_dim'}
  | {'attention_dropout': 'attention_dropout'},
  prefixes=('model.', ''),
  body={'embed_tokens': TOKEN_TABLE, 'norm': 'final_norm'},
  layer='layers.{}.',
  layers=_DECODER_LAYERS,
  head={},
  output='lm_head',
  defaults=dict(hidden_act='silu', initializer_range=0.02)
  | dict(tie_word_embeddings=False, num_key_value_heads=None, rms_norm_eps=1e-6, head_dim=None, attention_dropout=0.0),
  only=dict(attention_bias=(False,), mlp_bias=(False,)),
  classes='Llama',
  heads=_RENAMED,
)
QWEN2 = LLAMA._replace(
  fixed=_DECODER | dict(qkv_bias=True),
  defaults=LLAMA.defaults | dict(num_key_value_heads=32),
  only=dict(use_sliding_window=(False,)),
  classes='Qwen2',
)
QWEN3 = LLAMA._replace(
  fixed=_DECODER | dict(qk_norm=True),
  layers=_DECODER_LAYERS | _QK_NORM,
  defaults=LLAMA.defaults | dict(num_key_value_heads=32, head_dim=128),
  only=dict(attention_bias=(False,), use_sliding_window=(False,)),
  classes='Qwen3',
)
MISTRAL = LLAMA._replace(
  defaults=LLAMA.defaults | dict(num_key_value_heads=8, sliding_window=4096),
  only={},
  window='sliding_window',
  classes='Mistral',
  heads=_HEADS,
)
SMOLLM3 = LLAMA._replace(
  defaults=LLAMA.defaults | dict(tie_word_embeddings=True, num_key_value_heads=4),
  only=LLAMA.only | dict(use_sliding_window=(False,)),
  default_theta=2_000_000.0,
  skips_rotary=True,
  classes='SmolLM3',
)
PHI3 = LLAMA._replace(
  keys=LLAMA.keys | {'embedding_dropout': 'embd_pdrop', 'residual_dropout': 'resid_pdrop'},
  layers={name: ours for name, ours in _DECODER_LAYERS.items() if '_norm' in ours or ours in ('attention/output',)}
  | {'self_attn.qkv_proj': QKV, 'mlp.gate_up_proj': ('mlp/gate', 'mlp/up'), 'mlp.down_proj': 'mlp/down'},
  defaults=LLAMA.defaults | dict(rms_norm_eps=1e-5, embd_pdrop=0.0, resid_pdrop=0.0, sliding_window=None),
  only={},
  window='sliding_window',
  rotary_share=('partial_rotary_factor', 1.0),
  classes='Phi3',
  heads=_CLASSES,
)
# OLMo et al. 2024, https://arxiv.org/abs/2501.00656
OLMO2 = LLAMA._replace(
  fixed=_DECODER | dict(norm_placement='output', qk_norm=True, qk_norm_over='width'),
  layers={name: ours for name, ours in _DECODER_LAYERS.items() if '_norm' not in ours}
  | {'post_attention_layernorm': 'attention_norm', 'post_feedforward_layernorm': 'mlp_norm'}
  | _QK_NORM,
  defaults=LLAMA.defaults | dict(rms_norm_eps=1e-5),
  only=dict(attention_bias=(False,)),
  classes='Olmo2',
  heads=_CLASSES,
)
OLMO3 = OLMO2._replace(
  defaults=OLMO2.defaults | dict(sliding_window=4096),
  window='sliding_window',
  default_theta=500_000.0,
  theta_local=('rope_theta', 500_000.0),
  global_layers=(None, 4, 3),
  scaled='global',
  classes='Olmo3',
)
# Gemma team 2024 and 2025, https://arxiv.org/abs/2403.08295, 2408.00118 and 2503.19786
GEMMA = LLAMA._replace(
  fixed=_DECODER | dict(norm_offset=1.0, embedding_scale='sqrt(width)'),
  defaults=LLAMA.defaults
  | dict(hidden_act='gelu_pytorch_tanh', tie_word_embeddings=True, num_key_value_heads=16, head_dim=256),
  only=dict(attention_bias=(False,), use_bidirectional_attention=(None, False)),
  activations={'gelu': 'gelu_pytorch_tanh'},  # the first files name the wrong one
  classes='Gemma',
  heads=_CLASSES,
)
GEMMA2 = GEMMA._replace(
  activations={},
  fixed=GEMMA.fixed | dict(norm_placement='sandwich'),
  keys=GEMMA.keys
  | {
    'activation': 'hidden_activation',
    'attention_softcap': 'attn_logit_softcapping',
    'logit_softcap': 'final_logit_softcapping',
  },
  layers=_DECODER_LAYERS
  | {
    'post_attention_layernorm': 'attention_output_norm',
    'pre_feedforward_layernorm': 'mlp_norm',
    'post_feedforward_layernorm': 'mlp_output_norm',
  },
  defaults=GEMMA.defaults
  | dict(hidden_activation='gelu_pytorch_tanh', num_key_value_heads=4, sliding_window=4096, query_pre_attn_scalar=256)
  | dict(attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
  window='sliding_window',
  global_layers=(None, 2, 1),
  head_scalar='query_pre_attn_scalar',
  classes='Gemma2',
)
GEMMA3 = GEMMA2._replace(
  fixed=GEMMA2.fixed | dict(qk_norm=True),
  layers=GEMMA2.layers | _QK_NORM,
  defaults=GEMMA2.defaults | dict(attn_logit_softcapping=None, final_logit_softcapping=None),
  default_theta=1_000_000.0,
  theta_local=('rope_local_base_freq', 10_000.0),
  global_layers=('sliding_window_pattern', 6, 5),
  scaled='global',
  classes='Gemma3',
  heads={'classification': _CLASSES['classification']._replace(classes='Gemma3Text')},
)
