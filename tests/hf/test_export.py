"""Folders that others read: what is in them, what is refused, and that they are written whole or not at all."""

import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
import tokenizers
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lmjax import export
from lmjax.data.tokens.published import Frame
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import CheckpointError, ConfigError
from lmjax.hf import tokens, writer
from lmjax.hf.export import with_plain_transform
from lmjax.hf.express import Wanted, express
from lmjax.hf.source import PublicModel
from lmjax.models import presets
from lmjax.models.config import ModelConfig
from tests import runs
from tests.hf import exports
from tests.hf.exports import GOLDEN, exported

MODELS = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())


# ---- what can be expressed


@pytest.mark.parametrize('name', MODELS)
def test_a_public_model_goes_out_as_what_it_was(name):
  source = PublicModel(f'hf:{GOLDEN / name}')
  config = ModelConfig(**source.model)
  wanted = Wanted(config, config.vocab_size, 64)
  found = express(wanted, source.origin['config'])
  assert found.settings | {'dtype': source.model['dtype']} == source.model
  given = {key: value for key, value in source.file.values.items() if key in found.values and key != 'architectures'}
  assert {key: found.values[key] for key in given} == given
  # and without its config.json some architecture computes the same
  free = ('scan', 'dtype', 'init_std', 'residual_dropout', 'attention_dropout', 'embedding_dropout')
  other = express(wanted).settings
  assert other | {key: source.model[key] for key in free} == source.model


PRESETS = {
  'bert_base': 'BertForMaskedLM',
  'gpt2_small': 'GPT2LMHeadModel',
  'gpt2_medium': 'GPT2LMHeadModel',
  'llama_60m': 'LlamaForCausalLM',
  'llama_160m': 'LlamaForCausalLM',
  'llama_1b': 'LlamaForCausalLM',
  'tiny': 'Qwen3ForCausalLM',
  'mini': 'Qwen3ForCausalLM',
  'tiny_encoder': 'ModernBertForMaskedLM',
  'mini_encoder': 'ModernBertForMaskedLM',
  'modernbert_base': 'ModernBertForMaskedLM',
}


def test_presets_are_architectures_of_others():
  assert PRESETS.keys() == presets.PRESETS.keys()
  for name, architecture in PRESETS.items():
    config = ModelConfig(**presets.PRESETS[name]['model'])
    assert express(Wanted(config, 1000, 128)).values['architectures'] == [architecture], name


def test_keys_of_transformers_4_and_5():
  scaled = dict(rope_scaling=8.0, rope_scaling_type='llama3', rope_original_length=64, rope_rotations=(1.0, 4.0))
  config = ModelConfig(**presets.PRESETS['llama_60m']['model'] | scaled)
  values = express(Wanted(config, 1000, 128)).values
  rope = {'rope_type': 'llama3', 'rope_theta': 10000.0, 'factor': 8.0, 'original_max_position_embeddings': 64}
  rope |= {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
  assert values['rope_parameters'] == values['rope_scaling'] == rope and values['rope_theta'] == 10000.0
  assert values['max_position_embeddings'] == 128
  nested = express(Wanted(ModelConfig(**presets.PRESETS['modernbert_base']['model']), 1000, 128)).values
  assert (nested['global_rope_theta'], nested['local_rope_theta']) == (160000.0, 10000.0)
  assert nested['rope_parameters']['sliding_attention'] == {'rope_type': 'default', 'rope_theta': 10000.0}
  assert nested['layer_types'][:4] == ['full_attention', *['sliding_attention'] * 2, 'full_attention']


@pytest.mark.parametrize(
  'preset, changes, problem',
  [
    (
      'tiny',
      dict(activation='gelu'),
      "model.activation = 'gelu': no architecture of transformers has this; the nearest",
    ),
    ('bert_base', dict(segment_types=None), r'model.segment_types = None: .* the nearest, bert, has 2'),
    ('modernbert_base', dict(first_norm=True), r'model.first_norm = True: .* the nearest, modernbert, has False'),
    ('llama_60m', dict(parallel_residual=True), r'model.parallel_residual = True: .* the nearest, llama, has False'),
  ],
)
def test_what_none_has_is_refused_with_the_nearest(preset, changes, problem):
  config = ModelConfig(
    **presets.PRESETS[preset]['model'] | changes | dict(norm_eps=1e-6 if preset != 'bert_base' else 1e-5)
  )
  with pytest.raises(ConfigError, match=problem):
    express(Wanted(config, 1000, 128))


def test_a_norm_that_silences_a_unit_has_no_plain_transform():
  flat = {'final_norm/scale': np.array([1.0, 0.5, 2.0]), 'embeddings/token/embedding': np.ones((4, 3))}
  plain = with_plain_transform(flat)
  x = np.array([0.3, -1.2, 0.9]) * flat['final_norm/scale']
  np.testing.assert_allclose(x @ plain['head/transform/dense/kernel'], 64 * np.array([0.3, -1.2, 0.9]), rtol=1e-6)
  assert plain['head/bias'].tolist() == [0] * 4
  with pytest.raises(CheckpointError, match='final_norm/scale: holds a 0, .*; export another step'):
    with_plain_transform(flat | {'final_norm/scale': np.array([1.0, 0.0, 2.0])})


def test_heads_that_are_others():
  encoder = ModelConfig(**presets.PRESETS['modernbert_base']['model'])
  decoder = ModelConfig(**presets.PRESETS['mini']['model'])
  ask = lambda *arguments: express(Wanted(*arguments)).values
  assert ask(encoder, 900, 64, 'classification', 'gelu_norm', 'cls')['classifier_pooling'] == 'cls'
  assert ask(decoder, 900, 64, 'extractive_qa', 'linear')['architectures'] == ['Qwen3ForQuestionAnswering']
  with pytest.raises(ConfigError, match="objective.pooling = 'mean': qwen3 takes last; fine-tune with that"):
    ask(decoder, 900, 64, 'classification', 'linear_no_bias', 'mean')
  with pytest.raises(ConfigError, match="objective.head = 'linear': that of modernbert is gelu_norm"):
    ask(encoder, 900, 64, 'classification', 'linear', 'mean')
  gemma = PublicModel(f'hf:{GOLDEN / "gemma"}')
  with pytest.raises(
    ConfigError, match="task = 'extractive_qa': gemma, which has this model, has no head of this kind"
  ):
    express(Wanted(ModelConfig(**gemma.model), 64, 64, 'extractive_qa', 'linear'), gemma.origin['config'])


# ---- weights


@pytest.mark.parametrize('dtype', list(writer.DTYPES))
def test_files_are_those_of_safetensors(dtype, tmp_path):
  draw = np.random.default_rng(0)
  arrays = {f'layer.{i}': draw.normal(size=(3 + i, 5)).astype(np.float32) for i in range(4)} | {
    'one': np.ones(7, np.float32)
  }
  tensors = {name: writer.Tensor(array.shape, lambda array=array: array) for name, array in arrays.items()}
  (tmp_path / 'whole').mkdir()
  assert writer.write(tmp_path / 'whole', tensors, dtype) == ['model.safetensors']
  found = load_file(tmp_path / 'whole/model.safetensors')
  assert list(found) == list(arrays)
  for name, array in arrays.items():
    np.testing.assert_array_equal(found[name], array.astype(writer.DTYPES[dtype]))
  with safe_open(tmp_path / 'whole/model.safetensors', 'np') as opened:
    assert opened.metadata() == {'format': 'pt'}
  (tmp_path / 'parts').mkdir()
  names = writer.write(tmp_path / 'parts', tensors, dtype, largest=100)
  index = json.loads((tmp_path / 'parts/model.safetensors.index.json').read_text())
  assert len(names) > 3 and sorted(set(index['weight_map'].values())) == names[:-1]
  assert index['metadata']['total_size'] == sum(a.size for a in arrays.values()) * writer.DTYPES[dtype].itemsize
  joined = {name: array for file in names[:-1] for name, array in load_file(tmp_path / 'parts' / file).items()}
  assert all(np.array_equal(joined[name], found[name]) for name in arrays) and joined.keys() == arrays.keys()


def test_a_number_too_large_for_float16_is_refused(tmp_path):
  tensors = {'a': writer.Tensor((2,), lambda: np.array([1.0, 70_000.0], np.float32))}
  with pytest.raises(CheckpointError, match='--dtype = float16: a holds 7e\\+04, more than float16 can; take bfloat16'):
    writer.write(tmp_path, tensors, 'float16')
  writer.write(tmp_path, tensors, 'bfloat16')
  assert load_file(tmp_path / 'model.safetensors')['a'].dtype == ml_dtypes.bfloat16


@pytest.mark.slow
@pytest.mark.parametrize('task, name', [('causal_lm', 'qwen3'), ('masked_lm', 'roberta'), ('masked_lm', 'bert')])
def test_what_was_imported_goes_out_unchanged(task, name, raw_config, tmp_path, capsys):
  """Names and bits of every tensor, but for a pooler that was left behind; files of the tokenizer byte for byte."""
  source, left = shutil.copytree(GOLDEN / name, tmp_path / 'source'), {}
  (source / 'chat_template.jinja').write_bytes(b'{{ messages }}\r\n')
  (source / 'generation_config.json').write_bytes(b'{"eos_token_id": [1, 2],\r\n "temperature": 0.6}')
  if name == 'bert':
    left = {
      'bert.pooler.dense.weight': np.ones((16, 16), np.float32),
      'bert.pooler.dense.bias': np.ones(16, np.float32),
    }
    save_file(load_file(source / 'model.safetensors') | left, source / 'model.safetensors')
  leaves = {'init_from.path': f'hf:{source}', 'train.steps': 0, 'data.length': 32}
  runs.train(raw_config(task, **leaves), tmp_path / 'run')
  folder = exported(str(tmp_path / 'run'), tmp_path / 'out')
  shown = capsys.readouterr().out.partition('left behind when it was imported: ')[2].strip()
  assert shown == ', '.join(sorted(left))
  before, after = (load_file(where / 'model.safetensors') for where in (source, folder))
  assert before.keys() - left.keys() == after.keys()
  for tensor, array in after.items():
    assert array.dtype == before[tensor].dtype and array.tobytes() == before[tensor].tobytes()
  writes = ('generation_config.json',) if task == 'causal_lm' else ()
  for file in ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja', *writes):
    assert (source / file).read_bytes() == (folder / file).read_bytes()
  before, after = (json.loads((where / 'config.json').read_text()) for where in (source, folder))
  assert {key for key in before if before[key] != after.get(key)} <= {'transformers_version'}


# ---- tokenizers


def layout(single, pair, **changes) -> tokens.Layout:
  usual = dict(typed=False, length=64, generates=False, pad=0, begin=None, end=None)
  return tokens.Layout(single, pair, **usual | changes)


def test_templates_stand_texts_as_training_did(tokenizer):
  begin, end, sep = (tokenizer.bos,), (tokenizer.eos,), (tokenizer.sep,)
  files = tokens.files_of(tokenizer, layout(Frame(begin, (), end), Frame(begin, sep, end), typed=True))
  backend = tokenizers.Tokenizer.from_str(files['tokenizer.json'].decode())
  first, second = tokenizer.encode('the model'), tokenizer.encode('a line')
  assert backend.encode('the model').ids == [*begin, *first, *end]
  pair = backend.encode('the model', 'a line')
  assert pair.ids == [*begin, *first, *sep, *second, *end]
  assert pair.type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)
  config = json.loads(files['tokenizer_config.json'])
  assert config['tokenizer_class'] == 'PreTrainedTokenizerFast' and config['model_max_length'] == 64
  assert config['model_input_names'] == ['input_ids', 'token_type_ids', 'attention_mask']
  assert config['pad_token'] == '[PAD]' and config['padding_side'] == 'right'


def test_a_template_that_is_right_stays_with_its_files():
  tokenizer = Tokenizer.load(str(GOLDEN / 'bert/tokenizer.json'))
  cls, sep = (tokenizer.cls,), (tokenizer.sep,)
  right = layout(Frame(cls, (), sep), Frame(cls, sep, sep), pad=tokenizer.pad)
  files = tokens.files_of(tokenizer, right)
  assert files['tokenizer.json'] == (GOLDEN / 'bert/tokenizer.json').read_bytes()
  assert files['tokenizer_config.json'] == (GOLDEN / 'bert/tokenizer_config.json').read_bytes()
  # types are asked for where a generic class would leave them out
  typed = json.loads(tokens.files_of(tokenizer, right._replace(typed=True))['tokenizer_config.json'])
  assert typed['model_input_names'] == ['input_ids', 'token_type_ids', 'attention_mask']
  other = tokens.files_of(tokenizer, right._replace(single=Frame((), (), sep)))
  assert tokenizers.Tokenizer.from_str(other['tokenizer.json'].decode()).encode('a').ids[0] != tokenizer.cls


def test_what_fills_rows_is_none_of_their_tokens(tokenizer):
  assert tokens.unused_pad(tokenizer, {tokenizer.eos}) == tokenizer.pad
  assert tokens.unused_pad(tokenizer, {tokenizer.pad, tokenizer.eos}) == tokenizer.bos
  with pytest.raises(ConfigError, match='all of its special tokens stand in rows'):
    tokens.unused_pad(tokenizer, set(tokenizer.special_ids))


# ---- the command


@pytest.fixture(scope='module')
def labelled(raw_config, tmp_path_factory):
  """A fine-tuned classifier, of ModernBERT's shape."""
  folder = tmp_path_factory.mktemp('labelled')
  return exports.fine_tuned('classification', folder, 'modernbert_base', **exports.SMALL)


def refused(capsys, *arguments) -> tuple[int, str]:
  code = export.main(list(arguments))
  out, err = capsys.readouterr()
  assert not out and 'Traceback' not in err and err.startswith('lmjax: ')
  return code, err


def test_a_folder_and_its_card(labelled, tmp_path, capsys, monkeypatch):
  folder = exported(labelled, tmp_path / 'out')
  printed = capsys.readouterr().out
  names = sorted(path.name for path in folder.iterdir())
  assert names == ['README.md', 'config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']
  assert all(name in printed for name in names) and 'ModernBertForSequenceClassification, float32, step 3' in printed
  config = json.loads((folder / 'config.json').read_text())
  assert config['id2label'] == {'0': 'negative', '1': 'positive'} and config['dtype'] == 'float32'
  assert config['problem_type'] == 'single_label_classification' and config['pad_token_id'] == 0
  card = (folder / 'README.md').read_text()
  assert 'pipeline_tag: "text-classification"' in card and 'It began with random weights.' in card
  assert '| valid | accuracy |' in card and '| steps | 3 |' in card and 'python -m lmjax.export' in card
  assert str(tmp_path.parent.parent) not in card and '/' not in card.partition('## Training')[2].replace('n/a', '')
  half = exported(labelled, tmp_path / 'half', '--dtype=bfloat16', '--step=latest', '--mesh=2')
  full, small = (load_file(where / 'model.safetensors') for where in (folder, half))
  assert json.loads((half / 'config.json').read_text())['torch_dtype'] == 'bfloat16'
  for name, array in full.items():
    np.testing.assert_array_equal(small[name], array.astype(ml_dtypes.bfloat16))


def test_a_folder_is_replaced_when_that_is_asked_for(labelled, tmp_path, capsys):
  folder = exported(labelled, tmp_path / 'out')
  (folder / 'config.json').write_text('{}')
  code, err = refused(capsys_cleared(capsys), f'--workdir={labelled}', f'--out={folder}')
  assert code == 2 and 'holds README.md; name another folder, or give --overwrite' in err
  exported(labelled, folder, '--overwrite')
  assert json.loads((folder / 'config.json').read_text())['model_type'] == 'modernbert'
  (folder / 'thesis.tex').write_text('years of work')
  code, err = refused(capsys_cleared(capsys), f'--workdir={labelled}', f'--out={folder}', '--overwrite')
  assert code == 2 and 'holds thesis.tex, which no export has written' in err
  assert (folder / 'thesis.tex').exists()
  downloaded = shutil.copytree(GOLDEN / 'bert', tmp_path / 'downloaded')
  code, err = refused(capsys_cleared(capsys), f'--workdir={labelled}', f'--out={downloaded}', '--overwrite')
  assert code == 2 and 'holds config.json, which no export has written' in err
  shutil.rmtree(downloaded)
  empty = tmp_path / 'empty'
  empty.mkdir()
  assert (exported(labelled, empty) / 'config.json').exists()
  assert sorted(path.name for path in tmp_path.iterdir()) == ['empty', 'out'], 'nothing else is left behind'


def capsys_cleared(capsys):
  capsys.readouterr()
  return capsys


@pytest.mark.parametrize('is_there', [False, True])
def test_a_folder_is_written_whole_or_not_at_all(is_there, labelled, tmp_path, capsys, monkeypatch):
  """A full disk in the middle of the weights."""
  folder = tmp_path / 'out'
  if is_there:
    exported(labelled, folder)
  before = {path.name: path.read_bytes() for path in folder.glob('*')}

  def full(*arguments):
    (pathlib.Path(arguments[0]) / 'model.safetensors').write_bytes(b'half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(writer, 'write', full)
  flags = [f'--workdir={labelled}', f'--out={folder}', *(['--overwrite'] if is_there else [])]
  code, err = refused(capsys_cleared(capsys), *flags)
  assert code == 4 and 'cannot be written (No space left on device)' in err
  assert {path.name: path.read_bytes() for path in folder.glob('*')} == before
  assert [path.name for path in tmp_path.iterdir()] == (['out'] if is_there else [])


def test_what_is_wrong_is_one_line(labelled, raw_config, tmp_path, capsys):
  out = f'--out={tmp_path / "out"}'
  assert refused(capsys, f'--workdir={labelled}')[1].startswith('lmjax: --out: missing; name the folder')
  code, err = refused(capsys, f'--workdir={tmp_path / "none"}', out)
  assert code == 4 and 'no such file; give --workdir a folder that lmjax.main made' in err
  code, err = refused(capsys, f'--workdir={labelled}', out, '--step=7')
  assert code == 4 and '--step = 7: not among the checkpoints' in err
  code, err = refused(capsys, f'--workdir={labelled}', out, '--dtype=int8')
  assert code == 2 and '--dtype = int8' in err
  code, err = refused(capsys, f'--workdir={labelled}', out, '--adapter')
  assert code == 2 and 'this run has no adapters (model.lora = None)' in err
  code, err = refused(capsys, f'--workdir={labelled}', out, '--private')
  assert code == 2 and 'has no effect without --push' in err
  (tmp_path / 'file').write_text('')
  code, err = refused(capsys, f'--workdir={labelled}', f'--out={tmp_path / "file"}')
  assert code == 2 and 'is a file; name a folder' in err
  bare = tmp_path / 'bare'
  shutil.copytree(labelled, bare)
  shutil.rmtree(bare / 'checkpoints')
  code, err = refused(capsys, f'--workdir={bare}', out)
  assert code == 4 and 'no checkpoint there' in err
  assert not (tmp_path / 'out').exists()


@pytest.mark.slow
def test_tasks_that_no_architecture_has_are_refused(raw_config, tmp_path, capsys):
  raw = raw_config('summarization')
  raw.objective.prefix = True
  runs.train(raw, tmp_path / 'prefix')
  code, err = refused(capsys, f'--workdir={tmp_path / "prefix"}', f'--out={tmp_path / "out"}')
  assert code == 2 and 'objective.prefix = True: no decoder of transformers reads its prompt from both sides' in err
  runs.train(raw_config('extractive_qa'), tmp_path / 'match')
  code, err = refused(capsys, f'--workdir={tmp_path / "match"}', f'--out={tmp_path / "out"}')
  assert code == 2 and 'model.segment_types = 3: words of the question are marked in the context' in err


@pytest.mark.slow
def test_a_decoder_of_classes_needs_a_token_to_fill_rows(tmp_path, capsys):
  """What a class is read off is the last token that is another: all of those of this tokenizer stand in rows."""
  workdir = exports.fine_tuned('classification', tmp_path, None, source=f'hf:{GOLDEN / "qwen3"}')
  capsys.readouterr()
  code, err = refused(capsys, f'--workdir={workdir}', f'--out={tmp_path / "out"}')
  assert code == 2 and 'all of its special tokens stand in rows' in err


@pytest.mark.slow
def test_a_card_names_source_and_licence_of_a_public_model(tmp_path, raw_config, capsys):
  """From one run to the next; nothing of the machine's folders is in it."""
  folder = pathlib.Path(shutil.copytree(GOLDEN / 'bert', tmp_path / 'secret_place'))
  (folder / 'README.md').write_text('---\nlicense: cc-by-4.0\n---\n# A model\n')
  leaves = {'init_from.path': f'hf:{folder}', 'train.steps': 0, 'data.length': 32}
  runs.train(raw_config('masked_lm', **leaves), tmp_path / 'first')
  exports.fine_tuned('classification', tmp_path, None, source=str(tmp_path / 'first'))
  shutil.rmtree(folder)
  out = exported(str(tmp_path / 'run'), tmp_path / 'out')
  card = (out / 'README.md').read_text()
  assert 'license: "cc-by-4.0"' in card and 'a public model in a local folder, licence cc-by-4.0.' in card
  assert 'secret_place' not in card and str(tmp_path) not in card
  assert json.loads((out / 'config.json').read_text())['architectures'] == ['BertForSequenceClassification']
  assert runs.manifest_of(tmp_path / 'run')['origin']['license'] == 'cc-by-4.0'
