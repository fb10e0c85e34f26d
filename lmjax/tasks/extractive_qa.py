"""Extractive question answering as a task: answers are spans of the original text, by its characters.

Legend: T length of a row, N tokens of a context.
"""

import array
import collections
import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from lmjax.data import records
from lmjax.data.batches.rows import Ragged, RaggedBuilder
from lmjax.data.batches.windows import TokenPlaces, Windows, character_span, locate, windows
from lmjax.data.labelled.table import column
from lmjax.data.tokens.published import Frame
from lmjax.errors import DataError
from lmjax.models.heads import HeadedModel
from lmjax.objectives import spans
from lmjax.scoring import squad
from lmjax.tasks.causal_lm import quote
from lmjax.tasks.fine_tuning import SHOWN, Examples, FineTuningData, FineTuningTask


class ExtractiveQA(FineTuningTask):
  """A start and an end in the context, or none.

  Segment types, where the model has a table for them, are 0 for the question and 1 for the context; with three of them,
  2 for what stands in both (the exact match of DrQA, arXiv:1704.00051, section 3.2), which a model that has seen little
  text does not find by itself.
  """

  NAME = 'extractive_qa'
  SHAPE_ROWS = ('max_question', 'stride', 'max_answer')
  RANKING_METRIC, HIGHER_IS_BETTER = 'f1', True
  MAIN_METRIC, BASELINE = 'f1', None

  def __init__(self, model, objective, samples, data, tokenizer):
    super().__init__(model, objective, samples, data, tokenizer)
    usual = 'gelu_norm' if self.bidirectional and not self.norms_after_sums else 'linear'
    self.model = HeadedModel(self.backbone, 'span', 2, objective.head or usual)
    self.loss = spans.make_loss(self.model)
    self.outputs = spans.make_logits(self.model)
    # a question has no answer where none is better than the best answer by more than this
    self.threshold = 0.0

  @classmethod
  def resolve(cls, objective, read: records.Records):
    """Whether there are questions without an answer."""
    train = read.splits['train']
    without = sum(not answers for answers in column(train, 'answers'))
    if train and without == len(train):
      raise DataError(f'data.train: none of {without:,} questions has an answer; some must have one; check answers')
    if objective.no_answer is None:
      return dataclasses.replace(objective, no_answer=without > 0)
    if without and not objective.no_answer:
      raise DataError(
        f'data.train: {without:,} questions have no answer; with objective.no_answer = False each must have one; '
        'set it to True'
      )
    return objective

  @classmethod
  def example_records(cls, objective) -> list[dict]:
    """A question with an answer."""
    return [{'id': '0', 'question': 'a', 'context': 'a', 'answers': [{'text': 'a', 'answer_start': 0}]}]

  def load(self, read: records.Records) -> FineTuningData:
    """Rows of all records; training rows of questions whose answer cannot be used are left out, and counted."""
    data = super().load(read)
    train = data.splits['train']
    kept = np.flatnonzero(~train.rows.skipped)
    if not kept.size:
      why = ', '.join(f'{count:,} {reason.replace("_", " ")}' for reason, count in train.rows.left_out.items())
      rule = f'no question has an answer that stands in its context and is short enough ({why})'
      raise DataError(f'data.train: {rule}; check answers and answer_start, or raise objective.max_answer')
    data.splits['train'] = Examples(train.records, train.rows.some(kept), train.owners[kept])
    data.counts['train']['skipped'] |= train.rows.left_out
    data.counts['train']['windows'] = len(kept)
    return data

  def rows_of(self, items: Sequence[dict]) -> Examples:
    """A row a window of each record's context: the question, then the window, with special tokens around.

    A context is tokenised once, however many questions there are about it, and its windows are cut when they are read.
    """
    number_of: dict[str, int] = {}
    of_record = (number_of.setdefault(context, len(number_of)) for context in column(items, 'context'))
    context_of = np.fromiter(of_record, np.int32, len(items))
    contexts, offsets, questions = RaggedBuilder(), RaggedBuilder(), RaggedBuilder()
    sizes = np.zeros((3, len(number_of)), np.int64)  # of a context: tokens, bytes, bytes that are not known
    for number, (encoded, offsets_N2) in enumerate(self.tokenizer.encode_with_offsets(number_of)):
      contexts.add(encoded.ids)
      offsets.add(offsets_N2.reshape(-1))
      sizes[:, number] = len(encoded.ids), encoded.n_bytes, encoded.unknown_bytes
    of_questions = np.zeros(2, np.int64)
    for question in self.tokenizer.encode_each(column(items, 'question')):
      questions.add(question.ids)
      of_questions += question.n_bytes, question.unknown_bytes
    made = questions.made(), contexts.made(), offsets.made().flat.reshape(-1, 2)
    table, found, left_out = self._table(items, context_of, *made)
    n_tokens, n_bytes, unknown_bytes = sizes[:, context_of].sum(1) + [len(made[0].flat), *of_questions]
    of_context = np.add.reduceat(np.append(made[1].flat == self.tokenizer.unk, 0), made[1].begins[:-1])
    of_context[made[1].sizes == 0] = 0
    unknown = int((made[0].flat == self.tokenizer.unk).sum()) + int(of_context[context_of].sum())
    cut = int(np.maximum(made[0].sizes - self.objective.max_question, 0).sum())
    counts = {'tokens': int(n_tokens), 'cut_tokens': cut, 'unknown_tokens': unknown, 'bytes': int(n_bytes)}
    counts |= {'unknown_bytes': int(unknown_bytes), **found}
    rows = Windows(items, *self._kind, *made, context_of, table, counts, left_out)
    return Examples(items, rows, table[:, 0])

  def reopened(self, items: Sequence[dict], arrays, more) -> Examples:
    """What `rows_of` made of the same records before."""
    rows = Windows.from_arrays(arrays, more, items, *self._kind)
    return Examples(items, rows, rows.table[:, 0])

  @property
  def _kind(self) -> tuple[Frame, bool, int]:
    """What all windows share: special tokens, whether the model reads from both sides, tokens of a question."""
    return self.frame, self.bidirectional, self.objective.max_question

  def _table(self, items, context_of, questions: Ragged, contexts: Ragged, offsets) -> tuple[np.ndarray, dict, dict]:
    """(`Windows.table`, counts of what is to be known of the answers, questions that are left out by the reason)."""
    counts, left_out, table = collections.Counter(), collections.Counter(), array.array('i')
    special, newest, places = sum(map(len, self.frame)), -1, TokenPlaces(np.zeros((0, 2), np.int32))
    question_sizes = np.minimum(questions.sizes, self.objective.max_question).tolist()
    given = zip(context_of.tolist(), question_sizes, column(items, 'context'), column(items, 'answers'))
    for number, (context, question_size, text, right) in enumerate(given):
      if context != newest:
        begin, end = contexts.begins[context : context + 2].tolist()
        newest, places = context, TokenPlaces(offsets[begin:end])
      answers, too_long = self._answers(text, right, places, counts, left_out)
      room = self.data.length - question_size - special
      # an answer of any length that is allowed must lie whole in one of them
      stride = min(self.objective.stride, max(room + 1 - self.objective.max_answer, 1))
      for low, high in windows(end - begin, room, stride):
        place = next(((first, last) for first, last in answers if low <= first and last < high), (-1, -1))
        # none would be wrong where there is an answer that cannot be given
        skip = place == (-1, -1) and any(first < high and low <= last for first, last in too_long)
        table.extend((number, low, high, *place, skip))
    return np.frombuffer(table, np.int32).reshape(-1, 6), dict(counts), dict(left_out)

  def counts_of(self, examples: Examples) -> dict:
    """Of questions and their contexts; and what is to be known of the answers."""
    return {'windows': len(examples)} | dict(examples.rows.counts)

  @property
  def limit(self) -> str:
    """The setting that decides how much is read."""
    return f'objective.max_question = {self.objective.max_question}'

  def read_of(self, examples: Examples) -> list[tuple[int, int]]:
    """(tokens that are read, all of them) of each question and its context, which is read in windows."""
    rows = examples.rows
    contexts, questions = rows.contexts.sizes[rows.context_of], rows.questions.sizes
    kept = np.minimum(questions, rows.longest)
    return list(zip((kept + contexts).tolist(), (questions + contexts).tolist()))

  def _answers(self, context: str, right, places: TokenPlaces, counts, left_out) -> tuple[list, list]:
    """First and last context token of each right answer, in their order: those that may be given, and the longer ones.

    Where none of a record's answers may be given, its whole context counts as one that is too long.
    """
    may_be_given, too_long, found = [], [], {}
    for answer in right or ():  # often several people gave the same one
      text, start = answer['text'], answer['answer_start']
      if (text, start) not in found:
        found[text, start] = self._span(context, text, start, places)
      span, misplaced, inexact = found[text, start]
      counts['misplaced_answers'] += misplaced
      if span is None:
        continue
      counts['inexact_answers'] += inexact
      (may_be_given if span[1] - span[0] < self.objective.max_answer else too_long).append(span)
    counts['no_answer'] += right == []
    if right and not may_be_given:
      left_out['long_answer' if too_long else 'answer_not_in_context'] += 1
      too_long = [(0, len(places.offsets))]
    return may_be_given, too_long

  def _span(self, context: str, text: str, start: int, places: TokenPlaces):
    """(first and last token of an answer or None, whether it stands elsewhere, whether its ends are inside tokens)."""
    place = locate(context, text, start)
    span = None if place is None else places.span(place, place + len(text))
    if span is None:
      return None, place != start, False
    begin, end = character_span(context, places.offsets, *span)
    return span, place != start, context[begin:end] != text.strip()

  def example(self, row) -> dict[str, np.ndarray]:
    """A row -> inputs, segments, segment_types, candidates [T]; starts, ends and weights (scalars)."""
    tokens, second, stop = row['tokens'], row['second'], row['stop']
    padded = self.padded(tokens, second)
    if (self.backbone.config.segment_types or 0) > 2:
      padded['segment_types'][second:stop] += np.isin(tokens[second:stop], row['question'])
    candidates_T = np.zeros(self.data.length, np.int32)
    candidates_T[second:stop] = 1
    candidates_T[row['null']] = 1
    start, end = row['places']
    labels = {'starts': np.array(start, np.int32), 'ends': np.array(end, np.int32), 'weights': np.ones((), np.float32)}
    return {**padded, 'candidates': candidates_T, **labels}

  def answers(self, examples: Examples, outputs) -> list[dict]:
    """For each record its best answers over all windows, and how much better none is than the best (nats)."""
    candidates: list[list] = [[] for _ in examples.records]
    null = np.full(len(examples.records), np.inf)
    for row, owner, start_T, end_T in zip(examples.rows, examples.owners, outputs['start'], outputs['end']):
      null[owner] = min(null[owner], start_T[row['null']] + end_T[row['null']])
      candidates[owner] += self._spans(row, start_T, end_T)
    predictions = []
    for record, spans_, none in zip(examples.records, candidates, null):
      best: dict[tuple[int, int], float] = {}
      for score, begin, end in sorted(spans_, reverse=True):
        if begin < end:
          best.setdefault((begin, end), score)
      n_best = [
        {'text': record['context'][b:e], 'start': b, 'end': e, 'score': float(s)}
        for (b, e), s in list(best.items())[: self.objective.n_best]
      ]
      top = n_best[0]['score'] if n_best else -np.inf
      predictions.append({'n_best': n_best, 'no_answer_score': float(none - top)})
    return predictions

  def _spans(self, row, start_T, end_T) -> list[tuple[float, int, int]]:
    """(score, first character, end) of the likeliest spans of a window."""
    low, high = row['second'], row['stop']
    n = min(self.objective.n_best, high - low)
    starts = low + np.argsort(-start_T[low:high], kind='stable')[:n]
    ends = low + np.argsort(-end_T[low:high], kind='stable')[:n]
    places = [(s, e) for s in starts for e in ends if s <= e < s + self.objective.max_answer]
    if not places:  # the likeliest ones do not fit each other: the best end for the likeliest start
      s = starts[0]
      places = [(s, s + np.argmax(end_T[s : min(s + self.objective.max_answer, high)]))]
    scored = [(float(start_T[s] + end_T[e]), int(s), int(e)) for s, e in places]
    shift = row['low'] - low
    best = sorted(scored, reverse=True)[: self.objective.n_best]
    return [(score, *character_span(row['context'], row['offsets'], s + shift, e + shift)) for score, s, e in best]

  def text_of(self, prediction: dict) -> str:
    """The answer in the official format: '' for none."""
    none = self.objective.no_answer and prediction['no_answer_score'] > self.threshold
    return '' if none or not prediction['n_best'] else prediction['n_best'][0]['text']

  def fit_threshold(self, items: Sequence[dict], predictions: list[dict]) -> None:
    """Sets the threshold that gives the best F1 on these."""
    if self.objective.no_answer:
      texts = {r['id']: p['n_best'][0]['text'] if p['n_best'] else '' for r, p in zip(items, predictions)}
      scores = {record['id']: p['no_answer_score'] for record, p in zip(items, predictions)}
      self.threshold = squad.best_threshold(texts, scores, _gold(items))[0]

  def scores(self, items: Sequence[dict], predictions: list[dict]) -> dict[str, float]:
    """The official exact match and F1."""
    return squad.scores({r['id']: self.text_of(p) for r, p in zip(items, predictions)}, _gold(items))

  def per_example(self, items: Sequence[dict], predictions: list[dict]) -> list[float]:
    """F1 of each question, for paired comparisons."""
    return [squad.f1(self.text_of(p), gold) for p, gold in zip(predictions, _gold(items).values())]

  def report(self, prediction: dict) -> dict:
    """The answer with its characters in the context, None where there is none, and the n-best list."""
    answer = self.text_of(prediction) or None
    best = prediction['n_best'][0] if answer else {'start': None, 'end': None}
    return {'answer': answer, 'start': best['start'], 'end': best['end'], **prediction}

  def show(self, record: dict, prediction: dict) -> str:
    """A question, its context with the model's answer marked, and what was right."""
    answer, context = self.text_of(prediction), record['context']
    if answer:
      best = prediction['n_best'][0]
      context = f'{context[: best["start"]]}>>>{answer}<<<{context[best["end"] :]}'
    gold = ' | '.join(dict.fromkeys(a['text'] for a in record['answers'])) or '(none)' if 'answers' in record else ''
    return f'{quote(context)}\n\nQuestion: {record["question"]}  \nModel: {answer or "(none)"}  \nRight: {gold}\n'

  def report_files(self, split: str, items: Sequence[dict], predictions: list[dict]) -> dict[str, str | bytes]:
    """predictions.json in the official format, all predictions as JSON lines, and a page for people."""
    texts = {record['id']: self.text_of(p) for record, p in zip(items, predictions)}
    return super().report_files(split, items, predictions) | {
      'predictions.json': json.dumps(texts, indent=2) + '\n',
      f'examples_{split}.md': self.samples(items, predictions, SHOWN),
    }

  @property
  def calibration(self) -> dict:
    """What was chosen on validation predictions."""
    return {'no_answer_threshold': self.threshold} if self.objective.no_answer else {}

  def load_calibration(self, calibration: dict) -> None:
    """Takes back what `calibration` gave."""
    self.threshold = calibration.get('no_answer_threshold', 0.0)


def _gold(items: Sequence[dict]) -> dict[str, list[str]]:
  return {record['id']: [answer['text'] for answer in record['answers']] for record in items}
