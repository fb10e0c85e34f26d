"""Use what was fine-tuned.

python -m lmjax.predict --workdir=DIR [--step=N] [--json] TEXT ...      labels of texts, or summaries of documents
python -m lmjax.predict --workdir=DIR --question=TEXT CONTEXT           an answer, with its place in the context
python -m lmjax.predict --workdir=DIR --file=FILE                       .jsonl, .csv, .tsv, SQuAD's .json: its records;
                                                                        .txt: its lines are the texts to label, the
                                                                        whole file is the document or the context
--fields=NAME,... names what holds the text there, where it is not what it was in the run's own data.
Without TEXT and --file it reads standard input like a .txt file. --json gives one JSON object a line, with how many
tokens were read (read) and given (tokens). --bad_text=replace or skip: about text that is not UTF-8; default: as in
training. --mesh=N takes N devices; default: all, laid out as in training.
After `--` texts may begin with -.
"""

import json
import sys
from collections.abc import Sequence

from lmjax.data.config import BadText
from lmjax.errors import ConfigError, DataError
from lmjax.schema import command_line
from lmjax.schema.types import PositiveInt
from lmjax.tasks.table import TASKS

FLAGS = {
  'bad_text': BadText,
  'step': int,
  'file': str,
  'question': str,
  'fields': tuple[str, ...],
  'mesh': PositiveInt,
  'json': bool,
}


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.command(run, argv, __doc__, FLAGS, words=True)


def run(flags: command_line.CommandLine) -> None:
  """Predicts, and prints a block, or a line of JSON, for each record."""
  from lmjax.hosts import allocator
  from lmjax.training import reopen

  allocator.keep_freed_memory()
  trained = reopen.load_run(flags.workdir, flags.values['step'], flags.values['mesh'])
  trained = reopen.with_bad_text(trained, flags.values['bad_text'])
  given = (flags.values[name] for name in ('file', 'question', 'fields'))
  items, task = read(trained.config, flags.words, *given), trained.task
  examples = task.rows_of(items)
  if unread := task.unread(examples):
    print(f'lmjax: {unread}', file=sys.stderr)
  for item, prediction, (seen, tokens) in zip(items, predict(trained, examples), task.read_of(examples)):
    report = task.report(prediction)
    line = {'id': item['id'], **report, 'read': seen, 'tokens': tokens}
    print(json.dumps(line, ensure_ascii=False) if flags.values['json'] else shown(item, report))


def predict(trained, examples) -> list:
  """A prediction for each record, as its task's `predict` gives it."""
  import jax

  from lmjax.training import evaluator

  with jax.set_mesh(trained.mesh):
    return trained.task.predict(trained.params, examples, evaluator.Runner(trained.mesh))


def read(config, words: list[str], file: str | None, question: str | None, fields=None) -> Sequence[dict]:
  """The records to predict, from the command line, a file or standard input; an id is the place among those given.

  Raises ConfigError where a flag is missing or out of place, DataError where a file is broken or there is no text.
  """
  kind = TASKS[config.task].records
  if kind is None:
    remedy = 'try python -m lmjax.inspect --workdir=DIR --prompt=TEXT'
    raise ConfigError(f'--workdir: {config.task} is pre-training; {remedy}')
  if file is not None and not file.endswith('.txt'):
    from lmjax.data import records

    if question is not None:
      raise ConfigError(f'--question = {question}: {file} brings its own; leave it out')
    items, skipped = records.read_alone(file, config.data, kind, fields, False)
    if skipped:
      print(f'lmjax: {file}: {skipped}', file=sys.stderr)
    return items
  if fields is not None:
    raise ConfigError(f'--fields = {",".join(fields)}: has no effect without --file=FILE.jsonl, .csv or .tsv')
  if kind == 'classification' and len(config.data.fields or ()) == 3:
    first, second, _ = config.data.fields
    raise ConfigError(f'--file = {file}: this run classifies pairs; give a .jsonl, .csv or .tsv of {first}, {second}')
  if (question is not None) != (kind == 'extractive_qa'):
    rule = 'is needed for extractive_qa' if question is None else f'has no meaning for {config.task}'
    raise ConfigError(f'--question = {question}: {rule}; {"add it" if question is None else "leave it out"}')
  from lmjax.data.sources import documents

  texts = {}
  if not words:
    text = command_line.read_text('--file', file)
    words = text.split('\n') if kind == 'classification' else [text]
  for i, raw in enumerate(words):
    text, _ = documents.clean(raw, f'text {i}', config.data.bad_text)
    if text is not None and text.strip():
      texts[str(i)] = text
  if not texts:
    raise DataError(f'{file or "standard input"}: holds no text; give some')
  if kind == 'classification':
    return [{'id': i, 'text': text, 'text_pair': None} for i, text in texts.items()]
  if kind == 'summarization':
    return [{'id': i, 'document': text} for i, text in texts.items()]
  question, _ = documents.clean(question, '--question', 'raise')
  return [{'id': i, 'question': question, 'context': text} for i, text in texts.items()]


def shown(item: dict, report: dict) -> str:
  """A prediction for people."""
  if 'text' in item:
    item = item | {'text': ' '.join(item['text'].split('\n'))}  # a line each
  if 'probabilities' in report:
    likeliest = sorted(report['probabilities'].items(), key=lambda pair: -pair[1])
    label = report['label'] if 'label' in report else ', '.join(report['labels']) or '(none)'
    return f'{label}\t{", ".join(f"{name} {p:.3f}" for name, p in likeliest)}\t{item["text"]}'
  if 'number' in report:
    return f'{report["number"]:.4g}\t{item["text"]}'
  if 'answer' in report:
    place = '' if report['answer'] is None else f'\tcharacters {report["start"]} to {report["end"]}'
    return f'{report["answer"] or "(no answer)"}{place}\t{item["question"]}'
  return report['summary']


if __name__ == '__main__':
  sys.exit(main())
