"""The settings of what is read: text or labelled examples, tokenizer, rows, masks."""

import glob
import math
import os
from collections.abc import Iterator
from typing import Annotated, Literal

from annotated_types import Le

from lmjax.data.sources import conditions, formats, remote
from lmjax.schema.types import Bool, Fraction, PositiveFloat, PositiveInt, Share, section

SPECIAL_TOKENS = ('[PAD]', '[BOS]', '[EOS]', '[MASK]', '[CLS]', '[SEP]', '[UNK]')
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
# The trainer makes room for all entries at once; published vocabularies have about a million at most.
_LARGEST_VOCABULARY = 1 << 24
RecordKind = Literal['classification', 'regression', 'multi_label', 'extractive_qa', 'summarization']
# What the fields of a source are, in the order in which `data.fields` names them.
FIELDS: dict[RecordKind, list[tuple[str, ...]]] = {
  **dict.fromkeys(('classification', 'regression', 'multi_label'), [('text', 'label'), ('text', 'text_pair', 'label')]),
  'summarization': [('document', 'summary')],
  'extractive_qa': [('id', 'question', 'context')],
}
BadText = Literal['raise', 'replace', 'skip']


@section
class SourceConfig:
  """One corpus of a mixture.

  path: 'pydoc'; a file, a folder (all readable files below it) or a glob (** for folders, {a,b} for either), also at
    gs://, s3://, https:// or hf://; hf:NAME[/CONFIG][@SPLIT], a data set of the Hugging Face Hub; or
    tfds:NAME[/CONFIG][@SPLIT]. docs/real_files.md lists the kinds of file
  field: the field, column or key that holds the text; a.b is the key 'a.b' where there is one, else b inside a. None
    for pydoc, plain text (.txt, .md) and tokens (.bin, .ds, .npy); in a folder with others it is theirs
  weight: share of the rows drawn from this source, relative to the other sources
  max_epochs: how often a run may read it, at most; one that would read it more often is refused
  keep: conditions on fields that must all hold of a document, such as 'language=en|de', 'lang!=xx' or 'score>=3'
    (docs/data.md); others are left out and counted
  """

  path: str
  field: str | None
  weight: PositiveFloat
  max_epochs: PositiveFloat | None = None
  keep: tuple[str, ...] = ()

  def problems(self) -> Iterator[tuple[str, str, str]]:
    """(setting, rule, remedy) of each rule between the settings that does not hold."""
    if _has_fields(self.path):
      if not self.field:
        yield 'field', f'must name the text field of {self.path}', "give a name, such as 'text'"
    elif self.field is not None:
      yield 'field', f'must be None, since {self.path} {_what(self.path)}', 'set it to None'
    if self.keep and not _has_fields(self.path):
      yield 'keep', f'must be (), since {self.path} {_what(self.path)}', 'set it to ()'
    for text in self.keep:
      try:
        conditions.parsed(text)
      except ValueError as error:
        yield 'keep', *error.args


@section
class TokenizerConfig:
  """A tokenizer.json to load, or how to train one.

  path: a tokenizer.json in Hugging Face format, or None to train a byte-level BPE on the corpus
  vocab_size: entries of the tokenizer to train, 256 bytes and 7 special tokens among them; None with a path
  sample_bytes: how much text of the corpus, at most, to train it on; None with a path
  lowercase: whether the tokenizer to train makes all text lower case first; None with a path
  """

  path: str | None
  vocab_size: PositiveInt | None
  sample_bytes: PositiveInt | None
  lowercase: Bool | None

  def problems(self) -> Iterator[tuple[str, str, str]]:
    """(setting, rule, remedy) of each rule between the settings that does not hold."""
    for setting in ('vocab_size', 'sample_bytes', 'lowercase'):
      is_given = getattr(self, setting) is not None
      if self.path is None and not is_given:
        yield setting, 'must be given, since no tokenizer path is', 'give it, or a path'
      if self.path is not None and is_given:
        yield setting, f'must be None, since {self.path} is loaded, not trained', 'set it to None'
    size = self.vocab_size
    if size is not None and self.path is None and size < SMALLEST_VOCABULARY:
      rule = f'must be {SMALLEST_VOCABULARY} or more: 256 bytes and {len(SPECIAL_TOKENS)} special tokens'
      yield 'vocab_size', rule, f'set it to {SMALLEST_VOCABULARY} or more'
    if size is not None and size > _LARGEST_VOCABULARY:
      yield 'vocab_size', f'must be at most {_LARGEST_VOCABULARY:,}', 'set it to less, such as 32768'


@section
class DataConfig:
  """The text and how it is cut into batches.

  sources: the corpora, by name; rows are drawn from each by its weight
  tokenizer: the tokenizer to load or to train; None: the checkpoint's
  rows: 'concat' (documents joined), 'packed' (joined, but attention does not cross) or 'padded' (one a row)
  length: tokens of an example
  batch_size: rows of a batch, over all hosts
  cls_sep: whether each row stands between [CLS] and [SEP]
  valid_fraction: share of the documents held out for validation
  valid_bytes: how many bytes of held-out text an evaluation reads per source; None for all
  bad_text: what to do about text that is not UTF-8: 'raise' an error, 'replace' it, 'skip' the document
  cache_dir: folder, or address, of token shards and trained tokenizers; hosts that share it share the work
  max_unknown: share of a source's bytes, at most, that no known token of the tokenizer stands for
  temperature: each weight is multiplied by tokens ** (1 / temperature) of its source, so 1 draws by size, more evens it
    out, and None leaves the weights as they are
  """

  sources: dict[str, SourceConfig]
  tokenizer: TokenizerConfig | None
  rows: Literal['concat', 'packed', 'padded']
  length: PositiveInt
  batch_size: PositiveInt
  cls_sep: Bool
  valid_fraction: Annotated[PositiveFloat, Le(1)]
  valid_bytes: PositiveInt | None
  bad_text: BadText
  cache_dir: str
  max_unknown: Share = 0.01
  temperature: PositiveFloat | None = None

  def problems(self) -> Iterator[tuple[str, str, str]]:
    """(setting, rule, remedy) of each rule between the settings that does not hold."""
    if self.temperature is not None and len(self.sources) == 1:
      yield 'temperature', 'has no effect with one source', 'set it to None'
    if self.valid_fraction == 1:  # of the class, but not of a run: an evaluation of other text holds all of it out
      yield 'valid_fraction', 'must be below 1, or nothing is trained on', 'set it to 0.1, say'
    if not self.sources:
      yield 'sources', 'must name at least one corpus', "add one, such as data='pydoc'"
    tokens = [source.path for source in self.sources.values() if formats.holds_tokens(source.path)]
    if tokens and self.tokenizer is not None and self.tokenizer.path is None:
      rule = f'must name the tokenizer that {tokens[0]} was made with: none can be trained on tokens'
      yield 'tokenizer.path', rule, 'give its tokenizer.json'
    for name, source in self.sources.items():
      if not name.isidentifier():
        yield 'sources', f'{name!r} must be of letters, digits and _, since it names a folder', 'rename the source'
      if len(self.sources) == 1 and source.weight != 1:
        yield f'sources.{name}.weight', 'has no effect with one source', 'set it to 1.0'
    if self.cls_sep and self.rows == 'packed':
      rule = "must be False with rows 'packed': [CLS] and [SEP] belong to a row of its own"
      yield 'cls_sep', rule, "set it to False, or rows to 'concat' or 'padded'"
    if self.cls_sep and self.length < 3:
      yield 'length', 'must leave room between [CLS] and [SEP]', 'set it to 3 or more'
    if not self.cache_dir:
      yield 'cache_dir', 'must name a folder', "set it to one, such as 'cache'"
    for source in self.sources.values():
      if _is_below(self.cache_dir, source.path):
        yield 'cache_dir', f'must not lie in {source.path}, all of whose files are text to read', 'name another folder'


@section
class RecordsConfig:
  """Labelled examples, and how they are cut into batches.

  train: 'demo' (embedded), a file or glob of .jsonl, .csv or .tsv (SQuAD's .json for extractive_qa), or
    tfds:NAME[/CONFIG][@SPLIT]
  valid: the same, for choosing; None: a share of the training examples
  valid_fraction: that share; None where valid is given
  test: the same, looked at once, when training has ended; None for none
  fields: the sources' field names: text, label or text, text pair, label (classification); document, summary
    (summarization); None: by their usual names (extractive_qa reads SQuAD's format)
  train_share: share of the training examples that is used, for learning curves
  valid_examples: how many validation examples an evaluation reads; None for all
  tokenizer: the tokenizer to load or to train on the training texts; None: the checkpoint's
  length: tokens of a row
  batch_size: rows of a batch, over all hosts
  bad_text: what to do about text that is not UTF-8: 'raise' an error, 'replace' it, 'skip' the example
  max_unknown: share of a split's bytes, at most, that no known token of the tokenizer stands for
  separator: what stands between the labels in a field, where a text has many; None: the field holds a list
  """

  train: str
  valid: str | None
  valid_fraction: Fraction | None
  test: str | None
  fields: tuple[str, ...] | None
  train_share: Annotated[PositiveFloat, Le(1)]
  valid_examples: PositiveInt | None
  tokenizer: TokenizerConfig | None
  length: PositiveInt
  batch_size: PositiveInt
  bad_text: BadText
  max_unknown: Share = 0.01
  separator: str | None = None

  def problems(self) -> Iterator[tuple[str, str, str]]:
    """Either a validation set or a share."""
    if self.separator == '':
      yield 'separator', 'must be a character or more', "set it to one, such as ';', or to None for lists"
    if (self.valid is None) == (self.valid_fraction is None):
      rule = f'{"is needed" if self.valid is None else "has no effect"} with data.valid = {self.valid}'
      yield 'valid_fraction', rule, 'give one of the two'


@section
class MaskingConfig:
  """Which tokens of a row a masked language model must predict, and what it sees in their place.

  unit: what is masked together: 'token', 'word' (all tokens of a word) or 'span' (runs of random length)
  rate: share of the tokens to predict
  mask_share: share of the predicted tokens that are shown as [MASK] (BERT: 0.8)
  random_share: share shown as a random token (BERT: 0.1)
  keep_share: share shown as they are (BERT: 0.1); the three sum to 1
  mean_span: mean of the geometric length of a span before it is capped, in tokens; None unless unit is 'span'
  max_span: longest span in tokens; None unless unit is 'span'
  """

  unit: Literal['token', 'word', 'span']
  rate: Fraction
  mask_share: Share
  random_share: Share
  keep_share: Share
  mean_span: PositiveFloat | None
  max_span: PositiveInt | None

  def problems(self) -> Iterator[tuple[str, str, str]]:
    """(setting, rule, remedy) of each rule between the settings that does not hold."""
    total = self.mask_share + self.random_share + self.keep_share
    if abs(total - 1) > 1e-6:
      rule = f'must sum to 1 with mask_share and random_share, not to {total:g}'
      yield 'keep_share', rule, f'set it to {1 - self.mask_share - self.random_share:g}'
    for setting in ('mean_span', 'max_span'):
      is_given = getattr(self, setting) is not None
      if self.unit == 'span' and not is_given:
        yield setting, "must be given with unit 'span'", 'give a number of tokens'
      if self.unit != 'span' and is_given:
        yield setting, f'must be None with unit {self.unit!r}', 'set it to None'
    if self.unit == 'span' and self.mean_span is not None and self.mean_span < 1:
      yield 'mean_span', 'must be 1 or more: no span is shorter than a token', 'set it to 1 or more'

  def slots(self, length: int) -> int:
    """K, the slots of an example of `length` tokens: ceil(rate * length)."""
    # 0.07 * 100 is 7.000000000000001 in floating point, which must not make an eighth slot.
    return math.ceil(round(self.rate * length, 6))


def default_field(path: str, field: str = 'text') -> str | None:
  """What a config file writes for `SourceConfig.field`: `field` where the source has fields, else None.

  >>> default_field('corpus/*.jsonl.xz'), default_field('pydoc'), default_field('novel.txt')
  ('text', None, None)
  """
  return field if _has_fields(path) else None


def _has_fields(path: str) -> bool:
  return path != 'pydoc' and formats.has_fields(path)


def _is_below(folder: str, source: str) -> bool:
  """Whether what a folder holds would be read as text of a source that is a folder."""
  is_other = source == 'pydoc' or source.startswith(('hf:', 'tfds:')) or glob.has_magic(source)
  if is_other or formats.format_of(source) or remote.is_url(source) != remote.is_url(folder):
    return False
  if not remote.is_url(source):
    folder, source = (os.path.abspath(os.path.expanduser(path)) for path in (folder, source))
  begin, folder = (path.rstrip('/') + '/' for path in (source, folder))
  inside = folder.removeprefix(begin)
  return folder.startswith(begin) and not any(part.startswith('.') for part in inside.split('/'))  # those are not read


def _what(path: str) -> str:
  return 'holds tokens' if formats.holds_tokens(path) else 'is plain text without fields'
