"""Makes tests/hf/golden anew: `python -m tests.hf.make_golden`, with the `parity` extra.

A folder for each family of tests/hf/families.py, as transformers saves it, some with a tokenizer; and expected.npz, of
each what transformers gives for the rows of `rows` at every seventh position. Two files are in bfloat16, one of them
sharded. Models with a tokenizer have five rows more than it has tokens.
"""

import pathlib
import shutil

import numpy as np
import torch

from tests.hf import families, vocabularies
from tests.hf.imports import rows

GOLDEN = pathlib.Path(__file__).parent / 'golden'
STRIDE = 7
SHARDED, HALF = 'qwen2', 'gpt2'


def main() -> None:
  """Writes all of it."""
  shutil.rmtree(GOLDEN, ignore_errors=True)
  expected = {}
  for name in families.TINY:
    folder = GOLDEN / name
    folder.mkdir(parents=True)
    vocab_size = families.VOCAB
    if name in vocabularies.BY_FAMILY:
      made, roles = vocabularies.BY_FAMILY[name]()
      vocabularies.save(folder, made, roles)
      vocab_size = made.get_vocab_size() + 5
    model = families.make(name, vocab_size)
    if name in (SHARDED, HALF):
      model = model.to(torch.bfloat16)
    shards = dict(max_shard_size='8KB') if name == SHARDED else {}
    model.save_pretrained(folder, **shards)
    (folder / 'generation_config.json').unlink(missing_ok=True)
    model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation='eager').eval()
    expected[name] = families.outputs(model, *rows(vocab_size=vocab_size))[:, ::STRIDE]
  np.savez_compressed(GOLDEN / 'expected.npz', **expected)


if __name__ == '__main__':
  main()
