"""Adapters alone, as PEFT reads them: the same as the merged model."""

import json
import pathlib

import numpy as np
import pytest
from safetensors.numpy import load_file

from lmjax import export
from lmjax.models.config import ADAPTERS
from lmjax.training import reopen
from tests import runs
from tests.hf import exports
from tests.hf.exports import GOLDEN, LEARNED, exported, with_adapters


def test_the_files_of_an_adapter(tmp_path, capsys):
  workdir = with_adapters('summarization', tmp_path, f'hf:{GOLDEN / "llama_3_1"}')
  folder = exported(workdir, tmp_path / 'out', '--adapter')
  assert 'adapters of rank 4' in capsys.readouterr().out
  values = json.loads((folder / 'adapter_config.json').read_text())
  assert values['target_modules'] == ['q_proj', 'v_proj'] and values['task_type'] == 'CAUSAL_LM'
  assert (values['r'], values['lora_alpha'], values['modules_to_save']) == (4, 8.0, None)
  assert values['base_model_name_or_path'] is None, 'a folder of this machine is nowhere else'
  params = reopen.load_run(workdir).params
  found = load_file(folder / 'adapter_model.safetensors')
  a = found['base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight']
  np.testing.assert_array_equal(a, np.asarray(params['layers']['1']['attention']['query']['lora_a']).T)
  card = (folder / 'README.md').read_text()
  assert 'library_name: "peft"' in card and 'of class LlamaForCausalLM' in card
  assert not (folder / 'config.json').exists() and (folder / 'tokenizer.json').exists()


def test_what_peft_has_no_word_for_is_refused(tmp_path, capsys):
  """Kernels that a file fuses; the merged model goes out."""
  workdir = with_adapters('classification', tmp_path, None, preset='gpt2_small', **LEARNED)
  capsys.readouterr()
  assert export.main([f'--workdir={workdir}', f'--out={tmp_path / "out"}', '--adapter']) == 2
  err = capsys.readouterr().err
  assert 'h.0.attn.c_attn.weight fuses it with others, and PEFT adapts whole layers; leave --adapter out' in err
  assert not (tmp_path / 'out').exists()


CLASSES = {'summarization': 'CausalLM', 'classification': 'SequenceClassification', 'masked_lm': 'MaskedLM'}
CASES = {
  'summaries': ('summarization', 'llama_3_1', None),
  'labels': ('classification', 'from_llama', None),
  'bert': ('classification', 'bert', None),
  'roberta': ('classification', 'roberta', '*/query/kernel,*/up/kernel'),
  'qwen3': ('summarization', 'qwen3', '*/query/kernel,*/down/kernel'),
  'number': ('classification', 'bert', None),
  'masked': ('masked_lm', 'bert', None),
}


def of_numbers(folder: pathlib.Path, source: str) -> str:
  """The workdir of a regression with adapters, whose numbers are around 5."""
  rows = {
    split: [(one, str(3.0 + i % 5)) for i, (one, _) in enumerate(runs.texts(n))]
    for split, n in (('train', 24), ('valid', 10))
  }
  raw = runs.classification_config(source, folder, lora=4, rows=rows, **{'objective.target': 'number'})
  runs.train(raw, folder / 'run')
  return str(folder / 'run')


def masked(raw_config, folder: pathlib.Path, source: str) -> str:
  """The workdir of further pre-training by adapters alone."""
  steps = {'train.steps': 3, 'optim.warmup_steps': 1, 'optim.learning_rate': 0.05, 'writer.tensorboard': False}
  taken = ('embeddings/*', '*/kernel', '*/bias', '*/scale')
  adapters = {'init_from.take': taken, 'init_from.fresh': ADAPTERS, 'optim.trainable': ADAPTERS}
  raw = raw_config('masked_lm', **{'init_from.path': source}, **steps | adapters)
  raw.model = dict(lora=dict(rank=4, alpha=8.0, dropout=0.0, targets=('*/query/kernel', '*/value/kernel')))
  runs.train(raw, folder / 'run')
  return str(folder / 'run')


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize('case', list(CASES))
def test_an_adapter_equals_the_merged_model(case, raw_config, tmp_path):
  peft = pytest.importorskip('peft')
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  task, name, targets = CASES[case]
  source = exports.with_reserved_token(name, tmp_path / 'model') if name == 'from_llama' else GOLDEN / name
  if case == 'number':
    workdir = of_numbers(tmp_path, f'hf:{source}')
  elif case == 'masked':
    workdir = masked(raw_config, tmp_path, f'hf:{source}')
  else:
    workdir = with_adapters(task, tmp_path, f'hf:{source}', targets=targets)
  merged, alone = exported(workdir, tmp_path / 'merged'), exported(workdir, tmp_path / 'alone', '--adapter')
  labels = task == 'classification'
  kind = getattr(transformers, f'AutoModelFor{CLASSES[task]}')
  tokenizer = transformers.AutoTokenizer.from_pretrained(alone)
  whole = kind.from_pretrained(merged, dtype=torch.float32)
  more = dict(num_labels=whole.config.num_labels) if labels else {}
  base = kind.from_pretrained(source, dtype=torch.float32, **more)
  base.config.pad_token_id = whole.config.pad_token_id
  model = peft.PeftModel.from_pretrained(base, alone).eval()
  encoded = tokenizer(exports.texts(6)[4:] if labels else 'a text', return_tensors='pt', padding=labels)
  with torch.no_grad():
    found, expected = (m.eval()(**encoded).logits for m in (model, whole))
    with model.disable_adapter():
      without = model(**encoded).logits
  assert torch.abs(found - expected).max() < 1e-5 < torch.abs(found - without).max()
  assert case != 'number' or 3.0 < expected.mean() < 7.0, 'in their own units'
