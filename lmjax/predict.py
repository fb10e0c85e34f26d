"""Use what was fine-tuned.

python -m lmjax.predict --workdir=DIR [--step=N] [--json] TEXT ...      labels of texts, or summaries of documents
python -m lmjax.predict --workdir=DIR --question=TEXT CONTEXT           an answer, with its place in the context
python -m lmjax.predict --workdir=DIR --file=FILE                       .jsonl, .csv, .tsv, SQuAD's .json: its records;
                                                                        .txt: its lines are the texts to label, the
                                                                        whole file is the document or the context
--fields=NAME,... names what holds the text there, where it is not what it was in the run's own data.
Without TEXT and --file it reads standard input like a .txt file. --json gives one JSON object a line. --mesh=N takes N
devices; default: all, laid out as in training.
"""

import json
import sys

from lmjax.errors import ConfigError, DataError
from lmjax.schema import command_line
from lmjax.schema.types import PositiveInt
from lmjax.tasks.table import PRE_TRAINING


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.run_command(run, argv)


def run(argv: list[str]) -> None:
  """Predicts, and prints a block, or a line of JSON, for each record."""
  extra = {'step': int, 'file': str, 'question': str, 'fields': tuple[str, ...], 'mesh': PositiveInt}
  flags = command_line.parse_command_line(argv, extra, bare=('json',), config='refused', words=True)
  if flags.help:
    print(__doc__)
    return
  problems = list(flags.problems)
  if flags.words and flags.extra['file'] is not None:
    problems.append(f'--file = {flags.extra["file"]}: not with texts on the command line; leave one of them out')
  if problems:
    raise ConfigError(problems)
  from lmjax.training import reopen

  trained = reopen.load_run(flags.workdir, flags.extra['step'], flags.extra['mesh'])
  given = (flags.extra[name] for name in ('file', 'question', 'fields'))
  items = read(trained.config, flags.words, *given)
  for item, prediction in zip(items, predict(trained, items)):
    found = trained.task.report(prediction)
    print(json.dumps({'id': item['id'], **found}, ensure_ascii=False) if flags.extra['json'] else shown(item, found))


def predict(trained, items: list[dict]) -> list:
  """A prediction for each record, as its task's `predict` gives it."""
  import jax

  from lmjax.training import evaluator

  with jax.set_mesh(trained.mesh):
    return trained.task.predict(trained.params, trained.task.rows_of(items), evaluator.Runner(trained.mesh))


def read(config, words: tuple[str, ...], file: str | None, question: str | None, fields=None) -> list[dict]:
  """The records to predict, from the command line, a file or standard input; an id is the place among those given.

  Raises:
    ConfigError: the run is one of pre-training, or a question, a file or fields are missing or out of place.
    DataError: the file is missing or broken, or there is no text.
  """
  task = config.task
  if task in PRE_TRAINING:
    raise ConfigError(f'--workdir: {task} is pre-training; try python -m lmjax.inspect --workdir=DIR --prompt=TEXT')
  if file is not None and not file.endswith('.txt'):
    from lmjax.data import records

    if question is not None:
      raise ConfigError(f'--question = {question}: {file} brings its own; leave it out')
    found, said = records.read_alone(file, config.data, task, fields, False)
    if said:
      print(f'lmjax: {file}: {said}', file=sys.stderr)
    return found
  if fields is not None:
    raise ConfigError(f'--fields = {",".join(fields)}: has no effect without --file=FILE.jsonl, .csv or .tsv')
  if task == 'classification' and len(config.data.fields or ()) == 3:
    first, second, _ = config.data.fields
    raise ConfigError(f'--file = {file}: this run classifies pairs; give a .jsonl, .csv or .tsv of {first}, {second}')
  if (question is not None) != (task == 'extractive_qa'):
    rule = 'is needed for extractive_qa' if question is None else f'has no meaning for {task}'
    raise ConfigError(f'--question = {question}: {rule}; {"add it" if question is None else "leave it out"}')
  from lmjax.data.sources import documents

  texts = {}
  for i, raw in enumerate(words or _from_file(file, task == 'classification')):
    text, _ = documents.clean(raw, f'text {i}', config.data.bad_text)
    if text is not None and text.strip():
      texts[str(i)] = text
  if not texts:
    raise DataError(f'{file or "standard input"}: holds no text; give some')
  if task == 'classification':
    return [{'id': i, 'text': text, 'text_pair': None} for i, text in texts.items()]
  if task == 'summarization':
    return [{'id': i, 'document': text} for i, text in texts.items()]
  question, _ = documents.clean(question, '--question', 'raise')
  return [{'id': i, 'question': question, 'context': text} for i, text in texts.items()]


def _from_file(file: str | None, by_line: bool) -> list[str]:
  """The lines, or the whole, of a text file or of standard input."""
  name = file or 'standard input'
  try:
    if file is None:
      text = sys.stdin.buffer.read().decode('utf-8')
    else:
      with open(file, encoding='utf-8') as opened:
        text = opened.read()
  except OSError as error:
    raise DataError(f'--file = {file}: {error.strerror}; give a readable file') from error
  except UnicodeDecodeError as error:
    raise DataError(f'{name}: not UTF-8 ({error.reason} at byte {error.start}); convert it') from error
  return text.split('\n') if by_line else [text]


def shown(item: dict, found: dict) -> str:
  """A prediction for people."""
  if 'label' in found:
    said = ', '.join(f'{name} {p:.3f}' for name, p in sorted(found['probabilities'].items(), key=lambda x: -x[1]))
    return f'{found["label"]}\t{said}\t{item["text"]}'
  if 'answer' in found:
    place = '' if found['answer'] is None else f'\tcharacters {found["start"]} to {found["end"]}'
    return f'{found["answer"] or "(no answer)"}{place}\t{item["question"]}'
  return found['summary']


if __name__ == '__main__':
  sys.exit(main())
