"""Small tokenizers of the kinds that public models have, as transformers saves them."""

import json
import pathlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lmjax.data.sources import demo

SIZE = 480
# What a text may be written in, besides.
LETTERS = [chr(code) for code in range(33, 127)]


def texts() -> list[str]:
  """What they are trained on: the demonstration sentences."""
  return [record['text'] for record in demo.records('classification', 'train')]


def wordpiece() -> tuple[tokenizers.Tokenizer, dict]:
  """BERT's: lower case, no accents."""
  special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
  made = tokenizers.Tokenizer(models.WordPiece(unk_token='[UNK]'))
  made.normalizer = normalizers.BertNormalizer(lowercase=True)
  made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
  trainer = trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=special, initial_alphabet=LETTERS)
  made.train_from_iterator([*texts(), ''.join(LETTERS), *LETTERS], trainer)
  made.post_processor = _template(made, '[CLS] $A [SEP]', '[CLS] $A [SEP] $B:1 [SEP]:1')
  return made, dict(pad='[PAD]', unk='[UNK]', cls='[CLS]', sep='[SEP]', mask='[MASK]')


def roberta() -> tuple[tokenizers.Tokenizer, dict]:
  """RoBERTa's: bytes, and two separators between texts."""
  special = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']
  made = _byte_level(special)
  ids = [(token, made.token_to_id(token)) for token in ('</s>', '<s>')]
  made.post_processor = processors.RobertaProcessing(*ids, trim_offsets=True, add_prefix_space=False)
  roles = dict(bos='<s>', eos='</s>', pad='<pad>', unk='<unk>', cls='<s>', sep='</s>', mask='<mask>')
  return made, roles


def unigram() -> tuple[tokenizers.Tokenizer, dict]:
  """XLM-RoBERTa's: pieces of a unigram model, spaces in them."""
  special = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']
  made = tokenizers.Tokenizer(models.Unigram())
  made.normalizer = normalizers.NFKC()
  made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
  unknown = dict(special_tokens=special, unk_token='<unk>', initial_alphabet=LETTERS)
  trainer = trainers.UnigramTrainer(vocab_size=SIZE, **unknown)
  made.train_from_iterator(texts(), trainer)
  made.post_processor = _template(made, '<s> $A </s>', '<s> $A </s> </s> $B </s>')
  roles = dict(bos='<s>', eos='</s>', pad='<pad>', unk='<unk>', cls='<s>', sep='</s>', mask='<mask>')
  return made, roles


def llama() -> tuple[tokenizers.Tokenizer, dict]:
  """Llama 3's: bytes, and a token before each text."""
  made = _byte_level(['<|begin_of_text|>', '<|end_of_text|>'])
  begin = '<|begin_of_text|>'
  made.post_processor = _template(made, f'{begin} $A', f'{begin} $A {begin} $B')
  return made, dict(bos=begin, eos='<|end_of_text|>')


def qwen() -> tuple[tokenizers.Tokenizer, dict]:
  """Qwen's: bytes, and nothing around a text."""
  return _byte_level(['<|endoftext|>']), dict(pad='<|endoftext|>', eos='<|endoftext|>')


def modernbert() -> tuple[tokenizers.Tokenizer, dict]:
  """ModernBERT's: bytes, with BERT's special tokens, and an end of text that nothing uses."""
  made = _byte_level(['[PAD]', '[CLS]', '[SEP]', '[UNK]', '[MASK]', '<|endoftext|>'])
  made.post_processor = _template(made, '[CLS] $A [SEP]', '[CLS] $A [SEP] $B [SEP]')
  return made, dict(pad='[PAD]', unk='[UNK]', cls='[CLS]', sep='[SEP]', mask='[MASK]')


def _byte_level(special: list[str]) -> tokenizers.Tokenizer:
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
  alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
  trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=special, initial_alphabet=alphabet)
  made.train_from_iterator(texts(), trainer)
  return made


def _template(made, single: str, pair: str):
  names = {piece.partition(':')[0] for piece in f'{single} {pair}'.split() if not piece.startswith('$')}
  special = sorted((name, made.token_to_id(name)) for name in names)
  return processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


def save(folder: pathlib.Path, made: tokenizers.Tokenizer, roles: dict) -> None:
  """tokenizer.json and tokenizer_config.json."""
  made.save(str(folder / 'tokenizer.json'), pretty=False)
  config = {f'{role}_token': token for role, token in roles.items()}
  config |= {'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': 64}
  (folder / 'tokenizer_config.json').write_text(json.dumps(config, indent=2) + '\n')


# The family in whose golden folder each stands.
BY_FAMILY = {
  'bert': wordpiece,
  'roberta': roberta,
  'xlm_roberta': unigram,
  'modernbert': modernbert,
  'llama_3_1': llama,
  'qwen3': qwen,
}
