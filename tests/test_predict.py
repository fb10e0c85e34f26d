"""Using a fine-tuned run: from arguments, files and standard input, as text and as JSON."""

import io
import json
import os
import shutil
import types
from unittest import mock

import pytest
from etils import epath

from lmjax import evaluate, predict
from lmjax.errors import ConfigError
from tests import runs


@pytest.fixture(scope='module')
def pre_trained(raw_config, tmp_path_factory):
  return runs.pre_trained('masked_lm', raw_config, tmp_path_factory)


@pytest.fixture(scope='module')
def labelled(raw_config, tmp_path_factory):
  return str(runs.fine_tuned(raw_config, tmp_path_factory))


def lines(capsys, *arguments):
  code = predict.main(list(arguments))
  out, err = capsys.readouterr()
  assert code == 0, err
  return [json.loads(line) for line in out.splitlines()]


def refused(capsys, *arguments):
  code = predict.main(list(arguments))
  out, err = capsys.readouterr()
  assert not out and 'Traceback' not in err
  return code, err


def test_labels_of_texts_on_the_command_line(labelled, capsys):
  found = lines(capsys, '--workdir', labelled, '--json', 'a fine line', 'x=y is slow')
  assert [line['id'] for line in found] == ['0', '1']
  for line in found:
    assert set(line['probabilities']) == {'good', 'bad'}
    assert sum(line['probabilities'].values()) == pytest.approx(1.0, abs=1e-5)
    assert line['label'] == max(line['probabilities'], key=line['probabilities'].get)
  assert predict.main([f'--workdir={labelled}', 'a fine line']) == 0
  assert capsys.readouterr().out.startswith(found[0]['label'] + '\t')


def test_files_and_standard_input_say_the_same(labelled, capsys, tmp_path, monkeypatch):
  texts = ['a fine line', 'a slow line', 'that is wrong']
  expected = [line['probabilities'] for line in lines(capsys, f'--workdir={labelled}', '--json', *texts)]
  (tmp_path / 'texts.txt').write_text('\n'.join(texts) + '\n\n', encoding='utf-8')
  records = ''.join(json.dumps({'text': text, 'other': 1}) + '\n' for text in texts)
  (tmp_path / 'texts.jsonl').write_text(records, encoding='utf-8')
  windows = b'\xef\xbb\xbf' + '\r\n'.join(texts).encode()  # with a byte order mark, as editors there save it
  (tmp_path / 'windows.txt').write_bytes(windows)
  for name in ('texts.txt', 'texts.jsonl', 'windows.txt'):
    found = lines(capsys, f'--workdir={labelled}', '--json', f'--file={tmp_path / name}')
    assert [line['probabilities'] for line in found] == expected
  for piped in ('\n'.join(texts).encode(), windows):
    monkeypatch.setattr('sys.stdin', types.SimpleNamespace(buffer=io.BytesIO(piped)))
    found = lines(capsys, f'--workdir={labelled}', '--json')
    assert [line['probabilities'] for line in found] == expected


def test_what_of_a_long_text_is_not_read_is_told(labelled, capsys, tmp_path):
  """Two reviews with opposite ends are one to the model, which has read neither end."""
  begin = 'the model reads this line of text and that one ' * 5
  texts = [begin + end for end in ('clear quick fine', 'broken vague poor')] + ['a fine line']
  assert predict.main([f'--workdir={labelled}', '--json', *texts]) == 0
  out, err = capsys.readouterr()
  first, second, short = map(json.loads, out.splitlines())
  assert first['probabilities'] == second['probabilities']
  assert first['read'] == second['read'] == 22 < first['tokens'] and 0 < short['read'] == short['tokens'] < 22
  tokens = first['tokens'] + second['tokens']
  assert err == f'lmjax: 2 of 3 are too long, and 44 of their {tokens} tokens are read: data.length = 24\n'
  (tmp_path / 'long.tsv').write_text(f'text\tlabel\n{texts[0]}\tgood\n{texts[2]}\tbad\n')
  assert evaluate.main([f'--workdir={labelled}', f'--data={tmp_path / "long.tsv"}']) == 0
  assert 'long.tsv: 1 of 2 are too long, and 22 of their' in capsys.readouterr().err


def test_mistakes_are_reported(labelled, pre_trained, capsys, tmp_path, monkeypatch):
  assert refused(capsys, 'a text') == (2, 'lmjax: --workdir: missing; name the folder of a run\n')
  code, err = refused(capsys, f'--workdir={tmp_path}', 'a text')
  assert code == 4 and 'config.json: no such file; give --workdir a folder that lmjax.main made' in err
  code, err = refused(capsys, f'--workdir={pre_trained}', 'a text')
  assert code == 2 and 'masked_lm is pre-training; try python -m lmjax.inspect' in err
  code, err = refused(capsys, f'--workdir={labelled}', '--question=Who?', 'a text')
  assert code == 2 and '--question = Who?: has no meaning for classification; leave it out' in err
  code, err = refused(capsys, f'--workdir={labelled}', f'--file={tmp_path / "none.txt"}')
  assert code == 3 and 'No such file' in err
  code, err = refused(capsys, f'--workdir={labelled}', f'--file={tmp_path / "none.jsonl"}')
  assert code == 3 and 'there is no such file' in err
  code, err = refused(capsys, f'--workdir={labelled}', '--file=x.txt', 'a text')
  assert code == 2 and 'leave one of them out' in err
  with monkeypatch.context() as patch:
    patch.setattr(type(epath.Path('gs://bucket')), 'exists', mock.Mock(side_effect=OSError('no such host')))
    code, err = refused(capsys, '--workdir=gs://bucket/run', 'a text')
  assert code == 4 and '--workdir = gs://bucket/run: cannot be reached (OSError: no such host); check' in err
  code, err = refused(capsys, f'--workdir={labelled}', '--step=99', 'a text')
  assert code == 4 and '--step = 99: not among the checkpoints' in err
  (tmp_path / 'latin.csv').write_bytes('text,label\na fine caf\u00e9,good\na slow line,bad\n'.encode('latin-1'))
  latin = [f'--workdir={labelled}', f'--file={tmp_path / "latin.csv"}']
  assert "set data.bad_text to 'replace' or 'skip'" in refused(capsys, *latin)[1]
  assert 'did you mean --bad_text?' in refused(capsys, *latin, '--data.bad_text=skip')[1]
  assert [line['id'] for line in lines(capsys, '--json', *latin, '--bad_text=replace')] == ['0', '1']
  assert evaluate.main([latin[0], f'--data={tmp_path / "latin.csv"}', '--bad_text=skip', '--json']) == 0
  assert '1 skipped (1 bad text)' in capsys.readouterr().err
  code, err = refused(capsys, f'--workdir={labelled}', '--config.data.bad_text=skip', 'a text')
  assert code == 2 and '--config.data.bad_text = skip: has no effect: a run has its own config; give --bad_text' in err
  code, err = refused(capsys, f'--workdir={labelled}', '--fields=a', 'a text')
  assert code == 2 and '--fields = a: has no effect without --file' in err
  code, err = refused(capsys, f'--workdir={labelled}', 'caf\udce9')
  assert code == 3 and 'text 0: character 3 is the byte 0xe9, which is not UTF-8' in err
  (tmp_path / 'file').write_text('no folder')
  code, err = refused(capsys, f'--workdir={tmp_path / "file"}', 'a text')
  assert code == 4 and 'config.json: Not a directory; give --workdir' in err
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/config.json').write_text('[]')
  code, err = refused(capsys, f'--workdir={tmp_path / "run"}', 'a text')
  assert code == 4 and 'config.json: holds no object; the folder is damaged' in err
  shutil.copytree(labelled, tmp_path / 'edited')
  config = json.loads((tmp_path / 'edited/config.json').read_text())
  (tmp_path / 'edited/config.json').write_text(
    json.dumps(config | {'objective': config['objective'] | {'labels': None}})
  )
  code, err = refused(capsys, f'--workdir={tmp_path / "edited"}', 'a text')
  assert code == 2 and 'objective.labels = None: a run that has been trained names its classes' in err
  (tmp_path / 'bad.txt').write_bytes(b'caf\xe9')
  code, err = refused(capsys, f'--workdir={labelled}', f'--file={tmp_path / "bad.txt"}')
  assert code == 3 and 'not UTF-8' in err
  monkeypatch.setattr('sys.stdin', types.SimpleNamespace(buffer=io.BytesIO(b' \n')))
  code, err = refused(capsys, f'--workdir={labelled}')
  assert code == 3 and 'standard input: holds no text' in err


def test_a_workdir_under_the_home_folder(labelled, capsys, monkeypatch):
  monkeypatch.setenv('HOME', os.path.dirname(labelled))
  short = f'~/{os.path.basename(labelled)}'
  assert lines(capsys, f'--workdir={short}', '--json', 'a line') == lines(
    capsys, f'--workdir={labelled}', '--json', 'a line'
  )


def test_a_text_of_several_lines_is_shown_in_one(labelled, capsys, tmp_path):
  (tmp_path / 'a.jsonl').write_text(json.dumps({'text': 'a fine\nline'}) + '\n')
  assert predict.main([f'--workdir={labelled}', f'--file={tmp_path / "a.jsonl"}']) == 0
  assert capsys.readouterr().out.endswith('\ta fine line\n')


def test_an_id_is_the_place_among_what_was_given(labelled, capsys, tmp_path):
  (tmp_path / 'texts.txt').write_text('one\n\nthree\n')
  (tmp_path / 'texts.csv').write_text('words,label\none,x\n" ",x\nthree,x\n')
  for arguments in (['--file', str(tmp_path / 'texts.txt')], ['--file', str(tmp_path / 'texts.csv'), '--fields=words']):
    assert predict.main([f'--workdir={labelled}', '--json', *arguments]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)['id'] for line in out.splitlines()] == ['0', '2']
  assert 'texts.csv: 1 skipped (1 empty text)' in err


def test_one_text_is_not_enough_for_pairs():
  config = types.SimpleNamespace(task='classification', data=types.SimpleNamespace(fields=('a', 'b', 'label')))
  with pytest.raises(ConfigError, match='this run classifies pairs; give a .jsonl, .csv or .tsv of a, b'):
    predict.read(config, ['one'], None, None)
