"""Folders that are no model of ours: one line each, before an array is read."""

import json
import pathlib
import shlex
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lmjax.errors import CheckpointError
from lmjax.hf import families
from lmjax.hf.source import PublicModel

GOLDEN = pathlib.Path(__file__).parent / 'golden'


@pytest.fixture
def folder(tmp_path):
  """`folder('bert')` -> a copy of a golden folder."""

  def copied(name):
    return pathlib.Path(shutil.copytree(GOLDEN / name, tmp_path / name))

  return copied


def change_config(folder, **values):
  """Sets keys of config.json, or takes those out that are None."""
  file = folder / 'config.json'
  config = json.loads(file.read_text()) | values
  file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def change_tensors(folder, change):
  """`change(tensors)` on those of the one file."""
  file = folder / 'model.safetensors'
  tensors = load_file(file)
  change(tensors)
  save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, file)


def refused(folder, *parts) -> str:
  """The message of the refusal, which is one line and holds all parts."""
  with pytest.raises(CheckpointError) as error:
    _ = PublicModel(f'hf:{folder}').arrays
  message = str(error.value)
  assert '\n' not in message and message.count(';') >= 1, message
  for part in parts:
    assert part in message, message
  return message


@pytest.mark.parametrize(
  'name, values, parts',
  [
    ('bert', dict(model_type='electra'), ["model_type = 'electra'", 'two models', 'bert']),
    ('bert', dict(model_type='deberta-v2'), ["model_type = 'deberta-v2'", 'distances between tokens']),
    ('bert', dict(model_type='t5'), ["model_type = 't5'", 'an encoder and a decoder']),
    ('bert', dict(model_type='bertt'), ["model_type = 'bertt': no such family; did you mean bert?"]),
    (
      'llama',
      dict(partial_rotary_factor=0.5),
      ['partial_rotary_factor = 0.5: its family rotates whole heads'],
    ),
    ('bert', dict(model_type='rwkv7'), ["model_type = 'rwkv7': no such family; choose one of bert, roberta"]),
    (
      'bert',
      dict(model_type=None),
      ['model_type = None: config.json must name one', 'write it there, as one of bert, roberta'],
    ),
    (
      'bert',
      dict(model_type='mine', auto_map={'AutoModel': 'mine.Model'}),
      ['needs code of its own, which is not run'],
    ),
    ('bert', dict(is_decoder=True), ['is_decoder = True: must be False']),
    ('bert', dict(position_embedding_type='relative_key'), ["position_embedding_type = 'relative_key'"]),
    ('bert', dict(hidden_act='gelu_10'), ["hidden_act = 'gelu_10': no such activation here; it must be one of gelu"]),
    ('bert', dict(hidden_act='silu'), ["hidden_act = 'silu'"]),  # not as a gate
    ('bert', dict(hidden_size=None), ['has no hidden_size; download it again']),
    ('bert', dict(num_hidden_layers='2'), ["num_hidden_layers = '2': must be a whole number above 0"]),
    ('bert', dict(num_attention_heads=0), ['num_attention_heads = 0: must be a whole number above 0']),
    (
      'bert',
      dict(num_hidden_layers=10**12),
      ['num_hidden_layers = 1000000000000: must be a whole number', 'below 2^31'],
    ),
    ('bert', dict(model_type=['bert']), ["model_type = ['bert']: must be a text"]),
    ('bert', dict(layer_norm_eps='1e-12'), ["layer_norm_eps = '1e-12': must be a float; check it"]),
    ('bert', dict(hidden_dropout_prob=1.5), ['hidden_dropout_prob = 1.5: must be']),
    ('bert', dict(num_attention_heads=3), ['num_attention_heads = 3: must divide']),
    ('roberta', dict(pad_token_id=1000), ['max_position_embeddings = -']),
    (
      'llama_yarn',
      dict(original_max_position_embeddings=48),
      ['original_max_position_embeddings = 48: the scaling of rotary positions has 24; leave one of the two out'],
    ),
    ('bert', dict(quantization_config={'bits': 4}), ["quantization_config = {'bits': 4}", 'full weights']),
    ('llama', dict(attention_bias=True), ['attention_bias = True: must be False']),
    ('llama', dict(rope_parameters={'rope_type': 'longrope', 'rope_theta': 1e4}), ["rope_type = 'longrope'", 'llama3']),
    ('llama', dict(rope_parameters=None, rope_scaling={'type': 'dynamic', 'factor': 2.0}), ["rope_type = 'dynamic'"]),
    ('llama', dict(rope_parameters={'rope_type': 'linear', 'rope_theta': 1e4}), ['linear: has no factor']),
    (
      'llama_yarn',
      dict(rope_parameters={'rope_type': 'yarn', 'rope_theta': 1e4, 'factor': 2.0, 'mscale': 0.7}),
      ['mscale = 0.7: cannot be expressed with rope_type = yarn'],
    ),
    ('olmo3', dict(layer_types=['full_attention', 'full_attention', *['sliding_attention'] * 3]), ['every n-th layer']),
    ('qwen2', dict(use_sliding_window=True), ['use_sliding_window = True: must be False']),
    ('roberta', dict(hidden_act='relu'), ["hidden_act = 'relu': must be gelu"]),
    (
      'qwen3',  # as its card says, but next to what transformers 5 has written
      dict(rope_scaling={'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 32768}),
      ["rope_scaling = {'rope_type': 'yarn'", 'rope_parameters next to it say otherwise; leave one of the two out'],
    ),
    ('opt', dict(word_embed_proj_dim=8), ['word_embed_proj_dim = 8: must be hidden_size = 16']),
    ('opt', dict(do_layer_norm_before=False), ['do_layer_norm_before = False']),
    (
      'smollm3',
      dict(no_rope_layers=[0, 1, 1, 1, 1]),
      ['no_rope_layers = [0, 1, 1, 1, 1]: of every n layers, the last'],
    ),
  ],
)
def test_a_config_that_cannot_be_expressed(folder, name, values, parts):
  broken = folder(name)
  change_config(broken, **values)
  refused(broken, 'config.json', *parts)


def test_a_number_that_must_be_there(folder):
  broken = folder('bert')
  file = broken / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | {'vocab_size': None}))
  refused(broken, 'vocab_size = None: must be a whole number above 0')
  file.write_text('[' * 100_000)
  refused(broken, 'config.json: not JSON')
  refused('x' * 300, 'no such folder, and no id of the Hub')


def test_the_length_before_rotary_scaling_may_stand_above_it(folder):
  """As Phi-3's files have it; transformers gives it priority over max_position_embeddings."""
  above = folder('llama_3_1')
  values = json.loads((above / 'config.json').read_text())
  length = values['rope_parameters'].pop('original_max_position_embeddings')
  change_config(above, **values, original_max_position_embeddings=length)
  assert PublicModel(f'hf:{above}').model == PublicModel(f'hf:{GOLDEN / "llama_3_1"}').model


def test_every_family_that_is_refused_by_name_names_one_that_is_there():
  assert all(nearest in families.FAMILIES for _, nearest in families.REFUSED.values())


def test_a_folder_without_its_files(folder, tmp_path):
  broken = folder('bert')
  (broken / 'tokenizer.json').unlink()
  with pytest.raises(CheckpointError, match=r'no tokenizer\.json there; write it, with transformers: .cd .* python -c'):
    _ = PublicModel(f'hf:{broken}').tokenizer_file
  (broken / 'model.safetensors').unlink()
  refused(broken, 'no model.safetensors and no model.safetensors.index.json there')
  (broken / 'pytorch_model.bin').touch()
  (broken / 'optimizer.bin').touch()
  refused(
    broken, 'holds pytorch_model.bin, a pickle', f'(cd {broken} && python', "glob('pytorch_model.bin')", 'weights_only'
  )
  (broken / 'config.json').write_text('{"model_type": ')
  refused(broken, 'config.json: not JSON')
  (broken / 'config.json').write_text('[]')
  refused(broken, 'config.json: holds no object')
  (broken / 'config.json').unlink()
  refused(broken, 'config.json cannot be read (No such file or directory)')
  refused(tmp_path / 'no' / 'such' / 'folder', 'no such folder, and no id of the Hub')


def test_a_file_that_is_cut_short_or_empty(folder):
  broken = folder('bert')
  file = broken / 'model.safetensors'
  whole = file.read_bytes()
  for content in (whole[:-1], whole[: len(whole) // 2], whole[:100], b'', b'{}'):
    file.write_bytes(content)
    refused(broken, 'model.safetensors: cannot be read', 'download it again')


def test_shards(folder):
  broken = folder('qwen2')
  index = broken / 'model.safetensors.index.json'
  found = json.loads(index.read_text())
  second = broken / 'model-00002-of-00002.safetensors'
  kept = second.read_bytes()
  second.unlink()
  refused(broken, 'model-00002-of-00002.safetensors: no such file, 1 of the 2')
  second.write_bytes(kept)
  moved = {name: 'model-00001-of-00002.safetensors' for name in found['weight_map']}
  index.write_text(json.dumps({'weight_map': moved}))
  refused(broken, 'which model.safetensors.index.json says it holds')
  for content in ('[]', '{', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../bert/model.safetensors"}}'):
    index.write_text(content)
    refused(broken, 'no readable index')


def test_of_a_tensor_that_lies_in_two_shards_the_index_tells_which(folder):
  given = folder('qwen2')
  placed = json.loads((given / 'model.safetensors.index.json').read_text())['weight_map']
  name, file = next(iter(placed.items()))
  other = given / next(one for one in placed.values() if one != file)
  tensors = load_file(other)
  tensors[name] = np.full_like(load_file(given / file)[name], 7.0)
  save_file(tensors, other)
  assert PublicModel(f'hf:{given}').weights.tensors[name].file == given / file


def test_the_line_that_converts_takes_any_folder(folder, tmp_path):
  given = pathlib.Path(shutil.copytree(folder('bert'), tmp_path / "it's [1]"))
  (given / 'model.safetensors').rename(given / 'pytorch_model.bin')
  message = refused(given, 'a pickle')
  line = message.partition('with torch: ')[2]
  cd, folder_of, _, program, _, code = shlex.split(line.removeprefix('(').removesuffix(')'))
  assert (cd, folder_of, program) == ('cd', str(given), 'python')
  compile(code, 'line', 'exec')


@pytest.mark.parametrize('name', ['bert', 'llama', 'gpt2', 'gpt_neox'])
def test_tensors_that_are_missing_or_unknown(folder, name):
  broken = folder(name)
  if name == 'gpt2':  # in bfloat16, which safetensors writes for PyTorch alone
    pytest.importorskip('ml_dtypes')
  names = sorted(PublicModel(f'hf:{broken}').weights.tensors)
  lost = next(
    one for one in names if one.endswith('1.attention.output.dense.weight') or 'layers.1.' in one or 'h.1.' in one
  )
  change_tensors(broken, lambda tensors: tensors.pop(lost))
  refused(broken, f'has no tensor {lost};', 'check config.json')
  shutil.rmtree(broken)
  broken = folder(name)
  change_tensors(broken, lambda tensors: tensors.update({'adapter.weight': np.zeros((2, 2), np.float32)}))
  refused(broken, 'holds a tensor that its family has not, adapter.weight')
  change_config(broken, **{'n_layer' if name == 'gpt2' else 'num_hidden_layers': 1})
  refused(broken, 'and 16 others' if name == 'bert' else 'others')


def test_integers_are_quantised_weights(folder):
  broken = folder('llama')
  change_tensors(broken, lambda t: t.update({'model.norm.weight': t['model.norm.weight'].astype(np.int8)}))
  refused(broken, 'model.norm.weight is I8, not a float: its weights are quantised')


def test_numbers_of_64_bits_are_not_called_quantised(folder):
  broken = folder('llama')
  change_tensors(broken, lambda t: t.update({'model.norm.weight': t['model.norm.weight'].astype(np.float64)}))
  refused(
    broken, 'model.norm.weight is F64, of more bits than are read; take the repository with its weights in float32'
  )


def test_what_is_null_is_not_there(folder):
  """transformers writes None for what a model has not."""
  given = folder('llama')
  config = json.loads((given / 'config.json').read_text())
  nulls = dict.fromkeys(('quantization_config', 'attention_bias', 'rope_scaling'))
  (given / 'config.json').write_text(json.dumps(config | nulls))
  assert PublicModel(f'hf:{given}').model == PublicModel(f'hf:{GOLDEN / "llama"}').model


def test_layers_that_all_have_rotary_positions(folder):
  """A SmolLM3 with none left out, and one with too few layers for one."""
  given = folder('smollm3')
  layers = json.loads((given / 'config.json').read_text())['num_hidden_layers']
  change_config(given, no_rope_layers=[1] * layers)
  assert PublicModel(f'hf:{given}').model['rotary_skip_every'] is None
  change_config(given, no_rope_layers=[1] * 3, num_hidden_layers=3)
  assert PublicModel(f'hf:{given}').model['rotary_skip_every'] is None


def test_a_fused_tensor_of_another_size(folder):
  broken = folder('phi3')
  name = 'model.layers.0.self_attn.qkv_proj.weight'
  change_tensors(broken, lambda tensors: tensors.update({name: tensors[name][:-1]}))
  refused(broken, f'{name}: shape [31, 16] in the file, but axis 0 must be 32')


def test_a_vocabulary_of_another_size(folder):
  """Padding that somebody has cut, or added, without saying so in config.json."""
  broken = folder('llama')
  change_config(broken, vocab_size=60)
  refused(broken, 'model.embed_tokens.weight: shape [64, 16] in the file, but axis 0 must be 60')


def test_an_output_table_that_config_json_promises(folder):
  """transformers fills it with random numbers, and reports it among many lines."""
  broken = folder('llama')
  change_tensors(broken, lambda tensors: tensors.pop('lm_head.weight'))
  refused(broken, 'has no tensor lm_head.weight')


def test_what_may_be_left_behind_is_counted(folder):
  source = PublicModel(f'hf:{GOLDEN / "bert_body"}')
  assert source.left_behind(()) == ['pooler.dense.bias', 'pooler.dense.weight']
  old = folder('gpt2')
  change_tensors(old, lambda tensors: tensors.update({'transformer.h.0.attn.bias': np.ones((1, 1, 4, 4), np.float32)}))
  assert PublicModel(f'hf:{old}').left_behind(()) == ['transformer.h.0.attn.bias']


def test_the_names_of_2019(folder):
  """gamma and beta, a pooler, positions as a buffer, a second head."""
  old = folder('bert')

  def rename(tensors):
    for name in [name for name in tensors if 'LayerNorm' in name]:
      tensors[name.replace('.weight', '.gamma').replace('.bias', '.beta')] = tensors.pop(name)
    tensors['bert.embeddings.position_ids'] = np.arange(64)[None]
    tensors['cls.seq_relationship.weight'] = np.zeros((2, 16), np.float32)

  change_tensors(old, rename)
  source = PublicModel(f'hf:{old}')
  assert source.arrays.keys() == PublicModel(f'hf:{GOLDEN / "bert"}').arrays.keys()
  assert source.left_behind(()) == ['bert.embeddings.position_ids', 'cls.seq_relationship.weight']
  with source.weights.opened('bert.embeddings.LayerNorm.weight') as tensor:
    assert tensor[:].shape == (16,)


def test_the_head_of_a_task_is_left_behind(folder):
  """Of a fine-tuned model the backbone is a start, too; a head of the language model that is cut short is none."""
  tuned = folder('bert')

  def change(tensors):
    tensors['classifier.weight'] = np.zeros((2, 16), np.float32)
    tensors['bert.pooler.dense.weight'] = np.zeros((16, 16), np.float32)
    for name in [name for name in tensors if name.startswith('cls.')]:
      del tensors[name]

  change_tensors(tuned, change)
  source = PublicModel(f'hf:{tuned}')
  assert source.left_behind(()) == ['bert.pooler.dense.weight', 'classifier.weight']
  assert not any(path.startswith('head/') for path in source.arrays)
  shutil.rmtree(tuned)
  tuned = folder('bert')
  change_tensors(tuned, lambda tensors: tensors.pop('cls.predictions.bias'))
  refused(tuned, 'has no tensor cls.predictions.bias;')
  shutil.rmtree(tuned)
  tuned = folder('modernbert')  # whose head of a task has names of that of the language model
  change_tensors(
    tuned, lambda t: [t.pop('decoder.bias'), t.update({'classifier.weight': np.zeros((2, 16), np.float32)})]
  )
  assert PublicModel(f'hf:{tuned}').left_behind(()) == ['classifier.weight', 'head.dense.weight', 'head.norm.weight']


def test_the_activation_that_the_first_gemma_files_name_is_the_one_that_they_mean(folder):
  first, second = folder('gemma'), folder('gemma2')
  change_config(first, hidden_act='gelu')
  assert PublicModel(f'hf:{first}').model['activation'] == 'geglu_tanh'
  change_config(second, hidden_activation='gelu')
  assert PublicModel(f'hf:{second}').model['activation'] == 'geglu'
