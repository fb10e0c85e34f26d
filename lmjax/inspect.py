"""Look at what goes in, and at what was learned.

python -m lmjax.inspect --config=FILE.py[:arg] --batch=S     batch S as text: inputs, targets, weights, origins
python -m lmjax.inspect --workdir=DIR                        parameters by group
    --neighbors=cat,dog     nearest neighbors in the embedding table
    --prompt=TEXT           completes it (causal), or fills each [MASK] in it (masked)
    --minimal_pairs=FILE    a good and a bad sentence a line, separated by a tab: which does the model find likelier?
    --step=N                another checkpoint than the newest
    --mesh=N                on N devices; default: all, laid out as in training
"""

import functools
import sys

import numpy as np

from lmjax.errors import ConfigError, DataError
from lmjax.schema import command_line
from lmjax.schema.types import PositiveInt
from lmjax.tasks.table import PRE_TRAINING

FLAGS = {'batch': int, 'neighbors': str, 'prompt': str, 'minimal_pairs': str, 'step': int, 'mesh': PositiveInt}
NEIGHBORS = 8
TOP = 5
NEW_TOKENS = 64
# Sentences are padded to a multiple of this many tokens: each shape compiles once.
BUCKET = 32


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.run_command(run, argv)


def run(argv: list[str]) -> None:
  """Shows a batch of a config, or what a workdir has learned."""
  flags = command_line.parse_command_line(argv, FLAGS, config='optional')
  if flags.help:
    print(__doc__)
    return
  problems = list(flags.problems)
  if (flags.file is None) == (flags.workdir is None):
    problems.append('--config, --workdir: exactly one is needed; --config=FILE --batch=S, or --workdir=DIR')
  elif flags.file is not None and (flags.extra['batch'] is None or flags.extra['batch'] < 0):
    problems.append(f'--batch = {flags.extra["batch"]}: must be a step, 0 or more; add --batch=0')
  if problems:
    raise ConfigError(problems)
  if flags.file is not None:
    show_batch(flags)
  else:
    show_run(flags)


def show_batch(flags) -> None:
  """Prints one training batch as text, with where each row comes from."""
  from lmjax import config as config_lib
  from lmjax.schema import overrides
  from lmjax.tasks import prepare
  from lmjax.training import initialize

  raw = command_line.load_config_file(flags.file, flags.argument)
  raw, problems = overrides.override(config_lib.Config, raw, flags.assignments)
  config, source = config_lib.load(raw, problems)
  step = flags.extra['batch']
  tokenizer = initialize.tokenizer_of(source, config.data.tokenizer)
  config, task, found = prepare.prepare(config, tokenizer, progress=True)
  if step >= config.train.steps:
    raise ConfigError(f'--batch = {step}: the run has steps 0 to {config.train.steps - 1}; choose one of them')
  data = task.pipeline(found, config.seed, config.train.steps)
  batch = data.batch(step)
  print(f'batch {step}: ' + ', '.join(f'{name} {a.dtype}{list(a.shape)}' for name, a in batch.items()))
  for i, (name, epoch, row) in enumerate(data.rows(step)):
    begins = data.layouts[name].documents_of(row)
    places = ', '.join(f'{document} from {place}' for document, place in begins)
    print(f'\nrow {i}: source {name}, epoch {epoch}, row {row}; documents: {places}')
    print(row_as_text(task, {key: a[i] for key, a in batch.items()}))


def row_as_text(task, example: dict) -> str:
  """One example for people: what is shown, what is to be predicted, and what counts.

  Tokens are kept apart by `|`; a token that predicts nothing stands in parentheses, as does padding; `||` is a
  boundary between documents that do not see each other.
  """
  tok, inputs = task.tokenizer, example['inputs']
  shown = [_plain(tok.token(int(t))) for t in inputs]
  segments = example.get('segments')
  weights = example['weights'] if np.shape(example['weights']) == inputs.shape else np.ones(len(inputs))
  out = []
  for i, text in enumerate(shown):
    if segments is not None and i and segments[i] != segments[i - 1]:
      out.append('|')
    out.append(text if weights[i] > 0 and (segments is None or segments[i] > 0) else f'({text})')
  lines = ['  inputs   ' + '|'.join(out)]
  if 'slots' in example:
    masks = example['shown'] if 'shown' in example else np.zeros(len(example['slots']))
    for slot, target, weight, masked in zip(example['slots'], example['targets'], example['weights'], masks):
      if weight > 0:
        as_what = '[MASK]' if masked else _plain(tok.token(int(inputs[slot])))
        lines.append(f'  place {int(slot):4d}  target {_plain(tok.token(int(target)))!r}, shown as {as_what!r}')
  elif 'targets' in example:
    lines.append('  targets  ' + '|'.join(_plain(tok.token(int(t))) for t in example['targets']))
  # a label, or the places of an answer
  lines += [f'  {name:8} {int(value)}' for name, value in example.items() if name != 'weights' and np.ndim(value) == 0]
  lines.append(f'  weight   {float(np.sum(example["weights"])):g} of {np.size(example["weights"])}')
  return '\n'.join(lines)


def show_run(flags) -> None:
  """Prints what a trained run holds and answers."""
  import jax

  from lmjax.training import reopen

  trained = reopen.load_run(flags.workdir, flags.extra['step'], flags.extra['mesh'])
  print(f'{flags.workdir}: {trained.config.task}, step {trained.step}')
  print(parameter_table(trained.params))
  with jax.set_mesh(trained.mesh):
    if flags.extra['neighbors'] is not None:
      for word in flags.extra['neighbors'].split(','):
        print(neighbors(trained, word))
    if flags.extra['prompt'] is not None:
      print(answer(trained, flags.extra['prompt']))
    if flags.extra['minimal_pairs'] is not None:
      print(minimal_pairs(trained, flags.extra['minimal_pairs']))


def parameter_table(params) -> str:
  """Parameters by group: how many, and their root mean square."""
  from lmjax import metrics, paths

  groups = {}
  for path, leaf in paths.flatten(params).items():
    total, square = groups.get(metrics.group_of(path), (0, 0.0))
    groups[metrics.group_of(path)] = (total + leaf.size, square + float((np.asarray(leaf, np.float64) ** 2).sum()))
  rows = [f'{"group":12} {"parameters":>14} {"rms":>10}']
  rows += [f'{name:12} {n:14,} {(square / n) ** 0.5:10.4f}' for name, (n, square) in sorted(groups.items())]
  rows.append(f'{"all":12} {sum(n for n, _ in groups.values()):14,}')
  return '\n'.join(rows)


def neighbors(trained, word: str) -> str:
  """The tokens whose embeddings point most nearly the same way as that of ` word`."""
  tok = trained.tokenizer
  # a word inside a sentence carries its space
  ids = min((tok.encode(' ' + word.strip()), tok.encode(word.strip())), key=len)
  if not ids:
    raise ConfigError(f'--neighbors = {word!r}: is empty; give words separated by commas')
  table = np.asarray(trained.params['embeddings']['token']['embedding'], np.float32)[: tok.vocab_size]
  unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
  query = table[ids].mean(axis=0)
  nearness = unit @ (query / max(np.linalg.norm(query), 1e-9))
  best = [int(i) for i in np.argsort(-nearness) if int(i) not in ids][:NEIGHBORS]
  found = ', '.join(f'{_plain(tok.token(i)).strip()!r} {nearness[i]:.2f}' for i in best)
  pieces = '' if len(ids) == 1 else f' (mean of {len(ids)} tokens)'
  return f'{word}{pieces}: {found}'


def answer(trained, prompt: str) -> str:
  """Completes a prompt (causal), or fills each [MASK] in it (masked)."""
  import jax

  task, tok = trained.task, trained.tokenizer
  _check_pre_training(trained, '--prompt')
  if trained.config.task == 'causal_lm':
    first = task.row_spec().begin or task.document_end()
    c = trained.config.samples
    ids = [*first, *tok.encode(prompt)]
    room = trained.config.model.max_length
    new = NEW_TOKENS if room is None else min(NEW_TOKENS, room - len(ids))
    if new < 1:
      raise ConfigError(f'--prompt: {len(ids)} tokens leave no room in a position table of {room}; shorten it')
    sampling = dict(temperature=c.temperature, top_k=c.top_k, top_p=c.top_p)
    [completion] = task.complete(trained.params, [ids], jax.random.key(0), new_tokens=new, **sampling)
    return f'{prompt}{tok.decode(completion)}'
  row = masked_row(task, prompt)
  if task.tokenizer.mask not in row:
    raise ConfigError(f'--prompt = {prompt!r}: has no [MASK]; write one for each token to be filled in')
  lines = [prompt]
  for number, guesses in enumerate(task.fill(trained.params, [row], TOP)[0], 1):
    lines.append(f'  mask {number}: ' + ', '.join(f'{_plain(tok.token(t))!r} {p:.2f}' for t, p in guesses))
  return '\n'.join(lines)


def _check_pre_training(trained, flag: str) -> None:
  if trained.config.task not in PRE_TRAINING:
    raise ConfigError(f'{flag}: this run is one of {trained.config.task}; use python -m lmjax.predict')


def masked_row(task, text: str) -> list[int]:
  """Token ids of a text in which `[MASK]` stands for the mask token, framed as the model's rows are.

  The space before a `[MASK]` belongs to the hidden token, as in the text that the model was trained on.
  """
  spec, tok, row = task.row_spec(), task.tokenizer, []
  pieces = text.split('[MASK]')
  for i, piece in enumerate(pieces):
    row += tok.encode(piece.rstrip(' ') if i < len(pieces) - 1 else piece)
    row += [tok.mask] if i < len(pieces) - 1 else []
  return [*spec.prefix, *row, *spec.suffix]


def minimal_pairs(trained, file: str) -> str:
  """Scores pairs: the share in which the good sentence is likelier than the bad one.

  Causal: log-probability of the sentence. Masked: pseudo-log-likelihood, each token masked in its turn (Salazar et
  al. 2020, https://arxiv.org/abs/1910.14659).

  Raises:
    DataError: the file is not there, or a line is not two sentences separated by a tab.
  """
  _check_pre_training(trained, '--minimal_pairs')
  pairs = read_pairs(file)
  scores = [tuple(log_likelihood(trained, sentence) for sentence in pair) for pair in pairs]
  right = sum(good > bad for good, bad in scores)
  rows = [
    f'{good:10.2f} {bad:10.2f}  {"right" if good > bad else "wrong"}  {pair[0]}  |  {pair[1]}'
    for (good, bad), pair in zip(scores, pairs)
  ]
  return '\n'.join([f'{"good":>10} {"bad":>10}', *rows, f'{right} of {len(pairs)} right ({right / len(pairs):.3f})'])


def read_pairs(file: str) -> list[tuple[str, str]]:
  """The tab-separated pairs of a file; empty lines are skipped."""
  try:
    with open(file, encoding='utf-8') as opened:
      lines = [(number, line.rstrip('\r\n')) for number, line in enumerate(opened, 1)]
  except OSError as error:
    raise DataError(f'--minimal_pairs = {file}: {error.strerror}; give a readable file') from error
  except UnicodeDecodeError as error:
    raise DataError(
      f'--minimal_pairs = {file}: not UTF-8 ({error.reason} at byte {error.start}); convert it'
    ) from error
  pairs = []
  for number, line in lines:
    if not line.strip():
      continue
    pair = tuple(part.strip() for part in line.split('\t'))
    if len(pair) != 2 or not all(pair):
      raise DataError(
        f'{file}:{number} = {line[:60]!r}: must be a good and a bad sentence separated by one tab; fix it'
      )
    pairs.append(pair)
  if not pairs:
    raise DataError(f'{file}: no pairs; write a good and a bad sentence a line, separated by a tab')
  return pairs


def log_likelihood(trained, sentence: str) -> float:
  """The log-probability of a sentence in nats: exact (causal) or pseudo (masked)."""
  task, spec = trained.task, trained.task.row_spec()
  ids = np.array(trained.tokenizer.encode(sentence), np.int32)
  if trained.config.task == 'causal_lm':
    first = spec.begin or task.document_end()
    rows = np.array([[*first, *ids[:-1]]], np.int32)
    row_of, places = np.zeros(len(ids), int), len(first) - 1 + np.arange(len(ids))
  else:
    rows = np.tile(np.array([*spec.prefix, *ids, *spec.suffix], np.int32), (len(ids), 1))
    row_of, places = np.arange(len(ids)), len(spec.prefix) + np.arange(len(ids))
    rows[row_of, places] = trained.tokenizer.mask
  B, T = rows.shape
  limit = task.model.backbone.config.max_length or T + BUCKET
  if T > limit:
    raise DataError(f'{sentence[:40]!r}...: {T:,} tokens; the model has positions for {limit:,}; shorten it')
  padding = (0, -B % BUCKET if B > 1 else 0), (0, min(-T % BUCKET, limit - T))
  segments = np.pad(np.ones_like(rows), padding)
  log_p = _log_probabilities(task.model)(trained.params, np.pad(rows, padding), segments)
  return float(np.asarray(log_p)[row_of, places, ids].sum())


@functools.cache
def _log_probabilities(model):
  """`(params, tokens_BT, segments_BT) -> log_p_BTV`, compiled once a shape."""
  import jax

  def run(params, tokens_BT, segments_BT):
    return jax.nn.log_softmax(model.logits(params, model.backbone.apply(params, tokens_BT, segments_BT=segments_BT)))

  return jax.jit(run)


def _plain(text: str) -> str:
  return text.replace('\n', '\\n').replace('\t', '\\t').replace('\r', '\\r')


if __name__ == '__main__':
  sys.exit(main())
