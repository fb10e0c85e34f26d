"""The config boundary: what is accepted, and the exact line for everything that is not."""

import copy
import dataclasses
import json
import random
from typing import Annotated, Literal

import pytest
from lmjax.schema.leaf import Refusal, kind_of, parse
from lmjax.schema.tree import Choice
from ml_collections import ConfigDict, config_dict

from lmjax.errors import ConfigError
from lmjax.schema import fields, tree


@dataclasses.dataclass(frozen=True)
class Model:
  """The network.

  Leaves:
    width: model width D,
      a multiple of heads
    heads: attention heads

  Not a leaf: this.
  """

  width: fields.PositiveInt
  heads: fields.PositiveInt
  dropout: fields.Rate
  window: fields.PositiveInt | None

  def problems(self):
    if self.width % self.heads:
      yield 'heads', self.heads, f'must divide model.width = {self.width}', 'give a divisor'


@dataclasses.dataclass(frozen=True)
class Optim:
  """The optimizer."""

  name: Literal['adamw', 'lion']
  learning_rate: fields.PositiveFloat
  warmup_steps: fields.NonNegativeInt
  betas: tuple[float, ...]
  nesterov: bool


@dataclasses.dataclass(frozen=True)
class Causal:
  """Next token."""

  z_loss: float


@dataclasses.dataclass(frozen=True)
class Masked:
  """Masked tokens."""

  share: fields.Share
  unit: Literal['token', 'word']


@dataclasses.dataclass(frozen=True)
class Source:
  """One corpus."""

  path: str
  weight: fields.PositiveFloat


@dataclasses.dataclass(frozen=True)
class InitFrom:
  """The hand-off."""

  path: str | None
  step: Literal['latest', 'best'] | fields.NonNegativeInt
  take: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Config:
  """A run.

  seed: of everything random.
  """

  seed: int
  model: Model
  optim: Optim
  task: Literal['causal_lm', 'masked_lm']
  objective: Annotated[Causal | Masked, Choice('task', {'causal_lm': Causal, 'masked_lm': Masked})]
  sources: dict[str, Source]
  init_from: InitFrom
  ema: Optim | None

  def problems(self):
    if self.model.width > 1000 and self.optim.learning_rate > 0.01:
      yield (
        'optim.learning_rate',
        self.optim.learning_rate,
        'must be 0.01 or less above width 1000',
        'lower it',
      )


def good(**changes):
  """A valid config with the leaves at the given paths changed; `...` removes one."""
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
    section = config
    for part in above:
      section = section[part]
    if value is ...:
      del section[name]
    else:
      section[name] = value
  return ConfigDict(config)


def problems_of(config):
  with pytest.raises(ConfigError) as caught:
    tree.build(Config, config)
  assert caught.value.exit_code == 2
  return list(caught.value.problems)


def overridden(*assignments, config=None):
  return tree.override(Config, config or good(), [tuple(text.split('=', 1)) for text in assignments])


def test_a_valid_config_is_built_with_the_types_of_its_annotations():
  config = tree.build(Config, good(**{'optim.warmup_steps': 1e3, 'optim.learning_rate': 1, 'init_from.take': ['a']}))
  assert config.model == Model(8, 2, 0.0, None)
  assert type(config.optim.warmup_steps) is int and config.optim.warmup_steps == 1000
  assert type(config.optim.learning_rate) is float
  assert config.init_from.take == ('a',)
  assert config.objective == Causal(0.0)
  assert config.sources == {'pydoc': Source('pydoc', 1.0)}
  assert tree.build(Config, good(**{'task': 'masked_lm', 'objective': dict(share=1, unit='word')})).objective == (
    Masked(1.0, 'word')
  )
  assert tree.build(Config, good(ema=dict(good().optim))).ema.betas == (0.9, 0.99)


def test_a_built_config_survives_json():
  config = tree.build(Config, good(**{'init_from.take': ('a', 'b')}))
  assert tree.build(Config, json.loads(json.dumps(tree.to_dict(config)))) == config


CASES = {
  'optim.learnin_rate=0.1': 'optim.learnin_rate = 0.1: unknown key; did you mean optim.learning_rate?',
  'learning_rate=0.1': 'learning_rate = 0.1: unknown key; did you mean optim.learning_rate?',
  'optim.lr=0.1': 'optim.lr = 0.1: unknown key; did you mean optim.learning_rate?',
  'model.learning_rate=0.1': 'model.learning_rate = 0.1: unknown key; did you mean optim.learning_rate?',
  'sed=1': 'sed = 1: unknown key; did you mean seed?',
  'zzz=1': 'zzz = 1: unknown key; remove it; the config has seed, model, optim, task, objective, sources, '
  'init_from, ema',
  'model.qqq=1': 'model.qqq = 1: unknown key; remove it; model has width, heads, dropout, window',
  'modle={"width": 1, "heads": 2}': 'modle = dict(heads, width): unknown key; did you mean model?',
  'objective.share=0.3': 'objective.share = 0.3: unknown key; remove it; objective has z_loss with this task',
  'objective.zloss=0.3': 'objective.zloss = 0.3: unknown key; did you mean objective.z_loss?',
  'sources.pydoc.wieght=1': 'sources.pydoc.wieght = 1: unknown key; did you mean sources.pydoc.weight?',
  'model.width=...': 'model.width: missing; add it to the config (int, model width D, a multiple of heads)',
  'seed=...': 'seed: missing; add it to the config (int, of everything random)',
  'optim.name=...': "optim.name: missing; add it to the config ('adamw' or 'lion')",
  'model=...': 'model: missing; add it to the config (section, with width, heads, dropout, window)',
  'ema=...': 'ema: missing; add it to the config (section or None, with name, learning_rate, warmup_steps, '
  'betas, nesterov)',
  'objective=...': 'objective: missing; add it to the config (section, with z_loss)',
  'sources=...': 'sources: missing; add it to the config (section, with names, each with path, weight)',
  'sources.pydoc.path=...': 'sources.pydoc.path: missing; add it to the config (str)',
  'seed="ten"': "seed = 'ten': must be an int; give an int such as 300",
  'seed=1.5': 'seed = 1.5: must be an int; give an int such as 300',
  'seed=True': 'seed = True: must be an int; give an int such as 300',
  'seed=None': 'seed = None: must be an int; give an int such as 300',
  'seed=2**64': 'seed = 18446744073709551616: must fit into 64 bits; give an int such as 300',
  'seed=1e300': 'seed = 1e+300: must fit into 64 bits; give an int such as 300',
  'seed=float("nan")': 'seed = nan: must be a finite number; give an int such as 300',
  'model.width=-5': 'model.width = -5: must be 1 or more; give an int such as 300',
  'model.window=0': 'model.window = 0: must be 1 or more; give an int such as 300',
  'model.window="x"': "model.window = 'x': must be an int or None; give an int such as 300",
  'model.dropout=1.0': 'model.dropout = 1.0: must lie in [0, 1); give a float such as 0.1',
  'model.dropout=float("inf")': 'model.dropout = inf: must be a finite number; give a float such as 0.1',
  'model.dropout=False': 'model.dropout = False: must be a float; give a float such as 0.1',
  'optim.learning_rate=10**400': 'optim.learning_rate = 1' + '0' * 76 + '...: must fit into 64 bits; '
  'give a float such as 0.1',
  'optim.learning_rate="1e-3"': "optim.learning_rate = '1e-3': must be a float; give a float such as 0.1",
  'optim.nesterov=1': 'optim.nesterov = 1: must be a bool; give a bool such as True',
  'optim.name="adamww"': "optim.name = 'adamww': must be 'adamw' or 'lion'; did you mean 'adamw'?",
  'optim.name=3': "optim.name = 3: must be 'adamw' or 'lion'; give one of these",
  'optim.betas=0.9': 'optim.betas = 0.9: must be a tuple of float; give values separated by commas',
  'optim.betas=(0.9, "x")': "optim.betas = (0.9, 'x'): must be a tuple of float; give values separated by commas",
  'init_from.step="lates"': "init_from.step = 'lates': must be 'latest' or 'best' or int; did you mean 'latest'?",
  'init_from.step=-1': 'init_from.step = -1: must be 0 or more; give an int such as 300',
  'init_from.path=3': "init_from.path = 3: must be a str or None; give a str such as 'text'",
  'model=3': 'model = 3: must be a section; give a dict with width, heads, dropout, window',
  'model=None': 'model = None: must be a section; give a dict with width, heads, dropout, window',
  'ema=3': 'ema = 3: must be a section; give a dict with name, learning_rate, warmup_steps, betas, nesterov',
  'sources=3': 'sources = 3: must be a section; give a dict with names, each with path, weight',
  'sources.pydoc=3': 'sources.pydoc = 3: must be a section; give a dict with path, weight',
  'seed={"a": 1}': 'seed = dict(a): must be an int; give an int such as 300',
  'task="causal"': "task = 'causal': must be 'causal_lm' or 'masked_lm'; did you mean 'causal_lm'?",
  'task=["causal_lm"]': "task = ['causal_lm']: must be 'causal_lm' or 'masked_lm'; give one of these",
  'model.heads=3': 'model.heads = 3: must divide model.width = 8; give a divisor',
  'model.width=2000': 'optim.learning_rate = 0.1: must be 0.01 or less above width 1000; lower it',
}


@pytest.mark.parametrize('change', CASES)
def test_each_mistake_is_one_exact_line(change):
  path, _, expression = change.partition('=')
  assert problems_of(good(**{path: eval(expression)})) == [CASES[change]]


def test_all_mistakes_are_reported_together_in_tree_order():
  config = good(
    **{
      'zzz': 1,
      'optim.learnin_rate': 0.1,
      'optim.warmup_steps': -5,
      'seed': 'x',
      'sources.pydoc.weight': ...,
      'optim.betas': 'x',
      'model.heads': 3,
      'init_from.step': -1,
    }
  )
  assert [problem.split(':')[0].split(' = ')[0] for problem in problems_of(config)] == [
    'seed',
    'model.heads',
    'optim.warmup_steps',
    'optim.betas',
    'optim.learnin_rate',
    'sources.pydoc.weight',
    'init_from.step',
    'zzz',
  ]


def test_rules_between_leaves_are_checked_beside_unknown_keys_and_in_every_slice():
  config = good(**{'model.width': 2001, 'model.qqq': 1, 'model.heads': 2})
  assert problems_of(config) == [
    'model.heads = 2: must divide model.width = 2001; give a divisor',
    'model.qqq = 1: unknown key; remove it; model has width, heads, dropout, window',
    'optim.learning_rate = 0.1: must be 0.01 or less above width 1000; lower it',
  ]
  # With a leaf that is invalid, rules that would need it are left out, the others are not.
  config = good(**{'model.width': 2001, 'optim.name': 3})
  assert problems_of(config) == [
    'model.heads = 2: must divide model.width = 2001; give a divisor',
    "optim.name = 3: must be 'adamw' or 'lion'; give one of these",
  ]


def test_a_wrong_selector_still_leaves_its_section_checked():
  config = good(**{'task': 'x', 'objective': dict(share=2, unit='word')})
  assert [problem.partition(' =')[0] for problem in problems_of(config)] == ['task', 'objective.share']


def test_a_selector_without_an_option_is_a_problem_and_none_may_be_one():
  @dataclasses.dataclass(frozen=True)
  class Slice:
    kind: str
    inner: Annotated[Causal | Masked, Choice('kind', {'a': Causal, 'b': Masked, 'off': None})]

  assert tree.build(Slice, dict(kind='off', inner=None)).inner is None
  with pytest.raises(ConfigError) as caught:
    tree.build(Slice, dict(kind='off', inner=dict(z_loss=1)))
  assert caught.value.problems == ('inner = dict(z_loss): must be None; give None',)
  with pytest.raises(ConfigError) as caught:
    tree.build(Slice, dict(kind='c', inner=dict(z_loss=1)))
  assert caught.value.problems == ("kind = 'c': must be 'a' or 'b' or 'off'; give one of these",)


def test_a_placeholder_nobody_filled_is_missing_and_a_reference_that_fails_is_a_problem():
  config = good()
  config.seed = config_dict.required_placeholder(int)
  assert problems_of(config) == ['seed: missing; add it to the config (int, of everything random)']
  new, problems = overridden('seed=3', config=config)
  assert not problems and tree.build(Config, new).seed == 3


@pytest.mark.parametrize('by', ['command line', 'file'])
def test_a_reference_that_can_no_longer_be_computed_is_a_problem(by):
  config = good(seed=1)
  config.model.width = config.model.get_ref('heads') // config.get_ref('seed')
  if by == 'file':
    config.seed = 0
  config, problems = overridden('seed=0' if by == 'command line' else 'model.heads=4', config=config)
  assert not problems
  zero = 'integer division or modulo by zero'
  assert problems_of(config) == [f'model.width = <ZeroDivisionError: {zero}>: must be an int; give an int such as 300']


ROUND_TRIPS = [
  ('seed', '1e3', 1000),
  ('seed', '-7', -7),
  ('seed', "'7'", None),
  ('model.width', '1_00', 100),
  ('model.dropout', '0.5', 0.5),
  ('optim.learning_rate', '3e-4', 3e-4),
  ('optim.learning_rate', '1', 1.0),
  ('model.window', '4', 4),
  ('model.window', 'None', None),
  ('model.window', 'none', None),
  ('optim.nesterov', 'true', True),
  ('optim.nesterov', 'False', False),
  ('optim.nesterov', '1', True),
  ('optim.name', 'lion', 'lion'),
  ('optim.name', '"lion"', 'lion'),
  ('optim.betas', '0.8,0.9', (0.8, 0.9)),
  ('optim.betas', '(0.8, 0.9)', (0.8, 0.9)),
  ('optim.betas', '[1,]', (1.0,)),
  ('optim.betas', '', ()),
  ('optim.betas', '()', ()),
  ('init_from.step', 'best', 'best'),
  ('init_from.step', '20', 20),
  ('init_from.path', 'None', None),
  ('init_from.path', "'None'", 'None'),
  ('init_from.path', 'a b=c', 'a b=c'),
  ('init_from.path', '/x/{a,b}*', '/x/{a,b}*'),
  ('init_from.path', '', ''),
  ('init_from.path', '"', '"'),
  ('init_from.take', "('a','b')", ('a', 'b')),
  ('init_from.take', 'a,b', ('a', 'b')),
  ('init_from.take', "('a,b',)", ('a,b',)),
  ('init_from.take', r'layers/\d{1,2}/.*,x', (r'layers/\d{1,2}/.*', 'x')),
  ('init_from.take', '[ab]', ('[ab]',)),
  ('init_from.take', '(a),(b)', ('(a)', '(b)')),
  ('init_from.take', 'a(,b', ('a(', 'b')),
  ('init_from.take', "it's,b", ("it's", 'b')),
  ('sources.pydoc.path', 'tfds:wiki40b/en', 'tfds:wiki40b/en'),
]


@pytest.mark.parametrize('path, text, value', ROUND_TRIPS)
def test_a_text_is_read_by_the_type_of_its_leaf(path, text, value):
  config, problems = tree.override(Config, good(), [(path, text)])
  if (path, text) == ('seed', "'7'"):
    assert problems == ("seed = '7': must be an int; give an int such as 300",)
    return
  assert not problems
  got = tree.leaves(tree.build(Config, config))[path]
  assert got == value and type(got) is type(value)


OVERRIDES = {
  'optim.learnin_rate=0.1': 'optim.learnin_rate = 0.1: unknown key; did you mean optim.learning_rate?',
  'seed=ten': 'seed = ten: must be an int; give an int such as 300',
  'seed=': 'seed: has no value; give --config.seed=VALUE (int, of everything random)',
  'seed=nan': 'seed = nan: must be a finite number; give an int such as 300',
  'seed=None': 'seed = None: must be an int; give an int such as 300',
  'seed=' + '9' * 5000: 'seed = ' + '9' * 77 + '...: must be a finite number; give an int such as 300',
  'seed.x=1': 'seed.x = 1: unknown key; did you mean seed?',
  'model.width=-5': 'model.width = -5: must be 1 or more; give an int such as 300',
  'model=3': 'model = 3: is a section; set a leaf of it, --config.model.NAME=VALUE: width, heads, dropout, window',
  'model=None': 'model = None: is a section; set a leaf of it, --config.model.NAME=VALUE: '
  'width, heads, dropout, window',
  'optim.nesterov=maybe': 'optim.nesterov = maybe: must be a bool; give a bool such as True',
  'optim.name=lino': "optim.name = lino: must be 'adamw' or 'lion'; did you mean 'lion'?",
  'optim.betas=0.9,x': 'optim.betas = 0.9,x: must be a tuple of float; give values separated by commas',
  'init_from.step=-1': 'init_from.step = -1: must be 0 or more; give an int such as 300',
  'objective.share=0.2': 'objective.share = 0.2: unknown key; remove it; objective has z_loss with this task',
  'sources.pydco.weight=2': 'sources.pydco: no such entry; did you mean sources.pydoc? a new one needs path, weight',
  'sources.mine.weight=2': 'sources.mine: no such entry; a new one needs path, weight',
  'sources.mine.wight=2': 'sources.mine.wight = 2: unknown key; did you mean sources.mine.weight?',
  'sources..path=x': 'sources..path = x: unknown key; did you mean sources.pydoc.path?',
  'a\nb=1': 'a\\nb = 1: unknown key; remove it; the config has seed, model, optim, task, objective, sources, '
  'init_from, ema',
}


@pytest.mark.parametrize('assignment', OVERRIDES)
def test_a_bad_assignment_is_one_line_and_the_value_of_the_file_stays(assignment):
  config, problems = overridden(assignment)
  assert problems == (OVERRIDES[assignment],)
  assert tree.build(Config, config) == tree.build(Config, good())


def test_overrides_leave_the_original_alone_and_the_last_one_wins():
  config = good()
  before = copy.deepcopy(config)
  new, problems = overridden('seed=1', 'seed=2', 'model.window=4', config=config)
  assert not problems and new.seed == 2 and new.model.window == 4
  assert config == before


def test_a_new_named_entry_needs_all_of_its_leaves():
  config, problems = overridden('sources.mine.path=x', 'sources.mine.weight=2')
  assert not problems
  assert tree.build(Config, config).sources == {'pydoc': Source('pydoc', 1.0), 'mine': Source('x', 2.0)}


def test_the_section_beside_a_selector_is_read_by_its_new_value_in_any_order():
  for order in (1, -1):
    config, problems = overridden(*['objective.share=0.3', 'objective.unit=word', 'task=masked_lm'][::order])
    assert not problems and config.task == 'masked_lm'
    assert problems_of(config) == [
      'objective.z_loss = 0.0: unknown key; remove it; objective has share, unit with this task'
    ]


def test_a_section_that_is_off_can_be_filled_and_one_that_is_on_switched_off():
  config, problems = overridden(
    'ema.name=lion', 'ema.learning_rate=1', 'ema.warmup_steps=1', 'ema.betas=1', 'ema.nesterov=1'
  )
  assert not problems and tree.build(Config, config).ema == Optim('lion', 1.0, 1, (1.0,), True)
  config, problems = overridden('ema=None', config=config)
  assert not problems and tree.build(Config, config).ema is None


def test_what_is_computed_from_an_overridden_leaf_follows_it():
  config = good()
  config.model.width = config.model.get_ref('heads') * 4
  new, problems = overridden('model.heads=3', config=config)
  assert not problems and tree.build(Config, new).model.width == 12
  assert tree.build(Config, config).model.width == 8


def test_a_locked_config_can_be_overridden():
  config = good().lock()
  new, problems = overridden('sources.mine.path=x', 'sources.mine.weight=2', 'seed=4', config=config)
  assert not problems and new.seed == 4 and config.is_locked and config.seed == 0


def test_leaves_are_full_paths_of_configs_and_of_instances():
  config = good(**{'init_from.take': ('a',)})
  assert tree.leaves(config) == tree.leaves(tree.build(Config, config))
  assert tree.leaves(config)['sources.pydoc.weight'] == 1.0
  assert tree.leaves(config)['ema'] is None


def test_the_description_has_type_value_and_documentation_of_each_leaf():
  text = tree.describe(Config, good())
  for path, value in tree.leaves(good()).items():
    assert f'  {path} = {value!r}' in text
  rows = {row.split(' = ')[0].strip(): row for row in text.splitlines()}
  assert rows['seed'].endswith('  int: of everything random.')
  assert rows['model.width'].endswith('int, 1 or more: model width D, a multiple of heads')
  assert rows['model.window'].endswith('int or None, 1 or more')
  assert rows['model.dropout'].endswith('float, in [0, 1)')
  assert rows['init_from.step'].endswith("'latest' or 'best' or int, 0 or more")
  assert rows['objective.z_loss'] and 'objective.share' not in rows
  assert 'objective.share' in tree.describe(Config, good(task='masked_lm'))
  assert tree.describe(Config, good(seed=...))


def test_documentation_joins_continuations_and_stops_at_other_text():
  assert tree.documentation(Model) == {
    'width': 'model width D, a multiple of heads',
    'heads': 'attention heads',
  }
  assert tree.documentation(Optim) == {}


def test_remedies_are_values_that_the_rules_allow():
  rule = fields.Rule('must be even and below 10', lambda value: value % 2 == 0 and value < 10)
  for annotation, text in {Annotated[int, rule]: '3', tuple[Annotated[int, rule], ...]: '2,3'}.items():
    with pytest.raises(Refusal) as caught:
      parse(kind_of(annotation), text)
    assert caught.value.remedy == 'give an int such as 2'
  with pytest.raises(Refusal) as caught:
    parse(kind_of(Annotated[int, fields.Rule('must be 7', lambda value: value == 7)]), '3')
  assert caught.value.remedy == 'give another int'


def test_an_annotation_that_no_config_can_hold_is_refused():
  for annotation in (list[int], object, dict[str, int], tuple[int, int]):
    with pytest.raises(TypeError, match='cannot be annotated'):
      kind_of(annotation)


def test_no_assignment_raises():
  choose = random.Random(0)
  paths = [
    *tree.leaves(good()),
    'model',
    'sources',
    'sources.pydoc',
    'sources.new.path',
    'sources.new.weight',
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
  texts = [
    'None',
    'true',
    '1e3',
    '-1',
    'nan',
    '1e999',
    '(',
    ')',
    '[',
    ']',
    '{',
    '}',
    ',',
    "'",
    '"',
    '\\',
    ' ',
    '=',
    '\n',
    '\udcff',
    '\0',
    '9' * 5000,
    'causal_lm',
    'masked_lm',
    'best',
    '٣',
    '0x1',
    '1_0',
    '\u2028',
  ]
  refused = 0
  for _ in range(500):
    assignments = [
      (
        choose.choice(paths) + choose.choice(['', '', '', '.', '.x']),
        ''.join(choose.choices(texts, k=choose.randrange(5))),
      )
      for _ in range(choose.randrange(1, 4))
    ]
    config, problems = tree.override(Config, good(), assignments)
    refused += bool(problems)
    try:
      json.dumps(tree.to_dict(tree.build(Config, config)))
    except ConfigError as error:
      problems += error.problems
    assert all(problem.isprintable() and ': ' in problem and '; ' in problem for problem in problems)
    assert tree.describe(Config, config)
  assert 250 < refused < 500
