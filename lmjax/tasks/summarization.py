"""Summarization as a task, and any other text from a text: document, separator, summary in one decoder.

Legend: B batch, T length, P prompt length, K slots.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from lmjax.data.batches.rows import RowTable
from lmjax.data.labelled.table import column
from lmjax.data.tokens.published import Frame
from lmjax.models import decode
from lmjax.models.heads import LanguageModel
from lmjax.objectives import conditional
from lmjax.objectives.config import ConditionalConfig
from lmjax.scoring import generation
from lmjax.tasks.causal_lm import quote
from lmjax.tasks.fine_tuning import SHOWN, Examples, FineTuningTask

# Prompts are padded to this many tokens, or twice, four times, ... as many: each length compiles once.
SMALLEST_BUCKET = 64
# How much of a document is shown, in characters.
SHOWN_CHARACTERS = 2_000
# Limits, in words, of the groups of documents that scores are reported by.
LENGTH_EDGES = (0, 100, 300, 1000, 3000)


class Summarization(FineTuningTask):
  """A short text from a long one."""

  NAME = 'summarization'
  SHAPE_ROWS = ('max_summary', 'long_documents')

  def __init__(self, model, objective, samples, data, tokenizer):
    super().__init__(model, objective, samples, data, tokenizer)
    self.model = LanguageModel(self.backbone)
    self.loss = conditional.make_loss(self.model, objective)
    self.RANKING_METRIC = self.MAIN_METRIC = objective.best
    self.HIGHER_IS_BETTER = objective.best != 'loss'
    self.BASELINE = None if objective.lead is None else f'lead_{objective.best}'
    self._generate = _generator(self.model, objective, self.stop)
    self._lead: tuple[Sequence, dict] = ([], {})  # of which records, and what it scores

  @property
  def predicted(self) -> int:
    """Positions a row that the output embedding is applied to: the summary and its end."""
    return self.objective.max_summary + 1

  @property
  def max_document_tokens(self) -> int:
    """Document tokens that fit into a row, next to its special tokens and the longest summary."""
    begin, between, _ = self.frame
    return self.data.length - self.objective.max_summary - len(begin) - len(between)

  @property
  def frame(self) -> Frame:
    """Ids before the document, between it and the summary, and after that: what begins a text, [SEP], its end."""
    begin, between, end = super().frame
    return Frame(begin, between if self.tokenizer.sep is None else (self.tokenizer.sep,), end)

  @property
  def stop(self) -> int:
    """The id that ends a summary."""
    return self.frame.end[0]

  def prompt(self, document: Sequence[int] | np.ndarray) -> list[int]:
    """The tokens of a document that are read, by `objective.long_documents`, between special tokens."""
    begin, between, _ = self.frame
    limit, tail = self.max_document_tokens, 0
    if self.objective.long_documents == 'head_tail' and len(document) > limit:
      tail = limit // 2
    return [*begin, *document[: limit - tail], *document[len(document) - tail :], *between]

  @classmethod
  def example_records(cls, objective) -> list[dict]:
    """A document with its summary."""
    return [{'id': '0', 'document': 'a', 'summary': 'a'}]

  def rows_of(self, items: Sequence[dict]) -> Examples:
    """A row a record; where the summary is cut, its last token is not followed by the end."""
    return Examples(items, RowTable.of(self._rows(items), lambda number: {}), np.arange(len(items)))

  def reopened(self, items: Sequence[dict], arrays, more) -> Examples:
    """What `rows_of` made of the same records before."""
    return Examples(items, RowTable.from_arrays(arrays, more, lambda number: {}), np.arange(len(items)))

  def _rows(self, items: Sequence[dict]) -> Iterator[dict]:
    documents = self.tokenizer.encode_each(column(items, 'document'))
    for document, summary in zip(documents, self.tokenizer.encode_each(column(items, 'summary', ''))):
      prompt, limit = self.prompt(document.ids), self.objective.max_summary
      end, cut_summary = self.frame.end, max(len(summary.ids) - limit, 0)
      tokens = np.array([*prompt, *summary.ids[:limit], *(() if cut_summary else end)], np.int32)
      read = min(len(document.ids), self.max_document_tokens)
      counts = self.counted(len(document.ids) - read + cut_summary, document, summary)
      counts |= {'summary_tokens': len(summary.ids), 'cut_summary_tokens': cut_summary}
      yield {'tokens': tokens, 'prompt': len(prompt), 'document': document.ids, 'counts': counts}

  def example(self, row) -> dict[str, np.ndarray]:
    """A row -> inputs, segments, prefix [T], slots, targets and weights [K]."""
    tokens, prompt = row['tokens'], row['prompt']
    padded = self.padded(tokens[:-1])
    del padded['segment_types']
    count = len(tokens) - prompt
    slots_K, targets_K = np.zeros(self.predicted, np.int32), np.zeros(self.predicted, np.int32)
    slots_K[:count] = np.arange(prompt - 1, len(tokens) - 1)
    targets_K[:count] = tokens[prompt:]
    prefix_T = (np.arange(self.data.length) < prompt).astype(np.int32)
    weights_K = (np.arange(self.predicted) < count).astype(np.float32)
    return {**padded, 'prefix': prefix_T, 'slots': slots_K, 'targets': targets_K, 'weights': weights_K}

  def generate(self, params, prompts: list[list[int]], run: Callable) -> list[list[int]]:
    """Continues prompts, in batches of like lengths; each ends before the end-of-document token."""
    size, host, hosts, end = self.data.batch_size, jax.process_index(), jax.process_count(), self.stop
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    continuations: list[list[int]] = [[] for _ in prompts]
    for number, first in enumerate(range(0, len(order), size)):
      rows = order[first : first + size]
      # the last batch is filled up with its first row
      tokens_BP, segments_BP = decode.pad_left([prompts[i] for i in rows + rows[:1] * (size - len(rows))], self.pad)
      more = bucket(tokens_BP.shape[1], self.data.length - self.objective.max_summary) - tokens_BP.shape[1]
      batch = {
        'inputs': np.pad(tokens_BP, ((0, 0), (more, 0)), constant_values=self.pad),
        'segments': np.pad(segments_BP, ((0, 0), (more, 0))),
        'number': np.full(size, number, np.int32),
      }
      part = {name: a[host * size // hosts : (host + 1) * size // hosts] for name, a in batch.items()}
      for i, ids in zip(rows, run(self._generate, params, part)['tokens'].tolist()):
        continuations[i] = ids[: ids.index(end)] if end in ids else ids
    return continuations

  def read_of(self, examples: Examples) -> list[tuple[int, int]]:
    """(tokens that are read, all of them) of each document."""
    sizes, limit = examples.rows.ragged['document'].sizes.tolist(), self.max_document_tokens
    return [(size if self.objective.long_documents == 'chunks' else min(size, limit), size) for size in sizes]

  def predict(self, params, examples: Examples, run: Callable) -> list[str]:
    """A summary for each record."""
    documents = [row['document'].tolist() for row in examples.rows]
    if self.objective.long_documents == 'chunks':
      self._reduce(params, documents, run)
    summaries = self.generate(params, list(map(self.prompt, documents)), run)
    return [self.tokenizer.decode(summary).strip() for summary in summaries]

  def _reduce(self, params, documents: list[list[int]], run) -> None:
    """Puts in place of a document that does not fit the summaries of its pieces, again and again."""
    limit = self.max_document_tokens
    while long := [i for i, document in enumerate(documents) if len(document) > limit]:
      pieces = [(i, start) for i in long for start in range(0, len(documents[i]), limit)]
      prompts = [self.prompt(documents[i][start : start + limit]) for i, start in pieces]
      shorter: dict[int, list[int]] = {i: [] for i in long}
      for (i, _), summary in zip(pieces, self.generate(params, prompts, run)):
        shorter[i] += summary
      for i, joined in shorter.items():
        # summaries are shorter than half the limit, so this ends; a model that writes nothing leaves the beginning
        documents[i] = joined or documents[i][:limit]

  def scores(self, items: Sequence[dict], predictions: list[str]) -> dict[str, float]:
    """The scores of the config, those of the lead baseline, and the share of the documents' tokens that is read."""
    references, names = list(column(items, 'summary')), self.objective.scores
    values = generation.scores(names, predictions, references)
    if self.objective.lead is not None:
      if self._lead[0] is not items:
        leads = [generation.lead(document, self.objective.lead) for document in column(items, 'document')]
        self._lead = items, generation.scores(names, leads, references)
      values |= {f'lead_{name}': value for name, value in self._lead[1].items()}
    lengths = np.array([len(e.ids) for e in self.tokenizer.encode_each(column(items, 'document'))])
    read = lengths if self.objective.long_documents == 'chunks' else np.minimum(lengths, self.max_document_tokens)
    return values | {'read_share': float(read.sum() / max(lengths.sum(), 1))}

  def per_example(self, items: Sequence[dict], predictions: list[str]) -> list[float]:
    """The ranking score of each record (ROUGE-L where that is the loss), for paired comparisons."""
    references, best = list(column(items, 'summary')), self.objective.best
    if best in ('bleu', 'chrf'):
      return generation.score_each(best, predictions, references)
    return generation.rouge_each(predictions, references)['rougeL' if best == 'loss' else best].tolist()

  def report(self, prediction: str) -> dict:
    """The summary."""
    return {'summary': prediction}

  def show(self, record: dict, prediction: str) -> str:
    """A document, its summary, and the model's."""
    document = record['document'][:SHOWN_CHARACTERS] + ' ...' * (len(record['document']) > SHOWN_CHARACTERS)
    blocks = [('Document', document), ('Model', prediction or '(nothing)')]
    blocks += [('Right', record['summary'])] if 'summary' in record else []
    return '\n\n'.join(f'{name}\n\n{quote(text)}' for name, text in blocks) + '\n'

  def report_files(self, split: str, items: Sequence[dict], predictions: list[str]) -> dict[str, str | bytes]:
    """summaries_SPLIT.md, side by side with the right ones, and predictions_SPLIT.jsonl."""
    page = self.samples(items, predictions, SHOWN)
    if 'rouge' in self.objective.scores:
      words = [len(document.split()) for document in column(items, 'document')]
      references = list(column(items, 'summary'))
      rows = ['| words of the document | examples | ROUGE-L |', '|---|---|---|']
      for group in generation.rouge_by_length(predictions, references, words, LENGTH_EDGES):
        above = 'and more' if group['below'] is None else f'to {group["below"] - 1}'
        rows.append(f'| {group["from"]} {above} | {group["examples"]} | {group["rougeL"]:.4f} |')
      page = '\n'.join(rows) + '\n\n' + page
    return super().report_files(split, items, predictions) | {f'summaries_{split}.md': page}


@functools.lru_cache(maxsize=8)
def _generator(model: LanguageModel, objective: ConditionalConfig, stop: int) -> Callable:
  """`(params, batch) -> {'tokens': [B, max_summary]}`; `run` compiles it once for each length of prompts."""
  o = objective.decoding
  shared: dict[str, Any] = dict(new_tokens=objective.max_summary, stop=stop, no_repeat_ngram=o.no_repeat_ngram)

  def run(params, batch):
    tokens_BP = batch['inputs']
    step = model.decode_step(params, prefix=objective.prefix)
    cache = model.backbone.init_cache(tokens_BP.shape[0], tokens_BP.shape[1] + objective.max_summary * o.beams)
    if o.beams > 1:
      beams: dict[str, Any] = dict(beams=o.beams, length_penalty=o.length_penalty)
      new_BN, _ = decode.beam_search(step, cache, tokens_BP, batch['segments'], **beams, **shared)
    else:
      key = jax.random.fold_in(jax.random.key(0), batch['number'][0])
      sampling: dict[str, Any] = dict(temperature=o.temperature, top_k=o.top_k, top_p=o.top_p)
      new_BN = decode.generate(step, cache, tokens_BP, batch['segments'], key, **sampling, **shared)
    return {'tokens': new_BN}

  return run


def bucket(length: int, longest: int) -> int:
  """The length that prompts are padded to: 64, 128, 256, ... or the longest.

  >>> bucket(10, 300), bucket(65, 300), bucket(257, 300)
  (64, 128, 300)
  """
  size = SMALLEST_BUCKET
  while size < length:
    size *= 2
  return min(size, max(longest, length))
