"""tiktoken gives the ids and places of tokenizers, on any text, or is not used: tokenizers is the oracle."""

import json
import random
import unicodedata

import numpy as np
import pytest
import tokenizers

from lmjax.data.tokens import fast_bpe
from lmjax.data.tokens.fast_bpe import FastBPE
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.errors import DataError
from tests.conftest import ROOT

WORDS = [f'{word}{number % 7} ' for number, word in enumerate('the law of snow reads § 12 of an article'.split() * 40)]
TEXT = ''.join(WORDS)
LONG = TEXT * (500_000 // len(TEXT) + 1)
GOLDEN = ROOT / 'tests/hf/golden'
SPACES = [' ', '  ', '\n', '\r\n', '\t', '\u00a0', '\u0085', '\u2003', '\u2028', '\u3000', '\u200b', '\ufeff', ' ' * 30]
ODD = [
  '[MASK]',
  fast_bpe._UNUSED,
  '<s>',
  '</s>',
  '<|endoftext|>',
  "'s",
  "'LL",
  'don’t',
  '§ 12',
  '1234567',
  '½',
  'e\u0301',
  '\u0301',
  '\x00',
]
ODD += [
  '\ud7ff',
  '\ue000',
  '\U0001f469\u200d\U0001f52c',
  '\U000e0001',
  '\U0010ffff',
  '\u0e01\u0e33',
  'ǅ',
  'ß',
  'ﬁ',
  '__',
  '…',
]


def trained():
  return train_tokenizer([TEXT], 400, 10**6)


@pytest.fixture(scope='module', params=['own', 'llama_3_1', 'modernbert', 'qwen3', 'roberta'])
def tokenizer(request):
  """With a vocabulary of our own, and those of the families that have a byte-level one."""
  if request.param == 'own':
    return trained()
  return Tokenizer.load(str(GOLDEN / request.param / 'tokenizer.json'))


def texts(tokenizer, count, seed=0):
  """Characters of all kinds, concatenations of tokens and mixtures of white space."""
  draw = random.Random(seed)
  letters = [char for char in map(chr, range(0x2FFFF)) if unicodedata.category(char)[0] in 'LNPS']
  known = [tokenizer.decode([index], skip_special=False) for index in range(tokenizer.vocab_size)]
  for _ in range(count):
    kinds = draw.sample([letters, SPACES, ODD, known, ['a', 'b ', ' c', '.']], draw.randrange(1, 5))
    yield ''.join(draw.choice(draw.choice(kinds)) for _ in range(draw.randrange(1, 40)))


def by_tokenizers(tokenizer, text):
  return tokenizer._backend.encode(text, add_special_tokens=False)


def test_ids_and_places_are_those_of_tokenizers(tokenizer):
  assert isinstance(tokenizer.fast, FastBPE), tokenizer.fast
  for text in [*texts(tokenizer, 1_500), '', ' ', *SPACES, *ODD]:
    expected, ids = by_tokenizers(tokenizer, text), tokenizer.fast.encode(text)
    assert ids.tolist() == expected.ids, ascii(text)
    assert list(map(tuple, tokenizer.fast.places(text, ids).tolist())) == expected.offsets, ascii(text)


@pytest.mark.parametrize(
  'pattern, grouped',
  [
    (r"'s|\w+|\W|\|\s+(?!\S)|\s+", None),  # an escaped | ends no alternative
    (r"(?i)'S|\w+|[^\s\w]+|\s+(?!\S)|\s+", r"(?:(?i)'S|\w+|[^\s\w]+)|\s+(?!\S)|\s+"),
    (r'\w+|\W|\s+(?!\S)|\s+', r'(?:\w+|\W)|\s+(?!\S)|\s+'),
  ],
)
def test_an_expression_means_the_same_with_its_words_in_a_group(pattern, grouped):
  assert fast_bpe._grouped(pattern) == (grouped or pattern)
  tokenizer = changed(pre_tokenizer=split(pattern))
  assert isinstance(tokenizer.fast, FastBPE), tokenizer.fast
  for text in [*texts(tokenizer, 500), "It's|x  IT'S\n\n y "]:
    assert tokenizer.fast.encode(text).tolist() == by_tokenizers(tokenizer, text).ids, ascii(text)


@pytest.mark.slow
@pytest.mark.parametrize('name', [None, 'llama_3_1'])  # the two regular expressions
def test_every_character_is_split_as_by_tokenizers(name):
  tokenizer = trained() if name is None else Tokenizer.load(str(GOLDEN / name / 'tokenizer.json'))
  codes = [*range(0xD800), *range(0xE000, 0x110000)]
  for start in range(0, len(codes), 5_000):
    text = ''.join(f' {chr(code)}a{chr(code)}1{chr(code)}\n' for code in codes[start : start + 5_000])
    assert tokenizer.fast.encode(text).tolist() == by_tokenizers(tokenizer, text).ids, hex(codes[start])
  for text in texts(tokenizer, 20_000, seed=1):
    assert tokenizer.fast.encode(text).tolist() == by_tokenizers(tokenizer, text).ids, ascii(text)


def test_much_text_is_encoded_fast_and_a_little_is_not_checked_for_it():
  tokenizer = trained()
  spaces = 'a' + ' ' * 100_001 + 'b'
  few = tokenizer.encode(LONG[:1_000])
  assert 'fast' not in tokenizer.__dict__
  found = tokenizer.encode_arrays([LONG, spaces, '', LONG[:1_000]])
  assert isinstance(tokenizer.__dict__['fast'], FastBPE)
  assert [ids.tolist() for ids in found] == [by_tokenizers(tokenizer, t).ids for t in (LONG, spaces, '', LONG[:1_000])]
  assert found[3].tolist() == few and all(ids.dtype == np.int32 for ids in found)
  [(encoded, places)] = tokenizer.encode_with_offsets([LONG])
  assert (encoded.ids == found[0]).all() and list(map(tuple, places.tolist())) == by_tokenizers(tokenizer, LONG).offsets
  assert encoded.n_bytes == len(LONG.encode())
  with pytest.raises(DataError, match=r"cannot encode the text that begins '\\udc80'"):
    tokenizer.encode_arrays([LONG, '\udc80'])


def test_it_keeps_to_one_core_where_tokenizers_is_told_to(monkeypatch):
  fast, half = trained().fast, LONG[: len(LONG) // 2]
  expected = [ids.tolist() for ids in fast.encode_batch([half, half])]
  monkeypatch.setattr(fast_bpe, '_threads', lambda: pytest.fail('threads were asked for'))
  monkeypatch.setenv('TOKENIZERS_PARALLELISM', 'false')
  assert [ids.tolist() for ids in fast.encode_batch([half, half])] == expected


def test_long_runs_of_white_space_are_not_for_it():
  assert fast_bpe.takes(' ' * 100_000) and fast_bpe.takes('a' * 200_000) and not fast_bpe.takes('\n ' * 60_000)


def changed(**changes):
  """A trained tokenizer with other parts: a.b is the key b of the part a."""
  parts = json.loads(trained().text)
  for path, value in changes.items():
    *above, last = path.split('__')
    part = parts
    for name in above:
      part = part[name]
    part[last] = value(part[last]) if callable(value) else value
  return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(parts)))


def split(pattern, **more):
  plain = {'type': 'Split', 'pattern': {'Regex': pattern}, 'behavior': 'Isolated', 'invert': False} | more
  byte_level = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True, 'use_regex': False}
  return {'type': 'Sequence', 'pretokenizers': [plain, byte_level]}


def added(text, special):
  flags = dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized'), False)
  return lambda tokens: [*tokens, {'id': 700, 'content': text, 'special': special, **flags}]


@pytest.mark.parametrize(
  'changes, reason',
  [
    ({'normalizer': {'type': 'Lowercase'}}, 'it has a normalizer (Lowercase)'),
    ({'model__dropout': 0.1}, 'its model has dropout'),
    ({'model__byte_fallback': True}, 'its model has byte_fallback'),
    ({'pre_tokenizer__add_prefix_space': True}, 'its pre-tokenizer is another'),
    ({'pre_tokenizer__use_regex': False}, 'its pre-tokenizer is another'),
    ({'pre_tokenizer': split(r'\s+', behavior='Removed')}, 'its pre-tokenizer is another'),
    ({'pre_tokenizer': split(r'\s+', invert=True)}, 'its pre-tokenizer is another'),
    ({'pre_tokenizer': split(r'\p{L}+')}, 'its regular expression splits'),  # tiktoken drops what does not match
    ({'added_tokens': added('Article', False)}, "its added token 'Article' is not special"),
    ({'pre_tokenizer': split(r'(?x) \S+ # words |\s+(?!\S)|\s+')}, 'tiktoken cannot read its regular expression'),
    ({'model__vocab': lambda vocab: vocab | {'qqqq': len(vocab)}}, 'besides those of the 256 bytes'),
  ],
)
def test_another_tokenizer_falls_back_and_says_why(changes, reason):
  tokenizer = changed(**changes)
  assert reason in str(tokenizer.fast)
  if 'model__dropout' not in changes:
    assert tokenizer.encode(LONG) == by_tokenizers(tokenizer, LONG).ids


def merged(*merges):
  """A tokenizer of bytes and what these merges make."""
  alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
  entries = dict.fromkeys([*alphabet, *(left + right for left, right in merges)])
  model = tokenizers.models.BPE({entry: i for i, entry in enumerate(entries)}, list(merges))
  backend = tokenizers.Tokenizer(model)
  backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  return Tokenizer(backend)


def test_a_token_that_its_merges_do_not_reach_alone_is_refused():
  # abc is made of ab and c, but b and c are merged first: in tiktoken a and bc would make it
  assert merged(('b', 'c'), ('a', 'b'), ('ab', 'c')).fast == "the token 'abc', encoded alone, is not itself"


def test_of_two_merges_that_make_a_token_that_counts_which_is_reached():
  # abc is made of a and bc, the last of all, and never of ab and c: bcd comes before it
  tokenizer = merged(('b', 'c'), ('a', 'b'), ('ab', 'c'), ('bc', 'd'), ('a', 'bc'))
  assert isinstance(tokenizer.fast, FastBPE)
  for text in ('abcd', 'abc', 'abcabcd', 'babcdd', 'aabcc'):
    assert tokenizer.fast.encode(text).tolist() == by_tokenizers(tokenizer, text).ids, text


def test_special_tokens_in_text_are_text():
  tokenizer = changed(added_tokens=added('<law>', True))
  assert isinstance(tokenizer.fast, FastBPE)
  ids = tokenizer.fast.encode('[MASK] and <law>')
  assert ids.tolist() == by_tokenizers(tokenizer, '[MASK] and <law>').ids
  assert not set(ids.tolist()) & {tokenizer.mask, 700}
