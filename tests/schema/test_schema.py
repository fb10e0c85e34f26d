"""The config boundary: what is accepted, and the exact line for everything that is not."""

import copy
import json
import os
import random
import subprocess
import sys
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Le
from ml_collections import ConfigDict, config_dict

from lmjax import config as config_lib
from lmjax import main
from lmjax.errors import ConfigError
from lmjax.schema import command_line, describe, overrides, validate
from lmjax.schema.types import Bool, Float, Int, NonNegativeInt, PositiveFloat, PositiveInt, Rate, Share, section
from lmjax.study.config import ExperimentConfig
from lmjax.tasks.table import TASKS
from tests.conftest import CONFIGS, FINE_TUNING, ROOT


@section
class Model:
  """The network.

  Settings:
    width: model width D,
      a multiple of heads
    heads: attention heads

  Not a setting: this.
  """

  width: PositiveInt
  heads: PositiveInt
  dropout: Rate
  window: PositiveInt | None

  def problems(self):
    if self.width % self.heads:
      yield 'heads', f'must divide model.width = {self.width}', 'give a divisor'


@section
class Optim:
  """The optimizer."""

  name: Literal['adamw', 'lion']
  learning_rate: PositiveFloat
  warmup_steps: Annotated[NonNegativeInt, Le(2**31 - 1)]
  betas: tuple[Share, ...]
  nesterov: Bool


@section
class Source:
  """One corpus."""

  path: str
  weight: PositiveFloat


@section
class InitFrom:
  """The hand-off."""

  path: str | None
  step: Literal['latest', 'best'] | NonNegativeInt
  take: tuple[str, ...]


@section
class Causal:
  """Next token."""

  z_loss: Float


@section
class Masked:
  """Masked tokens."""

  share: Share
  unit: Literal['token', 'word']


@section
class Writer:
  """Where metrics go."""

  tensorboard: Bool = True
  project: str | None = None


@section
class Root:
  """A run.

  seed: of everything random.
  """

  seed: Int
  model: Model
  optim: Optim
  task: Literal['causal_lm', 'masked_lm']
  objective: Any
  sources: dict[str, Source]
  init_from: InitFrom
  ema: Optim | None
  writer: Writer = Writer()

  @staticmethod
  def chosen(values):
    return {'objective': Masked if values.get('task') == 'masked_lm' else Causal}

  @staticmethod
  def owners(path):
    return [name for name in ('masked_lm',) if path in describe.nodes(Root, {'task': name})]

  def problems(self):
    if self.model.width > 1000 and self.optim.learning_rate > 0.01:
      yield 'optim.learning_rate', 'must be 0.01 or less above width 1000', 'lower it'


def good(**changes):
  """A valid config with the settings at the given paths changed; `...` removes one."""
  config = dict(
    seed=0,
    model=dict(width=8, heads=2, dropout=0.0, window=None),
    optim=dict(name='adamw', learning_rate=0.1, warmup_steps=10, betas=(0.9, 0.99), nesterov=False),
    task='causal_lm',
    objective=dict(z_loss=0.0),
    sources=dict(pydoc=dict(path='pydoc', weight=1.0)),
    init_from=dict(path=None, step='latest', take=()),
    ema=None,
  )
  for path, value in changes.items():
    *above, name = path.split('.')
    inner = config
    for part in above:
      inner = inner[part]
    if value is ...:
      del inner[name]
    else:
      inner[name] = value
  return ConfigDict(config)


def build(config):
  return validate.build(Root, config)


def problems_of(config):
  with pytest.raises(ConfigError) as caught:
    build(config)
  assert caught.value.exit_code == 2
  return list(caught.value.problems)


def overridden(*assignments, config=None):
  return overrides.override(Root, config or good(), [tuple(text.split('=', 1)) for text in assignments])


def test_a_valid_config_is_built_with_the_types_of_its_annotations():
  config = build(good(**{'optim.warmup_steps': 1e3, 'optim.learning_rate': 1, 'init_from.take': ['a']}))
  assert config.model == Model(8, 2, 0.0, None)
  assert type(config.optim.warmup_steps) is int and config.optim.warmup_steps == 1000
  assert type(config.optim.learning_rate) is float
  assert config.init_from.take == ('a',)
  assert config.objective == Causal(0.0) and config.writer == Writer(True, None)
  assert config.sources == {'pydoc': Source('pydoc', 1.0)}
  assert build(good(task='masked_lm', objective=dict(share=1, unit='word'))).objective == Masked(1.0, 'word')
  assert build(good(writer=dict(project='mine'))).writer == Writer(True, 'mine')
  assert build(json.loads(json.dumps(describe.to_dict(config)))) == config


CASES = {
  'optim.learnin_rate=0.1': 'optim.learnin_rate = 0.1: unknown key; did you mean optim.learning_rate?',
  'optim.lr=0.1': 'optim.lr = 0.1: unknown key; did you mean optim.learning_rate?',
  'model.learning_rate=0.1': 'model.learning_rate = 0.1: unknown key; did you mean optim.learning_rate?',
  'model.qqq=1': 'model.qqq = 1: unknown key; remove it; model has width, heads, dropout, window',
  'modle={"width": 1, "heads": 2}': 'modle = dict(heads, width): unknown key; did you mean model?',
  'objective.share=0.3': 'objective.share = 0.3: unknown key; remove it; it is for masked_lm',
  'sources.pydoc.wieght=1': 'sources.pydoc.wieght = 1: unknown key; did you mean sources.pydoc.weight?',
  'model.width=...': 'model.width: missing; add it to the config (an int, model width D, a multiple of heads)',
  'optim.name=...': "optim.name: missing; add it to the config ('adamw' or 'lion')",
  'model=...': 'model: missing; add it to the config (a section, with width, heads, dropout, window)',
  'sources=...': 'sources: missing; add it to the config (a section, with names, each with path, weight)',
  'seed="7"': "seed = '7': must be an int; give a value such as 300",
  'seed=1.5': 'seed = 1.5: must be an int; give a value such as 300',
  'seed=True': 'seed = True: must be an int; give a value such as 300',
  'seed=2**64': 'seed = 18446744073709551616: must fit into 64 bits; give a value such as 300',
  'seed=float("nan")': 'seed = nan: must be an int; give a value such as 300',
  'model.window=0': 'model.window = 0: must be 1 or more; give a value such as 300',
  'model.window="x"': "model.window = 'x': must be an int or None; give a value such as 300",
  'model.dropout=1.0': 'model.dropout = 1.0: must be below 1; give a value such as 0.1',
  'model.dropout=float("inf")': 'model.dropout = inf: must be a finite number; give a value such as 0.1',
  'optim.learning_rate="1"': "optim.learning_rate = '1': must be a float; give a value such as 0.1",
  'optim.warmup_steps=2**31': 'optim.warmup_steps = 2147483648: must be at most 2,147,483,647; '
  'give a value such as 300',
  'optim.nesterov=1': 'optim.nesterov = 1: must be a bool; give a value such as True',
  'optim.name="adamww"': "optim.name = 'adamww': must be 'adamw' or 'lion'; did you mean 'adamw'?",
  'optim.betas="x"': "optim.betas = 'x': must be a tuple of float; give values separated by commas",
  'optim.betas=(0.9, 2)': 'optim.betas = [0.9, 2]: each must be at most 1; give values separated by commas',
  'init_from.step="lates"': "init_from.step = 'lates': must be 'latest' or 'best' or an int; did you mean 'latest'?",
  'init_from.step=-1': 'init_from.step = -1: must be 0 or more; give a value such as 300',
  'model=3': 'model = 3: must be a section; give a dict with width, heads, dropout, window',
  'sources.pydoc=3': 'sources.pydoc = 3: must be a section; give a dict with path, weight',
  'task=["causal_lm"]': "task = ['causal_lm']: must be 'causal_lm' or 'masked_lm'; give one of these",
  'model.heads=3': 'model.heads = 3: must divide model.width = 8; give a divisor',
  'model.width=2000': 'optim.learning_rate = 0.1: must be 0.01 or less above width 1000; lower it',
}


@pytest.mark.parametrize('change', CASES)
def test_each_mistake_is_one_exact_line(change):
  path, _, expression = change.partition('=')
  assert problems_of(good(**{path: eval(expression)})) == [CASES[change]]


def test_all_mistakes_are_reported_together_in_tree_order():
  """Rules are checked beside unknown keys, and in every section whose own settings are right."""
  config = good(
    **{
      'zzz': 1,
      'optim.warmup_steps': -5,
      'seed': 'x',
      'sources.pydoc.weight': ...,
      'optim.betas': 'x',
      'model.heads': 3,
      'model.qqq': 1,
      'init_from.step': -1,
    }
  )
  found = [problem.split(':')[0].split(' = ')[0] for problem in problems_of(config)]
  inner = ['optim.warmup_steps', 'optim.betas', 'sources.pydoc.weight', 'init_from.step']
  assert found == ['seed', 'model.qqq', 'model.heads', *inner, 'zzz']


def test_a_wrong_task_hides_nothing():
  config = good(task='x', objective=dict(z_loss='x'), **{'model.heads': 3})
  assert [problem.partition(' =')[0] for problem in problems_of(config)] == ['model.heads', 'task', 'objective.z_loss']


@pytest.mark.parametrize('by', ['command line', 'file'])
def test_references(by):
  """A placeholder that nobody filled is missing; a reference that cannot be computed is a problem; others follow."""
  config = good()
  config.seed = config_dict.required_placeholder(int)
  assert problems_of(config) == ['seed: missing; add it to the config (an int, of everything random)']
  config = good(seed=1)
  config.model.width = config.model.get_ref('heads') * 4 // config.get_ref('seed')
  assert build(overridden('model.heads=3', config=config)[0]).model.width == 12
  assert build(config).model.width == 8
  if by == 'file':
    config.seed = 0
  config, problems = overridden('seed=0' if by == 'command line' else 'model.heads=4', config=config)
  assert not problems
  zero = '<ZeroDivisionError: integer division or modulo by zero>'
  assert problems_of(config) == [f'model.width = {zero}: must be an int; give a value such as 300']


ROUND_TRIPS = [
  ('seed', '1e3', 1000),
  ('seed', '-7', -7),
  ('model.width', '1_00', 100),
  ('optim.learning_rate', '3e-4', 3e-4),
  ('optim.learning_rate', '1', 1.0),
  ('model.window', '4', 4),
  ('model.window', 'None', None),
  ('model.window', 'none', None),
  ('optim.nesterov', 'true', True),
  ('optim.nesterov', '1', True),
  ('optim.name', '"lion"', 'lion'),
  ('optim.betas', '0.8,0.9', (0.8, 0.9)),
  ('optim.betas', '(0.8, 0.9)', (0.8, 0.9)),
  ('optim.betas', '[1,]', (1.0,)),
  ('optim.betas', '', ()),
  ('init_from.step', 'best', 'best'),
  ('init_from.step', '20', 20),
  ('init_from.path', 'None', None),
  ('init_from.path', "'None'", 'None'),
  ('init_from.path', '20', '20'),
  ('init_from.path', 'a b=c', 'a b=c'),
  ('init_from.path', '/x/{a,b}*', '/x/{a,b}*'),
  ('init_from.path', '', ''),
  ('init_from.path', '"', '"'),
  ('init_from.take', "('a','b')", ('a', 'b')),
  ('init_from.take', "('a,b',)", ('a,b',)),
  ('init_from.take', r'layers/\d{1,2}/.*,x', (r'layers/\d{1,2}/.*', 'x')),
  ('init_from.take', '[ab]', ('[ab]',)),
  ('init_from.take', '(a),(b)', ('(a)', '(b)')),
  ('init_from.take', 'a(,b', ('a(', 'b')),
  ('init_from.take', "it's,b", ("it's", 'b')),
]


@pytest.mark.parametrize('path, text, value', ROUND_TRIPS)
def test_a_text_is_read_by_the_type_of_its_setting(path, text, value):
  config, problems = overrides.override(Root, good(), [(path, text)])
  assert not problems
  got = build(config)
  for name in path.split('.'):
    got = getattr(got, name)
  assert got == value and type(got) is type(value)


OVERRIDES = {
  'optim.learnin_rate=0.1': 'optim.learnin_rate = 0.1: unknown key; did you mean optim.learning_rate?',
  'seed=ten': 'seed = ten: must be an int; give a value such as 300',
  "seed='7'": "seed = '7': must be an int; give a value such as 300",
  'seed=': 'seed: has no value; give --config.seed=VALUE (an int, of everything random)',
  'seed=' + '9' * 5000: 'seed = ' + '9' * 77 + '...: must be an int; give a value such as 300',
  'optim.learning_rate=nan': 'optim.learning_rate = nan: must be a finite number; give a value such as 0.1',
  'seed.x=1': 'seed.x = 1: unknown key; did you mean seed?',
  'model=None': 'model = None: is a section; set one of its settings, --config.model.NAME=VALUE: '
  'width, heads, dropout, window',
  'optim.betas=0.9,x': 'optim.betas = 0.9,x: must be a tuple of float; give values separated by commas',
  'objective.share=0.2': 'objective.share = 0.2: unknown key; remove it; it is for masked_lm',
  'sources.pydco.weight=2': 'sources.pydco.weight = 2: no such entry; did you mean sources.pydoc? '
  'a new one needs path, weight',
  'sources..path=x': 'sources..path = x: unknown key; did you mean sources.pydoc.path?',
  'a\nb=1': 'a\\nb = 1: unknown key; remove it; the config has seed, model, optim, task, objective, sources, '
  'init_from, ema, writer',
}


@pytest.mark.parametrize('assignment', OVERRIDES)
def test_a_bad_assignment_is_one_line_and_the_value_of_the_file_stays(assignment):
  config, problems = overridden(assignment)
  assert problems == [OVERRIDES[assignment]]
  assert build(config) == build(good())


def test_overrides_leave_the_original_alone_and_the_last_one_wins():
  config = good().lock()
  before = copy.deepcopy(config)
  new, problems = overridden('seed=1', 'seed=2', 'sources.mine.path=x', 'sources.mine.weight=2', config=config)
  assert not problems and new.seed == 2 and config == before and config.is_locked
  assert build(new).sources == {'pydoc': Source('pydoc', 1.0), 'mine': Source('x', 2.0)}


def test_the_sections_are_read_by_the_new_task_in_any_order():
  for order in (1, -1):
    config, problems = overridden(*['objective.share=0.3', 'objective.unit=word', 'task=masked_lm'][::order])
    assert not problems and config.task == 'masked_lm'
    [problem] = problems_of(config)
    assert problem.startswith('objective.z_loss = 0.0: unknown key; ')


def test_a_section_that_is_off_can_be_filled_and_one_that_is_on_switched_off():
  filled = [f'ema.{text}' for text in ('name=lion', 'learning_rate=1', 'warmup_steps=1', 'betas=1', 'nesterov=1')]
  config, problems = overridden(*filled, 'writer.tensorboard=False')
  assert not problems and build(config).ema == Optim('lion', 1.0, 1, (1.0,), True)
  assert build(config).writer == Writer(False, None)
  config, problems = overridden('ema=None', config=config)
  assert not problems and build(config).ema is None


def test_the_description_has_type_value_and_meaning_of_each_setting():
  text = describe.describe(Root, good())
  for path, value in describe.settings(build(good())).items():
    assert f'  {path} = {value!r}' in text
  rows = {row.split(' = ')[0].strip(): row for row in text.splitlines()}
  assert rows['seed'].endswith('  an int: of everything random.')
  assert rows['model.width'].endswith('an int, 1 or more: model width D, a multiple of heads')
  assert rows['model.window'].endswith('an int or None, 1 or more')
  assert rows['model.dropout'].endswith('a float, 0 or more, below 1')
  assert rows['init_from.step'].endswith("'latest' or 'best' or an int, 0 or more")
  assert rows['objective.z_loss'] and 'objective.share' not in rows
  assert 'objective.share' in describe.describe(Root, good(task='masked_lm'))
  assert describe.describe(Root, good(seed=...))


def test_no_assignment_raises():
  choose = random.Random(0)
  paths = [*describe.settings(good()), 'model', 'sources', 'sources.pydoc', 'sources.new.path', 'sources.new.weight']
  paths += [
    'ema.name',
    'objective.share',
    'items',
    '__class__',
    'model.__init__',
    'model.update',
    '',
    '.',
    'a..b',
    '\n',
  ]
  texts = ['None', 'true', '1e3', '-1', 'nan', '1e999', *'()[]{},\'"\\ =\n\0', '\udcff', '9' * 5000, 'causal_lm']
  texts += ['masked_lm', 'best', '٣', '0x1', '1_0', '\u2028']
  refused = 0
  for _ in range(150):
    assignments = [
      (
        choose.choice(paths) + choose.choice(['', '', '', '.', '.x']),
        ''.join(choose.choices(texts, k=choose.randrange(5))),
      )
      for _ in range(choose.randrange(1, 4))
    ]
    config, problems = overrides.override(Root, good(), assignments)
    refused += bool(problems)
    try:
      json.dumps(describe.to_dict(build(config)))
    except ConfigError as error:
      problems += error.problems
    assert all(problem.isprintable() and ': ' in problem and '; ' in problem for problem in problems)
    assert describe.describe(Root, config)
  assert 75 < refused < 150


WRONG = """
from lmjax.schema.command_line import load_config_file
def get_config():
  c = load_config_file('{root}/configs/pretrain_clm.py', 'smoke')
  with c.unlocked(), c.ignore_type():
    c.task, c.seed = 'gpt', True
    c.optim.learnin_rate = 0.1
    del c.data.bad_text
  return c
"""
MISTAKES = ['train.stepz=3', 'train.log_every=often', 'eval.every=0', 'data.sources.main.field=title']
MISTAKES += ['optim.momentum=0.9', 'model.lora.rank=8']


def test_every_kind_of_mistake_in_one_command_line(tmp_path, monkeypatch, capsys):
  """A wrong task hides none of: unknown and missing keys, wrong types, broken rules of different sections."""
  file = tmp_path / 'wrong.py'
  file.write_text(WRONG.format(root=ROOT))
  monkeypatch.chdir(tmp_path)
  assert main.main([f'--config={file}', *(f'--config.{text}' for text in MISTAKES)]) == 2
  assert list(tmp_path.iterdir()) == [file], 'a workdir was made'
  lines = capsys.readouterr().err.splitlines()
  paths = {line.removeprefix('lmjax: ').partition(':')[0].partition(' = ')[0] for line in lines}
  missing = {'model.lora.alpha', 'model.lora.dropout', 'model.lora.targets', 'data.bad_text'}
  unknown = {'optim.learnin_rate', 'train.stepz'}
  wrong = {'task', 'seed', 'train.log_every', 'eval.every'}
  broken = {'data.sources.main.field', 'optim.momentum'}
  assert paths == missing | unknown | wrong | broken


REFUSED = """
import sys
from lmjax.main import main
for flag, code in {flags}.items():
  assert main(['--config={file}', flag]) == code, flag
  heavy = {{'jax', 'flax', 'orbax', 'tensorflow_datasets', 'tensorflow'}} & set(sys.modules)
  assert not heavy, (flag, heavy)
"""


@pytest.mark.parametrize('file', [*CONFIGS.values(), *FINE_TUNING.values()])
def test_a_refused_command_imports_no_jax(file, tmp_path):
  """With a wrong setting, and with a rule broken once all settings are right."""
  argument = ':preset=mini' if file in FINE_TUNING.values() else ''
  flags = {'--config.train.stepz=3': 2, '--config.data.length=1': 2, '--help': 0}
  code = REFUSED.format(file=f'{ROOT / file}{argument}', flags=flags)
  env = os.environ | {'PYTHONPATH': str(ROOT)}
  done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def test_every_setting_is_documented():
  values = {'data': {'sources': {'main': {}}}, 'stages': {'one': {}}, 'comparisons': {'one': {'arms': {'a': {}}}}}
  names = {'', 'data.sources.main', 'stages.one', 'comparisons.one', 'comparisons.one.arms.a'}
  for root, task in (*((config_lib.Config, task) for task in TASKS), (ExperimentConfig, None)):
    for node in describe.nodes(root, values | {'task': task}).values():
      assert node.doc.strip() or node.path in names, node.path


def test_help_has_every_setting_of_every_config():
  for file in (*CONFIGS.values(), *FINE_TUNING.values()):
    argument = 'preset=mini,lora=4' if file in FINE_TUNING.values() else None
    raw = command_line.load_config_file(str(ROOT / file), argument)
    text = describe.describe(config_lib.Config, raw)
    assert 'hosts.hang_seconds = 1800' in text
    for path in describe.settings(config_lib.build(raw)):
      assert f'  {path} = ' in text
