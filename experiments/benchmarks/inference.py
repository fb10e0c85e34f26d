"""Generation against transformers, and vectors of texts against sentence-transformers, in turns, with the same weights.

  python experiments/benchmarks/inference.py --task=generate [--layers=12 --width=768 --vocab=50257]
  python experiments/benchmarks/inference.py --task=embed --model=FOLDER

generate: GPT-2 of random weights, made by `lmjax.main` without a step and exported by `lmjax.export`; 16 prompts of
32 tokens are continued by 128, greedily and by 4 beams. embed: 512 texts, 32 at a time, by a folder of sentence-
transformers. Each side is a process of its own that waits while the other works; its first
turn, with what it compiles, does not count. The ratio is the median of those of the rounds. --rounds=N, 5 unless
given; --tiny takes the smallest sizes, for a test.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from contenders import CONFIGS

BATCH, PROMPT, NEW, BEAMS = 16, 32, 128, 4
TEXTS, EMBED_BATCH = 512, 32
TINY = dict(layers=1, width=32, vocab=300)
FEWER = dict(batch=2, new=6, texts=8)


def make_gpt2(folder: pathlib.Path, layers: int, width: int, vocab: int) -> None:
  """A run of no step in folder/run, and its export in folder/out."""
  from lmjax.data.tokens.trainer import untrained

  untrained(vocab).save(str(folder / 'tokenizer.json'))
  words = ' '.join(f'word{i}' for i in range(40))
  (folder / 'text.txt').write_text('\n\n'.join(f'{i} {words}' for i in range(200)))
  settings = {'train.steps': 0, 'data.tokenizer.path': folder / 'tokenizer.json', 'data.cache_dir': folder / 'cache'}
  settings |= {
    'data.length': 32,
    'data.batch_size': 8,
    'data.valid_fraction': 0.05,
    'samples.count': 1,
    'objective.chunk': 8,
  }
  settings |= {'model.layers': layers, 'model.width': width, 'model.mlp_width': 4 * width, 'model.max_length': 512}
  settings |= {f'data.tokenizer.{name}': None for name in ('vocab_size', 'sample_bytes', 'lowercase')}
  heads = max(width // 64, 1)
  settings |= {'model.heads': heads, 'model.kv_heads': heads, 'model.dtype': 'float32', 'mesh.fsdp': 1}
  words = [f'--config={CONFIGS}/pretrain_clm.py:preset=gpt2_small,data={folder}/text.txt']
  words += [f'--config.{path}={value}' for path, value in settings.items()]
  command_of('main', *words, f'--workdir={folder}/run')
  command_of('export', f'--workdir={folder}/run', f'--out={folder}/out')


def command_of(name: str, *words: str) -> None:
  """Runs a command of lmjax; what it prints goes to stderr."""
  subprocess.run([sys.executable, '-m', f'lmjax.{name}', *words], stdout=sys.stderr, check=True)


def prompts_of(rows: int, vocab: int) -> np.ndarray:
  """int32 [rows, PROMPT]: any ids that are not special."""
  return np.random.default_rng(0).integers(7, vocab, (rows, PROMPT), dtype=np.int32)


def generate_with_lmjax(workdir: str, rows: int, new: int):
  """`kind -> new tokens`."""
  import jax

  from lmjax.models import decode
  from lmjax.training import reopen

  run = reopen.load_run(workdir)
  model, prompts = run.task.model, prompts_of(rows, run.tokenizer.vocab_size)
  ones, key = np.ones_like(prompts), jax.random.key(0)

  def greedy(params):
    cache = model.backbone.init_cache(rows, PROMPT + new)
    settings = dict(new_tokens=new, temperature=0.0)
    return decode.generate(model.decode_step(params), cache, prompts, ones, key, **settings)

  def beams(params):
    cache = model.backbone.init_cache(rows, PROMPT + new * BEAMS)
    settings = dict(new_tokens=new, beams=BEAMS, length_penalty=1.0, no_repeat_ngram=None, stop=None)
    return decode.beam_search(model.decode_step(params), cache, prompts, ones, **settings)[0]

  compiled = {'greedy': jax.jit(greedy), f'{BEAMS} beams': jax.jit(beams)}
  return lambda kind: np.asarray(compiled[kind](run.params))


def generate_with_transformers(folder: str, rows: int, new: int):
  """The same by `transformers.generate`."""
  import torch
  import transformers

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
  model.generation_config.eos_token_id = None
  prompts = torch.from_numpy(prompts_of(rows, model.config.vocab_size)).long()

  def run(kind):
    beams = 1 if kind == 'greedy' else BEAMS
    settings = dict(max_new_tokens=new, do_sample=False, num_beams=beams, pad_token_id=0)
    with torch.inference_mode():
      made = model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)
    return made[:, PROMPT:].numpy()

  return run


def texts_of(count: int) -> list[str]:
  """Sentences of the embedded data, of 1 to 12 each."""
  from lmjax.data.sources import demo

  sentences = [record['text'] for record in demo.records('classification', 'train')]
  drawn = itertools.islice(itertools.cycle(sentences), count * 12)
  return [' '.join(itertools.islice(drawn, 1 + i % 12)) for i in range(count)]


def embed_with_lmjax(folder: str, count: int, _):
  """`kind -> vectors`."""
  import jax

  from lmjax.hf.source import PublicModel
  from lmjax.hosts import allocator
  from lmjax.training import vectors

  allocator.keep_freed_memory()
  given = dict(pooling=None, normalize=None, length=None)
  embed, texts = vectors.of_public(PublicModel(f'hf:{folder}'), None, given, 'float32'), texts_of(count)

  def run(_):
    with jax.set_mesh(embed.mesh):
      return embed(texts, EMBED_BATCH)[0]

  return run


def embed_with_sentence_transformers(folder: str, count: int, _):
  """The same by `SentenceTransformer.encode`."""
  import sentence_transformers
  import torch

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  model, texts = sentence_transformers.SentenceTransformer(folder, device='cpu'), texts_of(count)
  return lambda _: model.encode(texts, batch_size=EMBED_BATCH)


SIDES = {
  'generate': (generate_with_lmjax, generate_with_transformers),
  'embed': (embed_with_lmjax, embed_with_sentence_transformers),
}
PEERS = {'generate': 'transformers', 'embed': 'sentence-transformers'}


class Side:
  """A process that does one thing at a time, when it is asked to."""

  def __init__(self, *words):
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    self._process = subprocess.Popen([sys.executable, __file__, 'side', *map(str, words)], text=True, **pipes)

  def __call__(self, kind: str) -> tuple[float, np.ndarray]:
    """(seconds, what was made)."""
    self._process.stdin.write(kind + '\n')
    self._process.stdin.flush()
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit('a side has ended; what it says stands above')
    answer = json.loads(line)
    return answer['seconds'], np.array(answer['made'])

  def close(self) -> None:
    """Ends it."""
    self._process.stdin.close()
    self._process.wait()


def side(task: str, place: str, source: str, *sizes: str) -> None:
  """What such a process does."""
  out, sys.stdout = sys.stdout, sys.stderr  # for libraries that print
  run = SIDES[task][int(place)](source, *map(int, sizes))
  for line in sys.stdin:
    began = time.perf_counter()
    made = run(line.rstrip('\n'))
    print(json.dumps({'seconds': time.perf_counter() - began, 'made': made.tolist()}), file=out, flush=True)


def compare(task: str, sources: tuple[str, str], kinds: list[str], sizes: tuple[int, int], rounds: int) -> list[str]:
  """Lines of a table in Markdown."""
  sides = [Side(task, place, source, *sizes) for place, source in enumerate(sources)]
  lines = [f'| | lmjax, s | {PEERS[task]}, s | ratio (range) | |', '|' + '---|' * 5]
  try:
    for kind in kinds:
      (_, ours), (_, theirs) = (one(kind) for one in sides)
      if task == 'generate':
        note = f'{(ours == theirs).all(axis=1).sum()} of {len(ours)} rows of the same tokens'
      else:
        note = f'vectors differ by {np.abs(ours - theirs).max():.1e} at most'
      seconds = [[one(kind)[0] for one in sides] for _ in range(rounds)]
      ratios = [theirs / ours for ours, theirs in seconds]
      figures = [f'{statistics.median(column):.2f}' for column in zip(*seconds)]
      bounds = f'**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})'
      lines.append(f'| {kind} | {" | ".join(figures)} | {bounds} | {note} |')
  finally:
    for one in sides:
      one.close()
  return lines


def main() -> None:
  """Compares, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--task', choices=SIDES, required=True)
  parser.add_argument('--model', help='of embed')
  parser.add_argument('--layers', type=int, default=6)
  parser.add_argument('--width', type=int, default=384)
  parser.add_argument('--vocab', type=int, default=8192)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--tiny', action='store_true')
  flags = parser.parse_args()
  if (flags.task == 'embed') != (flags.model is not None):
    parser.error(f'--task={flags.task} {"needs" if flags.task == "embed" else "makes its own model, without"} --model')
  fewer = FEWER if flags.tiny else {}
  rounds = 1 if flags.tiny else flags.rounds
  if flags.task == 'embed':
    lines = compare('embed', (flags.model,) * 2, ['vectors'], (fewer.get('texts', TEXTS), 0), rounds)
  else:
    sizes = TINY if flags.tiny else dict(layers=flags.layers, width=flags.width, vocab=flags.vocab)
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      make_gpt2(folder, **sizes)
      counts = fewer.get('batch', BATCH), fewer.get('new', NEW)
      lines = compare('generate', (f'{name}/run', f'{name}/out'), ['greedy', f'{BEAMS} beams'], counts, rounds)
  print('\n'.join(lines))


if __name__ == '__main__':
  if sys.argv[1:2] == ['side']:
    side(*sys.argv[2:])
  else:
    main()
