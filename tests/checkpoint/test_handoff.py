"""What a run takes from another's checkpoint: the plan, every refusal, and the arrays that arrive."""

import contextlib
import dataclasses
import json
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from lmjax import config as config_lib
from lmjax import optim, paths, sharding
from lmjax.checkpoint import checkpoints as checkpoint
from lmjax.checkpoint import handoff, locate, manifest
from lmjax.checkpoint.config import InitFrom
from lmjax.checkpoint.locate import open_source
from lmjax.data.tokens.tokenizer import Tokenizer
from lmjax.errors import CheckpointError, ConfigError
from lmjax.models import lora
from lmjax.models.config import ADAPTERS
from lmjax.schema.slices import MeshConfig
from lmjax.tasks import prepare
from lmjax.training import initialize
from lmjax.training import state as state_lib
from tests import runs

LABELS = {'objective.labels': "('bad', 'good')"}


@pytest.fixture(scope='module')
def mlm(raw_config, tmp_path_factory):
  return runs.pre_trained('masked_lm', raw_config, tmp_path_factory)


@pytest.fixture(scope='module')
def clm(raw_config, tmp_path_factory):
  return runs.pre_trained('causal_lm', raw_config, tmp_path_factory)


def init_from(path, **changes) -> InitFrom:
  return InitFrom(**dict(path=str(path), step='latest', take=('*',), fresh=(), drop=(), convert=None) | changes)


def facts_of(task) -> dict[str, dict]:
  return {path: {'shape': list(a.shape), 'dtype': str(a.dtype)} for path, a in paths.flatten(task.shapes()).items()}


def begun(raw, mesh_shape=(1, 1, 1)):
  """(params, plan, random params) of a run's first step, on a mesh; only metadata decides."""
  config = config_lib.build(raw)
  source, tokenizer = runs.source_of(config)
  task = prepare.build(config, tokenizer)
  mesh = sharding.make_mesh(MeshConfig(*mesh_shape), jax.devices()[: int(np.prod(mesh_shape))])
  with jax.set_mesh(mesh):
    plan = initialize.plan_of(task, source, config.init_from)
    random = state_lib.init_params(task, mesh, config.seed)
    return initialize.initial_params(task, mesh, config.seed, source, plan), plan, random


def save(workdir, config, tokenizer, mesh_shape=(1, 1, 1), change=lambda params: params) -> str:
  """A run's workdir with a checkpoint of random parameters at step 4, made without training."""
  task = prepare.build(config, tokenizer)
  mesh = sharding.make_mesh(MeshConfig(*mesh_shape), jax.devices()[: int(np.prod(mesh_shape))])
  with jax.set_mesh(mesh):
    params = change(state_lib.init_params(task, mesh, 7))
    state = state_lib.init_state(task, optim.make(config.optim, task.shapes()), mesh, params)
    kept = checkpoint.Checkpoints(str(workdir), config.checkpoint, task.RANKING_METRIC)
    with contextlib.closing(kept) as checkpoints:
      checkpoints.save(
        4,
        state,
        initialize.metadata_of(config, task, {}, 'by hand') | {'hand_off': None},
      )
  tokenizer.save(f'{workdir}/tokenizer.json')
  return str(workdir)


def saved_params(workdir) -> dict[str, np.ndarray]:
  """{path: array} of a run's newest checkpoint, in the dtype in which it was saved."""
  source = open_source(init_from(workdir))
  where = sharding.replicated(sharding.one_device_mesh())
  wanted = {}
  for path, facts in source.arrays.items():
    wanted[path] = jax.ShapeDtypeStruct(tuple(facts['shape']), facts['dtype'], sharding=where)
  abstract = {'params': paths.unflatten(wanted)}
  found = checkpoint.load_verified(locate.directory_of(workdir), source.step, abstract)['params']
  return {path: np.asarray(leaf) for path, leaf in paths.flatten(found).items()}


@pytest.fixture
def no_array_is_read(monkeypatch):
  def refuse(*arguments):
    raise AssertionError('arrays were read')

  monkeypatch.setattr(checkpoint, 'load_verified', refuse)


# ---- the plan


MLM_TO_CLASSIFIER = """
     hand-off  20 taken, 0 resized, 4 fresh, 3 dropped
        taken  embeddings/norm/scale
        taken  embeddings/token/embedding
        taken  final_norm/scale
        taken  layers/0..1/attention/key/kernel
        taken  layers/0..1/attention/output/kernel
        taken  layers/0..1/attention/query/kernel
        taken  layers/0..1/attention/value/kernel
        taken  layers/0..1/mlp/down/kernel
        taken  layers/0..1/mlp/gate/kernel
        taken  layers/0..1/mlp/up/kernel
        taken  layers/0..1/mlp_norm/scale
        taken  layers/1/attention_norm/scale
        fresh  classifier/bias
        fresh  classifier/dense/kernel
        fresh  classifier/kernel
        fresh  classifier/norm/scale
      dropped  head/bias
      dropped  head/transform/dense/kernel
      dropped  head/transform/norm/scale
"""
CLM_TO_CLM = """
     hand-off  25 taken, 0 resized, 0 fresh, 0 dropped
        taken  embeddings/token/embedding
        taken  final_norm/scale
        taken  head/output/kernel
        taken  layers/0..1/attention/key/kernel
        taken  layers/0..1/attention/key_norm/scale
        taken  layers/0..1/attention/output/kernel
        taken  layers/0..1/attention/query/kernel
        taken  layers/0..1/attention/query_norm/scale
        taken  layers/0..1/attention/value/kernel
        taken  layers/0..1/attention_norm/scale
        taken  layers/0..1/mlp/down/kernel
        taken  layers/0..1/mlp/gate/kernel
        taken  layers/0..1/mlp/up/kernel
        taken  layers/0..1/mlp_norm/scale
"""


def test_the_whole_plan_from_a_masked_lm_to_a_classifier(mlm, make_config, tokenizer, tmp_path):
  """With the patterns of the shipped config: the backbone is taken, BERT's transform left behind."""
  there = facts_of(
    prepare.build(make_config('masked_lm', **{'model.mlm_transform': True, 'model.layers': 2}), tokenizer)
  )
  config = config_lib.build(runs.classification_config(mlm, tmp_path, **LABELS))
  plan = handoff.plan(there, facts_of(prepare.build(config, tokenizer)), config.init_from)
  plan.check('a')
  assert plan.table() == MLM_TO_CLASSIFIER.strip('\n')


def test_the_whole_plan_from_a_causal_lm_to_the_same(make_config, tokenizer):
  here = facts_of(
    prepare.build(make_config('causal_lm', **{'model.tied_embeddings': False, 'model.layers': 2}), tokenizer)
  )
  plan = handoff.plan(here, here, init_from('a'))
  plan.check('a')
  assert plan.table() == CLM_TO_CLM.strip('\n')


def test_every_parameter_is_in_one_list(mlm, tokenizer, make_config, tmp_path):
  config = config_lib.build(runs.classification_config(mlm, tmp_path, **LABELS))
  source, target = open_source(config.init_from).arrays, facts_of(prepare.build(config, tokenizer))
  plan = handoff.plan(source, target, config.init_from)
  assert sorted(plan.taken + plan.resized + plan.fresh) == sorted(target)
  assert sorted(plan.taken + plan.resized + plan.dropped) == sorted(source)


WEIGHT = {'shape': [4, 8], 'dtype': 'float32'}


@pytest.mark.parametrize(
  'source, target, changes, refusals',
  [
    (
      {'a/kernel': WEIGHT},
      {'a/kernel': WEIGHT},
      dict(fresh=('a/*',)),
      ['a/kernel: matches both init_from.take and init_from.fresh; each parameter must match one of them'],
    ),
    (
      {'a/kernel': WEIGHT},
      {'a/kernel': WEIGHT, 'b/kernel': WEIGHT},
      dict(take=('a/*',)),
      ['b/kernel: matches neither take nor fresh; each parameter must match one of them; change the patterns'],
    ),
    (
      {'a/kernel': WEIGHT, 'b/kernel': WEIGHT},
      {'a/kernel': WEIGHT},
      dict(),
      ['b/kernel: in the checkpoint, but not used; let init_from.drop match it'],
    ),
    (
      {'a/kernel': WEIGHT},
      {'a/kernel': WEIGHT, 'b/kernel': WEIGHT},
      dict(),
      ['b/kernel: is to be taken, but the checkpoint has no such parameter; name it in init_from.fresh, and not'],
    ),
    (
      {'a/kernel': WEIGHT},
      {'a/kernel': WEIGHT | {'shape': [4, 16]}},
      dict(),
      ['a/kernel: has shape [4, 8] in the checkpoint, the model needs [4, 16]; use the same model and tokenizer'],
    ),
    (
      {'a/kernel': WEIGHT | {'dtype': 'int32'}},
      {'a/kernel': WEIGHT},
      dict(),
      ['a/kernel: is int32 in the checkpoint, the model needs float32; they do not convert'],
    ),
    (  # a wrong width is no matter of rows
      {'embeddings/position/embedding': WEIGHT},
      {'embeddings/position/embedding': {'shape': [6, 16], 'dtype': 'float32'}},
      dict(),
      ['embeddings/position/embedding: has shape [4, 8] in the checkpoint, the model needs [6, 16]'],
    ),
    (  # all are named at once
      {'a/kernel': WEIGHT, 'c/kernel': WEIGHT},
      {'a/kernel': WEIGHT | {'shape': [1]}, 'b/kernel': WEIGHT},
      dict(take=('a/*',)),
      ['a/kernel: has shape [4, 8]', 'b/kernel: matches neither', 'c/kernel: in the checkpoint, but not used'],
    ),
  ],
)
def test_what_breaks_the_plan_is_refused(source, target, changes, refusals):
  plan = handoff.plan(source, target, init_from('runs/a', **changes))
  assert len(plan.refused) == len(refusals), plan.refused
  for line, expected in zip(plan.refused, refusals):
    assert line.startswith(expected)
  with pytest.raises(CheckpointError) as caught:
    plan.check('runs/a')
  assert str(caught.value).count('init_from.path = runs/a: ') == len(refusals)


def test_a_dtype_of_fewer_bits_converts():
  half = {'a/kernel': WEIGHT | {'dtype': 'bfloat16'}}
  assert handoff.plan(half, {'a/kernel': WEIGHT}, init_from('a')).taken == ['a/kernel']


def test_lines_of_layers_that_fare_alike_are_one():
  names = [f'layers/{i}/kernel' for i in (0, 1, 2, 10)] + ['layers/3/bias', 'head/bias']
  table = handoff.Plan(names, [], [], [], []).table().splitlines()
  assert [line.split()[-1] for line in table[1:]] == ['head/bias', 'layers/0,1,2,10/kernel', 'layers/3/bias']


# ---- finding the checkpoint


def test_a_missing_run(tmp_path):
  with pytest.raises(CheckpointError, match='init_from.path = .*nothing: no such folder; run the pre-training first'):
    open_source(init_from(tmp_path / 'nothing'))


@pytest.mark.parametrize(
  'raised, said',
  [
    (ImportError('Please install gcsfs'), r'ImportError: Please install gcsfs\); .* pip install .lmjax\[gcs\]'),
    (OSError('no such host\nand more'), r'OSError: no such host\); check address'),
    (TimeoutError(), r'TimeoutError: no reason given\)'),
  ],
)
def test_a_store_that_cannot_be_reached(monkeypatch, raised, said):
  monkeypatch.setattr(type(epath.Path('gs://bucket')), 'exists', mock.Mock(side_effect=raised))
  with pytest.raises(CheckpointError, match=f'init_from.path = gs://bucket/run: cannot be reached .{said}'):
    open_source(init_from('gs://bucket/run'))


def test_a_manifest_that_names_no_model(tmp_path):
  (tmp_path / 'checkpoints/3/manifest').mkdir(parents=True)
  found = {'schema': manifest.SCHEMA, 'step': 3, 'arrays': {}}
  found |= {'checksum': manifest.checksum(found)}
  (tmp_path / 'checkpoints/3/manifest/manifest.json').write_text(json.dumps(found))
  with pytest.raises(CheckpointError, match='its manifest of step 3 names no model; choose another checkpoint'):
    open_source(init_from(tmp_path))


def test_a_folder_without_a_checkpoint(tmp_path):
  with pytest.raises(CheckpointError, match='no checkpoint there; run the pre-training first, or name the workdir'):
    open_source(init_from(tmp_path))
  (tmp_path / 'seed0').mkdir()
  with pytest.raises(CheckpointError, match='choose one of its runs, such as .*seed0'):
    open_source(init_from(tmp_path))


def test_an_unknown_step_names_those_there(mlm):
  with pytest.raises(CheckpointError, match=r'init_from.step = 5: not among the checkpoints.*choose one of \[3, 6\]'):
    open_source(init_from(mlm, step=5))


def test_a_step_by_number_by_path_and_the_latest(mlm):
  assert open_source(init_from(mlm)).step == 6
  assert open_source(init_from(mlm, step=3)).step == 3
  for step in ('latest', 3):
    source = open_source(init_from(f'{mlm}/checkpoints/3', step=step))
    assert (source.workdir, source.step) == (mlm, 3)
  for step in ('best', 6):
    with pytest.raises(CheckpointError, match=f'init_from.step = {step}: init_from.path names step 3; leave it'):
      open_source(init_from(f'{mlm}/checkpoints/3', step=step))
  with pytest.raises(CheckpointError, match=r'init_from.step = 4: not among .*\[3, 6\]'):
    open_source(init_from(f'{mlm}/checkpoints/4'))


def rank(workdir, losses):
  """Rewrites the validation loss in the manifests; None: this step was never evaluated."""
  for step, loss in losses.items():
    best = {'metric': 'loss', 'value': loss, 'highest': False}
    runs.edit_manifest(workdir, step, lambda found, best=best: found.update(best=best))
  (workdir / 'metrics.jsonl').unlink(missing_ok=True)  # where a loss is looked up that its manifest lacks


def test_the_best_is_by_the_source_s_own_metric(mlm, tmp_path):
  shutil.copytree(mlm, tmp_path / 'run')
  by_loss = {line['step']: line['loss'] for line in runs.metrics_of(mlm, 'valid') if line['step']}
  assert open_source(init_from(mlm, step='best')).step == min(by_loss, key=by_loss.__getitem__)
  for losses, best in (({3: 1.0, 6: 2.0}, 3), ({3: 2.0, 6: 1.0}, 6), ({3: 1.0, 6: 1.0}, 3), ({3: None, 6: 9.0}, 6)):
    rank(tmp_path / 'run', losses)
    assert open_source(init_from(tmp_path / 'run', step='best')).step == best
  rank(tmp_path / 'run', {3: None, 6: None})
  with pytest.raises(CheckpointError, match='no checkpoint was evaluated when it was saved; choose a step'):
    open_source(init_from(tmp_path / 'run', step='best'))


def test_an_unfinished_save(mlm, tmp_path):
  shutil.copytree(mlm, tmp_path / 'run')
  (tmp_path / 'run/checkpoints/6/manifest/manifest.json').unlink()
  with pytest.raises(CheckpointError, match='checkpoints/6/.*no readable manifest.*cut short; choose another step'):
    open_source(init_from(tmp_path / 'run'))
  assert open_source(init_from(tmp_path / 'run', step=3)).step == 3


def test_a_flipped_byte_is_found_by_its_digest(mlm, tmp_path):
  """Wherever it is: the parameters are those that were saved, or there is an error; never others."""
  shutil.copytree(mlm, tmp_path / 'run')
  expected = saved_params(mlm)
  file = max((tmp_path / 'run/checkpoints/6').rglob('d/*'), key=lambda file: file.stat().st_size)
  intact, verdicts = file.read_bytes(), []
  for share in np.linspace(0.03, 0.97, 16):
    data = bytearray(intact)
    data[int(share * len(data))] ^= 0x10
    file.write_bytes(data)
    try:
      jax.tree.map(np.testing.assert_array_equal, saved_params(tmp_path / 'run'), expected)  # it hit the optimizer's
    except CheckpointError as error:
      verdicts.append(str(error))
  assert any('arrays differ from their digests, such as params/' in said for said in verdicts), verdicts
  assert all('checkpoints/6' in said and 'choose another step' in said for said in verdicts)


def test_a_changed_digest_is_found_for_every_array(mlm, tmp_path):
  shutil.copytree(mlm, tmp_path / 'run')
  kernel = 'params/layers/1/mlp/up/kernel'
  runs.edit_manifest(tmp_path / 'run', 6, lambda found: found['arrays'][kernel].update(digest='0' * 16))
  raw = runs.classification_config(str(tmp_path / 'run'), tmp_path, **LABELS)
  with pytest.raises(CheckpointError, match='1 arrays differ from their digests, such as params/layers/1/mlp/up'):
    begun(raw)


# ---- what must be the same


def test_another_tokenizer_names_both_hashes(mlm, tokenizer, tmp_path, no_array_is_read):
  shutil.copytree(mlm, tmp_path / 'run')
  saved = open_source(init_from(mlm)).manifest['tokenizer_hash'][:12]
  assert tokenizer.hash[:12] != saved
  tokenizer.save(str(tmp_path / 'run/tokenizer.json'))
  raw = runs.classification_config(str(tmp_path / 'run'), tmp_path)
  with pytest.raises(CheckpointError, match=f'hash is {tokenizer.hash[:12]}.* {saved}; put the tokenizer') as caught:
    runs.train(raw, tmp_path / 'new')
  assert f'{tmp_path}/run/tokenizer.json' in str(caught.value)
  assert not (tmp_path / 'new').exists()


def test_a_tokenizer_of_the_config_must_be_the_checkpoint_s(mlm, tokenizer, tmp_path, no_array_is_read):
  tokenizer.save(str(tmp_path / 'other.json'))
  raw = runs.classification_config(mlm, tmp_path)
  raw.data.tokenizer = dict(path=str(tmp_path / 'other.json'), vocab_size=None, sample_bytes=None, lowercase=None)
  saved = Tokenizer.load(f'{mlm}/tokenizer.json').hash[:12]
  with pytest.raises(CheckpointError, match=f'data.tokenizer.path.*{tokenizer.hash[:12]}.*{saved}; set data.tokenizer'):
    runs.train(raw, tmp_path / 'new')
  raw.data.tokenizer.path = f'{mlm}/tokenizer.json'
  assert runs.source_of(config_lib.build(raw))[1].hash.startswith(saved)


@pytest.mark.parametrize(
  'leaf, value, saved', [('width', 64, 32), ('heads', 2, 4), ('layers', 3, 2), ('vocab_multiple', 128, 64)]
)
def test_a_leaf_of_the_model_that_disagrees(mlm, tmp_path, no_array_is_read, leaf, value, saved):
  raw = runs.classification_config(mlm, tmp_path)
  raw.model[leaf] = value
  with pytest.raises(ConfigError, match=f'model.{leaf} = {value}: is {saved} in the checkpoint; leave it out, or set'):
    runs.train(raw, tmp_path / 'new')
  assert not (tmp_path / 'new').exists()
  raw.model[leaf] = saved
  config_lib.build(raw)


@pytest.mark.parametrize(
  'leaf, value, path, there, needed',
  [
    ('width', 64, 'embeddings/token/embedding', [320, 32], [320, 64]),
    ('mlp_width', 16, 'layers/0..1/mlp/up/kernel', [32, 64], [32, 16]),
    ('kv_heads', 4, 'layers/0..1/attention/key/kernel', [32, 16], [32, 32]),
    ('vocab_multiple', 128, 'embeddings/token/embedding', [320, 32], [384, 32]),
  ],
)
def test_a_shape_that_disagrees_is_found_before_arrays_are_read(
  mlm, tmp_path, no_array_is_read, leaf, value, path, there, needed
):
  """The checkpoint's own account of its model is not relied upon: its arrays' shapes are compared."""
  shutil.copytree(mlm, tmp_path / 'run')
  runs.edit_manifest(tmp_path / 'run', 6, lambda found: found['model'].update({leaf: value}))
  raw = runs.classification_config(str(tmp_path / 'run'), tmp_path)
  with pytest.raises(CheckpointError) as caught:
    runs.train(raw, tmp_path / 'new')
  assert f'{path}: has shape {there} in the checkpoint, the model needs {needed}; use the same' in str(caught.value)
  assert not (tmp_path / 'new').exists()


def test_fewer_layers_leave_some_unused(mlm, tmp_path, no_array_is_read):
  shutil.copytree(mlm, tmp_path / 'run')
  for layers, message in ((1, 'in the checkpoint, but not used'), (3, 'the checkpoint has no such parameter')):
    runs.edit_manifest(tmp_path / 'run', 6, lambda found, layers=layers: found['model'].update(layers=layers))
    with pytest.raises(CheckpointError, match=f'layers/{min(layers, 2)}/attention/key/kernel: .*{message}'):
      runs.train(runs.classification_config(str(tmp_path / 'run'), tmp_path), tmp_path / 'new')


def test_the_kind_of_attention_changes_by_convert_alone(mlm, clm, raw_config, no_array_is_read):
  changes = {'init_from.path': mlm, 'model.layers': 2}
  with pytest.raises(ConfigError) as caught:
    config_lib.build(raw_config('causal_lm', **changes))
  expected = (
    "model.attention = 'causal': is bidirectional in the checkpoint; set init_from.convert to encoder_to_decoder"
  )
  assert expected in str(caught.value)
  converted = config_lib.build(raw_config('causal_lm', **changes, **{'init_from.convert': 'encoder_to_decoder'}))
  assert converted.model.attention == 'causal'
  with pytest.raises(ConfigError, match='needs a bidirectional checkpoint, this one is causal; set it to None'):
    config_lib.build(
      raw_config('causal_lm', **changes | {'init_from.path': clm, 'init_from.convert': 'encoder_to_decoder'})
    )
  with pytest.raises(ConfigError, match="'bidirectional': becomes causal by init_from.convert = encoder_to_decoder"):
    config_lib.build(raw_config('masked_lm', **changes, **{'init_from.convert': 'encoder_to_decoder'}))


def test_leaves_that_shape_no_weight_may_differ(mlm, tmp_path):
  raw = runs.classification_config(mlm, tmp_path, **LABELS)
  raw.model.update(scan=True, remat='full', residual_dropout=0.25, rope_scaling=2.0, attention_implementation='xla')
  config = config_lib.build(raw)
  assert (config.model.scan, config.model.rope_scaling, config.model.residual_dropout) == (True, 2.0, 0.25)
  assert config.model.width == 32 and config.model.heads == 4


def test_without_a_checkpoint_the_model_is_given_in_full(tmp_path):
  raw = runs.classification_config(None, tmp_path, **{'init_from.path': None})
  with pytest.raises(ConfigError, match='model = .*must be given in full with init_from.path = None'):
    config_lib.build(raw)
  raw.init_from.convert = 'encoder_to_decoder'
  raw.model.update(runs.classification_config(None, tmp_path, 'preset=mini').model)
  with pytest.raises(ConfigError, match='init_from.convert = .*has no effect with init_from.path = None'):
    config_lib.build(raw)


# ---- the arrays


def test_an_encoder_becomes_a_decoder_with_the_same_weights(mlm, raw_config):
  raw = raw_config('causal_lm', **{'init_from.path': mlm, 'model.layers': 2, 'init_from.convert': 'encoder_to_decoder'})
  params, plan, _ = begun(raw)
  expected = runs.params_of(mlm)
  assert sorted(plan.taken) == sorted(expected) and not plan.fresh
  for path, leaf in paths.flatten(params).items():
    np.testing.assert_array_equal(leaf, expected[path])


@pytest.mark.slow
@pytest.mark.parametrize('rows,offset', [(16, 0), (24, 2), (40, 0), (80, 0), (80, 2)])
def test_rows_of_the_position_table(make_config, tokenizer, tmp_path, rows, offset):
  """Row i is row i modulo the rows there were: a longer table repeats, a shorter one is the beginning.

  What comes before the first position stays.
  """
  learned = {'model.positions': 'learned', 'model.max_length': 32, 'model.rope_theta': None, 'model.layers': 1}
  learned['model.position_offset'] = offset
  workdir = save(tmp_path / 'run', make_config('masked_lm', **learned), tokenizer)
  raw = runs.classification_config(workdir, tmp_path, **LABELS, **{'data.length': 16})
  raw.model.max_length = rows
  params, plan, _ = begun(raw)
  table = saved_params(workdir)['embeddings/position/embedding']
  assert plan.resized == ['embeddings/position/embedding'] and table.shape == (offset + 32, 32)
  found = np.asarray(params['embeddings']['position']['embedding'])
  assert found.shape == (offset + rows, 32)
  np.testing.assert_array_equal(found[:offset], table[:offset])
  for i in range(rows):
    np.testing.assert_array_equal(found[offset + i], table[offset + i % 32])


def test_from_one_device_to_a_mesh(mlm, tmp_path):
  params, _, fresh = begun(runs.classification_config(mlm, tmp_path, **LABELS), (2, 2, 2))
  expected = runs.params_of(mlm)
  for path, leaf in paths.flatten(params).items():
    random = paths.flatten(fresh)[path]
    np.testing.assert_array_equal(leaf, expected.get(path, np.asarray(random)))
    assert leaf.sharding == random.sharding
  query = params['layers']['0']['attention']['query']['kernel']
  assert query.addressable_shards[0].data.shape == (16, 16), 'not split over fsdp and tensor'


@pytest.mark.slow
def test_from_a_mesh_to_one_device(make_config, tokenizer, tmp_path):
  workdir = save(tmp_path / 'run', make_config('masked_lm', **{'model.layers': 1}), tokenizer, (2, 2, 2))
  params, _, _ = begun(runs.classification_config(workdir, tmp_path, **LABELS))
  expected = saved_params(workdir)
  for path, leaf in paths.flatten(params).items():
    if path in expected:
      np.testing.assert_array_equal(leaf, expected[path])
  assert len(params['embeddings']['token']['embedding'].sharding.device_set) == 1


@pytest.mark.slow
def test_bfloat16_parameters_arrive_as_float32(make_config, tokenizer, tmp_path):
  halve = lambda params: jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
  workdir = save(tmp_path / 'run', make_config('masked_lm', **{'model.layers': 1}), tokenizer, change=halve)
  params, plan, _ = begun(runs.classification_config(workdir, tmp_path, **LABELS))
  expected = saved_params(workdir)
  assert all(leaf.dtype == jnp.bfloat16 for leaf in expected.values()) and len(plan.taken) == len(expected)
  for path, leaf in paths.flatten(params).items():
    assert leaf.dtype == jnp.float32
    if path in expected:
      np.testing.assert_array_equal(leaf, expected[path].astype(np.float32))


def test_with_nothing_taken_all_is_random_but_the_model_and_tokenizer(mlm, tmp_path, no_array_is_read):
  raw = runs.classification_config(mlm, tmp_path, **LABELS, **{'init_from.take': '()'})
  config = config_lib.build(raw)
  source, tokenizer = runs.source_of(config)
  assert tokenizer.hash == source.manifest['tokenizer_hash']
  assert config.model.width == 32 and config.model.layers == 2
  params, plan, fresh = begun(raw)
  jax.tree.map(np.testing.assert_array_equal, params, fresh)
  assert plan.taken == plan.resized == [] and sorted(plan.dropped) == sorted(source.arrays)
  assert sorted(plan.fresh) == sorted(paths.flatten(fresh))
  mesh = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
  other = state_lib.init_params(prepare.build(config, tokenizer), mesh, config.seed + 1)
  assert not np.array_equal(other['classifier']['kernel'], fresh['classifier']['kernel'])


@pytest.mark.slow
def test_a_fresh_table_is_as_large_as_the_trained_one_next_to_it(make_config, tokenizer, tmp_path):
  workdir = save(
    tmp_path / 'run', make_config('masked_lm'), tokenizer, change=lambda tree: jax.tree.map(lambda p: 8 * p, tree)
  )
  raw = runs.classification_config(workdir, tmp_path, **LABELS, **{'model.segment_types': 2})
  raw.init_from.take = tuple(p.replace('embeddings/*', 'embeddings/token/*') for p in raw.init_from.take)
  raw.init_from.fresh = (*raw.init_from.fresh, 'embeddings/segment/*')
  params, plan, fresh = begun(raw)
  assert 'embeddings/segment/embedding' in plan.fresh
  tables, before = params['embeddings'], fresh['embeddings']
  ratio = jnp.std(tables['token']['embedding']) / jnp.std(before['token']['embedding'])
  assert 6 < ratio < 10
  expected = before['segment']['embedding'] * ratio
  np.testing.assert_allclose(tables['segment']['embedding'], expected, rtol=1e-6)
  np.testing.assert_array_equal(params['classifier']['kernel'], fresh['classifier']['kernel'])


# ---- a whole run


def test_results_keep_the_hand_off_and_so_does_a_resumed_run(mlm, tmp_path):
  said = []
  raw = runs.classification_config(mlm, tmp_path, **{'train.steps': 3, 'init_from.step': 3})
  first = runs.train(raw, tmp_path / 'run', said.append)
  table = first['hand_off']
  assert json.loads((tmp_path / 'run/results.json').read_text())['hand_off'] == table
  assert (table['source'], table['step']) == (mlm, 3)
  assert table.keys() == {'source', 'step', 'taken', 'resized', 'fresh', 'dropped'}
  new = ['classifier/bias', 'classifier/dense/kernel', 'classifier/kernel', 'classifier/norm/scale']
  assert table['fresh'] == new and len(table['taken']) == 20
  assert table['resized'] == table['dropped'] == []
  assert f'starting from step 3 of {mlm}' in '\n'.join(said) and 'classifier/kernel' in '\n'.join(said)
  said.clear()
  raw.train.steps = 4
  second = runs.train(raw, tmp_path / 'run', said.append)
  assert any(line.startswith('resuming from step 3') for line in said)
  assert second['step'] == 4 and second['hand_off'] == table


@pytest.mark.slow
@pytest.mark.parametrize('rank', [None, 2])
def test_adapters_are_merged_when_they_are_handed_over(mlm, tmp_path, rank):
  """The run has its own adapters, or none, whatever the source had; and none is listed as left behind."""
  config = config_lib.build(runs.classification_config(mlm, tmp_path, lora=4, **LABELS))
  source, tokenizer = runs.source_of(config)
  assert config.model.lora.rank == 4

  def trained(params):
    noise = lambda path, p: jax.random.normal(jax.random.key(len(path)), p.shape) if path.endswith('lora_b') else p
    return paths.map_with_path(noise, params)

  workdir = save(tmp_path / 'adapted', config, tokenizer, change=trained)
  raw = runs.classification_config(workdir, tmp_path, lora=rank, **LABELS)
  raw.init_from.take, raw.init_from.fresh = ('classifier/*', *raw.init_from.take), ()
  if rank is not None:
    raw.init_from.fresh = ADAPTERS
  params, plan, _ = begun(raw)
  task = prepare.build(config, tokenizer)
  where = sharding.replicated(sharding.one_device_mesh())
  abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), task.shapes())
  before = checkpoint.restore_params(workdir, 4, abstract)
  expected = paths.flatten(lora.merge(before, config.model.lora))
  for path, leaf in paths.flatten(params).items():
    if path in expected:
      np.testing.assert_allclose(leaf, expected[path], rtol=1e-6, atol=1e-6)
    elif path.endswith('lora_b'):
      assert leaf.shape[0] == rank and not np.asarray(leaf).any()
  assert sorted(plan.taken) == sorted(expected) and not plan.dropped
  assert any(path.endswith('lora_a') for path in plan.fresh) == (rank is not None)
  query = 'layers/0/attention/query/kernel'
  assert np.abs(np.asarray(expected[query]) - np.asarray(paths.flatten(before)[query])).max() > 0.1


def test_a_config_of_a_run_with_seeds_names_them(mlm, tmp_path):
  """The workdir above several seeds holds no checkpoint of its own."""
  shutil.copytree(mlm, tmp_path / 'many/seed0')
  with pytest.raises(CheckpointError, match='such as .*many/seed0, or name'):
    config_lib.build(runs.classification_config(str(tmp_path / 'many'), tmp_path))
  config = config_lib.build(runs.classification_config(str(tmp_path / 'many/seed0'), tmp_path))
  assert dataclasses.asdict(config.model)['width'] == 32
