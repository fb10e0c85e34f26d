"""Families of encoders."""

from lmjax.hf.family import CLASSIFIER, QKV, SIZES, SPAN, TOKEN_TABLE, Family, Head, Modules

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
_ENCODER_KEYS = SIZES | {
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
_SPAN = Head({'qa_outputs': SPAN}, 'linear')
_AT_CLS: dict[str, dict[str, str]] = {'cls': {}}
BERT = Family(
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
  pooler='pooler.dense',
  classes='Bert',
  language_model='ForMaskedLM',
  heads={
    'classification': Head(
      {'bert.pooler.dense': 'classifier/dense', 'classifier': CLASSIFIER}, 'tanh', pooling=_AT_CLS
    ),
    'extractive_qa': _SPAN,
  },
)
# Liu et al. 2019, https://arxiv.org/abs/1907.11692: its positions are numbered from 2
ROBERTA = BERT._replace(
  fixed=_ENCODER | dict(position_offset=2),
  only=BERT.only | dict(hidden_act=('gelu',)),  # its head has no other
  prefixes=('roberta.', ''),
  head={'lm_head.dense': 'head/transform/dense', 'lm_head.layer_norm': 'head/transform/norm', 'lm_head': 'head'},
  output='lm_head.decoder',
  pooler=None,
  rows_with_offset=True,
  classes='Roberta',
  heads={
    'classification': Head(
      {'classifier.dense': 'classifier/dense', 'classifier.out_proj': CLASSIFIER}, 'tanh', pooling=_AT_CLS
    ),
    'extractive_qa': _SPAN,
  },
)
# Conneau et al. 2020, https://arxiv.org/abs/1911.02116
XLM_ROBERTA = ROBERTA._replace(classes='XLMRoberta')
# Sanh et al. 2019, https://arxiv.org/abs/1910.01108; its epsilon stands in the code alone
DISTILBERT = BERT._replace(
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
  pooler=None,
  classes='DistilBert',
  heads={
    'classification': Head({'pre_classifier': 'classifier/dense', CLASSIFIER: CLASSIFIER}, 'relu', pooling=_AT_CLS),
    'extractive_qa': _SPAN,
  },
)
# Warner et al. 2024, https://arxiv.org/abs/2412.13663
MODERNBERT = Family(
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
  keys=SIZES
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
    'attn.Wqkv': QKV,
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
  classes='ModernBert',
  plain_output='classifier_activation',
  language_model='ForMaskedLM',
  heads={
    'classification': Head(
      {'head.dense': 'classifier/dense', 'head.norm': 'classifier/norm', 'classifier': CLASSIFIER},
      'gelu_norm',
      pooling={name: {'classifier_pooling': name} for name in ('cls', 'mean')},
    ),
    'extractive_qa': Head({'head.dense': 'span/dense', 'head.norm': 'span/norm', 'classifier': SPAN}, 'gelu_norm'),
  },
)
