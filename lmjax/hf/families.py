"""The families of public models, by the `model_type` of config.json.

Nothing outside this package knows a family by name: what a family needs of the model is a plain setting of ModelConfig.
"""

from lmjax.hf import decoders, encoders

FAMILIES = {
  'bert': encoders.BERT,
  'roberta': encoders.ROBERTA,
  'xlm-roberta': encoders.XLM_ROBERTA,
  'distilbert': encoders.DISTILBERT,
  'modernbert': encoders.MODERNBERT,
  'gpt2': decoders.GPT2,
  'llama': decoders.LLAMA,
  'smollm3': decoders.SMOLLM3,
  'qwen2': decoders.QWEN2,
  'qwen3': decoders.QWEN3,
  'mistral': decoders.MISTRAL,
  'phi3': decoders.PHI3,
  'olmo2': decoders.OLMO2,
  'olmo3': decoders.OLMO3,
  'gemma': decoders.GEMMA,
  'gemma2': decoders.GEMMA2,
  'gemma3_text': decoders.GEMMA3,
  'gpt_neox': decoders.NEOX,
  'opt': decoders.OPT,
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
