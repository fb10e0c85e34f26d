"""A real masked language model with its head, by hand: `python -m tests.hf.check_rxnfp FOLDER`.

FOLDER is rxnfp/models/transformers/bert_pretrained of the package rxnfp==0.1.0 (`pip download --no-deps`): a BERT of
chemical reactions whose weights are a pickle. They are converted, imported, and asked for masked tokens.
"""

import json
import pathlib
import re
import sys
import tempfile

import jax
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

from lmjax.hf.source import PublicModel
from tests.hf.imports import imported

# As rxnfp cuts reactions into tokens.
TOKEN = re.compile(r'\[[^\]]+\]|Br?|Cl?|>>|%\d\d|.')
REACTIONS = (
  'CC(=O)O.OCC>>CC(=O)OCC',
  'Nc1ccccc1.O=C(Cl)c1ccccc1>>O=C(Nc1ccccc1)c1ccccc1',
  'OB(O)c1ccccc1.Brc1ccncc1.[Pd]>>c1ccc(-c2ccncc2)cc1',
  'CC(C)(C)OC(=O)N1CCNCC1.Fc1ccc(C#N)cc1.CS(C)=O>>CC(C)(C)OC(=O)N1CCN(c2ccc(C#N)cc2)CC1',
)


def converted(folder: pathlib.Path, target: pathlib.Path) -> None:
  """The folder with model.safetensors in place of its pickle, and the model_type that it lacks."""
  state = torch.load(folder / 'pytorch_model.bin', weights_only=True)
  save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, target / 'model.safetensors')
  config = json.loads((folder / 'config.json').read_text())
  (target / 'config.json').write_text(json.dumps({'model_type': 'bert'} | config))  # files of 2019 name none


def rows(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(tokens, mask of real ones, mask of those to predict) of each reaction with every fifth token masked, in turns."""
  ids = {token: i for i, token in enumerate((folder / 'vocab.txt').read_text().split('\n'))}
  texts = [[ids['[CLS]'], *(ids.get(t, ids['[UNK]']) for t in TOKEN.findall(r)), ids['[SEP]']] for r in REACTIONS]
  found = [(text, start) for text in texts for start in range(1, 6)]
  tokens = np.full((len(found), max(map(len, texts))), ids['[PAD]'], np.int32)
  real, asked = np.zeros_like(tokens), np.zeros_like(tokens, bool)
  for i, (text, start) in enumerate(found):
    tokens[i, : len(text)], real[i, : len(text)] = text, 1
    asked[i, start : len(text) - 1 : 5] = True
  return np.where(asked, ids['[MASK]'], tokens).astype(np.int32), real, asked


def main(folder: pathlib.Path) -> None:
  """Prints at how many masked places both models find the same token likeliest, and how far their logits are apart."""
  tokens, real, asked = rows(folder)
  reference = transformers.BertForMaskedLM.from_pretrained(folder).eval()
  with torch.no_grad():
    given = dict(input_ids=torch.from_numpy(tokens).long(), attention_mask=torch.from_numpy(real).long())
    expected = reference(**given).logits.numpy()
  with tempfile.TemporaryDirectory() as target:
    converted(folder, pathlib.Path(target))
    model, params = imported(PublicModel(f'hf:{target}'))
    states = jax.jit(model.backbone.apply)(params, tokens, lengths_B=real.sum(axis=1))
    logits = np.asarray(jax.jit(model.logits)(params, states))
  same = (logits.argmax(-1) == expected.argmax(-1))[asked]
  apart = np.abs(logits - expected)[asked].max() / np.abs(expected[asked]).max()
  print(f'the same token at {same.sum()} of {asked.sum()} masked places; logits differ by {apart:.1e} of the largest')
  assert same.all()


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
