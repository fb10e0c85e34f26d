"""Tokenizer files as transformers reads them, whose template stands texts as training did.

What a public model came with stays as it is, byte for byte, where its template is that; else another template is
written, and the files are those of a plain fast tokenizer: by another class's name transformers builds its own.
"""

import json
from collections.abc import Collection
from typing import Any, NamedTuple

import tokenizers
from tokenizers import processors

from lmjax.data.tokens import published
from lmjax.data.tokens.published import Frame
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import ConfigError

FILE, CONFIG = 'tokenizer.json', published.CONFIG
# Classes that give types of tokens only where they are asked for.
_GENERIC = (None, 'PreTrainedTokenizerFast', 'TokenizersBackend')
# Settings by which classes of transformers add tokens of their own to a template.
_ADDS = ('add_bos_token', 'add_eos_token', 'add_prefix_space', 'auto_map', 'processor_class')
_PLAIN = 'PreTrainedTokenizerFast'


class Layout(NamedTuple):
  """How rows are made of texts."""

  single: Frame | None  # of one text: `begin` text `end`; None: as the tokenizer's own template does
  pair: Frame  # of two
  typed: bool  # whether tokens of the second text, and what follows it, have type 1
  length: int  # tokens of a row, or those that the model has positions for
  generates: bool  # whether rows are continued
  pad: int  # id that fills rows
  begin: int | None  # id that texts begin with, in models that write
  end: int | None  # id that ends what is generated


def unused_pad(tokenizer: Tokenizer, used: Collection[int]) -> int:
  """The id that fills rows where no other place may have it: what a decoder's class is read off comes before it.

  Raises ConfigError: each special token has another part.
  """
  free = [index for index in (tokenizer.pad, *tokenizer.special_ids) if index is not None and index not in used]
  if not free:
    rule = 'all of its special tokens stand in rows, and a decoder of classes needs one to fill them'
    raise ConfigError(f'tokenizer.json: {rule}; fine-tune with a tokenizer that has a [PAD]')
  return free[0]


def files_of(tokenizer: Tokenizer, layout: Layout) -> dict[str, bytes]:
  """{name: content} of tokenizer.json, tokenizer_config.json and what a public model has besides."""
  companions = {name: content for name, content in tokenizer.companions.items() if name != 'generation_config.json'}
  given = json.loads(companions[CONFIG]) if CONFIG in companions else {}
  stands = layout.single is None or _stands_like(tokenizer.text, layout)
  untyped = given.get('tokenizer_class') in _GENERIC and 'model_input_names' not in given
  changes = layout.single is not None and (tokenizer.pad != layout.pad or layout.typed and untyped)
  if companions and stands and not changes:
    return {FILE: tokenizer.text.encode(), CONFIG: _bytes(_config(tokenizer, layout, {})), **companions}
  text = tokenizer.text if stands else _with_template(tokenizer, layout)
  kept = {name: content for name, content in companions.items() if name.startswith('chat_template')}
  return {FILE: text.encode(), CONFIG: _bytes(_config(tokenizer, layout, given)), **kept}


def _bytes(values: dict) -> bytes:
  return (json.dumps(values, indent=2, ensure_ascii=False) + '\n').encode()


def _config(tokenizer: Tokenizer, layout: Layout, given: dict) -> dict[str, Any]:
  """A tokenizer_config.json: what was `given`, but for what would change the rows."""
  roles = {role: getattr(tokenizer, role) for role in published.ALIASES} | {'pad': layout.pad}
  roles |= {name: index for name, index in (('bos', layout.begin), ('eos', layout.end)) if index is not None}
  names = {f'{role}_token': tokenizer.token(index) for role, index in roles.items() if index is not None}
  inputs = ['input_ids', *(['token_type_ids'] if layout.typed else []), 'attention_mask']
  usual = {'model_max_length': layout.length, 'clean_up_tokenization_spaces': False}
  kept = {name: value for name, value in given.items() if name not in _ADDS}
  side = 'left' if layout.generates else 'right'
  return usual | kept | names | {'tokenizer_class': _PLAIN, 'model_input_names': inputs, 'padding_side': side}


def _with_template(tokenizer: Tokenizer, layout: Layout) -> str:
  """Its tokenizer.json with another post-processor."""
  names = {index: tokenizer.token(index) for frame in (layout.single, layout.pair) for ids in frame for index in ids}
  before = lambda ids, kind: [f'{names[index]}:{kind}' for index in ids]
  kind = int(layout.typed)
  single = [*before(layout.single.begin, 0), '$A:0', *before(layout.single.end, 0)]
  begin, between, end = layout.pair
  pair = [*before(begin, 0), '$A:0', *before(between, 0), f'$B:{kind}', *before(end, kind)]
  template = processors.TemplateProcessing(
    single=single, pair=pair, special_tokens=[(name, index) for index, name in names.items()]
  )
  backend = tokenizers.Tokenizer.from_str(tokenizer.text)
  backend.no_padding()
  backend.no_truncation()
  backend.post_processor = template  # type: ignore[assignment]
  return backend.to_str(pretty=True)


def _stands_like(text: str, layout: Layout) -> bool:
  """Whether the template of a tokenizer.json gives these rows."""
  backend = tokenizers.Tokenizer.from_str(text)
  backend.no_padding()
  backend.no_truncation()
  first, second = (backend.encode(word, add_special_tokens=False).ids for word in ('a', 'b'))
  begin, between, end = layout.pair
  one, two = backend.encode('a'), backend.encode('a', 'b')
  types = [0] * len([*begin, *first, *between]) + [1] * len([*second, *end])
  return (
    one.ids == [*layout.single.begin, *first, *layout.single.end]
    and two.ids == [*begin, *first, *between, *second, *end]
    and (not layout.typed or two.type_ids == types)
  )
