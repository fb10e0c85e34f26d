"""Every command that a page or a docstring gives is one that runs: here at the smallest size, on files of this test.

Those of docs/new_task.md and experiments/benchmarks, and launch scripts, have tests of their own.
"""

import inspect
import json
import lzma
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import parquet

from lmjax import embed, evaluate, export, main, metrics, predict, prepare, verify
from lmjax import inspect as inspect_command
from lmjax.data.sources import hub as data_sets
from lmjax.data.sources import tfds
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.hf import hub
from lmjax.hf.source import PublicModel
from lmjax.models.config import ModelConfig
from lmjax.models.heads import LanguageModel
from lmjax.models.transformer import Transformer
from lmjax.schema import command_line
from lmjax.study import stages
from lmjax.study.config import ExperimentConfig
from tests import runs
from tests.conftest import ROOT, text
from tests.hf import exports

PAGES = [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md'), *(ROOT / 'experiments').rglob('*.md')]
MODULES = [file for folder in ('configs', 'experiments', 'lmjax') for file in (ROOT / folder).rglob('*.py')]
ELSEWHERE = ('docs/new_task.md', 'experiments/benchmarks')
COMMAND = re.compile(r'^\s*(?:\$ )?python (-m lmjax\.\w+|experiments/\w+\.py)(.*?)(?:\s{3,}\S.*)?$', re.MULTILINE)
# What stands for something else in the lines of a usage text.
STANDS_FOR = {
  '[--step=N] [--json] TEXT ...': "'a text' 'another'",
  '--question=TEXT CONTEXT': '--question=which? context',
  'FILE.py[:arg]': 'configs/pretrain_mlm.py',
  '--batch=S': '--batch=1',
  '--file=FILE': '--file=other.tsv',
  'FOLDER': 'split',
}


def commands() -> list[tuple[str, str, str]]:
  """(file, program, arguments) of each command; a line that ends in a backslash goes on in the next one."""
  found = []
  for file in sorted({*PAGES, *MODULES}):
    name, content = str(file.relative_to(ROOT)), file.read_text(encoding='utf-8')
    if file.suffix == '.py':
      docstring = re.match(r'r?"""(.*?)"""', content, re.DOTALL)
      content = '' if docstring is None else inspect.cleandoc(docstring[1]).replace('\\\\\n', '\\\n')
    if not name.startswith(ELSEWHERE):
      found += [(name, *match) for match in COMMAND.findall(re.sub(r' *\\\n( *)', lambda m: m[1][:1], content))]
  return found


ALL = commands()


def of(program: str, *but: str) -> list:
  """The different arguments of a program's commands, each with the first file that gives it."""
  files = {arguments: file for file, found, arguments in reversed(ALL) if found == program}
  return [
    pytest.param(
      arguments, id=f'{file}:{arguments.strip()}', marks=[pytest.mark.tpu_compile] * ('--dry_run' in arguments)
    )
    for arguments, file in files.items()
    if not any(word in arguments for word in but)
  ]


def test_every_command_has_a_test():
  tested = {'main', 'experiment', 'export', 'embed', 'harness', 'predict', 'evaluate', 'inspect', 'verify', 'prepare'}
  scripts = {'experiments/split.py', 'experiments/public_shapes.py'}
  assert {program for _, program, _ in ALL} == {f'-m lmjax.{name}' for name in tested} | scripts
  assert len(ALL) > 45


def question(i: int) -> dict:
  context = text(i, 12)
  answer = context.split()[3]
  return {
    'id': str(i),
    'question': f'which word is it, of those {i}?',
    'context': context,
    'answers': [{'text': answer, 'answer_start': context.index(answer)}],
  }


def squad(count: int) -> dict:
  articles = []
  for i in range(count):
    asked = {name: value for name, value in question(i).items() if name != 'context'}
    articles.append({'title': f't{i}', 'paragraphs': [{'context': question(i)['context'], 'qas': [asked]}]})
  return {'data': articles}


def of_data_set(path: str, count: int = 24) -> list[dict]:
  """What stands in for a data set of TFDS: examples with its fields."""
  name, split = tfds.parse(path)
  first = 100 * len(split)
  makers = {
    'glue/sst2': lambda i: {'sentence': text(i, 6).encode(), 'label': ('negative', 'positive')[i % 2]},
    'squad/v1.1': lambda i: (
      question(i)
      | {
        'answers': {
          'text': [question(i)['answers'][0]['text']],
          'answer_start': [question(i)['answers'][0]['answer_start']],
        }
      }
    ),
    'billsum': lambda i: {'text': text(i, 40).encode(), 'summary': text(i, 5).encode(), 'title': text(i, 3).encode()},
    'wiki40b/en': lambda i: {'text': text(i, 200).encode()},
  }
  makers['squad'] = makers['squad/v1.1']
  return [makers[name](first + i) for i in range(count)]


@pytest.fixture
def reader(raw_config, tmp_path_factory, tmp_path, cache_dir, monkeypatch):
  """Where somebody stands who has run the commands before, with files of the names that the commands give."""
  made = {'causal_lm': ('pretrain_clm',), 'masked_lm': ('pretrain_mlm', 'legal_mlm', 'legal_mlm-smoke')}
  for task, name in ((task, name) for task, names in made.items() for name in names):
    shutil.copytree(runs.pre_trained(task, raw_config, tmp_path_factory), tmp_path / 'runs' / name)
  for name in ('configs', 'experiments'):
    (tmp_path / name).symlink_to(ROOT / name)
  (tmp_path / 'cache').symlink_to(cache_dir)
  (tmp_path / 'models').mkdir()
  for name, stands_for in (('minilm', 'bert'), ('qwen3', 'qwen3')):
    (tmp_path / 'models' / name).symlink_to(ROOT / 'tests/hf/golden' / stands_for)
  (tmp_path / 'mytext').mkdir()
  (tmp_path / 'mytext/a.txt').write_text('\n\n'.join(text(i, 300) for i in range(60)))
  (tmp_path / 'web').mkdir()
  rows = [{'text': text(i, 60), 'language': ('en', 'de', 'fr')[i % 3], 'score': i} for i in range(60)]
  (tmp_path / 'web/a.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  runs.write_tsv(tmp_path / 'other.tsv', runs.texts(8, seed=3))
  for name, header in (('train', ('sentence', 'label')), ('dev', ('sentence', 'label'))):
    runs.write_tsv(tmp_path / f'{name}.tsv', runs.texts(24 if name == 'train' else 8), header)
  for name, count in (('train', 24), ('dev', 8)):
    lines = [json.dumps({'document': text(i, 30), 'summary': text(i, 4)}) for i in range(count)]
    (tmp_path / f'{name}.jsonl').write_text('\n'.join(lines))
    (tmp_path / f'{name}-v2.0.json').write_text(json.dumps(squad(count)))
  (tmp_path / 'pairs.tsv').write_text('the snow falls\tthe falls snow\n')
  (tmp_path / 'cuad').mkdir()
  for name, count in (('train', 24), ('valid', 8), ('test', 8)):
    (tmp_path / f'cuad/{name}.json').write_text(json.dumps(squad(count)))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(hub, 'download', lambda source, name, weights: (GOLDEN / PUBLIC[name.partition('@')[0]], 'a'))
  monkeypatch.setattr(tfds, 'identity', lambda path: {'kind': 'tfds', 'name': path})
  monkeypatch.setattr(tfds, 'records', lambda path, fields: ((path, one) for one in of_data_set(path)))
  monkeypatch.setattr(tfds, 'parts', lambda path, target: [(1_000, (0, 120))])
  monkeypatch.setattr(tfds, 'documents', lambda path, field, *_: ((path, one[field]) for one in of_data_set(path, 120)))
  return tmp_path


# What stands in for models of the Hub.
GOLDEN = ROOT / 'tests/hf/golden'
PUBLIC = {'answerdotai/ModernBERT-base': 'modernbert', 'nlpaueb/legal-bert-base-uncased': 'bert'}
PUBLIC |= {'Qwen/Qwen3-0.6B': 'qwen3', 'meta-llama/Llama-3.2-1B': 'llama_3_1'}
PUBLIC |= {'sentence-transformers/all-MiniLM-L6-v2': 'bert'}

# Sizes of a run of seconds, where a command does not give them.
SMALL = {'train.steps': 2, 'train.epochs': None, 'eval.every': 2, 'optim.warmup_steps': 0, 'writer.tensorboard': False}
SIZES = {
  'pretrain': {'checkpoint.every': 2, 'data.cache_dir': 'cache'},
  'legal_mlm': {'checkpoint.every': 2, 'data.cache_dir': 'cache', 'data.length': 64, 'data.batch_size': 8},
  'sentiment': {'data.length': 24, 'data.batch_size': 8},
  'legal_qa': {'data.length': 64, 'data.batch_size': 8, 'objective.max_question': 16, 'objective.stride': 24},
  'qa': {'data.length': 128, 'data.batch_size': 8, 'objective.max_question': 16, 'objective.stride': 64},
  'summarization': {'data.length': 48, 'data.batch_size': 8, 'objective.max_summary': 8, 'objective.chunk': 9},
}
for kind in ('legal_qa', 'qa'):
  SIZES[kind]['objective.max_answer'] = 6
SIZES['summaries'] = dict(SIZES['summarization'])
for kind in ('sentiment', 'legal_qa', 'qa', 'summarization', 'summaries'):
  SIZES[kind]['data.valid_examples'] = 4


def made_small(arguments: str, workdir: str) -> list[str]:
  """A training command with sizes of seconds: what it sets otherwise stays."""
  words = shlex.split(arguments)
  [config] = [word for word in words if word.startswith('--config=')]
  kind = next(kind for kind in SIZES if kind in config)
  if kind == 'pretrain':
    words[words.index(config)] = f'{config}{"," if ":" in config else ":"}smoke'
  if '--help' in words:
    return words
  kept = [word for word in words if not word.startswith('--config.train.steps=')]
  given = {word.partition('=')[0] for word in kept}
  small = {f'--config.{path}': value for path, value in (SMALL | SIZES[kind]).items()}
  return [*kept, *(f'{flag}={value}' for flag, value in small.items() if flag not in given), f'--workdir={workdir}']


@pytest.mark.slow
@pytest.mark.parametrize('arguments', of('-m lmjax.main', '--config_json'))
def test_a_run(arguments, reader, capsys):
  words = made_small(arguments, 'runs/new')
  if 'hf:shapes/' in arguments:
    subprocess.run(
      [sys.executable, 'experiments/public_shapes.py', 'shapes'], env={'PYTHONPATH': str(ROOT)}, check=True
    )
  assert main.main(words) == 0, capsys.readouterr().err
  said = capsys.readouterr().out
  if '--help' in words:
    assert 'objective.chunk = ' in said
  elif '--dry_run' in arguments:
    assert 'verdict: fits' in said
  else:
    assert 'done: step 2' in said and json.loads((reader / 'runs/new/results.json').read_text())['status'] == 'done'


@pytest.mark.slow
def test_a_saved_config_runs(reader, capsys):
  [arguments] = [arguments for _, _, arguments in ALL if '--config_json' in arguments]
  assert main.main([*shlex.split(arguments), '--config.train.steps=8']) == 0, capsys.readouterr().err
  assert 'resuming from step 6' in (said := capsys.readouterr().out) and 'done: step 8' in said


def with_names(arguments: str, workdir: str | None = None) -> list[str]:
  for name, stands_for in STANDS_FOR.items():
    arguments = arguments.replace(name, stands_for)
  return shlex.split(arguments if workdir is None else arguments.replace('DIR', workdir))


@pytest.mark.slow
def test_what_was_fine_tuned_is_used(reader, raw_config, tmp_path_factory, capsys):
  """Predictions and evaluations, of one run a task."""
  shutil.copytree(runs.fine_tuned(raw_config, tmp_path_factory), 'runs/finetune_sentiment-demo')
  shutil.copytree('runs/finetune_sentiment-demo', 'runs/DIR')
  qa = made_small(' --config=configs/finetune_qa.py:train=train-v2.0.json,valid=dev-v2.0.json', 'runs/finetune_qa-demo')
  assert main.main(qa) == 0, capsys.readouterr().err
  for _, program, arguments in ALL:
    for module in (predict, evaluate):
      if program == f'-m {module.__name__}':
        asks = '--question' in arguments
        words = with_names(arguments, 'runs/finetune_qa-demo' if asks else 'runs/DIR')
        capsys.readouterr()
        code = module.main(words)
        said = capsys.readouterr()
        assert code == 0 and said.out, (words, said.err)


@pytest.mark.slow
def test_what_was_trained_is_exported(tmp_path, monkeypatch, capsys):
  """Of a summarizer with adapters, which began as a public model."""
  monkeypatch.chdir(tmp_path)
  workdir = exports.with_adapters('summarization', tmp_path, f'hf:{GOLDEN / "llama_3_1"}')
  monkeypatch.setattr(hub, 'check_token', lambda flag: None)
  monkeypatch.setattr(hub, 'push', lambda folder, name, private: f'{name}: {len(list(folder.iterdir()))} files')
  for _, program, arguments in ALL:
    if program == '-m lmjax.export':
      words = [f'--workdir={workdir}' if word.startswith('--workdir=') else word for word in with_names(arguments)]
      [out] = [word.partition('=')[2] for word in words if word.startswith('--out=')]
      if '--overwrite' not in words:
        shutil.rmtree(out, ignore_errors=True)
      capsys.readouterr()
      code = export.main(words)
      said = capsys.readouterr()
      assert code == 0 and ('ORG/NAME: 6 files' in said.out) == ('--push' in arguments), (words, said.err)
      assert pathlib.Path(out, 'adapter_config.json' if '--adapter' in words else 'config.json').exists()


@pytest.mark.slow
def test_vectors_of_texts(reader, capsys):
  """By runs and by a public model; X stands for it in a usage text."""
  (reader / 'texts.txt').write_text('a text\nanother\n')
  for _, program, arguments in ALL:
    if program == '-m lmjax.embed':
      words = with_names(arguments.replace('[--out=vectors.npy] TEXT ...', 'text').replace('hf:X', 'hf:models/minilm'))
      words = [f'--workdir={reader / "runs/pretrain_mlm"}' if word == '--workdir=DIR' else word for word in words]
      pathlib.Path('vectors.npy').unlink(missing_ok=True)
      capsys.readouterr()
      code = embed.main(words)
      printed = capsys.readouterr()
      assert code == 0 and 'empty: 0' in printed.err, (words, printed.err)
      assert bool(printed.out) != pathlib.Path('vectors.npy').exists()


@pytest.mark.slow
@pytest.mark.parity
def test_scores_of_the_harness(reader, capsys, monkeypatch):
  """Tasks of the tests stand for those of a name."""
  pytest.importorskip('lm_eval')
  from lmjax import harness

  (reader / 'tests').symlink_to(ROOT / 'tests')
  for _, program, arguments in ALL:
    if program == '-m lmjax.harness':
      words = [
        word for word in with_names(arguments, 'runs/pretrain_clm') if not word.startswith(('--tasks', '--include'))
      ]
      code = harness.main([*words, '--tasks=lmjax_choices', '--include=tests/hf/tasks', '--batch=4'])
      printed = capsys.readouterr()
      assert code == 0 and 'acc_norm' in printed.out, (words, printed.err)


@pytest.mark.slow
@pytest.mark.parametrize('module', [inspect_command, verify])
def test_a_look_inside(module, reader, capsys):
  for _, program, arguments in ALL:
    if program == f'-m {module.__name__}':
      words = with_names(arguments, 'runs/pretrain_clm')
      if '--config=' in arguments:
        words += ['--config.data.sources.main.path=mytext/*.txt', '--config.data.cache_dir=cache']
      capsys.readouterr()
      code = module.main(words)
      said = capsys.readouterr()
      assert code == 0 and said.out, (words, said.err)


@pytest.mark.slow
def test_text_is_prepared_and_looked_at(reader, capsys, monkeypatch):
  """In the order of the pages; local files stand for those of the Hub and of a bucket."""
  for name, count in (('web', 60), ('bucket/law', 20)):
    (reader / name).mkdir(parents=True, exist_ok=True)
    columns = {'text': [text(i, 300) for i in range(count)], 'int_score': [i % 3 + 3 for i in range(count)]}
    parquet.write_table(pyarrow.table(columns), reader / name / 'a.parquet')
  monkeypatch.setattr(data_sets, 'files_of', lambda path: [(f'{reader}/web/a.parquet', 1_000, '')])
  for _, program, arguments in ALL:
    if program == '-m lmjax.prepare' and '[' not in arguments and '--runner=' not in arguments:
      words = shlex.split(arguments.replace('gs://BUCKET', 'bucket'))
      words = [word for word in words if not word.startswith('--config.data.cache_dir=')]
      words += ['--config.data.cache_dir=new', '--config.data.tokenizer.vocab_size=300']
      assert prepare.main(words) == 0, (words, capsys.readouterr().err)
      out, last = capsys.readouterr().out, ''.join(word for word in words if word.startswith(('--task=', '--list')))
      shown = {'--list': 'corpus ', '--task=0': 'main: |its share is done'}
      wanted = shown.get(last, 'MB were removed' if 'remove' in arguments else 'corpus ')
      assert re.search(wanted, out), (words, out)


@pytest.mark.slow
@pytest.mark.beam
def test_text_is_prepared_on_a_runner_of_beam(tmp_path, monkeypatch, capsys):
  pytest.importorskip('apache_beam')
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  (tmp_path / 'mytext').mkdir()
  (tmp_path / 'mytext/a.txt').write_text('\n\n'.join(text(i, 300) for i in range(60)))
  monkeypatch.chdir(tmp_path)
  [arguments] = [arguments for _, _, arguments in ALL if '--runner=' in arguments]
  words = ['--config.data.cache_dir=new', '--config.data.tokenizer.vocab_size=300', *shlex.split(arguments)]
  assert prepare.main(words) == 0, capsys.readouterr().err
  assert 'corpus ' in capsys.readouterr().out


@pytest.mark.parametrize('arguments', of('-m lmjax.experiment'))
def test_a_study_is_right_in_every_stage(arguments, monkeypatch, tmp_path):
  """All of its configs are built; `tests/study` runs studies to their end."""
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  (tmp_path / 'experiments').symlink_to(ROOT / 'experiments')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(stages, 'missing_files', lambda _: [])  # files of text and examples are not read here
  flags = command_line.parse_command_line(shlex.split(arguments))
  raw = command_line.load_config_file(flags.file, flags.argument)
  config, ready = stages.prepare(raw, str(tmp_path / 'work'), flags.problems)
  assert isinstance(config, ExperimentConfig) and len(ready) == len(config.stages) >= 2


@pytest.mark.parametrize('arguments', of('experiments/split.py'))
def test_a_file_is_split(arguments, tmp_path):
  file, folder = with_names(arguments)
  rows = [{'document': text(i, 9), 'summary': text(i, 3)} for i in range(12)]
  lines = rows if '.jsonl' in file else [squad(12)]
  opened = lzma.open if file.endswith('.xz') else open
  with opened(tmp_path / file, 'wt', encoding='utf-8') as out:
    out.writelines(json.dumps(line) + '\n' for line in lines)
  command = [sys.executable, str(ROOT / 'experiments/split.py'), file, folder]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={'PYTHONPATH': str(ROOT)})
  assert done.stdout == '8 train, 1 valid, 3 test\n', done.stderr
  assert sorted(pathlib.Path(tmp_path / folder).iterdir())


@pytest.mark.parametrize('arguments', of('experiments/public_shapes.py'))
def test_shapes_of_public_models_are_written(arguments, tmp_path):
  """Their parameters are as many as are published."""
  command = [sys.executable, str(ROOT / 'experiments/public_shapes.py'), *with_names(arguments)]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={'PYTHONPATH': str(ROOT)})
  assert done.returncode == 0, done.stderr
  millions = {}
  for path in done.stdout.split():
    source = PublicModel(f'hf:{tmp_path / path.removeprefix("hf:")}')
    assert not source.has_weights
    tokenizer = Tokenizer.load(source.tokenizer_file)
    assert tokenizer.vocab_size == source.model['vocab_size'] and tokenizer.mask is not None
    model = LanguageModel(Transformer(ModelConfig(**source.model), tokenizer.vocab_size))
    millions[source.folder.name] = metrics.count(model.shapes()) // 1_000_000
  assert millions == {'ModernBERT-base': 149, 'legal-bert-base-uncased': 109, 'Qwen3-0.6B': 596, 'Llama-3.2-1B': 1235}
