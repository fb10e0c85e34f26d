"""The tokenizer: deterministic, lossless, and honest about bytes, special tokens and words."""

import json
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from lmjax.data.config import SPECIAL_TOKENS, TokenizerConfig
from lmjax.data.corpus import unit
from lmjax.data.tokens import trainer
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.data.tokens.trainer import sample, train_tokenizer
from lmjax.errors import DataError

TEXTS = [
  f'The {word} sat on the {word}, and {number} more.\n' for number, word in enumerate(['cat', 'dog', 'hen'] * 40)
]
STRANGE = ['', ' ', 'naïve 語 \U0001f600\n\n\tx', 'e\u0301 a\u2028b\x00c', '[MASK] and [PAD]', "don't  do   it\r\n"]


@pytest.fixture(scope='module')
def tokenizer():
  return train_tokenizer(TEXTS, 400, 10_000)


def word_piece(*extra):
  vocabulary = {token: index for index, token in enumerate(['[UNK]', 'un', '##help', '##ful', '!', *extra])}
  backend = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token='[UNK]'))
  backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  return Tokenizer(backend)


def test_special_tokens_have_the_first_ids(tokenizer):
  ids = [tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.mask, tokenizer.cls, tokenizer.sep, tokenizer.unk]
  assert ids == list(range(7)) == tokenizer.special_ids
  assert [tokenizer.token(index) for index in ids] == list(SPECIAL_TOKENS)
  assert tokenizer.require('mask') == 3


def test_every_text_comes_back(tokenizer):
  for text in TEXTS + STRANGE:
    assert tokenizer.decode(tokenizer.encode(text)) == text
  assert tokenizer.encode_batch(STRANGE) == [tokenizer.encode(text) for text in STRANGE]


def test_text_cannot_write_special_tokens(tokenizer):
  assert min(tokenizer.encode('[MASK][EOS] [PAD]')) >= len(SPECIAL_TOKENS)


def test_a_vocabulary_of_bytes_alone_is_enough():
  tokenizer = train_tokenizer(['ab'], 263, 10)
  assert tokenizer.vocab_size == 263
  assert len(tokenizer.encode('語')) == 3


def test_training_is_the_same_in_every_process(tokenizer):
  code = (
    'import json, sys; from lmjax.data.tokens.trainer import train_tokenizer;'
    'print(train_tokenizer(json.load(sys.stdin), 400, 10_000).hash)'
  )
  for seed, threads in (('1', 'true'), ('2', 'false')):
    env = os.environ | {'PYTHONHASHSEED': seed, 'TOKENIZERS_PARALLELISM': threads}
    run = subprocess.run(
      [sys.executable, '-c', code], input=json.dumps(TEXTS), capture_output=True, text=True, env=env, check=True
    )
    assert run.stdout.strip() == tokenizer.hash


def test_save_and_load(tokenizer, tmp_path):
  path = str(tmp_path / 'tokenizer.json')
  tokenizer.save(path)
  assert os.listdir(tmp_path) == ['tokenizer.json']
  again = Tokenizer.load(path)
  assert again.hash == tokenizer.hash and again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
  assert train_tokenizer(TEXTS, 290, 10_000).hash != tokenizer.hash


def test_unusable_files_are_errors(tmp_path):
  for name, data in [('broken.json', b'{"model":'), ('other.json', b'{"a": 1}'), ('binary.json', b'\xff\xfe')]:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=name):
      Tokenizer.load(str(tmp_path / name))
  with pytest.raises(DataError, match='check the path'):
    Tokenizer.load(str(tmp_path / 'none.json'))
  with pytest.raises(DataError, match='cannot be written'):
    train_tokenizer(['ab'], 263, 10).save(str(tmp_path / 'no' / 'folder.json'))


def test_a_missing_special_token_is_named():
  with pytest.raises(DataError, match=r'no mask token.*\[MASK\].*add_special_tokens'):
    word_piece().require('mask')
  assert word_piece('[MASK]').mask == 5


def test_aliases_of_published_tokenizers():
  backend = tokenizers.Tokenizer(tokenizers.models.BPE())
  backend.add_special_tokens(['<s>', '<pad>', '</s>', '<mask>', '<|endoftext|>'])
  tokenizer = Tokenizer(backend)
  assert (tokenizer.bos, tokenizer.pad, tokenizer.eos, tokenizer.mask, tokenizer.unk) == (0, 1, 2, 3, None)
  backend = tokenizers.Tokenizer(tokenizers.models.BPE())
  backend.add_special_tokens(['<|endoftext|>'])
  assert Tokenizer(backend).eos == Tokenizer(backend).bos == 0


def test_token_bytes_sum_to_the_bytes_of_the_text(tokenizer):
  bytes_V = tokenizer.token_bytes()
  assert bytes_V.dtype == np.float32 and bytes_V.shape == (tokenizer.vocab_size,)
  for text in TEXTS[:5] + STRANGE:
    assert bytes_V[tokenizer.encode(text)].sum() == len(text.encode())
  assert not bytes_V[:7].any()
  assert word_piece().token_bytes() is None


def test_tokens_are_readable(tokenizer):
  assert tokenizer.token(tokenizer.encode(' the')[0]) == ' the'
  assert tokenizer.token(tokenizer.encode('語')[0]) == '\\xe8'
  assert tokenizer.token(10**6) == '<id 1000000>'


def test_a_long_text_in_pieces_encodes_alike(tokenizer):
  rng = np.random.default_rng(0)
  parts = [' ', ' ', '  ', '\n', '\t', 'a', 'Cat', '12', "'s", '!?', 'é', '語', '\u00a0', '\u0301', '\r\n', '_']
  for size in (1, 5, 40):
    text = ''.join(rng.choice(parts, 3_000))
    pieces = list(tokenizer.pieces(text, size))
    assert len(pieces) > 10 and ''.join(pieces) == text
    assert sum(tokenizer.encode_batch(pieces), []) == tokenizer.encode(text)
  assert list(word_piece().pieces('a b c d', 2)) == ['a b c d']


def whole_texts(prepend, crossing=False, split=False):
  """A BPE without a pre-tokenizer, as SentencePiece's are converted: spaces become ▁, unknown characters bytes."""
  n = tokenizers.normalizers
  learner = tokenizers.Tokenizer(tokenizers.models.BPE())
  if not crossing:
    learner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme='always')
  else:
    learner.normalizer = n.Replace(' ', '▁')
  texts = TEXTS + ['a  b   c\n\n d the the']
  learner.train_from_iterator(texts, tokenizers.trainers.BpeTrainer(vocab_size=200, show_progress=False))
  model = json.loads(learner.to_str())['model']
  names = [*(f'<0x{i:02X}>' for i in range(256)), *(token for token in model['vocab'])]
  names += ['▁▁', '▁▁▁']
  merges = [tuple(pair) for pair in model['merges']] + [('▁', '▁'), ('▁▁', '▁')]
  ids = {name: i for i, name in enumerate(dict.fromkeys(names))}
  backend = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges, byte_fallback=True))
  backend.normalizer = n.Sequence([*([n.Prepend('▁')] if prepend else []), n.Replace(' ', '▁')])
  if split:
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(' ', 'merged_with_previous')
  return Tokenizer(backend)


@pytest.mark.parametrize(
  'prepend, split', [(True, False), (False, False), (False, True)], ids=['llama', 'bare', 'gemma']
)
def test_a_tokenizer_without_a_pre_tokenizer_takes_pieces(prepend, split):
  """The whole text is the oracle: no token may change, whatever stands around the cut."""
  tokenizer, draw = whole_texts(prepend, split=split), np.random.default_rng(1)
  parts = [' ', ' ', ' ', '  ', '\n', 'the cat', 'sat', 'more', '12', '!', 'é', '語', '\u0301', 'on the']
  for size in (1, 7, 40):
    text = ''.join(draw.choice(parts, 2_000))
    pieces = list(tokenizer.pieces(text, size))
    assert len(pieces) > 10
    assert sum(tokenizer.encode_batch(pieces), []) == tokenizer.encode(text)
    assert max(map(len, pieces)) < len(text) and not tokenizer.takes_whole_texts
  assert len(list(tokenizer.pieces('the cat sat ▁ on the cat ' * 20, 10))) == 1, (
    'a space of its own may join those around it'
  )


def test_tokens_that_reach_over_spaces_keep_texts_whole(tmp_path, capsys):
  tokenizer = whole_texts(False, crossing=True)
  assert any('▁' in token[1:].lstrip('▁') for token in tokenizer._ids)
  assert tokenizer.takes_whole_texts and len(list(tokenizer.pieces('the cat sat on ' * 9, 10))) == 1
  unit._estimate(['short', ''.join(TEXTS * 30)], tokenizer)
  said = capsys.readouterr().out
  assert re.match(r'a document of 0.1 MB takes about \d+ s \(\d+\.\d\d MB/s\): its tokenizer has no pre-tok', said), (
    said
  )
  unit._estimate(['short'], tokenizer)
  unit._estimate([''.join(TEXTS * 30)], whole_texts(True))
  assert not capsys.readouterr().out


def test_sample_is_capped_and_spread_and_does_not_depend_on_order():
  texts = [f'{number:05d}' * 2 for number in range(3_000)]
  drawn = sample(texts, 1_000)
  assert 900 < sum(map(len, drawn)) <= 1_000
  assert drawn == sample(texts[::-1], 1_000)
  places = sorted(texts.index(text) for text in drawn)
  assert places[0] < 600 and places[-1] > 2_400
  assert sample(['word ' * 10_000], 100)  # one long text: a piece of it


def test_sample_reads_a_bounded_part_of_the_stream():
  def endless():
    while True:
      yield 'ten bytes.'

  assert sum(map(len, sample(endless(), 100))) <= 100


def test_word_classes_of_byte_level_and_word_piece(tokenizer):
  first, _ = tokenizer.word_classes()
  assert first[tokenizer.encode(' the')[0]] == 0  # begins with a space
  assert word_piece().word_classes()[0].tolist() == [0, 0, 4, 4, 0]


def test_config_takes_a_path_or_what_training_needs():
  assert not list(TokenizerConfig('a.json', None, None, None).problems())
  assert not list(TokenizerConfig(None, 263, 1, False).problems())
  for config, leaves in [
    (TokenizerConfig(None, None, None, None), ['vocab_size', 'sample_bytes', 'lowercase']),
    (TokenizerConfig('a.json', 300, 1, True), ['vocab_size', 'sample_bytes', 'lowercase']),
    (TokenizerConfig(None, 262, 1, False), ['vocab_size']),
  ]:
    assert [problem[0] for problem in config.problems()] == leaves


def test_lower_case_is_part_of_the_tokenizer(tmp_path):
  tokenizer = train_tokenizer(TEXTS, 400, 10_000, lowercase=True)
  assert tokenizer.encode('The CAT') == tokenizer.encode('the cat')
  assert tokenizer.decode(tokenizer.encode('The CAT')) == 'the cat'
  tokenizer.save(str(tmp_path / 'lower.json'))
  assert Tokenizer.load(str(tmp_path / 'lower.json')).encode('The CAT') == tokenizer.encode('the cat')
  # places in the original text, capitals and all
  [(encoded, offsets)] = tokenizer.encode_with_offsets(['An Éclair'])
  assert len(encoded.ids) == len(offsets) and offsets[-1][1] == len('An Éclair')


def test_texts_are_encoded_some_at_a_time(tokenizer, monkeypatch):
  """The library's lists are ten times as large as the ids: of a whole split they would fill the memory."""
  parts, encode = [], Tokenizer.encode_arrays
  monkeypatch.setattr(
    Tokenizer, 'encode_arrays', lambda self, texts: (parts.append(len(texts)), encode(self, texts))[1]
  )
  texts = ['the snow falls', 'a river'] * 1100 + ['the north ' * 60_000] * 3
  found = list(tokenizer.encode_each(iter(texts)))
  assert parts == [1024, 1024, 152 + 2, 1]
  assert [one.ids.tolist() for one in found[:2]] == [tokenizer.encode(text) for text in texts[:2]]
  assert len(found) == len(texts) and len(found[-1].ids) == len(tokenizer.encode(texts[-1]))
  assert found[0].n_bytes == 14 and not any(one.unknown_bytes for one in found)


def test_runs_without_spaces_are_cut_to_train_on(capsys):
  """Or training would take the square of their length: DNA, scripts without spaces."""
  draw = random.Random(0)
  dna = ''.join(draw.choice('ACGT') for _ in range(300_000))
  parts = trainer._bounded(f'{dna} and {dna[:1000]} and {"." * 2500}')
  assert ''.join(parts) == f'{dna} and {dna[:1000]} and {"." * 2500}' and len(parts) == 300 + 2
  assert max(len(run) for part in parts for run in re.findall(r'[ACGT]+|[.]+', part)) == 1000
  trained = train_tokenizer([dna], 300, 1_000_000)
  assert capsys.readouterr().out == 'tokenizer: 299 cuts in runs of over 1,000 letters, digits or others\n'
  assert trained.decode(trained.encode(dna)) == dna


def letters(model, normalizer=None):
  backend = tokenizers.Tokenizer(model)
  backend.pre_tokenizer, backend.normalizer = tokenizers.pre_tokenizers.WhitespaceSplit(), normalizer
  return Tokenizer(backend, 'letters.json')


IDS = {letter: number for number, letter in enumerate('abcdefgh')}


@pytest.mark.parametrize(
  'tokenizer_of, text, unknown, missed',
  [
    (word_piece, 'unhelpful unseen !', 1, 6),  # a word is unknown as a whole
    (word_piece, 'un Ж\u0301!', 1, 4),
    (lambda: letters(tokenizers.models.BPE(IDS, [])), 'ab xé\ncd', 0, 3),  # left out without a word
    (lambda: letters(tokenizers.models.BPE(IDS | {'?': 9}, [], unk_token='?')), 'ab xé\ncd', 2, 3),
    (lambda: letters(tokenizers.models.WordLevel(IDS | {'??': 9}, unk_token='??')), 'a b xyz Жы', 2, 7),
    (lambda: letters(tokenizers.models.BPE(IDS, []), tokenizers.normalizers.Lowercase()), 'AB cd', 0, 0),
    (lambda: train_tokenizer(['ab'], 263, 10), '語 Ж', 0, 0),
    (lambda: train_tokenizer(['ab'], 263, 10, lowercase=True), '語 Ж', 0, 0),
  ],
  ids=['words', 'words with accents', 'dropped', 'characters', 'whole words', 'lower case', 'bytes', 'lower bytes'],
)
def test_what_it_does_not_know_is_counted_in_bytes(tokenizer_of, text, unknown, missed):
  tokenizer = tokenizer_of()
  [encoded] = tokenizer.encode_each([text])
  assert (encoded.n_bytes, encoded.unknown_bytes) == (len(text.encode()), missed)
  assert (encoded.ids == tokenizer.unk).sum() == unknown
  [(again, _)] = tokenizer.encode_with_offsets([text])
  assert again.unknown_bytes == missed and again.ids.tolist() == encoded.ids.tolist()


@pytest.mark.parametrize(
  'model',
  [tokenizers.models.Unigram([('a', -1.0), ('b', -2.0)], None), tokenizers.models.WordLevel(IDS, unk_token='[UNK]')],
  ids=['unigram', 'words'],
)
def test_a_character_without_a_token_names_the_text(model):
  tokenizer = letters(model)
  assert len(tokenizer.encode('a b')) == 2
  said = r"letters.json: cannot encode the text that begins 'a Ж(x+)\.\.\.' \(.+\); each character must have a token"
  for encode in (tokenizer.encode_batch, lambda texts: list(tokenizer.encode_each(texts))):
    with pytest.raises(DataError, match=said):
      encode(['a b', 'a Ж' + 'x' * 100, 'b'])


def test_who_gives_bytes_back():
  """Bits a byte are those of the text that was given, or none."""
  trained = train_tokenizer(TEXTS, 300, 10_000)
  with_bytes = tokenizers.Tokenizer(
    tokenizers.models.BPE({f'<0x{i:02X}>': i for i in range(256)} | {'▁': 256}, [], byte_fallback=True)
  )
  with_bytes.normalizer = tokenizers.normalizers.Sequence(
    [tokenizers.normalizers.Prepend('▁'), tokenizers.normalizers.Replace(' ', '▁')]
  )
  decoders = tokenizers.decoders
  with_bytes.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()])
  lower = train_tokenizer(TEXTS, 300, 10_000, lowercase=True)
  assert [t.gives_bytes_back for t in (trained, Tokenizer(with_bytes), lower, word_piece())] == [
    True,
    True,
    False,
    False,
  ]
  assert [t.is_lossless for t in (trained, Tokenizer(with_bytes), lower, word_piece())] == [True, True, True, False]
