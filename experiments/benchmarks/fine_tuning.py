"""Fine-tunes a BERT of a Hugging Face folder with lmjax and with transformers: scores and seconds of each seed.

  python experiments/benchmarks/fine_tuning.py --model=FOLDER --task=sentiment --train=train.tsv --valid=dev.tsv
  python experiments/benchmarks/fine_tuning.py --model=FOLDER --task=qa --data=squad.json.xz

The two take turns of two minutes, each in a process of its own that is stopped in the turn of the other: a machine that
changes its speed within the hour changes it for both. lmjax is the command `python -m lmjax.main`; torch takes the same
batches (rows, padding, order), rates, clipping and decay, AutoModelForSequenceClassification or
AutoModelForQuestionAnswering with the dropout of config.json, SDPA attention and the fused AdamW. Both are scored after
the last epoch, by lmjax's rules. Of the articles of --data, which is in SQuAD's format, the first three quarters train.
--seeds 0 1 ..., each with an order of its own; --tiny takes a few steps of short rows, for a test. Needs `parity`.
"""

import argparse
import itertools
import json
import lzma
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from contenders import CLIP_NORM, CONFIGS, decayed_apart

# Settings of the configs by task: the file's arguments, seeds, and what differs from the file.
ARGUMENTS = {'sentiment': 'length=64,epochs=3', 'qa': 'length=256,epochs=2'}
SEEDS = {'sentiment': 3, 'qa': 2}
SETTINGS = {
  'sentiment': {'optim.learning_rate': 5e-5, 'data.batch_size': 32},
  'qa': {'optim.learning_rate': 1e-4, 'data.batch_size': 16},
}
# Seconds that each runs before the other does.
TURN = 120.0
TINY = {'data.batch_size': 8, 'data.length': 32, 'train.steps': 2, 'train.epochs': None, 'optim.warmup_steps': 0}
TINY_QA = {'objective.max_question': 12, 'objective.max_answer': 6, 'objective.stride': 8}


def words_of(flags, files: dict[str, str], seed: int) -> list[str]:
  """The arguments of lmjax's run."""
  given = ','.join(f'{split}={file}' for split, file in files.items())
  words = [f'--config={CONFIGS}/finetune_{flags.task}.py:{given},{ARGUMENTS[flags.task]}']
  settings = SETTINGS[flags.task] | {'seed': seed, 'init_from.path': f'hf:{flags.model}', 'writer.tensorboard': False}
  settings |= {'optim.clip_norm': CLIP_NORM, 'samples.count': 1}
  if flags.tiny:
    settings |= TINY | (TINY_QA if flags.task == 'qa' else {})
  return words + [f'--config.{path}={value}' for path, value in settings.items()]


def files_of(flags, folder: pathlib.Path) -> dict[str, str]:
  """{'train', 'valid'}: of SQuAD's file its first three quarters and the rest."""
  if flags.task == 'sentiment':
    return {'train': flags.train, 'valid': flags.valid}
  with (lzma.open if flags.data.endswith('.xz') else open)(flags.data, 'rt', encoding='utf-8') as file:
    articles = json.load(file)['data']
  middle, files = 3 * len(articles) // 4, {}
  for split, part in (('train', articles[:middle]), ('valid', articles[middle:])):
    files[split] = str(folder / f'{split}.json')
    pathlib.Path(files[split]).write_text(json.dumps({'data': part}), encoding='utf-8')
  return files


def in_turns(words: list[str], workdir: str) -> dict[str, dict[str, float]]:
  """Runs both, each for TURN seconds while the other is stopped: {'lmjax', 'torch': what is found of each}.

  torch begins once lmjax has written its config and logged steps.
  """
  both = {'lmjax': Side([sys.executable, '-m', 'lmjax.main', *words, f'--workdir={workdir}'], f'{workdir}.lmjax')}
  metrics = pathlib.Path(workdir, 'metrics.jsonl')
  try:
    both['lmjax'].go_on(lambda: metrics.exists() and '"train"' in metrics.read_text())
    both['torch'] = Side([sys.executable, __file__, 'torch', workdir], f'{workdir}.torch')
    while any(side.process.poll() is None for side in both.values()):
      for side in both.values():
        began = time.perf_counter()
        side.go_on(lambda: time.perf_counter() - began > TURN)  # noqa: B023
  finally:
    for side in both.values():
      side.process.kill()
  return {'lmjax': of_lmjax(workdir, both['lmjax'].seconds), 'torch': json.loads(both['torch'].output.splitlines()[-1])}


class Side:
  """A process that is stopped but in its turns."""

  def __init__(self, command: list[str], file: str):
    self._file, self.seconds = pathlib.Path(file), 0.0
    with self._file.open('w') as out:
      self.process = subprocess.Popen(command, stdout=out)
    self.process.send_signal(signal.SIGSTOP)

  def go_on(self, until: Callable[[], bool]) -> None:
    """Lets it run until something is so, or it has ended."""
    began = time.perf_counter()
    self.process.send_signal(signal.SIGCONT)
    while self.process.poll() is None and not until():
      time.sleep(0.1)
    self.process.send_signal(signal.SIGSTOP)
    self.seconds += time.perf_counter() - began
    if self.process.returncode:
      raise SystemExit(self.output)

  @property
  def output(self) -> str:
    """What it has printed."""
    return self._file.read_text()


def of_lmjax(workdir: str, command_seconds: float) -> dict[str, float]:
  """A run's score after the last epoch, and seconds of its training steps, of compiling, and of all."""
  results = json.loads(pathlib.Path(workdir, 'results.json').read_text())
  lines = list(map(json.loads, pathlib.Path(workdir, 'metrics.jsonl').read_text().splitlines()))
  last = [line for line in lines if line['split'] == 'valid'][-1]
  logged = {0: 0.0} | {line['step']: line['seconds'] for line in lines if line['split'] == 'train'}
  score, compiled = last[results['main_metric']], results['time']['compile']
  return {'score': score, 'seconds': steady(logged), 'compile': compiled, 'command': command_seconds}


def steady(logged: dict[int, float]) -> float:
  """Seconds of all steps, by the median of what passed between two logs: what else a machine does counts little, nor do
  the few pairs between which the process was stopped."""
  pairs = itertools.pairwise(logged.items())
  return max(logged) * statistics.median((after - before) / (step - last) for (last, before), (step, after) in pairs)


def with_torch(workdir: str) -> dict[str, float]:
  """The same run as lmjax made in `workdir`, with torch, in this process."""
  import torch
  import transformers

  from lmjax import config as config_lib
  from lmjax import optim
  from lmjax.schema.command_line import load_json
  from lmjax.tasks import prepare
  from lmjax.training import initialize

  config, source = config_lib.load(load_json(f'{workdir}/config.json'), given=None)
  config, task, data = prepare.prepare(config, initialize.tokenizer_of(source, None))
  torch.manual_seed(config.seed)
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  is_qa = task.NAME == 'extractive_qa'
  kind = transformers.AutoModelForQuestionAnswering if is_qa else transformers.AutoModelForSequenceClassification
  model = kind.from_pretrained(source.folder, attn_implementation='sdpa').train()
  c = config.optim
  groups = decayed_apart(model, c.weight_decay)
  optimizer = torch.optim.AdamW(groups, lr=c.learning_rate, betas=(c.b1, c.b2), eps=c.eps, fused=True)
  rates = optim.learning_rate(c, config.train.steps)
  rates = [float(rates(step)) for step in range(config.train.steps)]

  def inputs_of(batch):
    names = {'input_ids': 'inputs', 'attention_mask': 'segments', 'token_type_ids': 'segment_types'}
    return {name: torch.from_numpy(batch[ours]).long() for name, ours in names.items()}

  def outputs(batch):
    with torch.inference_mode():
      found = model(**inputs_of(batch))
    if is_qa:
      return {'start': found.start_logits.numpy(), 'end': found.end_logits.numpy()}
    return {'outputs': found.logits.softmax(dim=-1).numpy()}

  labels = {'start_positions': 'starts', 'end_positions': 'ends'} if is_qa else {'labels': 'labels'}
  batches = task.pipeline(data, config.seed, config.train.steps).iterate(0)
  began, logged = time.perf_counter(), {0: 0.0}
  for step, (rate, batch) in enumerate(zip(rates, batches, strict=True), 1):
    right = {name: torch.from_numpy(batch[ours]).long() for name, ours in labels.items()}
    loss = model(**inputs_of(batch), **right).loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), c.clip_norm)
    for group in optimizer.param_groups:
      group['lr'] = rate
    optimizer.step()
    if step % config.train.log_every == 0 or step == config.train.steps:
      logged[step] = time.perf_counter() - began
  model.eval()
  valid = data.splits['valid']
  predictions = task.predict(None, valid, lambda function, params, batch: outputs(batch))
  return {'score': task.scores(valid.records, predictions)[task.MAIN_METRIC], 'seconds': steady(logged)}


def table(by_seed: dict[int, dict[str, dict[str, float]]]) -> str:
  """Markdown: a line a seed, then means of the scores and the median of the ratios of times."""
  lines, found = (
    ['| seed | lmjax | torch | lmjax, s | torch, s | torch / lmjax |', '|' + '---|' * 6],
    [*by_seed.values()],
  )
  ratios = [one['torch']['seconds'] / one['lmjax']['seconds'] for one in found]
  for seed, one, ratio in zip(by_seed, found, ratios):
    scores, seconds = ([one[side][what] for side in ('lmjax', 'torch')] for what in ('score', 'seconds'))
    figures = [f'{score:.4f}' for score in scores] + [f'{value:.1f}' for value in seconds]
    lines.append(f'| {seed} | {" | ".join(figures)} | {ratio:.2f} |')
  means = [statistics.mean(one[side]['score'] for one in found) for side in ('lmjax', 'torch')]
  lines.append(f'| all | {means[0]:.4f} | {means[1]:.4f} | | | **{statistics.median(ratios):.2f}** |')
  compiled, command = (statistics.median(one['lmjax'][what] for one in found) for what in ('compile', 'command'))
  text = f'lmjax compiled for {compiled:.0f} s, its command took {command:.0f} s, evaluations included.'
  return '\n'.join(lines) + f'\n\nScores are means over seeds, the ratio a median; {text}'


def main() -> None:
  """Fine-tunes with both, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--model', required=True, help='folder with config.json, model.safetensors and tokenizer.json')
  parser.add_argument('--task', choices=ARGUMENTS, required=True)
  parser.add_argument('--train', help='texts with labels, of sentiment')
  parser.add_argument('--valid', help='the same, to be scored')
  parser.add_argument('--data', help='questions with answers, of qa')
  parser.add_argument('--seeds', type=int, nargs='*')
  parser.add_argument('--tiny', action='store_true')
  flags = parser.parse_args()
  for name in ('train', 'valid') if flags.task == 'sentiment' else ('data',):
    if getattr(flags, name) is None:
      parser.error(f'--task={flags.task} needs --{name}')
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    files = files_of(flags, pathlib.Path(folder))
    for seed in flags.seeds or range(1 if flags.tiny else SEEDS[flags.task]):
      workdir = f'{folder}/{seed}'
      answer = in_turns(words_of(flags, files, seed), workdir)
      print(f'seed {seed}: {json.dumps(answer)}', file=sys.stderr, flush=True)
      found[seed] = answer
  print(table(found))


if __name__ == '__main__':
  if sys.argv[1:2] == ['torch']:
    print(json.dumps(with_torch(sys.argv[2])))
  else:
    main()
