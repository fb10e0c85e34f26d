"""What a published tokenizer comes with: the roles of its special tokens, and how it stands texts between them."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from etils import epath

# The names that published tokenizers give to the same roles, most specific first.
ALIASES = {
  'pad': ('[PAD]', '<pad>', '<|pad|>', '<|padding|>', '<|finetune_right_pad_id|>'),
  'bos': ('[BOS]', '<s>', '<bos>', '<|begin_of_text|>', '<|startoftext|>', '<|endoftext|>'),
  'eos': ('[EOS]', '</s>', '<eos>', '<|end_of_text|>', '<|endoftext|>'),
  'mask': ('[MASK]', '<mask>', '<|mask|>'),
  'cls': ('[CLS]', '<cls>', '<s>'),
  'sep': ('[SEP]', '<sep>', '</s>'),
  'unk': ('[UNK]', '<unk>', '<|unk|>'),
}
CONFIG = 'tokenizer_config.json'
# Files that belong to a tokenizer.json, and are kept with it as they are.
COMPANIONS = (
  *(CONFIG, 'special_tokens_map.json', 'added_tokens.json', 'chat_template.jinja', 'chat_template.json'),
  *('generation_config.json', 'vocab.txt', 'vocab.json', 'merges.txt'),
)


class Frame(NamedTuple):
  """Ids around texts: `begin` text `end`, or `begin` first `between` second `end`."""

  begin: tuple[int, ...]
  between: tuple[int, ...]
  end: tuple[int, ...]


def companions_of(path: epath.Path) -> dict[str, bytes]:
  """{name: content} of the files next to a tokenizer.json that belong to it."""
  files = {name: path.parent / name for name in COMPANIONS}
  return {name: file.read_bytes() for name, file in files.items() if file.exists()}


def roles_of(companions: Mapping[str, bytes]) -> dict[str, str | None] | None:
  """{role: token} as tokenizer_config.json names them; None where it names none.

  Raises ValueError: it is no JSON object.
  """
  if CONFIG not in companions:
    return None
  config = json.loads(companions[CONFIG])
  if not isinstance(config, dict):
    raise ValueError('it holds no object')
  tokens = {role: config.get(f'{role}_token') for role in ALIASES}
  roles = {role: token.get('content') if isinstance(token, dict) else token for role, token in tokens.items()}
  return roles if any(roles.values()) else None


def frame_of(processor: dict | None) -> Frame | None:
  """How the post-processor of a tokenizer.json stands texts between special tokens; None where it adds none."""
  if processor is None:
    return None
  if processor['type'] == 'Sequence':
    return next((frame for one in processor['processors'] if (frame := frame_of(one)) is not None), None)
  if processor['type'] in ('BertProcessing', 'RobertaProcessing'):
    cls, sep = processor['cls'][1], processor['sep'][1]
    return Frame((cls,), (sep,) * (1 if processor['type'] == 'BertProcessing' else 2), (sep,))
  if processor['type'] != 'TemplateProcessing':
    return None
  ids = {name: tuple(token['ids']) for name, token in processor['special_tokens'].items()}
  parts: list[tuple[int, ...]] = [()]
  for piece in processor['pair']:
    if 'Sequence' in piece:
      parts.append(())
    else:
      parts[-1] += ids[piece['SpecialToken']['id']]
  return Frame(*parts) if len(parts) == 3 and any(parts) else None
