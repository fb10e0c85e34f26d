"""Look at what goes in, and at what was learned.

python -m lmjax.inspect --config=FILE.py[:arg] --batch=S     batch S as text: inputs, targets, weights, origins
python -m lmjax.inspect --workdir=DIR                        parameters by group
    --neighbors=cat,dog     nearest neighbors in the embedding table
    --prompt=TEXT           completes it (causal), or fills each [MASK] in it (masked)
    --minimal_pairs=FILE    a good and a bad sentence a line, separated by a tab: which does the model find likelier?
    --step=N                another checkpoint than the newest
    --mesh=N                on N devices; default: all, laid out as in training
"""

import collections
import functools
import sys

import numpy as np

from lmjax import config as config_lib
from lmjax.errors import ConfigError, DataError
from lmjax.schema import command_line
from lmjax.schema.types import PositiveInt
from lmjax.tasks.table import TASKS

FLAGS = {'batch': int, 'neighbors': str, 'prompt': str, 'minimal_pairs': str, 'step': int, 'mesh': PositiveInt}
NEIGHBORS = 8
TOP = 5
NEW_TOKENS = 64
# Sentences are padded to a multiple of this many tokens: each shape compiles once.
BUCKET = 32


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.command(run, argv, __doc__, FLAGS, config='optional', root=config_lib.Config)


def run(flags: command_line.CommandLine) -> None:
  """Shows a batch of a config, or what a workdir has learned."""
  if flags.config is None:
    show_run(flags)
    return
  step = flags.values['batch']
  if step is None or step < 0:
    flags.problems.append(f'--batch = {step}: must be a step, 0 or more; add --batch=0')
  given = [path for path, _ in flags.assignments]
  show_batch(*config_lib.load(flags.config, flags.problems, given=given), step)


def show_batch(config, source, step: int) -> None:
  """Prints one training batch as text, with where each row comes from."""
  from lmjax.tasks import prepare
  from lmjax.training import initialize

  tokenizer = initialize.tokenizer_of(source, config.data.tokenizer)
  config, task, data = prepare.prepare(config, tokenizer, progress=True)
  if step >= config.train.steps:
    raise ConfigError(f'--batch = {step}: the run has steps 0 to {config.train.steps - 1}; choose one of them')
  batches = task.pipeline(data, config.seed, config.train.steps)
  batch = batches.batch(step)
  print(f'batch {step}: ' + ', '.join(f'{name} {a.dtype}{list(a.shape)}' for name, a in batch.items()))
  for i, ((name, epoch, row), begins) in enumerate(zip(batches.rows(step), batches.documents(step))):
    places = ', '.join(f'{document} from {place}' for document, place in begins)
    print(f'\nrow {i}: source {name}, epoch {epoch}, row {row}; documents: {places}')
    print(row_as_text(task, {key: a[i] for key, a in batch.items()}))


def row_as_text(task, example: dict) -> str:
  """One example for people: what is shown, what is to be predicted, and what counts.

  Tokens are kept apart by `|`; a token that predicts nothing stands in parentheses, as does padding; `||` is a
  boundary between documents that do not see each other.
  """
  shown = lambda token: _plain(task.tokenizer.token(int(token)))
  inputs, weights = example['inputs'], example['weights']
  segments = example.get('segments', np.ones(len(inputs)))
  counts = (weights > 0 if np.shape(weights) == inputs.shape else True) & (segments > 0)
  tokens = []
  for i, token in enumerate(inputs):
    if i and segments[i] != segments[i - 1]:
      tokens.append('|')
    tokens.append(shown(token) if counts[i] else f'({shown(token)})')
  lines = ['  inputs   ' + '|'.join(tokens)]
  if 'slots' in example:
    masks = example.get('shown', np.zeros(len(example['slots'])))
    for slot, target, weight, masked in zip(example['slots'], example['targets'], weights, masks):
      if weight > 0:
        as_what = '[MASK]' if masked else shown(inputs[slot])
        lines.append(f'  place {int(slot):4d}  target {shown(target)!r}, shown as {as_what!r}')
  elif 'targets' in example:
    lines.append('  targets  ' + '|'.join(map(shown, example['targets'])))
  # a label, or the places of an answer; of many labels those that the text has
  lines += [f'  {name:8} {value:g}' for name, value in example.items() if name != 'weights' and np.ndim(value) == 0]
  if np.ndim(example.get('labels')) == 1:
    lines.append('  labels   ' + ', '.join(np.array(task.objective.labels)[example['labels'] > 0]))
  lines.append(f'  weight   {float(np.sum(weights)):g} of {np.size(weights)}')
  return '\n'.join(lines)


def show_run(flags) -> None:
  """Prints what a trained run holds and answers."""
  import jax

  from lmjax.training import reopen

  trained = reopen.load_run(flags.workdir, flags.values['step'], flags.values['mesh'])
  print(f'{flags.workdir}: {trained.config.task}, step {trained.step}')
  print(parameter_table(trained.params))
  words = flags.values['neighbors']
  with jax.set_mesh(trained.mesh):
    for word in words.split(',') if words else ():
      print(neighbors(trained, word))
    for name, show in (('prompt', answer), ('minimal_pairs', minimal_pairs)):
      if flags.values[name] is not None:
        print(show(trained, flags.values[name]))


def parameter_table(params) -> str:
  """Parameters by group: how many, and their root mean square."""
  from lmjax import metrics, paths

  groups = collections.defaultdict(list)
  for path, array in paths.flatten(params).items():
    groups[metrics.group_of(path)].append((array.size, float((np.asarray(array, np.float64) ** 2).sum())))
  sums = {name: np.sum(pairs, axis=0) for name, pairs in sorted(groups.items())}
  rows = [f'{"group":12} {"parameters":>14} {"rms":>10}']
  rows += [f'{name:12} {int(n):14,} {(square / n) ** 0.5:10.4f}' for name, (n, square) in sums.items()]
  rows.append(f'{"all":12} {int(sum(n for n, _ in sums.values())):14,}')
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
  nearest = ', '.join(f'{_plain(tok.token(i)).strip()!r} {nearness[i]:.2f}' for i in best)
  return f'{word}{"" if len(ids) == 1 else f" (mean of {len(ids)} tokens)"}: {nearest}'


def answer(trained, prompt: str) -> str:
  """Completes a prompt (causal), or fills each [MASK] in it (masked)."""
  import jax

  task, tok = trained.task, trained.tokenizer
  _check_pre_training(trained, '--prompt')
  if trained.config.task == 'causal_lm':
    first = task.row_spec().begin or task.row_spec().end
    c, limit, ids = trained.config.samples, trained.config.model.max_length, [*first, *tok.encode(prompt)]
    new = NEW_TOKENS if limit is None else min(NEW_TOKENS, limit - len(ids))
    if new < 1:
      raise ConfigError(f'--prompt: {len(ids)} tokens leave no room in a position table of {limit}; shorten it')
    sampling = dict(new_tokens=new, temperature=c.temperature, top_k=c.top_k, top_p=c.top_p)
    [completion] = task.complete(trained.params, [ids], jax.random.key(0), **sampling)
    return f'{prompt}{tok.decode(completion)}'
  row = masked_row(task, prompt)
  if task.tokenizer.mask not in row:
    raise ConfigError(f'--prompt = {prompt!r}: has no [MASK]; write one for each token to be filled in')
  lines = [prompt]
  for number, guesses in enumerate(task.fill(trained.params, [row], TOP)[0], 1):
    lines.append(f'  mask {number}: ' + ', '.join(f'{_plain(tok.token(t))!r} {p:.2f}' for t, p in guesses))
  return '\n'.join(lines)


def _check_pre_training(trained, flag: str) -> None:
  if not TASKS[trained.config.task].is_pre_training:
    raise ConfigError(f'{flag}: this run is one of {trained.config.task}; use python -m lmjax.predict')


def masked_row(task, text: str) -> list[int]:
  """Token ids of a text in which `[MASK]` stands for the mask token, framed as the model's rows are.

  The space before a `[MASK]` belongs to the hidden token, as in the text that the model was trained on.
  """
  spec, tok = task.row_spec(), task.tokenizer
  *before, last = text.split('[MASK]')
  row = [token for piece in before for token in (*tok.encode(piece.rstrip(' ')), tok.mask)]
  return [*spec.prefix, *row, *tok.encode(last), *spec.suffix]


def minimal_pairs(trained, file: str) -> str:
  """Scores pairs: the share in which the good sentence is likelier than the bad one.

  Causal: log-probability of the sentence. Masked: pseudo-log-likelihood, each token masked in its turn (Salazar et
  al. 2020, https://arxiv.org/abs/1910.14659).

  Raises DataError: the file is not there, or a line is not two sentences separated by a tab.
  """
  _check_pre_training(trained, '--minimal_pairs')
  pairs = read_pairs(file)
  rows, right = [f'{"good":>10} {"bad":>10}'], 0
  for pair in pairs:
    good, bad = (log_likelihood(trained, sentence) for sentence in pair)
    right += good > bad
    rows.append(f'{good:10.2f} {bad:10.2f}  {"right" if good > bad else "wrong"}  {pair[0]}  |  {pair[1]}')
  return '\n'.join([*rows, f'{right} of {len(pairs)} right ({right / len(pairs):.3f})'])


def read_pairs(file: str) -> list[tuple[str, ...]]:
  """The tab-separated pairs of a file; empty lines are skipped."""
  pairs = []
  for number, line in enumerate(command_line.read_text('--minimal_pairs', file).split('\n'), 1):
    if line.strip():
      pairs.append(tuple(part.strip() for part in line.split('\t')))
      if len(pairs[-1]) != 2 or not all(pairs[-1]):
        rule = 'must be a good and a bad sentence separated by one tab; fix it'
        raise DataError(f'{file}:{number} = {line[:60]!r}: {rule}')
  if not pairs:
    raise DataError(f'{file}: no pairs; write a good and a bad sentence a line, separated by a tab')
  return pairs


def log_likelihood(trained, sentence: str) -> float:
  """The log-probability of a sentence in nats: exact (causal) or pseudo (masked)."""
  task, spec = trained.task, trained.task.row_spec()
  ids = np.array(trained.tokenizer.encode(sentence), np.int32)
  if trained.config.task == 'causal_lm':
    first = spec.begin or spec.end
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
