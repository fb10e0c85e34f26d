"""A model of each family, as transformers saves it, gives what it gives in transformers, and goes back bit for bit."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from lmjax.errors import CheckpointError
from lmjax.hf import table
from lmjax.hf.source import PublicModel
from tests.hf.imports import imported, rows

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

from tests.hf import families  # needs both

pytestmark = [pytest.mark.slow, pytest.mark.parity]
TOLERANCE = 1e-5
# Settings by which families differ: without one of them the logits must be others, or this would compare nothing.
TOLD = {
  'position_offset': 0,
  'qkv_bias': False,
  'norm_offset': 0.0,
  'embedding_scale': None,
  'attention_scale': None,
  'attention_softcap': None,
  'logit_softcap': None,
  'rope_scaling': None,
  'rope_theta_local': None,
  'rotary_width': None,
  'rotary_skip_every': None,
  'window': None,
  'global_every': None,
  'global_offset': 0,
  'parallel_residual': False,
}


@pytest.fixture(scope='module', params=list(families.TINY))
def tiny(request, tmp_path_factory):
  """(name, the source of a folder, what transformers gives for its rows)."""
  folder = tmp_path_factory.mktemp(request.param)
  model = families.make(request.param)
  families.save(model, folder)
  return request.param, PublicModel(f'hf:{folder}'), families.outputs(model, *rows())


def logits_of(model, params, tokens, mask) -> np.ndarray:
  @jax.jit
  def run(params, tokens, mask):
    x_BTD = model.backbone.apply(params, tokens, lengths_B=mask.sum(axis=1))
    has_head = 'head' in params or model.backbone.config.attention == 'causal'
    return model.logits(params, x_BTD) if has_head else x_BTD

  return np.asarray(run(params, tokens, mask))


def largest_difference(found, expected, mask) -> float:
  """Over real tokens: transformers computes something for padding, too."""
  return float(np.abs((found - expected) * mask[:, :, None]).max())


@pytest.mark.parametrize('scan, attention', [(False, 'xla'), (True, 'blockwise')])
def test_logits(tiny, scan, attention):
  name, source, expected = tiny
  tokens, mask = rows()
  found = logits_of(*imported(source, scan=scan, attention_implementation=attention), tokens, mask)
  assert expected.std() > 0.3
  assert largest_difference(found, expected, mask) < TOLERANCE


def test_each_setting_of_a_family_tells(tiny):
  """The rows are long enough, and the weights large enough, to see an error in any of them."""
  name, source, expected = tiny
  tokens, mask = rows()
  model, params = imported(source)
  told = {key: off for key, off in TOLD.items() if source.model[key] != off}
  for key, off in told.items():
    changes = {key: off}
    if key == 'rope_scaling':
      changes |= dict(rope_scaling_type='linear', rope_original_length=None, rope_rotations=None)
      changes |= dict(rope_scaling_layers='all')
    if key == 'window':
      changes |= dict(global_every=None, global_offset=0, rope_theta_local=None, rope_scaling_layers='all')
    if key == 'position_offset':
      changes |= dict(max_length=source.model['max_length'] + source.model['position_offset'])
    if key == 'global_every':
      changes |= dict(global_offset=0)
    config = dataclasses.replace(model.backbone.config, **changes)
    other = dataclasses.replace(model, backbone=dataclasses.replace(model.backbone, config=config))
    assert largest_difference(logits_of(other, params, tokens, mask), expected, mask) > 100 * TOLERANCE, key


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_way_back_gives_the_same_bits(tiny, dtype, tmp_path):
  name, _, _ = tiny
  families.save(families.make(name), tmp_path, dtype)
  source = PublicModel(f'hf:{tmp_path}')
  ours = {}
  for line in source.lines:
    with source.weights.opened(line.theirs) as tensor:
      whole = tuple(slice(0, size) for size in source.arrays[line.ours]['shape'])
      ours[line.ours] = line.read(tensor, source.weights.tensors[line.theirs].shape, whole)
  back = table.written(source.lines, ours)
  assert set(source.weights.tensors) - set(back) == set(source.left_behind(source.optional))
  for tensor_name, array in back.items():
    with source.weights.opened(tensor_name) as tensor:
      before = tensor[:]
      np.testing.assert_array_equal(array.astype(before.dtype), before)


def test_the_settings_of_transformers_4_are_those_of_5(tiny, tmp_path):
  """The Hub's files are of version 4: rotary settings at the top, no layer types."""
  name, source, _ = tiny
  values = dict(source.file.values)
  rope = values.pop('rope_parameters', None)
  values.pop('layer_types', None)
  values.pop('no_rope_layers', None)
  if rope is not None:
    whole, local = rope.get('full_attention', rope), rope.get('sliding_attention', rope)
    by_family = {
      'modernbert': ('global_rope_theta', 'local_rope_theta'),
      'gemma3': ('rope_theta', 'rope_local_base_freq'),
      'gpt_neox': ('rotary_emb_base', None),
      'gpt_neox_serial': ('rotary_emb_base', None),
    }
    key, key_local = by_family.get(name, ('rope_theta', None))
    values[key] = whole['rope_theta']
    if key_local:
      values[key_local] = local['rope_theta']
    if 'partial_rotary_factor' in whole:
      values['rotary_pct' if key == 'rotary_emb_base' else 'partial_rotary_factor'] = whole['partial_rotary_factor']
    if whole.get('rope_type', 'default') != 'default':
      left_out = ('rope_theta', 'partial_rotary_factor', 'rope_type')
      values['rope_scaling'] = {k: v for k, v in whole.items() if k not in left_out} | {'type': whole['rope_type']}
  values['torch_dtype'] = values.pop('dtype')
  (tmp_path / 'config.json').write_text(json.dumps(values))
  assert PublicModel(f'hf:{tmp_path}').model == source.model


@pytest.mark.parametrize('pad', [0, 3])
def test_positions_are_counted_from_the_id_that_pads(pad, tmp_path, monkeypatch):
  """RoBERTa with another one than 1; no text of the rows has it."""
  kind = families.TINY['roberta']
  settings = kind.settings | dict(
    pad_token_id=pad, max_position_embeddings=kind.settings['max_position_embeddings'] + 3
  )
  monkeypatch.setitem(families.TINY, 'roberta', kind._replace(settings=settings))
  model = families.make('roberta')
  families.save(model, tmp_path)
  tokens, mask = rows()
  padded = np.where(mask > 0, tokens, pad).astype(np.int32)
  source = PublicModel(f'hf:{tmp_path}')
  assert source.model['position_offset'] == pad + 1
  found = logits_of(*imported(source), padded, mask)
  assert largest_difference(found, families.outputs(model, padded, mask), mask) < TOLERANCE


@pytest.mark.parametrize('name', ['bert', 'roberta', 'modernbert'])
def test_heads_that_are_not_tied(name, tmp_path):
  """transformers computes with the bias of the output layer then, not with that of the head."""
  model = families.make(name, tie_word_embeddings=False)
  families.save(model, tmp_path)
  tokens, mask = rows()
  found = logits_of(*imported(PublicModel(f'hf:{tmp_path}')), tokens, mask)
  assert largest_difference(found, families.outputs(model, tokens, mask), mask) < TOLERANCE


@pytest.mark.parametrize('name', ['llama_3_1', 'llama_yarn'])
def test_a_rotary_length_above_its_scaling_counts(name, tmp_path):
  families.save(families.make(name), tmp_path)
  file = tmp_path / 'config.json'
  values = json.loads(file.read_text())
  length = values['rope_parameters'].pop('original_max_position_embeddings')
  file.write_text(json.dumps(values | {'original_max_position_embeddings': length}))
  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation='eager').eval()
  tokens, mask = rows()
  found = logits_of(*imported(PublicModel(f'hf:{tmp_path}')), tokens, mask)
  assert largest_difference(found, families.outputs(model, tokens, mask), mask) < TOLERANCE


def converted(folder: pathlib.Path) -> PublicModel:
  """The model of a folder with pickles, after the line that the refusal gives, run as it is."""
  with pytest.raises(CheckpointError) as error:
    _ = PublicModel(f'hf:{folder}').arrays
  line = str(error.value).partition('with torch: ')[2].replace('python -c', f'{sys.executable} -c')
  subprocess.run(line, shell=True, check=True)
  return PublicModel(f'hf:{folder}')


def test_pickles_in_parts_are_converted(tmp_path):
  model, folder = families.make('bert'), tmp_path / "it's [1]"
  model.config.save_pretrained(folder)
  tensors = list(model.state_dict().items())
  for part in (0, 1):
    torch.save(dict(tensors[part::2]), folder / f'pytorch_model-0000{part + 1}-of-00002.bin')
  tokens, mask = rows()
  found = logits_of(*imported(converted(folder)), tokens, mask)
  assert largest_difference(found, families.outputs(model, tokens, mask), mask) < TOLERANCE


@pytest.mark.parametrize('name', ['bert', 'gpt2', 'llama_tied_linear'])
def test_the_line_that_converts_a_pickle_is_true(name, tmp_path):
  """What the refusal of a .bin gives, run as it is; the output table of a tied model is in such files, too."""
  model = families.make(name)
  model.config.save_pretrained(tmp_path)
  torch.save(model.state_dict(), tmp_path / 'pytorch_model.bin')
  source = converted(tmp_path)
  tokens, mask = rows()
  found = logits_of(*imported(source), tokens, mask)
  assert largest_difference(found, families.outputs(model, tokens, mask), mask) < TOLERANCE
