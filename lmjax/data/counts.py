"""What a run's data holds, and what was left out of it: `data` of results.json, and a line for people.

Counts are {split or source: {name: number}}, with the names of `SHOWN` and `SHARES` and, as far as they apply,
`examples` (documents of a source, before duplicates and held-out ones are taken away), `tokens`, `bytes`, `skipped`
({reason: number}) and `classes` ({class: number}).
"""

from collections.abc import Mapping
from typing import Any

from lmjax.errors import DataError

Counts = dict[str, dict[str, Any]]

# How each is put to people; what there is none of is left out.
SHOWN = {
  'held_out': 'held out',
  'duplicates': 'duplicates dropped',
  'filtered': 'filtered out',
  'replaced': 'texts repaired',
  'windows': 'windows',
  'no_answer': 'without an answer',
  'no_label': 'without a label',
  'misplaced_answers': 'answers not where their record says',
  'inexact_answers': 'answers whose ends fall inside a token',
}
# Those that are a share of another count.
SHARES = {
  'cut_tokens': ('tokens', 'tokens cut'),
  'cut_summary_tokens': ('summary_tokens', 'tokens of summaries cut'),
  'unknown_tokens': ('tokens', 'tokens unknown'),
  'unknown_bytes': ('bytes', 'bytes that no known token stands for'),
}
# So many classes are named.
_NAMED = 10


def of_split(examples: int, counter: Mapping[str, int], **more: int) -> dict[str, Any]:
  """The counts of a split, from those of what was skipped ('bad_text', ...) and repaired ('replaced').

  >>> of_split(7, {'empty_text': 1, 'bad_text': 0, 'replaced': 2}, duplicates=0)
  {'examples': 7, 'duplicates': 0, 'skipped': {'empty_text': 1}, 'replaced': 2}
  """
  skipped = {reason: count for reason, count in counter.items() if count and reason != 'replaced'}
  replaced = {'replaced': counter['replaced']} if counter.get('replaced') else {}
  return {'examples': examples, **more, 'skipped': skipped, **replaced}


def remarks(counts: Mapping[str, Any]) -> str:
  """What is to be known of one split or source, '' for nothing.

  >>> remarks({'examples': 7, 'tokens': 90, 'cut_tokens': 4, 'skipped': {'empty': 1}, 'classes': {'no': 2, 'yes': 5}})
  '1 skipped (1 empty); 4 of 90 tokens cut (4.4%); classes: yes 5, no 2'
  """
  parts = []
  if skipped := counts.get('skipped'):
    reasons = ', '.join(f'{count:,} {reason.replace("_", " ")}' for reason, count in skipped.items())
    parts.append(f'{sum(skipped.values()):,} skipped ({reasons})')
  parts += [f'{counts[name]:,} {text}' for name, text in SHOWN.items() if counts.get(name)]
  for name, (whole, text) in SHARES.items():
    if counts.get(name):
      parts.append(f'{counts[name]:,} of {counts[whole]:,} {text} ({counts[name] / counts[whole]:.1%})')
  if classes := counts.get('classes'):
    ordered = sorted(classes.items(), key=lambda item: -item[1])
    named = ', '.join(f'{name} {count:,}' for name, count in ordered[:_NAMED])
    parts.append(f'classes: {named}' + (f' and {len(ordered) - _NAMED:,} more' if len(ordered) > _NAMED else ''))
  return '; '.join(parts)


def described(counts: Counts) -> str:
  """Splits with how many examples they have, and remarks."""
  notes = {split: remarks(one) for split, one in counts.items()}
  return ', '.join(
    f'{one["examples"]:,} {split}' + f' ({notes[split]})' * bool(notes[split]) for split, one in counts.items()
  )


def check_known(where: str, counts: Mapping[str, Any], limit: float) -> None:
  """Refuses text of which the tokenizer does not know more than a share `limit` of the bytes."""
  unknown, n_bytes = counts['unknown_bytes'], counts['bytes']
  if unknown > limit * n_bytes:
    given = f'no known token stands for {unknown:,} of {n_bytes:,} bytes ({unknown / n_bytes:.1%})'
    rule = f'data.max_unknown = {limit:g} is the largest share'
    remedy = 'train a tokenizer on this text (data.tokenizer.path=None), start from another checkpoint, or raise it'
    raise DataError(f'{where}: {given}; {rule}; {remedy}')
