"""What each family of public models calls its settings and its tensors: data alone, used in both directions.

Nothing outside this package knows a family by name: what a family needs of the model is a plain setting of ModelConfig.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

# A module of the file to one of our parameter tree; several where the file fuses them, in its order.
Modules = Mapping[str, str | tuple[str, ...]]
TOKEN_TABLE = 'embeddings/token'
_QKV = ('attention/query', 'attention/key', 'attention/value')


class Family(NamedTuple):
  """One `model_type` of config.json."""

  fixed: Mapping[str, Any]  # settings that config.json does not give
  keys: Mapping[str, str]  # our setting: the key that holds it
  prefixes: tuple[str, ...]  # of the backbone's tensors: in a file with a head, and in one without
  body: Modules  # below the prefix
  layer: str  # prefix of layer {}
  layers: Modules  # below it
  head: Modules  # of the language model, with their full names; for them no prefix counts
  output: str  # the output embedding; where it is tied, a file may hold it besides
  defaults: Mapping[str, Any] = {}  # what transformers takes where config.json has no such key
  only: Mapping[str, tuple] = {}  # keys that change what is computed: the values that can be expressed
  # places of the window, the rotary base and the layers without them, where the family has any
  window: str | None = None
  theta: str | None = 'rope_theta'
  default_theta: float = 10_000.0
  theta_local: tuple[str, float] | None = None  # key and default of the base of layers with a window
  global_layers: tuple[str | None, int, int] | None = None  # key, default n and which of every n sees everything
  skips_rotary: bool = False
  scaled: str = 'all'  # the layers whose rotary frequencies are scaled
  head_scalar: str | None = None  # scores are divided by its square root
  conv1d: bool = False  # linear layers are stored [in, out]
  interleaved: bool = False  # query, key and value of one head stand next to each other
  left: tuple[str, ...] = ()  # patterns of tensors that may be left behind
  rotary_share: tuple[str, float] = ('partial_rotary_factor', 1.0)  # key and default
  rows_with_offset: bool = False  # whether max_position_embeddings counts the rows before the first position


# Left behind by all: buffers that older versions saved.
LEFT = ('*position_ids', '*rotary_emb.inv_freq', '*.masked_bias', '*.attn.bias', '*.attention.bias')

_SIZES = {
  'layers': 'num_hidden_layers',
  'width': 'hidden_size',
  'heads': 'num_attention_heads',
  'mlp_width': 'intermediate_size',
  'activation': 'hidden_act',
  'init_std': 'initializer_range',
  'vocab_size': 'vocab_size',
  'tied_embeddings': 'tie_word_embeddings',
}
_ACTS = dict(hidden_act='silu', initializer_range=0.02)

# Encoders, with norms after the residual sums: Devlin et al. 2019, https://arxiv.org/abs/1810.04805
_ENCODER = dict(
  attention='bidirectional',
  positions='learned',
  norm='layernorm',
  norm_placement='post',
  biases=True,
  embedding_norm=True,
  mlm_transform=True,
)
_ENCODER_KEYS = _SIZES | {
  'norm_eps': 'layer_norm_eps',
  'max_length': 'max_position_embeddings',
  'segment_types': 'type_vocab_size',
  'embedding_dropout': 'hidden_dropout_prob',
  'residual_dropout': 'hidden_dropout_prob',
  'attention_dropout': 'attention_probs_dropout_prob',
}
_ENCODER_BODY: Modules = {
  'embeddings.word_embeddings': TOKEN_TABLE,
  'embeddings.position_embeddings': 'embeddings/position',
  'embeddings.token_type_embeddings': 'embeddings/segment',
  'embeddings.LayerNorm': 'embeddings/norm',
}
_ENCODER_LAYERS: Modules = {
  'attention.self.query': 'attention/query',
  'attention.self.key': 'attention/key',
  'attention.self.value': 'attention/value',
  'attention.output.dense': 'attention/output',
  'attention.output.LayerNorm': 'attention_norm',
  'intermediate.dense': 'mlp/up',
  'output.dense': 'mlp/down',
  'output.LayerNorm': 'mlp_norm',
}
_BERT = Family(
  fixed=_ENCODER,
  keys=_ENCODER_KEYS,
  prefixes=('bert.', ''),
  body=_ENCODER_BODY,
  layer='encoder.layer.{}.',
  layers=_ENCODER_LAYERS,
  head={
    'cls.predictions.transform.dense': 'head/transform/dense',
    'cls.predictions.transform.LayerNorm': 'head/transform/norm',
    'cls.predictions': 'head',
  },
  output='cls.predictions.decoder',
  defaults=dict(
    hidden_act='gelu',
    initializer_range=0.02,
    tie_word_embeddings=True,
    layer_norm_eps=1e-12,
    max_position_embeddings=512,
    type_vocab_size=2,
    hidden_dropout_prob=0.1,
    attention_probs_dropout_prob=0.1,
  ),
  only=dict(is_decoder=(False,), add_cross_attention=(False,), position_embedding_type=('absolute',)),
  theta=None,
  left=('*pooler.dense.*', 'cls.seq_relationship.*'),
)
# Liu et al. 2019, https://arxiv.org/abs/1907.11692: its positions are numbered from 2
_ROBERTA = _BERT._replace(
  fixed=_ENCODER | dict(position_offset=2),
  prefixes=('roberta.', ''),
  head={'lm_head.dense': 'head/transform/dense', 'lm_head.layer_norm': 'head/transform/norm', 'lm_head': 'head'},
  output='lm_head.decoder',
  rows_with_offset=True,
)
# Sanh et al. 2019, https://arxiv.org/abs/1910.01108; its epsilon stands in the code alone
_DISTILBERT = _BERT._replace(
  fixed=_ENCODER | dict(norm_eps=1e-12, segment_types=None),
  keys={
    'layers': 'n_layers',
    'width': 'dim',
    'heads': 'n_heads',
    'mlp_width': 'hidden_dim',
    'activation': 'activation',
    'init_std': 'initializer_range',
    'vocab_size': 'vocab_size',
    'tied_embeddings': 'tie_word_embeddings',
    'max_length': 'max_position_embeddings',
    'embedding_dropout': 'dropout',
    'residual_dropout': 'dropout',
    'attention_dropout': 'attention_dropout',
  },
  prefixes=('distilbert.', ''),
  body={name: ours for name, ours in _ENCODER_BODY.items() if ours != 'embeddings/segment'},
  layer='transformer.layer.{}.',
  layers={
    'attention.q_lin': 'attention/query',
    'attention.k_lin': 'attention/key',
    'attention.v_lin': 'attention/value',
    'attention.out_lin': 'attention/output',
    'sa_layer_norm': 'attention_norm',
    'ffn.lin1': 'mlp/up',
    'ffn.lin2': 'mlp/down',
    'output_layer_norm': 'mlp_norm',
  },
  head={
    'vocab_transform': 'head/transform/dense',
    'vocab_layer_norm': 'head/transform/norm',
    'vocab_projector': 'head',
  },
  output='vocab_projector',
  defaults=dict(
    activation='gelu',
    initializer_range=0.02,
    tie_word_embeddings=True,
    max_position_embeddings=512,
    dropout=0.1,
    attention_dropout=0.1,
  ),
  only={},
  left=(),
)
# Warner et al. 2024, https://arxiv.org/abs/2412.13663
_MODERNBERT = Family(
  fixed=dict(
    attention='bidirectional',
    positions='rotary',
    norm='layernorm',
    norm_placement='pre',
    biases=False,
    embedding_norm=True,
    mlm_transform=True,
    first_norm=False,
  ),
  keys=_SIZES
  | {
    'norm_eps': 'norm_eps',
    'activation': 'hidden_activation',
    'embedding_dropout': 'embedding_dropout',
    'residual_dropout': 'mlp_dropout',
    'attention_dropout': 'attention_dropout',
  },
  prefixes=('model.', ''),
  body={
    'embeddings.tok_embeddings': TOKEN_TABLE,
    'embeddings.norm': 'embeddings/norm',
    'final_norm': 'final_norm',
  },
  layer='layers.{}.',
  layers={
    'attn_norm': 'attention_norm',
    'attn.Wqkv': _QKV,
    'attn.Wo': 'attention/output',
    'mlp_norm': 'mlp_norm',
    'mlp.Wi': ('mlp/gate', 'mlp/up'),
    'mlp.Wo': 'mlp/down',
  },
  head={'head.dense': 'head/transform/dense', 'head.norm': 'head/transform/norm', 'decoder': 'head'},
  output='decoder',
  defaults=dict(
    hidden_activation='gelu',
    initializer_range=0.02,
    tie_word_embeddings=True,
    norm_eps=1e-5,
    embedding_dropout=0.0,
    mlp_dropout=0.0,
    attention_dropout=0.0,
    local_attention=128,
  ),
  only=dict(
    norm_bias=(False,),
    attention_bias=(False,),
    mlp_bias=(False,),
    classifier_bias=(False,),
    decoder_bias=(True,),
    classifier_activation=('gelu',),
  ),
  window='local_attention',
  theta='global_rope_theta',
  default_theta=160_000.0,
  theta_local=('local_rope_theta', 10_000.0),
  global_layers=('global_attn_every_n_layers', 3, 0),
)

# Decoders of GPT-2's kind: Radford et al. 2019,
# https://cdn.openai.com/better-language-models/language_models.pdf
_GPT2 = Family(
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
    'attn.c_attn': _QKV,
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
)
# Zhang et al. 2022, https://arxiv.org/abs/2205.01068: its positions are numbered from 2, too
_OPT = _GPT2._replace(
  fixed=_GPT2.fixed | dict(position_offset=2, norm_eps=1e-5),
  keys=_SIZES
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
)
# Black et al. 2022, https://arxiv.org/abs/2204.06745; Biderman et al. 2023, https://arxiv.org/abs/2304.01373
_NEOX = Family(
  fixed=dict(attention='causal', positions='rotary', norm='layernorm', norm_placement='pre', biases=True),
  keys=_SIZES
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
    'attention.query_key_value': _QKV,
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
_LLAMA = Family(
  fixed=_DECODER,
  keys=_SIZES
  | {'kv_heads': 'num_key_value_heads', 'norm_eps': 'rms_norm_eps', 'head_dim': 'head_dim'}
  | {'attention_dropout': 'attention_dropout'},
  prefixes=('model.', ''),
  body={'embed_tokens': TOKEN_TABLE, 'norm': 'final_norm'},
  layer='layers.{}.',
  layers=_DECODER_LAYERS,
  head={},
  output='lm_head',
  defaults=_ACTS
  | dict(tie_word_embeddings=False, num_key_value_heads=None, rms_norm_eps=1e-6, head_dim=None, attention_dropout=0.0),
  only=dict(attention_bias=(False,), mlp_bias=(False,)),
)
_QWEN2 = _LLAMA._replace(
  fixed=_DECODER | dict(qkv_bias=True),
  defaults=_LLAMA.defaults | dict(num_key_value_heads=32),
  only=dict(use_sliding_window=(False,)),
)
_QWEN3 = _LLAMA._replace(
  fixed=_DECODER | dict(qk_norm=True),
  layers=_DECODER_LAYERS | _QK_NORM,
  defaults=_LLAMA.defaults | dict(num_key_value_heads=32, head_dim=128),
  only=dict(attention_bias=(False,), use_sliding_window=(False,)),
)
_MISTRAL = _LLAMA._replace(
  defaults=_LLAMA.defaults | dict(num_key_value_heads=8, sliding_window=4096), only={}, window='sliding_window'
)
_SMOLLM3 = _LLAMA._replace(
  defaults=_LLAMA.defaults | dict(tie_word_embeddings=True, num_key_value_heads=4),
  only=_LLAMA.only | dict(use_sliding_window=(False,)),
  default_theta=2_000_000.0,
  skips_rotary=True,
)
_PHI3 = _LLAMA._replace(
  keys=_LLAMA.keys | {'embedding_dropout': 'embd_pdrop', 'residual_dropout': 'resid_pdrop'},
  layers={name: ours for name, ours in _DECODER_LAYERS.items() if '_norm' in ours or ours in ('attention/output',)}
  | {'self_attn.qkv_proj': _QKV, 'mlp.gate_up_proj': ('mlp/gate', 'mlp/up'), 'mlp.down_proj': 'mlp/down'},
  defaults=_LLAMA.defaults | dict(rms_norm_eps=1e-5, embd_pdrop=0.0, resid_pdrop=0.0, sliding_window=None),
  only={},
  window='sliding_window',
)
# OLMo et al. 2024, https://arxiv.org/abs/2501.00656
_OLMO2 = _LLAMA._replace(
  fixed=_DECODER | dict(norm_placement='output', qk_norm=True, qk_norm_over='width'),
  layers={name: ours for name, ours in _DECODER_LAYERS.items() if '_norm' not in ours}
  | {'post_attention_layernorm': 'attention_norm', 'post_feedforward_layernorm': 'mlp_norm'}
  | _QK_NORM,
  defaults=_LLAMA.defaults | dict(rms_norm_eps=1e-5),
  only=dict(attention_bias=(False,)),
)
_OLMO3 = _OLMO2._replace(
  defaults=_OLMO2.defaults | dict(sliding_window=4096),
  window='sliding_window',
  default_theta=500_000.0,
  theta_local=('rope_theta', 500_000.0),
  global_layers=(None, 4, 3),
  scaled='global',
)
# Gemma team 2024 and 2025, https://arxiv.org/abs/2403.08295, 2408.00118 and 2503.19786
_GEMMA = _LLAMA._replace(
  fixed=_DECODER | dict(norm_offset=1.0, embedding_scale='sqrt(width)'),
  defaults=_LLAMA.defaults
  | dict(hidden_act='gelu_pytorch_tanh', tie_word_embeddings=True, num_key_value_heads=16, head_dim=256),
  only=dict(attention_bias=(False,), use_bidirectional_attention=(None, False)),
)
_GEMMA2 = _GEMMA._replace(
  fixed=_GEMMA.fixed | dict(norm_placement='sandwich'),
  keys=_GEMMA.keys
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
  defaults=_GEMMA.defaults
  | dict(hidden_activation='gelu_pytorch_tanh', num_key_value_heads=4, sliding_window=4096, query_pre_attn_scalar=256)
  | dict(attn_logit_softcapping=50.0, final_logit_softcapping=30.0),
  window='sliding_window',
  global_layers=(None, 2, 1),
  head_scalar='query_pre_attn_scalar',
)
_GEMMA3 = _GEMMA2._replace(
  fixed=_GEMMA2.fixed | dict(qk_norm=True),
  layers=_GEMMA2.layers | _QK_NORM,
  defaults=_GEMMA2.defaults | dict(attn_logit_softcapping=None, final_logit_softcapping=None),
  default_theta=1_000_000.0,
  theta_local=('rope_local_base_freq', 10_000.0),
  global_layers=('sliding_window_pattern', 6, 5),
  scaled='global',
)

FAMILIES = {
  'bert': _BERT,
  'roberta': _ROBERTA,
  'xlm-roberta': _ROBERTA,
  'distilbert': _DISTILBERT,
  'modernbert': _MODERNBERT,
  'gpt2': _GPT2,
  'llama': _LLAMA,
  'smollm3': _SMOLLM3,
  'qwen2': _QWEN2,
  'qwen3': _QWEN3,
  'mistral': _MISTRAL,
  'phi3': _PHI3,
  'olmo2': _OLMO2,
  'olmo3': _OLMO3,
  'gemma': _GEMMA,
  'gemma2': _GEMMA2,
  'gemma3_text': _GEMMA3,
  'gpt_neox': _NEOX,
  'opt': _OPT,
}
# Asked for, and not to be had: why, and what comes nearest.
REFUSED = {
  'electra': ('its generator and discriminator are two models', 'bert'),
  'albert': ('its layers share their weights', 'bert'),
  'deberta': ('its attention looks at distances between tokens', 'modernbert'),
  'deberta-v2': ('its attention looks at distances between tokens', 'modernbert'),
  't5': ('it has an encoder and a decoder', 'qwen3'),
  'mt5': ('it has an encoder and a decoder', 'qwen3'),
  'bart': ('it has an encoder and a decoder', 'qwen3'),
  'pegasus': ('it has an encoder and a decoder', 'qwen3'),
  'led': ('it has an encoder and a decoder', 'qwen3'),
  'gemma3': ('it reads images too', 'gemma3_text'),
}
