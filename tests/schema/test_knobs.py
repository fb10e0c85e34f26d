"""Every config leaf has an effect that can be observed, without training.

Each case changes one leaf and compares what the run would do: the traced program of a step and of the initialisation,
the batches, the plan of the loop, the samples of an untrained model. A leaf without a case fails the test.
"""

import faulthandler
import functools
import hashlib
import itertools
import json
import os
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lmjax import config as config_lib
from lmjax import optim, paths, profile, sharding, train
from lmjax.checkpoint import checkpoints, handoff
from lmjax.data.batches import pipeline
from lmjax.errors import ConfigError, DataError, NonFiniteError
from lmjax.hosts import join, watchdog
from lmjax.models import layers
from lmjax.schema import describe, overrides
from lmjax.tasks import prepare
from lmjax.training import evaluator, loop, progress
from lmjax.training import state as state_lib
from lmjax.training import step as step_lib
from lmjax.workdir.run_files import RunFiles
from tests import runs
from tests.conftest import TASKS, text

LEARNED = {'model.positions': 'learned', 'model.rope_theta': None, 'model.max_length': 40}
WINDOW = {'model.window': 8, 'model.global_every': 2, 'model.layers': 2}
YARN = {'model.rope_scaling': 4.0, 'model.rope_scaling_type': 'yarn', 'model.rope_original_length': 2000}
YARN |= {'model.rope_rotations': (1.0, 4.0), 'model.rope_attention_factor': 1.5}
LORA = {'model.lora.rank': 2, 'model.lora.alpha': 2.0, 'model.lora.dropout': 0.1}
LORA |= {'model.lora.targets': ('*/query/kernel',)}
SPAN = {'objective.masking.unit': 'span', 'objective.masking.mean_span': 3.0, 'objective.masking.max_span': 8}

# (leaf, another value, changes that both are compared under, changes that the value needs besides)
PROGRAM = [
  ('model.layers', 3, {}),
  ('model.width', 64, {}),
  ('model.heads', 2, {}),
  ('model.kv_heads', 1, {}),
  ('model.mlp_width', 96, {}),
  ('model.positions', 'learned', {}, {'model.max_length': 40, 'model.rope_theta': None}),
  ('model.max_length', 41, LEARNED),
  ('model.rope_theta', 500.0, {}),
  ('model.rope_theta_local', 500.0, WINDOW),
  ('model.rope_scaling', 2.0, {}),
  ('model.norm', 'layernorm', {}),
  ('model.norm_eps', 1e-3, {}),
  ('model.norm_placement', 'post', {}),
  ('model.activation', 'gelu', {}),
  ('model.biases', True, {}),
  ('model.qk_norm', False, {}),
  ('model.window', 9, {'model.window': 8}),
  ('model.global_every', 2, {'model.window': 8}),
  ('model.tied_embeddings', False, {}),
  ('model.segment_types', 2, {}),
  ('model.embedding_norm', True, {}),
  ('model.mlm_transform', True, {}),
  ('model.embedding_dropout', 0.1, {}),
  ('model.attention_dropout', 0.1, {}),
  ('model.residual_dropout', 0.1, {}),
  ('model.init_std', 0.03, {}),
  ('model.residual_init', 'scaled', {}),
  ('model.vocab_multiple', 256, {}),
  ('model.scan', True, {}),
  ('model.remat', 'full', {}),
  ('model.dtype', 'bfloat16', {}),
  ('model.attention_implementation', 'blockwise', {'model.attention_implementation': 'xla'}),
  ('model.lora', None, LORA),
  ('model.lora.rank', 3, LORA),
  ('model.lora.alpha', 3.0, LORA),
  ('model.lora.dropout', 0.2, LORA),
  ('model.lora.targets', ('*/key/kernel',), LORA),
  ('model.head_dim', 12, {}),
  ('model.qkv_bias', True, {}),
  ('model.first_norm', False, {}),
  ('model.global_offset', 1, WINDOW),
  ('model.rotary_skip_every', 2, {'model.layers': 2}),
  ('model.rotary_width', 4, {}),
  ('model.rope_scaling_type', 'llama3', YARN, {'model.rope_attention_factor': None}),
  ('model.rope_original_length', 16, YARN),
  ('model.rope_rotations', (1.0, 64.0), YARN),
  ('model.rope_attention_factor', None, YARN),
  ('model.rope_scaling_layers', 'global', YARN | WINDOW),
  ('model.position_offset', 2, LEARNED),
  ('model.vocab_size', 512, {}),
  ('model.parallel_residual', True, {}),
  ('model.qk_norm_over', 'width', {}),
  ('model.norm_offset', 1.0, {}),
  ('model.embedding_scale', 3.0, {}),
  ('model.attention_scale', 0.5, {}),
  ('model.attention_softcap', 20.0, {}),
  ('model.logit_softcap', 20.0, {}),
  ('objective.z_loss', 1e-3, {}),
  ('objective.label_smoothing', 0.1, {}),
  ('objective.chunk', 7, {}),
  ('optim.name', 'lion', {}, {'optim.eps': None}),
  ('optim.learning_rate', 0.5, {}),
  ('optim.schedule', 'linear', {}),
  ('optim.warmup_steps', 3, {}),
  ('optim.decay_steps', 3, {'optim.schedule': 'wsd', 'optim.decay_steps': 2}),
  ('optim.final_rate', 0.3, {}),
  ('optim.weight_decay', 0.3, {}),
  ('optim.no_decay', ('*/scale',), {}),
  ('optim.b1', 0.7, {}),
  ('optim.b2', 0.7, {}),
  ('optim.eps', 1e-3, {}),
  ('optim.momentum', 0.7, {'optim.name': 'muon', 'optim.momentum': 0.9}),
  ('optim.clip_norm', 0.3, {}),
  ('optim.trainable', ('layers/*',), {}),
  ('optim.frozen', ('embeddings/*',), {}),
  ('optim.layer_decay', 0.7, {}),
  ('optim.head_learning_rate', 0.5, {'model.tied_embeddings': False}),
  ('optim.momentum_dtype', 'bfloat16', {}),
  ('train.steps', 9, {}),
  ('train.accumulate', 2, {}),
]
LOADED = {f'data.tokenizer.{leaf}': None for leaf in ('vocab_size', 'sample_bytes', 'lowercase')}
DATA = [
  ('seed', 5, {}),
  ('data.sources.main.path', 'OTHER', {}),
  ('data.sources.main.field', 'title', {}),
  ('data.sources.main.keep', ('number<30',), {}),
  ('data.tokenizer.vocab_size', 300, {}),
  ('data.tokenizer.sample_bytes', 900, {}),
  ('data.tokenizer.lowercase', True, {}),
  ('data.tokenizer.path', 'TOKENIZER', {}, LOADED),
  ('data.rows', 'padded', {}),
  ('data.length', 24, {}),
  ('data.batch_size', 4, {}),
  ('data.valid_fraction', 0.3, {}),
  ('data.valid_bytes', 900, {}),
  ('data.bad_text', 'skip', {}),
  ('data.cache_dir', 'ELSEWHERE', {}),
]
MASKED = [
  ('data.cls_sep', False, {}),
  ('objective.masking.unit', 'word', {}),
  ('objective.masking.rate', 0.5, {}),
  ('objective.masking.mask_share', 0.6, {}, {'objective.masking.keep_share': 0.3}),
  ('objective.masking.random_share', 0.2, {}, {'objective.masking.mask_share': 0.7}),
  ('objective.masking.keep_share', 0.2, {}, {'objective.masking.mask_share': 0.7}),
  ('objective.masking.mean_span', 5.0, SPAN),
  ('objective.masking.max_span', 2, SPAN),
]
PLAN = [
  ('mesh.data', 4, {}),
  ('mesh.fsdp', 4, {}),
  ('mesh.tensor', 2, {}),
  ('train.log_every', 2, {}),
  ('train.max_skipped', 2, {}),
  ('eval.every', 1, {}),
  ('eval.patience', 2, {}),
  ('checkpoint.every', 6, {}),
  ('checkpoint.keep_last', 3, {}),
  ('checkpoint.keep_best', 0, {}),
  ('writer.tensorboard', True, {}),
  ('writer.wandb_project', 'mine', {}),
]
SAMPLES = [
  ('samples.count', 2, {}),
  ('samples.prompt_tokens', 5, {}),
  ('samples.new_tokens', 9, {}),
  ('samples.temperature', 0.0, {'samples.top_p': None}),
  ('samples.top_k', 1, {}),
  ('samples.top_p', 0.01, {}),
]
# The start of a run, from a checkpoint: the source's layers 0 and 1 are taken in part.
SOURCE = {'init_from.path': 'PRETRAINED', 'model.layers': 2}
PART = SOURCE | {'init_from.take': ('embeddings/*', 'layers/0/*', 'final_norm/*')}
PART |= {'init_from.fresh': ('layers/1/*',), 'init_from.drop': ('layers/1/*',)}
START = [
  ('init_from.path', None, SOURCE),
  ('init_from.step', 3, SOURCE),
  ('init_from.take', (), SOURCE),
  ('init_from.fresh', ('layers/1/mlp/*',), PART),
  ('init_from.drop', ('layers/1/mlp/*',), PART),
]
# Leaves whose other values are refused in these configs: the task decides them.
REFUSED = [('causal_lm', 'model.attention', 'bidirectional'), ('causal_lm', 'data.cls_sep', True)]
REFUSED += [('masked_lm', 'model.attention', 'causal'), ('causal_lm', 'data.sources.main.weight', 2.0)]
REFUSED += [('causal_lm', 'model.rope_theta_local', 500.0), ('causal_lm', 'optim.momentum', 0.9)]
REFUSED += [('causal_lm', 'train.epochs', 2.0), ('causal_lm', 'init_from.convert', 'decoder_to_encoder')]
# What JAX is told: how long hosts wait, which steps are traced.
TOLD = [
  ('hosts.start_seconds', 60, {}),
  ('hosts.lost_seconds', 60, {}),
  ('hosts.hang_seconds', None, {}),
  ('profile.start', 2, {}),
  ('profile.steps', 1, {'profile.start': 2}),
]


@pytest.fixture(scope='module')
def files(tmp_path_factory, tokenizer, raw_config):
  """A corpus with another text field and a lone surrogate, a second corpus, a tokenizer, a second cache, a run."""
  folder = tmp_path_factory.mktemp('knobs')
  for name, offset in (('corpus', 0), ('other', 500)):
    with open(folder / f'{name}.jsonl', 'w', encoding='utf-8') as out:
      for i in range(60):
        out.write(json.dumps({'text': text(offset + i, 20 + i), 'title': text(900 + i, 12), 'number': i}) + '\n')
      out.write(
        '{"number": 60, "text": "a lone \\ud800 surrogate among words that follow each other", "title": "x y z w"}\n'
      )
  tokenizer.save(str(folder / 'tokenizer.json'))
  words = {'OTHER': 'other.jsonl', 'TOKENIZER': 'tokenizer.json', 'ELSEWHERE': 'cache2', 'CORPUS': 'corpus.jsonl'}
  found = {word: str(folder / file) for word, file in words.items()} | {'CACHE': str(folder / 'cache')}
  return found | {'PRETRAINED': runs.pre_trained('causal_lm', raw_config, tmp_path_factory)}


@pytest.fixture(scope='module')
def configured(raw_config, files):
  def make(task, changes):
    raw = raw_config(task)
    base = {'data.sources.main.path': 'CORPUS', 'data.bad_text': 'replace', 'data.cache_dir': 'CACHE'}
    assignments = [(path, str(files.get(value, value))) for path, value in (base | changes).items()]
    raw, problems = overrides.override(config_lib.Config, raw, assignments)
    return config_lib.load(raw, problems)[0]

  return make


_UNCHANGED: dict = {}
_PROGRAMS: dict = {}


def assert_differs(observe, configured, task, leaf, value, under, besides=()):
  unchanged = (observe, task, repr(under))
  if unchanged not in _UNCHANGED:
    _UNCHANGED[unchanged] = observe(configured(task, under))
  changed = under | {leaf: value} | dict(besides)
  assert _UNCHANGED[unchanged] != observe(configured(task, changed)), f'{leaf} has no effect'


def _batch(length):
  ids, weights = (jax.ShapeDtypeStruct((8, length), dtype) for dtype in (np.int32, np.float32))
  return {'inputs': ids, 'targets': ids, 'weights': weights}


def initialization_and_loss(task):
  """Both as they are traced, what model and objective have a say in; and the shapes of the parameters."""
  key, shapes = jax.random.key(0), task.shapes()
  loss = jax.make_jaxpr(task.loss)(shapes, _batch(task.data.length), key)
  shapes = tuple((path, a.shape) for path, a in paths.flatten(shapes).items())
  c = task.model.backbone.config
  frequencies = [layers.rotary_scaling(c, c.layer(i)) for i in range(c.layers)]  # no numbers stand in a program's text
  return str(jax.make_jaxpr(task.model.init)(key)), f'{loss} {frequencies}', shapes


@functools.cache
def update(shapes, optim_config, steps, accumulate):
  """The train step of a loss that takes nothing to trace: what becomes of gradients."""
  shapes = paths.unflatten({path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes})

  def loss(params, batch, key):
    del batch, key
    total = sum(jnp.sum(p) for p in jax.tree.leaves(params))
    return total, jnp.float32(1), {'loss': (total, jnp.float32(1))}

  task, tx = SimpleNamespace(loss=loss, has_dropout=False), optim.make(optim_config, shapes)
  step = step_lib.make_train_step(task, tx, optim_config, steps, accumulate)
  zero = jax.ShapeDtypeStruct((), np.int32)
  state = state_lib.TrainState(zero, shapes, jax.eval_shape(tx.init, shapes), zero)
  return str(jax.make_jaxpr(step)(state, _batch(32), jax.random.key(0)))


@pytest.mark.parametrize('case', PROGRAM, ids=[case[0] for case in PROGRAM])
def test_program(configured, tokenizer, case):
  def observe(config):
    key = config.model, config.objective, config.data.length
    if key not in _PROGRAMS:
      _PROGRAMS[key] = initialization_and_loss(prepare.build(config, tokenizer))
    *programs, shapes = _PROGRAMS[key]
    return programs, update(shapes, config.optim, config.train.steps, config.train.accumulate)

  assert_differs(observe, configured, 'causal_lm', *case)


def data_of(config):
  """Where the store lies, and digests of training and held-out batches."""
  config, task, stores = prepare.prepare(config)
  data = task.pipeline(stores, config.seed, config.train.steps)
  store = stores['main']
  example = task.eval_batch_of(stores, store)
  valid = pipeline.valid_batches(config.data, store, task.row_spec(), example, batch_size=config.data.batch_size)
  where = os.path.dirname(store.open(0).tokens.filename), store.fingerprint
  return where, digest_of([data.batch(0), data.batch(5), *valid])


def digest_of(batches):
  digest = hashlib.sha256()
  for batch in batches:
    for name in sorted(batch):
      digest.update(name.encode() + np.ascontiguousarray(batch[name]).tobytes())
  return digest.hexdigest()


@pytest.mark.parametrize('task,case', [('causal_lm', c) for c in DATA] + [('masked_lm', c) for c in MASKED], ids=str)
def test_data(configured, task, case):
  assert_differs(data_of, configured, task, *case)


def start_of(config):
  """What a run begins with, by metadata."""
  if config.init_from.path is None:
    return 'random weights'
  source, tokenizer = runs.source_of(config)
  task = prepare.build(config, tokenizer)
  target = {path: {'shape': a.shape, 'dtype': str(a.dtype)} for path, a in paths.flatten(task.shapes()).items()}
  return source.workdir, source.step, handoff.plan(source.arrays, target, config.init_from)


@pytest.mark.parametrize('case', START, ids=[case[0] for case in START])
def test_start(configured, case):
  assert_differs(start_of, configured, 'causal_lm', *case)


def test_convert(configured):
  """Without it, a causal checkpoint is not masked language modelling's."""
  with pytest.raises(ConfigError, match='set init_from.convert to decoder_to_encoder'):
    configured('masked_lm', SOURCE)
  converted = configured('masked_lm', SOURCE | {'init_from.convert': 'decoder_to_encoder'})
  assert converted.model.attention == 'bidirectional'


def plan_of(config, folder):
  """When the loop does what, what is kept, the mesh, where metrics go."""
  infos = [SimpleNamespace(step=s) for s in range(1, 9)]
  ranks = {s: -(9 - s if s < 5 else s) for s in range(1, 9)}
  kept = checkpoints.retention(config.checkpoint, ranks).should_preserve(infos, context=None)
  backbone = SimpleNamespace(config=config.model, padded_vocab_size=8)
  task = SimpleNamespace(model=SimpleNamespace(backbone=backbone), data=config.data, predicted=1)
  task.RANKING_METRIC, task.HIGHER_IS_BETTER = 'loss', False
  files = RunFiles(folder, writes=False)
  pairs = {'loss': (np.float32('nan'), np.float32(1))}
  try:
    logged: list[str] = []
    reporter = progress.Progress(task, config.train, 0, {}, 1, lambda step: [], files, logged.append)
    numbers = {'grad_norm': np.float32(1), 'learning_rate': np.float32(1), 'groups': {}}
    reporter.read(1, {'skipped': 3, 'pairs': pairs} | numbers)
    ended, lines = False, len(logged)
  except NonFiniteError:
    ended, lines = True, len(logged)
  os.makedirs(folder, exist_ok=True)
  with RunFiles(folder) as writing:
    writing.begin(0, config.writer.tensorboard, config.writer.wandb_project)
  left = sorted(os.listdir(folder))
  history = {step: {'loss': loss} for step, loss in enumerate((3.0, 1.0, 2.0, 2.0))}
  made = evaluator.Evaluations(task, None, 0, 6, config.eval.patience, files, history, lambda line: None)
  intervals = loop.Intervals(config.train.steps, config.train.log_every, config.eval.every, config.checkpoint.every)
  due, patient = [sorted(intervals.due(step)) for step in range(1, 7)], made.has_patience_ended
  mesh = sharding.mesh_shape(config.mesh, 8)
  return due, list(kept), ended, lines, left, patient, mesh


@pytest.mark.parametrize('case', PLAN, ids=[case[0] for case in PLAN])
def test_plan(configured, tmp_path, case, monkeypatch):
  """Weights & Biases is one that writes down what it is told, in place of the real one, which is not installed."""
  numbers, projects = itertools.count(), []

  def init(project, **options):
    projects.append(project)
    return SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)

  def observe(config):
    projects.clear()
    return *plan_of(config, str(tmp_path / str(next(numbers)))), tuple(projects)

  monkeypatch.setitem(sys.modules, 'wandb', SimpleNamespace(init=init))
  _UNCHANGED.clear()  # `observe` is another one each time
  assert_differs(observe, configured, 'causal_lm', *case)


@pytest.mark.parametrize('case', TOLD, ids=[case[0] for case in TOLD])
def test_what_jax_is_given(configured, tmp_path, case, monkeypatch):
  told: list = []

  def note(owner, name):
    monkeypatch.setattr(owner, name, lambda *args, **options: told.append((name, args, options)))

  for owner, names in (
    (jax.distributed, ['initialize']),
    (jax.config, ['update']),
    (jax.profiler, ['start_trace', 'stop_trace']),
    (join, ['meet', '_abort_as_stalled']),
    (faulthandler, ['dump_traceback_later']),
  ):
    for name in names:
      note(owner, name)

  def observe(config):
    told.clear()
    join.join(config.hosts, 'localhost:1234', 2, 0)
    with watchdog.Watchdog(config.hosts) as watch:
      watch.heartbeat('step 1')
    tracer = profile.Tracer(config.profile, str(tmp_path))
    for step in range(1, 7):
      with tracer.step(step):
        told.append(step)
      tracer.ended(step, None)
    return [(entry[0], *map(str, entry[1:])) if isinstance(entry, tuple) else entry for entry in told]

  _UNCHANGED.clear()  # `observe` is another one each time
  assert_differs(observe, configured, 'causal_lm', *case)


def test_seeds(configured, tmp_path, monkeypatch):
  """A run each, in a folder of its own."""
  results = {'status': 'done', 'step': 6, 'metrics': {}, 'hand_off': None, 'main_metric': 'loss'}

  def one(config, source, workdir, *rest):
    os.makedirs(workdir)
    ran.append((config.seed, os.path.relpath(workdir, tmp_path)))
    return results

  monkeypatch.setattr(train, '_run_one', one)
  for seeds, expected in ((1, [(0, 'run1')]), (2, [(0, 'run2/seed0'), (1, 'run2/seed1')])):
    ran = []
    config = configured('causal_lm', {'train.seeds': seeds})
    train.train(config, str(tmp_path / f'run{seeds}'), log=lambda line: None, devices=jax.devices()[:1])
    assert ran == expected


@pytest.mark.parametrize('task,case', [('causal_lm', c) for c in SAMPLES] + [('masked_lm', SAMPLES[0])], ids=str)
def test_samples(configured, task, case):
  assert_differs(samples_of, configured, task, *case)


def test_top(configured):
  assert_differs(samples_of, configured, 'masked_lm', 'samples.top', 2, {})


def samples_of(config):
  _, task, stores = prepare.prepare(config)
  return task.samples(runs.random_params(task), stores, jax.random.key(1))


def test_max_unknown(configured, tmp_path):
  words = LOADED | {'data.tokenizer.path': runs.save_words(tmp_path / 'words.json', ['the', 'snow'])}
  with pytest.raises(DataError, match=r'no known token stands for .* bytes .*; data.max_unknown = 0.5 is the largest'):
    prepare.prepare(configured('causal_lm', words | {'data.max_unknown': 0.5}))
  _, task, stores = prepare.prepare(configured('causal_lm', words | {'data.max_unknown': 1.0}))
  [counts] = task.counts(stores).values()
  assert counts['unknown_tokens'] > 0.9 * counts['tokens'] and 'bytes' not in next(valid_of(task, stores))
  assert (task.MAIN_METRIC, task.BASELINE) == ('perplexity', None), 'bits a byte would be those of another text'


def valid_of(task, stores):
  example = task.eval_batch_of(stores, stores['main'])
  return iter(pipeline.valid_batches(task.data, stores['main'], task.row_spec(), example, batch_size=8))


@pytest.mark.parametrize('task,leaf,value', REFUSED)
def test_refused(configured, task, leaf, value):
  with pytest.raises(config_lib.ConfigError, match=leaf):
    configured(task, {leaf: value})


@pytest.mark.parametrize('task', TASKS)
def test_every_leaf_has_a_case(raw_config, task):
  tables = PROGRAM + DATA + MASKED + PLAN + SAMPLES + START + TOLD
  # those of four are tests of their own; `task` chooses the slices themselves
  cases = {case[0] for case in tables} | {leaf for _, leaf, _ in REFUSED}
  cases |= {'samples.top', 'train.seeds', 'init_from.convert', 'task', 'data.max_unknown'}
  cases |= {'data.temperature', 'data.sources.main.max_epochs'}  # tests/data/batches/test_pipeline.py
  missing = set(describe.settings(config_lib.build(raw_config(task)))) - cases
  assert not missing, f'leaves without a case: {sorted(missing)}'
