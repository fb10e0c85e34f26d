"""Vectors of texts: in their order, whatever batch they stand in, pooled as is asked or as a folder says."""

import errno
import gzip
import io
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from lmjax import embed
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import CheckpointError
from lmjax.hf import sentence
from lmjax.hf.sentence import Vectors
from lmjax.hf.source import PublicModel
from lmjax.training import reopen
from tests import runs
from tests.conftest import ROOT, text
from tests.hf.exports import exported, pre_trained
from tests.hf.imports import imported

GOLDEN = ROOT / 'tests/hf/golden'
TEXTS = ['the model reads', '', 'a line of text that is longer than the others, much longer', 'snow', 'the model reads']


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
  """BERT in small, as sentence-transformers saves it."""
  made = shutil.copytree(GOLDEN / 'bert', tmp_path_factory.mktemp('sentences') / 'model')
  for name, content in sentence.files_of(Vectors('mean', True, 24), 16).items():
    (made / name).parent.mkdir(exist_ok=True)
    (made / name).write_bytes(content)
  return made


def vectors(capsys, *arguments) -> tuple[np.ndarray, str]:
  """What is printed, as an array, and what is reported."""
  code = embed.main(list(arguments))
  out, err = capsys.readouterr()
  assert code == 0, err
  lines = [json.loads(line) for line in out.splitlines()]
  assert [line['id'] for line in lines] == list(range(len(lines)))
  return np.array([line['vector'] for line in lines], np.float32), err


def by_hand(pooling: str, text: str) -> np.ndarray:
  """The definition, of one row without padding."""
  source = PublicModel(f'hf:{GOLDEN / "bert"}')
  model, params = imported(source)
  tokenizer = Tokenizer.load(source.tokenizer_file)
  ids = [*tokenizer.frame.begin, *tokenizer.encode(text), *tokenizer.frame.end]
  x_TD = np.asarray(jax.jit(model.backbone.apply)(params, np.array([ids])))[0]
  return {'mean': x_TD.mean(axis=0), 'cls': x_TD[0], 'last': x_TD[-1]}[pooling]


@pytest.mark.parametrize('pooling', ['mean', 'cls', 'last'])
def test_vectors_are_pooled_outputs_in_the_order_of_the_texts(pooling, capsys):
  model = f'--model=hf:{GOLDEN / "bert"}'
  found, err = vectors(capsys, model, f'--pooling={pooling}', '--batch=2', *TEXTS[:1], *TEXTS[2:])
  assert found.shape == (4, 16) and 'lmjax: texts: 4, empty: 0, cut to 64 tokens: 0' in err
  for one, text_ in zip(found, [*TEXTS[:1], *TEXTS[2:]]):
    np.testing.assert_allclose(one, by_hand(pooling, text_), atol=1e-5)


def test_a_folder_says_how_and_the_command_line_may_say_otherwise(folder, tmp_path, capsys):
  (tmp_path / 'texts.txt').write_text('\n'.join(TEXTS) + '\n')
  model, file = f'--model=hf:{folder}', f'--file={tmp_path / "texts.txt"}'
  found, err = vectors(capsys, model, file)
  assert found.shape == (5, 16) and 'texts: 5, empty: 1, cut to 24 tokens: 1' in err
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
  np.testing.assert_array_equal(found[0], found[4])
  plain, err = vectors(capsys, model, file, '--normalize=false', '--length=64')
  assert 'empty: 1, cut to 64 tokens: 0' in err
  mean = by_hand('mean', TEXTS[3])
  np.testing.assert_allclose(plain[3], mean, atol=1e-5)
  np.testing.assert_allclose(found[3], mean / np.linalg.norm(mean), atol=1e-5)
  assert embed.main([model, file, f'--out={tmp_path / "v.npy"}', '--mesh=2', '--batch=3']) == 0
  np.testing.assert_allclose(np.load(tmp_path / 'v.npy'), found, atol=1e-6)
  assert embed.main([model, file, f'--out={tmp_path / "v.jsonl"}']) == 0
  lines = [json.loads(line) for line in (tmp_path / 'v.jsonl').read_text().splitlines()]
  np.testing.assert_allclose(np.array([line['vector'] for line in lines]), found, atol=1e-6)


def test_records_and_standard_input(folder, tmp_path, capsys, monkeypatch):
  (tmp_path / 'a.jsonl').write_text(''.join(json.dumps({'body': one}) + '\n' for one in TEXTS))
  found, _ = vectors(capsys, f'--model=hf:{folder}', f'--file={tmp_path / "a.jsonl"}', '--field=body')
  (tmp_path / 'a.jsonl.gz').write_bytes(gzip.compress((tmp_path / 'a.jsonl').read_bytes()))
  packed, _ = vectors(capsys, f'--model=hf:{folder}', f'--file={tmp_path / "a.jsonl.gz"}', '--field=body')
  np.testing.assert_array_equal(packed, found)
  half = ''.join(line + '\n' for line in (json.dumps({'body': TEXTS[3]}), '{"body": "\\ud800"}'))
  (tmp_path / 'half.jsonl').write_text(half)
  half, err = vectors(
    capsys, f'--model=hf:{folder}', '--file=' + str(tmp_path / 'half.jsonl'), '--field=body', '--bad_text=skip'
  )
  np.testing.assert_allclose(half[0], found[3], atol=1e-6)
  assert 'texts: 2, empty: 1' in err
  given = io.TextIOWrapper(io.BytesIO('\n'.join(TEXTS).encode()))
  monkeypatch.setattr('sys.stdin', given)
  np.testing.assert_array_equal(found, vectors(capsys, f'--model=hf:{folder}')[0])


@pytest.mark.slow
def test_the_backbone_of_a_run(raw_config, tmp_path_factory, capsys):
  for task in ('masked_lm', 'causal_lm'):
    workdir = runs.pre_trained(task, raw_config, tmp_path_factory)
    capsys.readouterr()
    found, _ = vectors(capsys, f'--workdir={workdir}', *(text(i, 3 + i) for i in range(5)))
    alone, _ = vectors(capsys, f'--workdir={workdir}', text(3, 6), '--batch=1')
    assert found.shape == (5, 32)
    np.testing.assert_allclose(found[3], alone[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parity
def test_an_export_is_a_folder_of_sentence_transformers(folder, raw_config, tmp_path, capsys):
  """Which makes of it the vectors that we make; and what it saves again is read, with the length in another file."""
  sentence_transformers = pytest.importorskip('sentence_transformers')
  workdir = pre_trained('masked_lm', raw_config, tmp_path, **{'init_from.path': f'hf:{folder}'})
  out = exported(workdir, tmp_path / 'out')
  theirs = sentence_transformers.SentenceTransformer(str(out), device='cpu')
  theirs.save_pretrained(str(tmp_path / 'again'))
  assert sentence.read(tmp_path / 'again') == sentence.read(out)
  capsys.readouterr()
  for model in (f'--workdir={workdir}', f'--model=hf:{out}', f'--model=hf:{tmp_path / "again"}'):
    np.testing.assert_allclose(vectors(capsys, model, *TEXTS)[0], theirs.encode(TEXTS), atol=1e-5)


@pytest.mark.slow
def test_an_exported_encoder_gives_the_same_vectors(folder, raw_config, tmp_path, capsys):
  """Of its own preset, and of a model that sentence-transformers saved, pooled as it said."""
  for name, leaves, how in (
    ('own', {}, Vectors('mean', False, 32)),
    ('imported', {'init_from.path': f'hf:{folder}'}, Vectors('mean', True, 24)),
    ('positions', {'init_from.path': f'hf:{GOLDEN / "bert"}'}, Vectors('mean', False, 64)),
  ):
    workdir = pre_trained('masked_lm', raw_config, tmp_path / name, **leaves)
    out = exported(workdir, tmp_path / f'{name}-out')
    assert sentence.read(out) == how
    capsys.readouterr()
    expected, _ = vectors(capsys, f'--workdir={workdir}', *TEXTS)
    np.testing.assert_allclose(vectors(capsys, f'--model=hf:{out}', *TEXTS)[0], expected, atol=1e-5)


def test_a_decoder_gives_the_output_of_the_last_token(raw_config, tmp_path_factory, capsys):
  """In a row as its tokenizer stands it: by the definition, of one text alone."""
  workdir = runs.pre_trained('causal_lm', raw_config, tmp_path_factory)
  run = reopen.load_run(workdir)
  ids = [*run.task.row_spec().end, *run.tokenizer.encode(text(3, 6))]
  x_TD = np.asarray(jax.jit(run.task.model.backbone.apply)(run.params, np.array([ids])))[0]
  capsys.readouterr()
  found, _ = vectors(capsys, f'--workdir={workdir}', text(3, 6), text(1, 2))
  np.testing.assert_allclose(found[0], x_TD[-1], atol=1e-5)


def refused(capsys, *arguments) -> tuple[int, str]:
  code = embed.main(list(arguments))
  out, err = capsys.readouterr()
  assert not out and 'Traceback' not in err and len(err.strip().splitlines()) == 1
  return code, err


def test_what_is_wrong_is_one_line(folder, tmp_path, capsys, monkeypatch):
  model = f'--model=hf:{folder}'
  files = {
    'broken.jsonl': '{"text": "a"}\n{"text": 3}\n',
    'blank.jsonl': '\n\n',
    'half.jsonl': '{"text": "\\ud800"}\n',
    'empty.txt': '',
  }
  for name, content in files.items():
    (tmp_path / name).write_text(content)
  monkeypatch.chdir(tmp_path)
  for code, message, *arguments in (
    (2, '--workdir, --model: exactly one is needed', 'a'),
    (2, '--workdir, --model: exactly one is needed', model, f'--workdir={tmp_path}', 'a'),
    (2, '--out = vectors.csv: must end in .npy or .jsonl', model, '--out=vectors.csv', 'a'),
    (2, '--out = no/such/v.npy: no folder', model, '--out=no/such/v.npy', 'a'),
    (2, '--config', model, '--config=configs/pretrain_clm.py', 'a'),
    (2, '--step = 3: has no effect without --workdir', model, '--step=3', 'a'),
    (2, '--field = body: has no effect', model, '--field=body', 'a'),
    (2, '--length = 2: must be 3 or more', model, '--length=2', 'a'),
    (2, '--length = 65: the model has positions for 64 tokens', model, '--length=65', 'a'),
    (3, 'No such file', model, '--file=none.txt'),
    (3, "broken.jsonl, line 2: field 'text' is of type int", model, '--file=broken.jsonl'),
    (3, "broken.jsonl, line 1: no field 'body'", model, '--file=broken.jsonl', '--field=body'),
    (3, 'blank.jsonl: holds no text', model, '--file=blank.jsonl'),
    (3, 'empty.txt: holds no text', model, '--file=empty.txt'),
    (3, 'half.jsonl, line 1: character 0 is the lone surrogate U+D800', model, '--file=half.jsonl'),
    (4, '--model = hf:./none: no such folder', '--model=hf:./none', 'a'),
  ):
    found, err = refused(capsys, *arguments)
    assert found == code and message in err, (arguments, err)
  full = OSError(errno.ENOSPC, 'No space left on device')
  monkeypatch.setattr('lmjax.workdir.files.write_atomically', lambda path, data: (_ for _ in ()).throw(full))
  assert embed.main([model, '--out=v.npy', 'a']) == 4
  assert 'cannot be written (No space left on device)' in capsys.readouterr().err


@pytest.mark.parametrize(
  'name, content, message',
  [
    ('modules.json', '[', 'no folder of sentence-transformers'),
    ('modules.json', '[{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": "x"}]', 'Transformer, Dense'),
    ('1_Pooling/config.json', '{"pooling_mode_max_tokens": true}', 'pools by pooling_mode_max_tokens; it must be one'),
    (
      '1_Pooling/config.json',
      '{"pooling_mode": ["mean", "max"]}',
      'pools by mean, max; it must be one of mean, cls, last',
    ),
  ],
)
def test_what_a_folder_may_not_say(name, content, message, folder, tmp_path):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  (copy / name).write_text(content)
  with pytest.raises(CheckpointError, match=message):
    sentence.read(copy)


def test_files_of_version_6(folder, tmp_path):
  """It keeps the length in the tokenizer's file, and pooling in one key, which counts before the older ones."""
  copy = shutil.copytree(folder, tmp_path / 'copy')
  (copy / 'sentence_bert_config.json').write_text('{"transformer_task": "feature-extraction"}')
  tokenizer = json.loads((copy / 'tokenizer_config.json').read_text())
  (copy / 'tokenizer_config.json').write_text(json.dumps(tokenizer | {'model_max_length': 20}))
  pooling = {'embedding_dimension': 16, 'pooling_mode': 'lasttoken', 'pooling_mode_mean_tokens': True}
  (copy / '1_Pooling/config.json').write_text(json.dumps(pooling))
  assert sentence.read(copy) == Vectors('last', True, 20)
  (copy / 'tokenizer_config.json').write_text(json.dumps(tokenizer | {'model_max_length': 1e30}))
  assert sentence.read(copy).length is None
  assert sentence.read(folder) == Vectors('mean', True, 24) and sentence.read(GOLDEN / 'bert') is None


def test_a_prompt_and_lower_case(folder, tmp_path, capsys):
  """As config_sentence_transformers.json and the settings of the tokens have them."""
  copy = shutil.copytree(folder, tmp_path / 'copy')
  (copy / 'sentence_bert_config.json').rename(copy / 'sentence_roberta_config.json')
  (copy / 'sentence_roberta_config.json').write_text('{"max_seq_length": 24, "do_lower_case": true}')
  prompts = {'prompts': {'query': 'Read: '}, 'default_prompt_name': 'query'}
  (copy / 'config_sentence_transformers.json').write_text(json.dumps(prompts))
  assert sentence.read(copy) == Vectors('mean', True, 24, 'Read: ', True)
  found, err = vectors(capsys, f'--model=hf:{copy}', 'THE SNOW', '')
  expected, _ = vectors(capsys, f'--model=hf:{folder}', 'read: the snow', 'read: ')
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert 'empty: 1' in err
  for name, content in sentence.files_of(sentence.read(copy), 16).items():
    (folder.parent / name).parent.mkdir(exist_ok=True)
    (folder.parent / name).write_bytes(content)
  assert sentence.read(folder.parent) == sentence.read(copy)
  (copy / '1_Pooling/config.json').write_text('{"pooling_mode": "mean", "include_prompt": false}')
  with pytest.raises(CheckpointError, match='leaves the prompt out of the mean'):
    sentence.read(copy)


def test_pooling_that_is_asked_for_counts(folder, tmp_path, capsys):
  """Where the folder pools in a way that is not known here."""
  copy = shutil.copytree(folder, tmp_path / 'copy')
  (copy / '1_Pooling/config.json').write_text('{"pooling_mode_max_tokens": true}')
  assert 'give --pooling' in refused(capsys, f'--model=hf:{copy}', 'snow')[1]
  found, _ = vectors(capsys, f'--model=hf:{copy}', '--pooling=mean', 'snow')
  np.testing.assert_array_equal(found, vectors(capsys, f'--model=hf:{folder}', 'snow')[0])
