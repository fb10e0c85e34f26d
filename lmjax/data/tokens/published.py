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
CONFIG, OLDER = 'tokenizer_config.json', 'special_tokens_map.json'
# Files that belong to a tokenizer.json, and are kept with it as they are.
COMPANIONS = (
  *(CONFIG, OLDER, 'added_tokens.json', 'chat_template.jinja', 'chat_template.json'),
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
  """{role: token} as tokenizer_config.json names them, or, where it names none, an older special_tokens_map.json.

  None where neither names any. Raises ValueError: one is no JSON object, or a token is no text.
  """
  for name in (CONFIG, OLDER):
    if name not in companions:
      continue
    try:
      found = json.loads(companions[name])
    except (ValueError, RecursionError) as error:
      raise ValueError(f'{name}: not JSON ({error})') from error
    if not isinstance(found, dict):
      raise ValueError(f'{name}: not JSON (it holds no object)')
    tokens = {role: found.get(f'{role}_token') for role in ALIASES}
    roles = {role: token.get('content') if isinstance(token, dict) else token for role, token in tokens.items()}
    for role, token in roles.items():
      if not isinstance(token, str | None):
        raise ValueError(f'{name}: {role}_token = {token!r} is no text')
    if any(roles.values()):
      return roles
  return None


def lacking(role: str, given: Mapping[str, str | None] | None) -> tuple[str, str]:
  """(where a token of a role was looked for, what to do about it) in words, with what `roles_of` gave."""
  aliases = ALIASES[role]
  if given is None:
    remedy = f"add it with `tokenizer.add_special_tokens(['{aliases[0]}'])` of the tokenizers library and save it"
    return f'looked for {", ".join(aliases)}', remedy
  named = f'{given[role]!r}, which is none of its tokens' if given[role] else 'none'
  return f'{CONFIG} or {OLDER} names {named}', f'set {role}_token to one of its tokens there'


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
