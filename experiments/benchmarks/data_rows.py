"""Tokens of training rows that one process makes in a CPU second, by layout and mask.

  python experiments/benchmarks/data_rows.py

Python's documentation, tokenised with a vocabulary of 4,096; 512 rows a batch for masks, 128 for causal rows. CPU
seconds of the process, of the median of --rounds=N rounds (5 unless given) of --seconds=S each (1 unless given), in
which all kinds take turns. --tiny takes the smallest sizes, for a test.
"""

import argparse
import statistics
import tempfile
import time

from contenders import CONFIGS

CASES = {
  'causal, 128': ('pretrain_clm', {'data.length': 128}),
  'causal, 1,024': ('pretrain_clm', {'data.length': 1024, 'data.batch_size': 128}),
  'causal, packed, 1,024': ('pretrain_clm', {'data.rows': 'packed', 'data.length': 1024, 'data.batch_size': 128}),
  'masked tokens, 128': ('pretrain_mlm', {'data.length': 128}),
  'masked words, 128': ('pretrain_mlm', {'data.length': 128, 'objective.masking.unit': 'word'}),
  'masked words, packed, 128': (
    'pretrain_mlm',
    {'data.length': 128, 'data.rows': 'packed', 'data.cls_sep': False, 'objective.masking.unit': 'word'},
  ),
  'masked words, 512': ('pretrain_mlm', {'data.length': 512, 'objective.masking.unit': 'word'}),
  'masked spans, 512': (
    'pretrain_mlm',
    {
      'data.length': 512,
      'objective.masking.unit': 'span',
      'objective.masking.mean_span': 3.8,
      'objective.masking.max_span': 10,
    },
  ),
}


def pipelines(cache_dir: str, tiny: bool) -> dict:
  """{name: (the batches of a run, tokens of a batch)}."""
  from lmjax import config as config_lib
  from lmjax.schema.command_line import load_config_file
  from lmjax.tasks import prepare

  made = {}
  for name, (file, changes) in CASES.items():
    raw = load_config_file(CONFIGS / f'{file}.py', 'smoke' if tiny else None)
    batch = {'data.batch_size': 8} if tiny else {}
    given = {'data.cache_dir': cache_dir, 'data.batch_size': 512} | changes | batch
    with raw.unlocked():
      raw.update_from_flattened_dict(given)
    config, task, data = prepare.prepare(config_lib.build(raw))
    made[name] = task.pipeline(data, 0, 1_000_000), config.data.batch_size * config.data.length
  return made


def main() -> None:
  """Prints a table."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--seconds', type=float, default=1.0)
  parser.add_argument('--tiny', action='store_true')
  flags = parser.parse_args()
  rounds, seconds = (1, 0.01) if flags.tiny else (flags.rounds, flags.seconds)
  with tempfile.TemporaryDirectory() as folder:
    made = pipelines(folder, flags.tiny)
    rates: dict[str, list[float]] = {name: [] for name in made}
    for number in range(rounds):
      for name, (batches, tokens) in made.items():
        batches.batch(0)
        began, step = time.process_time(), 1 + 1_000 * number
        while (used := time.process_time() - began) < seconds:
          batches.batch(step)
          step += 1
        rates[name].append((step - 1 - 1_000 * number) * tokens / used)
  print('| rows | million tokens a CPU second (lowest to highest) |')
  print('|---|---|')
  for name, found in rates.items():
    median, low, high = (f'{value / 1e6:.2f}' for value in (statistics.median(found), min(found), max(found)))
    print(f'| {name} | **{median}** ({low} to {high}) |')


if __name__ == '__main__':
  main()
