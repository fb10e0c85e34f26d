"""Public models as a start: what is computed, what a run keeps of them, and what stays exact."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lmjax import config as config_lib
from lmjax import paths, sharding
from lmjax.checkpoint.config import InitFrom
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import CheckpointError, ConfigError, DataError
from lmjax.hf import table, weights
from lmjax.hf.source import PublicModel, open_source
from lmjax.models.config import ModelConfig
from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import Transformer
from lmjax.tasks import prepare
from lmjax.training import initialize
from tests import runs
from tests.conftest import FINE_TUNING, FROM_PUBLIC, config_dict
from tests.hf.imports import loaded, rows

GOLDEN = pathlib.Path(__file__).parent / 'golden'
EXPECTED = np.load(GOLDEN / 'expected.npz')
STRIDE = 7
# Of each kind of architecture one; the others come with `slow`.
QUICK = ('roberta', 'modernbert', 'llama_3_1', 'gemma3')
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EXPECTED]


def golden(name: str) -> PublicModel:
  return PublicModel(f'hf:{GOLDEN / name}')


@pytest.mark.parametrize('name', NAMES)
def test_the_outputs_are_those_of_transformers(name):
  source = golden(name)
  config = ModelConfig(**source.model | dict(dtype='float32', scan=False))
  model = LanguageModel(Transformer(config, source.model['vocab_size']))
  params = paths.unflatten({path: array for path, array in loaded(source).items() if path not in source.optional})
  assert jax.tree.map(np.shape, params) == jax.tree.map(
    np.shape, {k: v for k, v in model.shapes().items() if k in params}
  )
  tokens, mask = rows(vocab_size=config.vocab_size)

  @jax.jit
  def outputs(params):
    x_BTD = model.backbone.apply(params, tokens, lengths_B=mask.sum(axis=1))
    return x_BTD if name == 'bert_body' else model.logits(params, x_BTD)

  difference = (np.asarray(outputs(params))[:, ::STRIDE] - EXPECTED[name]) * mask[:, ::STRIDE, None]
  assert np.abs(difference).max() < 1e-5 * max(np.abs(EXPECTED[name]).max(), 1.0)


@pytest.mark.parametrize('name', list(EXPECTED))
def test_the_table_is_the_same_both_ways(name):
  source = golden(name)
  ours = {path: np.asarray(array) for path, array in loaded(source).items()}
  back = table.written(source.lines, ours)
  assert set(source.weights.tensors) == {*back, *source.left_behind(source.optional)}
  for tensor_name, array in back.items():
    with source.weights.opened(tensor_name) as tensor:
      before = tensor[:]
    np.testing.assert_array_equal(array.astype(before.dtype), before)


@pytest.mark.parametrize(
  'name',
  ['qwen3', *(pytest.param(name, marks=pytest.mark.slow) for name in ('gpt2', 'phi3', 'modernbert', 'gpt_neox'))],
)
def test_shards_of_a_mesh_are_what_one_device_holds(name):
  """Kernels are split along both axes, also those that a file fuses; tables along their width; padding is zero."""
  source = golden(name)
  whole = loaded(source)
  mesh = jax.make_mesh((2, 2, 2), sharding.AXES)
  model = LanguageModel(Transformer(ModelConfig(**source.model), source.model['vocab_size']))
  places = paths.flatten(sharding.shardings(model.axes(), mesh))
  wanted = {path: jax.ShapeDtypeStruct(array.shape, np.float32, sharding=places[path]) for path, array in whole.items()}
  split = weights.load(source, wanted)
  for path, array in split.items():
    np.testing.assert_array_equal(array, whole[path])
  assert any(len({str(s.index) for s in array.addressable_shards}) == 4 for array in split.values())
  if name != 'qwen3':
    return
  table_VD = np.asarray(split['embeddings/token/embedding'])
  rows_there = source.model['vocab_size']
  assert len(table_VD) % 128 == 0 and not table_VD[rows_there:].any() and table_VD[rows_there - 1].any()


# ---- runs


def settings(name: str, **more) -> dict:
  return {'init_from.path': f'hf:{GOLDEN / name}', 'data.length': 32} | more


def test_no_steps_evaluate_and_save_the_start_of_pre_training(raw_config, tmp_path):
  """The whole model of the config file, a preset, gives way."""
  config = raw_config('causal_lm', **settings('llama_3_1', **{'train.steps': 0, 'data.valid_fraction': 0.2}))
  results = runs.train(config, tmp_path / 'run')
  assert results['step'] == 0 and results['metrics']['valid/loss'] > 0
  hand_off = results['hand_off']
  assert hand_off['step'] is None and hand_off['revision'] is None and len(hand_off['digest']) == 64
  assert hand_off['source'] == f'hf:{GOLDEN / "llama_3_1"}' and hand_off['left_behind'] == []
  manifest = runs.manifest_of(tmp_path / 'run', 0)
  assert manifest['hand_off'] == hand_off and manifest['model']['width'] == 16 and manifest['model']['head_dim'] == 16
  whole = loaded(golden('llama_3_1'))
  for path, array in runs.params_of(tmp_path / 'run', 0).items():
    np.testing.assert_array_equal(array, whole[path])
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    assert (tmp_path / 'run' / name).read_bytes() == (GOLDEN / 'llama_3_1' / name).read_bytes()
  # and from there into fine-tuning, as from any run
  tuned = runs.train(runs.classification_config(str(tmp_path / 'run'), tmp_path), tmp_path / 'tuned')
  assert tuned['hand_off']['step'] == 0 and tuned['status'] == 'done'


@pytest.mark.parametrize(
  'task, name', [('classification', 'bert'), pytest.param('extractive_qa', 'roberta', marks=pytest.mark.slow)]
)
def test_fine_tuning_takes_the_backbone(task, name, tmp_path, raw_config):
  argument = 'smoke' if task == 'classification' else 'smoke,length=64'
  more = {'data.batch_size': 8, 'train.steps': 2, 'eval.every': 2}
  if task == 'extractive_qa':
    more |= {'objective.max_question': 16, 'objective.max_answer': 8, 'objective.stride': 16}
  leaves = {'init_from.path': f'hf:{GOLDEN / name}'} | more
  config = config_dict(FINE_TUNING[task], argument, leaves)
  results = runs.train(config, tmp_path / 'run')
  assert results['status'] == 'done' and results['moved']['attention'] > 0
  assert all(path.startswith(('embeddings', 'layers')) for path in results['hand_off']['taken'])
  new_table = {'embeddings/segment/embedding'} if task == 'extractive_qa' else set()  # its third row marks matches
  dropped = set(results['hand_off']['dropped'])
  assert new_table <= dropped and all(path.startswith('head/') for path in dropped - new_table)


@pytest.mark.parametrize('head', ['tanh', 'linear'])
def test_the_pooler_of_bert_begins_its_classifier(head, tmp_path):
  """Its name in the file is that of the backbone; a head that has no such layer leaves it behind."""
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'bert', tmp_path / 'model'))
  tensors, draw = load_file(folder / 'model.safetensors'), np.random.default_rng(0)
  pooler = {'weight': draw.normal(size=(16, 16)), 'bias': draw.normal(size=16)}
  tensors |= {f'bert.pooler.dense.{name}': array.astype(np.float32) for name, array in pooler.items()}
  save_file(tensors, folder / 'model.safetensors')
  more = {'init_from.path': f'hf:{folder}', 'objective.head': head, 'data.batch_size': 8, 'train.steps': 0}
  results = runs.train(config_dict(FINE_TUNING['classification'], 'smoke', more), tmp_path / 'run')
  params, hand_off = runs.params_of(tmp_path / 'run', 0), results['hand_off']
  if head == 'linear':
    assert 'classifier/dense/kernel' not in params
    assert {f'bert.pooler.dense.{name}' for name in pooler} <= set(hand_off['left_behind'])
    return
  np.testing.assert_array_equal(params['classifier/dense/kernel'], tensors['bert.pooler.dense.weight'].T)
  np.testing.assert_array_equal(params['classifier/dense/bias'], tensors['bert.pooler.dense.bias'])
  assert {'classifier/dense/kernel', 'classifier/dense/bias'} <= set(hand_off['taken'])
  assert 'classifier/kernel' in hand_off['fresh'] and hand_off['left_behind'] == []
  # nothing of it is in the way of pre-training
  raw = config_dict(FROM_PUBLIC['masked_lm'], 'smoke', {'init_from.path': f'hf:{folder}', 'train.steps': 0})
  assert len(runs.train(raw, tmp_path / 'mlm')['hand_off']['left_behind']) == 2


def test_what_has_changed_since_is_not_taken_for_the_start(tmp_path):
  """The distance that weights have moved is unknown where other weights are in the folder now."""
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'bert', tmp_path / 'model'))
  raw = config_dict(FINE_TUNING['classification'], 'smoke', {'init_from.path': f'hf:{folder}', 'train.steps': 1})
  config, source = config_lib.load(raw)
  tokenizer = initialize.tokenizer_of(source, None)
  config, task, _ = prepare.prepare(config, tokenizer)
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  with jax.set_mesh(mesh):
    plan = initialize.plan_of(task, source, config.init_from)
    params = initialize.initial_params(task, mesh, config.seed, source, plan)
    noted = {'source': f'hf:{folder}', 'step': None, 'revision': None, 'taken': plan.taken}
    noted |= {'digest': initialize.digest_of(params, plan.taken)}
    arguments = (task, config.optim, mesh, config.seed, config.init_from)
    assert set(initialize.moved(*arguments, noted, params).values()) == {0.0}
    tensors = load_file(folder / 'model.safetensors')
    tensors['bert.embeddings.LayerNorm.bias'][3] += 1
    save_file(tensors, folder / 'model.safetensors')
    assert initialize.moved(*arguments, noted, params) is None
    shutil.rmtree(folder)
    assert initialize.moved(*arguments, noted, params) is None


def test_a_setting_of_the_command_line_is_compared(raw_config):
  raw = raw_config('masked_lm', **settings('bert'))
  assert config_lib.load(raw)[0].model.width == 16
  with pytest.raises(ConfigError, match=r'model.width = 32: is 16 in the checkpoint; leave it out'):
    config_lib.load(raw, given=['model.width'])
  raw.model.residual_dropout = 0.25
  assert config_lib.load(raw, given=['model.residual_dropout'])[0].model.residual_dropout == 0.25
  with pytest.raises(ConfigError, match='set init_from.convert to decoder_to_encoder'):
    config_lib.load(raw_config('masked_lm', **settings('llama')))


def test_a_public_model_has_no_steps(raw_config):
  for step in ('best', '3'):
    raw = raw_config('masked_lm', **settings('bert', **{'init_from.step': step}))
    with pytest.raises(ConfigError, match=f'init_from.step = {step}: a public model has no steps; pin one by hf:ORG'):
      config_lib.load(raw)


def test_a_shape_that_is_another_is_refused_with_both(tmp_path):
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'bert', tmp_path / 'model'))
  file = folder / 'config.json'
  file.write_text(file.read_text().replace('"intermediate_size": 24', '"intermediate_size": 32'))
  message = refusal_of_plan(folder)
  assert '([24, 16] in place of [32, 16]), bert.encoder.layer.0.intermediate.dense.weight and 5 others' in message


def test_a_tied_table_that_stands_twice_must_be_one(tmp_path):
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'llama_tied_linear', tmp_path / 'model'))
  tensors = load_file(folder / 'model.safetensors')
  tensors['lm_head.weight'] = tensors['model.embed_tokens.weight'].copy()
  save_file(tensors, folder / 'model.safetensors')
  assert loaded(PublicModel(f'hf:{folder}')).keys() == loaded(golden('llama_tied_linear')).keys()
  tensors['lm_head.weight'][3, 3] += 1
  save_file(tensors, folder / 'model.safetensors')
  with pytest.raises(
    CheckpointError, match='model.embed_tokens.weight and lm_head.weight differ, and config.json says'
  ):
    loaded(PublicModel(f'hf:{folder}'))
  tensors['lm_head.weight'] = tensors['lm_head.weight'][:-1]
  save_file(tensors, folder / 'model.safetensors')
  with pytest.raises(CheckpointError, match=r'has shape \[64, 16\] and lm_head.weight \[63, 16\], and config.json'):
    _ = PublicModel(f'hf:{folder}').arrays


def refusal_of_plan(folder: pathlib.Path, task: str = 'classification', **leaves) -> str:
  raw = config_dict(FINE_TUNING[task], 'smoke', {'init_from.path': f'hf:{folder}'} | leaves)
  config, source = config_lib.load(raw)
  program = prepare.without_data(config, initialize.tokenizer_of(source, None))[1]
  with pytest.raises(CheckpointError) as error:
    initialize.plan_of(program, source, config.init_from)
  return str(error.value)


@pytest.mark.parametrize('length', [48, 63, 65])
def test_positions_that_config_json_does_not_have_are_refused(length, tmp_path):
  """The command line may ask for another length; a file that contradicts itself is two models."""
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'bert', tmp_path / 'model'))
  file = folder / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | {'max_position_embeddings': length}))
  message = refusal_of_plan(folder, **{'data.length': 32})
  assert f'([64, 16] in place of [{length}, 16]), bert.embeddings.position_embeddings.weight; check config' in message


def test_numbers_that_are_not_finite_are_refused(tmp_path):
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'llama', tmp_path / 'model'))
  tensors = load_file(folder / 'model.safetensors')
  for value in (np.nan, np.inf):
    tensors['model.embed_tokens.weight'][5, 3] = value
    save_file(tensors, folder / 'model.safetensors')
    with pytest.raises(CheckpointError, match='model.embed_tokens.weight holds NaN or infinity; download it again'):
      loaded(PublicModel(f'hf:{folder}'))


def test_an_untied_head_has_the_bias_of_its_output(tmp_path):
  """transformers computes with decoder.bias there; the other is left behind."""
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'bert', tmp_path / 'model'))
  tensors = load_file(folder / 'model.safetensors')
  tensors['cls.predictions.decoder.weight'] = tensors['bert.embeddings.word_embeddings.weight'] * 2
  tensors['cls.predictions.decoder.bias'] = tensors['cls.predictions.bias'] + 1
  save_file(tensors, folder / 'model.safetensors')
  file = folder / 'config.json'
  file.write_text(json.dumps(json.loads(file.read_text()) | {'tie_word_embeddings': False}))
  source = PublicModel(f'hf:{folder}')
  bias = np.asarray(loaded(source)['head/bias'])[: len(tensors['cls.predictions.bias'])]
  np.testing.assert_array_equal(bias, tensors['cls.predictions.decoder.bias'])
  assert 'cls.predictions.bias' in source.left_behind(())


def test_what_does_not_fit_is_refused_before_text_is_read(raw_config, tmp_path):
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'bert', tmp_path / 'model'))
  tensors = load_file(folder / 'model.safetensors')
  backbone = {name: tensor for name, tensor in tensors.items() if not name.startswith('cls.')}
  save_file(backbone, folder / 'model.safetensors')
  leaves = {'init_from.path': f'hf:{folder}', 'data.sources.main.path': str(tmp_path / 'none.jsonl')}
  with pytest.raises(CheckpointError, match=r'head/bias: .*; begin one at random: --config.init_from.take=embeddings/'):
    runs.train(raw_config('masked_lm', **leaves), tmp_path / 'run')


def test_the_tokenizer_is_that_of_the_public_model(raw_config):
  raw = raw_config('masked_lm', **settings('bert'))
  with pytest.raises(
    ConfigError, match='data.tokenizer.vocab_size: has no effect: the tokenizer is that of the public'
  ):
    config_lib.load(raw, given=['data.tokenizer.vocab_size'])


def test_a_folder_that_lacks_its_prefix_is_recognised(raw_config):
  with pytest.raises(
    CheckpointError, match=f'no checkpoint there; for the public model there give hf:{GOLDEN}/bert, or'
  ):
    config_lib.load(raw_config('masked_lm', **{'init_from.path': f'{GOLDEN}/bert'}))


def test_a_backbone_whose_table_stands_twice(tmp_path):
  """Names without a prefix, as a model without a head has them, and the table once more."""
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'gpt2', tmp_path / 'model'))
  tensors = {name.removeprefix('transformer.'): a for name, a in load_file(folder / 'model.safetensors').items()}
  tensors['lm_head.weight'] = tensors['wte.weight'].copy()
  save_file(tensors, folder / 'model.safetensors')
  assert loaded(PublicModel(f'hf:{folder}')).keys() == loaded(golden('gpt2')).keys()


@pytest.mark.parametrize('pad, offset', [(1, 2), (0, 1), (3, 4), (None, 2)])
def test_positions_of_roberta_are_counted_from_the_id_that_pads(pad, offset, tmp_path):
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'roberta', tmp_path / 'model'))
  values = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(values | {'pad_token_id': pad}))
  model, rows = PublicModel(f'hf:{folder}').model, values['max_position_embeddings']
  assert (model['position_offset'], model['max_length']) == (offset, rows - offset)


def test_a_special_token_above_the_table_is_no_text(tmp_path):
  """As that of images in Gemma 3: it has no part in texts, so it needs no row. One with a part does."""
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'qwen3', tmp_path / 'model'))
  rows = Tokenizer.load(golden('qwen3').tokenizer_file).vocab_size
  content = json.loads((folder / 'tokenizer.json').read_text())
  token = {'id': rows, 'content': '<image>', 'special': True}
  flags = dict.fromkeys(('single_word', 'lstrip', 'rstrip', 'normalized'), False)
  for special in (True, False):
    added = [*content['added_tokens'], token | flags | {'special': special}]
    (folder / 'tokenizer.json').write_text(json.dumps(content | {'added_tokens': added}))
    tokenizer = Tokenizer.load(str(folder / 'tokenizer.json'))
    assert tokenizer.vocab_size == rows + 1
    assert tokenizer.vocab_size_in(rows) == (rows if special else rows + 1)
    assert tokenizer.vocab_size_in(None) == tokenizer.vocab_size_in(rows + 5) == rows + 1


def test_dropout_and_tokenizer_of_a_config_file_give_way(tmp_path):
  """What the command line says of them is kept, or compared."""
  raw = config_dict(FINE_TUNING['classification'], 'smoke', {'init_from.path': f'hf:{GOLDEN / "llama_3_1"}'})
  assert raw.model.residual_dropout == 0.1
  assert config_lib.load(raw)[0].model.residual_dropout == 0.0
  raw.data.tokenizer = dict(path='other.json', vocab_size=None, sample_bytes=None, lowercase=None)
  assert config_lib.load(raw)[0].data.tokenizer is None
  raw.data.tokenizer = None
  assert config_lib.load(raw, given=['model.residual_dropout'])[0].model.residual_dropout == 0.1


def test_more_tokens_than_rows_are_refused(tmp_path):
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'bert', tmp_path / 'model'))
  file = folder / 'config.json'
  values = json.loads(file.read_text())
  file.write_text(json.dumps(values | {'vocab_size': 64}))
  raw = config_dict(FINE_TUNING['classification'], 'smoke', {'init_from.path': f'hf:{folder}'})
  config, source = config_lib.load(raw)
  with pytest.raises(CheckpointError, match=r'the tokenizer has \d+ tokens, and the model rows for 64 .vocab_size in'):
    initialize.tokenizer_of(source, config.data.tokenizer)


# ---- tokenizers


@pytest.mark.parametrize(
  'name, begin, between, end',
  [
    ('bert', ['[CLS]'], ['[SEP]'], ['[SEP]']),
    ('roberta', ['<s>'], ['</s>', '</s>'], ['</s>']),
    ('xlm_roberta', ['<s>'], ['</s>', '</s>'], ['</s>']),
    ('modernbert', ['[CLS]'], ['[SEP]'], ['[SEP]']),
    ('llama_3_1', ['<|begin_of_text|>'], ['<|begin_of_text|>'], []),
    ('qwen3', None, None, None),
  ],
)
def test_frames_and_roles_are_those_of_the_files(name, begin, between, end):
  tokenizer = Tokenizer.load(str(GOLDEN / name / 'tokenizer.json'))
  if begin is None:
    assert tokenizer.frame is None and tokenizer.bos is None and tokenizer.eos == tokenizer.pad
    return
  assert [[tokenizer.token(i) for i in ids] for ids in tokenizer.frame] == [begin, between, end]
  if name == 'modernbert':
    assert tokenizer.eos is None, 'its end of text is in the vocabulary, and no role'


def test_a_tokenizer_is_kept_as_it_is(tmp_path):
  file = tmp_path / 'tokenizer.json'
  shutil.copytree(GOLDEN / 'bert', tmp_path / 'there')
  source = tmp_path / 'there' / 'tokenizer.json'
  source.write_bytes(source.read_bytes().replace(b'{', b'{\r\n', 1))
  (source.parent / 'chat_template.jinja').write_bytes(b'{{ messages }}\r\n')
  tokenizer = Tokenizer.load(str(source))
  tokenizer.save(str(file))
  for name in ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'):
    assert (tmp_path / name).read_bytes() == (source.parent / name).read_bytes()
  assert Tokenizer.load(str(file)).hash == tokenizer.hash
  (tmp_path / 'tokenizer_config.json').unlink()
  assert Tokenizer.load(str(file)).hash != tokenizer.hash, 'its roles are guessed now'
  (tmp_path / 'tokenizer_config.json').write_text('[1')
  with pytest.raises(DataError, match=r'tokenizer_config.json: not JSON'):
    Tokenizer.load(str(file))


def test_roles_of_an_older_file(tmp_path):
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'llama_3_1', tmp_path / 'model'))
  tokens = sorted(json.loads((folder / 'tokenizer.json').read_text())['model']['vocab'])
  (folder / 'tokenizer_config.json').unlink()
  (folder / 'special_tokens_map.json').write_text(json.dumps({'eos_token': tokens[5]}))
  tokenizer = Tokenizer.load(str(folder / 'tokenizer.json'))
  assert tokenizer.token(tokenizer.eos) == tokens[5] and tokenizer.bos is None
  for value, message in (
    (
      '<|eot|>',
      "special_tokens_map.json names '<|eot|>', which is none of its tokens.; .* set eos_token to one of its",
    ),
    (['</s>'], r"tokenizer_config.json: eos_token = \['</s>'\] is no text; download it again"),
  ):
    (folder / 'tokenizer_config.json').write_text(json.dumps({'eos_token': value}))
    with pytest.raises(DataError, match=message):
      Tokenizer.load(str(folder / 'tokenizer.json')).require('eos')


def test_a_role_that_is_missing_is_named(raw_config):
  raw = raw_config('masked_lm', **settings('llama_3_1', **{'init_from.convert': 'decoder_to_encoder'}))
  config, source = config_lib.load(raw)
  tokenizer = initialize.tokenizer_of(source, None)
  with pytest.raises(
    Exception,
    match=r'has no mask token \(tokenizer_config.json or special_tokens_map.json names none\); this objective',
  ):
    prepare.build(config, tokenizer)


def test_answers_of_a_tokenizer_that_strips_accents_are_of_the_original_text():
  """Every answer that is cut out by a row's places is the one that was given, accents and case included."""
  context = 'Das Verfahren fu\u0308hrte RENÉE Müller in São Paulo; der Café-Streit \u00a7 12 endete 1999.'
  record = {'id': '1', 'question': 'Wer führte das Verfahren?', 'context': context}
  for text in ('RENÉE Müller', 'São Paulo', 'Café-Streit \u00a7 12', 'fu\u0308hrte'):
    answers = [{'text': text, 'answer_start': context.index(text)}]
    leaves = {'init_from.path': f'hf:{GOLDEN / "bert"}', 'data.length': 64, 'objective.max_question': 24}
    leaves |= {'objective.max_answer': 20, 'objective.stride': 10}
    config, source = config_lib.load(config_dict(FINE_TUNING['extractive_qa'], 'smoke', leaves))
    config = dataclasses.replace(config, objective=dataclasses.replace(config.objective, no_answer=False))
    task = prepare.build(config, initialize.tokenizer_of(source, None))
    [row, *_] = [row for row in task.rows_of([record | {'answers': answers}]).rows if row['places'][0] > 0]
    first, last = (place - row['second'] + row['low'] for place in row['places'])
    begin, end = row['offsets'][first][0], row['offsets'][last][1]
    assert context[begin:end].startswith(text[:-1]) and text.startswith(context[begin:end])


def test_a_source_of_either_kind_is_opened_by_its_name(tmp_path):
  init = InitFrom(path=f'hf:{GOLDEN / "bert"}', step='latest', take=('*',), fresh=(), drop=(), convert=None)
  assert isinstance(open_source(init), PublicModel)
  with pytest.raises(CheckpointError, match='no such folder; run the pre-training first'):
    open_source(dataclasses.replace(init, path=str(tmp_path / 'none')))
