"""Digests of normalised text: the quick way for text with few other characters than ASCII is the plain one."""

import random
import unicodedata

from lmjax.data import digests


def plain(text):
  folded = unicodedata.normalize('NFKC', unicodedata.normalize('NFKC', text).casefold())
  return ' '.join(folded.split()).encode('utf-8', 'surrogatepass')


def test_every_character_is_normalised_as_it_is_alone():
  rest = 'x' * 80
  for code in (*range(0x3400), *range(0xA000, 0xAC00), *range(0xD7B0, 0x11000), *range(0x1D000, 0x1F000)):
    text = f'Abc E{chr(code)}\u0301F \x1c{rest}{chr(code)} Q'
    assert digests._words(text) == plain(text), hex(code)


def test_marks_and_spaces_anywhere():
  draw, marks = random.Random(0), [chr(code) for code in range(0x3400) if unicodedata.combining(chr(code))]
  others = [*marks, *'\xa0\x85\u2003\u2028\u1680\ufb01\u0130\u00df\u2019\uff21\u212a']
  for _ in range(20_000):
    letters = draw.choices('ABCdef \n\tXyz0\x1c\x0b', k=draw.randint(60, 90))
    for _ in range(draw.randint(0, 3)):
      letters.insert(draw.randrange(len(letters)), draw.choice(others))
    text = ''.join(letters)
    assert digests._words(text) == plain(text), ascii(text)


def test_a_long_text_is_normalised_as_its_parts(monkeypatch):
  text = 'The  Law of Caf\u00c9s, \ufb01rst \u2019 part.\n' * 50
  whole = digests.normalised_digest64(text)
  monkeypatch.setattr(digests, '_PART', 100)
  assert digests.normalised_digest64(text) == whole == digests.normalised_digest64(text.upper().replace(' ', '\u2003'))


def test_texts_that_are_normalised_together_have_the_digests_that_each_has_alone():
  draw = random.Random(0)
  kinds = [
    '',
    ' \n',
    'The  Law\n',
    '\xa0',
    '\xff',
    'caf\u00c9 ' * 20,
    '\u0301',
    '\u4e00\u4e8c',
    '\x00',
    'ab' * 10_000,
    'x\u2019s ' * 300,
  ]
  for _ in range(500):
    texts = [''.join(draw.choices(kinds, k=draw.randint(0, 4))) for _ in range(draw.randint(0, 9))]
    data = [text.encode('utf-8') for text in texts]
    expected = [(len(one), digests.digest64(one), digests.normalised_digest64(text)) for text, one in zip(texts, data)]
    assert list(digests.digests64(texts)) == expected
