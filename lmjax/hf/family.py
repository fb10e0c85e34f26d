"""What a family of public models is described by; `encoders` and `decoders` describe them, `families` lists them."""

from typing import Any, NamedTuple

# A module of the file to one of our parameter tree; several where the file fuses them, in its order.
Modules = dict[str, str | tuple[str, ...]]
TOKEN_TABLE = 'embeddings/token'
QKV = ('attention/query', 'attention/key', 'attention/value')


class Head(NamedTuple):
  """What stands on the backbone for a task of fine-tuning."""

  modules: Modules  # with their full names
  form: str  # as `objective.head` names it
  pooling: dict[str, dict[str, str]] = {}  # what can be pooled for a classifier, and the keys that say so
  prefix: str | None = None  # of the backbone's tensors below it, where it is another than the family's
  classes: str | None = None  # as in Family, where it is another


class Family(NamedTuple):
  """One `model_type` of config.json."""

  fixed: dict[str, Any]  # settings that config.json does not give
  keys: dict[str, str]  # our setting: the key that holds it
  prefixes: tuple[str, ...]  # of the backbone's tensors: in a file with a head, and in one without
  body: Modules  # below the prefix
  layer: str  # prefix of layer {}
  layers: Modules  # below it
  head: Modules  # of the language model, with their full names; for them no prefix counts
  output: str  # the output embedding; where it is tied, a file may hold it besides
  defaults: dict[str, Any] = {}  # what transformers takes where config.json has no such key
  only: dict[str, tuple] = {}  # keys that change what is computed: the values that can be expressed
  # places of the window, the rotary base and the layers without them, where the family has any
  window: str | None = None
  theta: str | None = 'rope_theta'
  default_theta: float = 10_000.0
  theta_local: tuple[str, float] | None = None  # key and default of the base of layers with a window
  global_layers: tuple[str | None, int, int] | None = None  # key, default n and which of every n sees everything
  skips_rotary: bool = False
  scaled: str = 'all'  # the layers whose rotary frequencies are scaled
  head_scalar: str | None = None  # scores are divided by its square root
  activations: dict[str, str] = {}  # names that mean another
  conv1d: bool = False  # linear layers are stored [in, out]
  interleaved: bool = False  # query, key and value of one head stand next to each other
  left: tuple[str, ...] = ()  # patterns of tensors that may be left behind
  rotary_share: tuple[str, float] | None = None  # key and default of the share of a head that is rotated; None: all
  pooler: str | None = None  # module below the prefix: the dense layer of a classifier's head, pre-trained
  rows_with_offset: bool = False  # whether max_position_embeddings counts the rows before the first position
  # what its classes in transformers are called: of all of them, the beginning; of the language model, the rest
  classes: str = ''
  language_model: str = 'ForCausalLM'
  heads: dict[str, Head] = {}  # by task
  # the key of the activation before the output embedding, which with 'linear' can be made to change nothing
  plain_output: str | None = None
  copies: dict[str, str] = {}  # keys that other programs read, and those of which they are copies


# Left behind by all: buffers that older versions saved, and heads of tasks.
TASK_HEADS = ('classifier.*', 'pre_classifier.*', 'score.*', 'qa_outputs.*')
LEFT = ('*position_ids', '*rotary_emb.inv_freq', '*.masked_bias', '*.attn.bias', '*.attention.bias', *TASK_HEADS)

# The last layer of a task's head, in our parameter tree.
CLASSIFIER, SPAN = 'classifier', 'span'
ENDINGS = {'classification': 'ForSequenceClassification', 'extractive_qa': 'ForQuestionAnswering'}

SIZES = {
  'layers': 'num_hidden_layers',
  'width': 'hidden_size',
  'heads': 'num_attention_heads',
  'mlp_width': 'intermediate_size',
  'activation': 'hidden_act',
  'init_std': 'initializer_range',
  'vocab_size': 'vocab_size',
  'tied_embeddings': 'tie_word_embeddings',
}
