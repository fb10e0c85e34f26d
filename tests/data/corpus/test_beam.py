"""Apache Beam makes the bytes that one machine makes, and what goes wrong there is told as it is here."""

import sys

import fsspec
import pytest

from lmjax import prepare
from lmjax.data.config import SourceConfig
from lmjax.data.corpus import address, build, manifest, worker
from lmjax.data.digests import normalised_digest64
from lmjax.data.tokens.trainer import train_tokenizer
from lmjax.errors import ConfigError, DataError
from tests.conftest import ROOT
from tests.data.corpus.corpora import DOCUMENTS, config_of, content, write

CONFIG = f'--config={ROOT / "configs/pretrain_clm.py"}'
FRACTION = 0.05
PROCESSES = ['--direct_running_mode=multi_processing', '--direct_num_workers=2']


def errors_of(capfd, *flags):
  assert prepare.main([CONFIG, *flags]) == 2
  return capfd.readouterr().err


def test_without_beam_the_error_says_how_to_install_it(monkeypatch, capfd):
  monkeypatch.setitem(sys.modules, 'apache_beam', None)
  monkeypatch.delitem(sys.modules, 'lmjax.data.corpus.beam', raising=False)
  found = errors_of(capfd, '--runner=DirectRunner')
  assert found.startswith('lmjax: --runner = DirectRunner: Apache Beam is not installed (')
  assert found.endswith("); pip install 'lmjax[beam]'\n")


def test_flags_that_do_not_go_together_are_refused(capfd):
  assert 'options of Beam without --runner; give --runner=NAME' in errors_of(capfd, '--', '--direct_num_workers=2')
  assert 'the runner shares the works itself' in errors_of(capfd, '--runner=DirectRunner', '--task=0', '--tasks=2')
  assert '--runner: has no value' in errors_of(capfd, '--runner')
  assert '--runer = DirectRunner: unknown flag; did you mean --runner?' in errors_of(capfd, '--runer=DirectRunner')
  assert 'stray' in errors_of(capfd, 'stray'), 'a word is no option of Beam where no -- is'


@pytest.fixture(scope='module')
def beam():
  pytest.importorskip('apache_beam')
  from lmjax.data.corpus import beam

  return beam


@pytest.fixture(scope='module')
def tokenizer():
  return train_tokenizer(DOCUMENTS, 320, 20_000)


def is_held_out(text):
  return normalised_digest64(text) <= FRACTION * 2**64


@pytest.fixture
def sources(tmp_path):
  """Three, of which one is small; texts recur in a file, across files and across sources, in other case too."""
  (tmp_path / 'a').mkdir()
  for number in range(4):
    write(tmp_path / 'a' / f'{number}.jsonl', [f'{text}{i % 3 or number}' for i, text in enumerate(DOCUMENTS)])
  (tmp_path / 'a' / '4.jsonl').write_bytes((tmp_path / 'a' / '3.jsonl').read_bytes())
  other = (
    [text.upper() for text in DOCUMENTS] + [f'{text}1' for text in DOCUMENTS[:90]] + ['', ' ', 'ONE', 'Three', 'FOUR']
  )
  few = [f'{text}2' for text in DOCUMENTS[2:100:3] if not is_held_out(f'{text}2')][:2] + ['one', 'three', 'four']
  assert not any(map(is_held_out, few)), 'it holds out its lowest'
  folder = SourceConfig(str(tmp_path / 'a'), 'text', 1.0)
  return {'a': folder, 'small': write(tmp_path / 'c.jsonl', few), 'b': write(tmp_path / 'b.jsonl', other)}


@pytest.fixture
def small(monkeypatch):
  """Many works, groups and partitions, and held-out text of which a part is kept."""
  monkeypatch.setattr(build, 'WORK_BYTES', 10_000)
  monkeypatch.setattr(manifest, '_HELD_OUT_BYTES', 1_000)


def find(config, tokenizer, elsewhere=None):
  return manifest.find(config, tokenizer, build.Share(), True, elsewhere)


beam_test = lambda test: pytest.mark.slow(pytest.mark.beam(test))


@beam_test
@pytest.mark.parametrize('valid_bytes', [None, 900])
@pytest.mark.parametrize(
  'runner,options',
  [
    ('DirectRunner', []),
    ('DirectRunner', PROCESSES),
    ('PortableRunner', ['--job_endpoint=embed', '--environment_type=LOOPBACK']),
  ],
  ids=['in memory', 'processes', 'portable'],
)
def test_the_bytes_are_those_that_one_machine_makes(
  beam, tmp_path, tokenizer, sources, small, monkeypatch, runner, options, valid_bytes
):
  monkeypatch.setattr(beam, '_PARTITION', 100)
  monkeypatch.setattr(beam, '_GROUP_SHARDS', 3)
  settings = {'valid_fraction': FRACTION, 'valid_bytes': valid_bytes}
  here = find(config_of(tmp_path / 'here', sources, **settings), tokenizer)
  config = config_of(tmp_path / 'there', sources, **settings)
  with beam.Pipelines(runner, options, config.cache_dir) as pipelines:
    assert find(config, tokenizer, pipelines) == here
  assert content(tmp_path / 'there') == content(tmp_path / 'here')
  assert len(here.sources['a'].shards) > 12 and all(row.counts['duplicates'] for row in here.sources.values())
  assert here.sources['small'].counts['valid'] == 1


@beam_test
def test_a_cache_at_an_address_has_the_same_files(beam, tmp_path, tokenizer, sources, small, monkeypatch):
  monkeypatch.setenv(address.VARIABLE, str(tmp_path / 'copies'))
  find(config_of(tmp_path / 'here', sources), tokenizer)
  config, system = config_of('memory://bucket/cache', sources), fsspec.filesystem('memory')
  try:
    with beam.Pipelines('DirectRunner', [], config.cache_dir) as pipelines:
      find(config, tokenizer, pipelines)
    found = {name.removeprefix('/bucket/cache/'): system.cat_file(name) for name in system.find('/bucket/cache')}
  finally:
    system.rm('/', recursive=True)
  assert found == content(tmp_path / 'here')


@beam_test
def test_what_is_there_is_not_made_again(beam, tmp_path, tokenizer, sources, small, monkeypatch):
  config, made = config_of(tmp_path / 'cache', sources), []
  make = worker.make
  monkeypatch.setattr(worker, 'make', lambda job, work: made.append(work) or make(job, work))

  def again():
    del made[:]
    with beam.Pipelines('directrunner', [], config.cache_dir) as pipelines:
      find(config, tokenizer, pipelines)
    return len(made)

  assert again() > 12 and again() == 0
  write(tmp_path / 'a' / '5.jsonl', ['one more text'])
  assert 0 < again() <= 2


@beam_test
def test_nothing_is_fetched_to_run_in_place_of_the_direct_runner(beam, tmp_path, tokenizer, sources, monkeypatch):
  from apache_beam.runners.portability.prism_runner import PrismRunner

  called = []
  monkeypatch.setattr(PrismRunner, 'run_pipeline', lambda *_: called.append(1))
  config = config_of(tmp_path / 'cache', sources)
  with beam.Pipelines('DirectRunner', [], config.cache_dir) as pipelines:
    find(config, tokenizer, pipelines)
  assert not called


@beam_test
@pytest.mark.parametrize('options', [[], PROCESSES], ids=['in memory', 'processes'])
def test_the_command_says_what_is_wrong_with_a_file(beam, tmp_path, tokenizer, capfd, options):
  tokenizer.save(str(tmp_path / 'tokenizer.json'))
  write(tmp_path / 'a.jsonl', DOCUMENTS)
  settings = {'tokenizer.path': tmp_path / 'tokenizer.json', 'cache_dir': tmp_path / 'cache'}
  settings |= dict.fromkeys(('tokenizer.vocab_size', 'tokenizer.sample_bytes', 'tokenizer.lowercase'))
  flags = [f'--config.data.{name}={value}' for name, value in settings.items()]
  command = [f'{CONFIG}:data={tmp_path}/*.jsonl', *flags, '--runner=DirectRunner', '--', *options]
  right = (tmp_path / 'a.jsonl').read_text()
  (tmp_path / 'a.jsonl').write_text(right + '{')
  assert prepare.main(command) == 3
  printed = capfd.readouterr().err
  assert f'lmjax: {tmp_path}/a.jsonl, line 201: broken JSON' in printed and 'Traceback' not in printed
  (tmp_path / 'a.jsonl').write_text(right)
  assert prepare.main(command) == 0
  assert 'main: ' in capfd.readouterr().out
  assert not list((tmp_path / 'cache').glob('beam-*'))


@beam_test
def test_where_one_work_fails_others_are_not_begun(beam, tmp_path, tokenizer, sources, small, monkeypatch):
  tried = []

  def fail(job, work):
    tried.append(work)
    raise DataError('no such luck')

  monkeypatch.setattr(worker, 'make', fail)
  config = config_of(tmp_path / 'cache', sources)
  with (
    beam.Pipelines('DirectRunner', [], config.cache_dir) as pipelines,
    pytest.raises(DataError, match='^no such luck$'),
  ):
    find(config, tokenizer, pipelines)
  assert len(tried) == 2, 'one of them, tried twice'


@beam_test
def test_a_damaged_shard_is_named(beam, tmp_path, tokenizer, sources):
  config = config_of(tmp_path / 'cache', sources)
  with beam.Pipelines('DirectRunner', [], config.cache_dir) as pipelines:
    find(config, tokenizer, pipelines)
    shard = next((tmp_path / 'cache/shards').iterdir())
    shard.write_bytes(shard.read_bytes().replace(shard.stem.encode(), shard.stem[::-1].encode()))
    for file in (tmp_path / 'cache/listed').iterdir():
      file.unlink()
    with pytest.raises(DataError, match=rf'{shard.name}: it is the shard {shard.stem[::-1]}; .* remove the file'):
      find(config, tokenizer, pipelines)


@beam_test
def test_workers_that_see_another_cache_or_fail_otherwise(beam, tmp_path, tokenizer, sources, monkeypatch):
  config = config_of(tmp_path / 'cache', sources)
  with beam.Pipelines('DirectRunner', [], config.cache_dir) as pipelines:
    with monkeypatch.context() as patch:
      patch.setattr(beam, '_tokenise', lambda job_and_work, folder: None)
      with pytest.raises(DataError, match='what workers wrote is not here; all must see one cache'):
        find(config, tokenizer, pipelines)

    def fail(job, work):
      raise RuntimeError('no such luck')

    monkeypatch.setattr(worker, 'make', fail)
    with pytest.raises(DataError, match=r'--runner = DirectRunner: the pipeline failed \(no such luck'):
      find(config, tokenizer, pipelines)


@beam_test
@pytest.mark.parametrize(
  'runner,options,message',
  [
    ('Foo', [], '--runner = Foo: Beam refuses it .*Valid values are .*DirectRunner'),
    ('foo.Bar', [], "--runner = foo.Bar: Beam refuses it .*No module named 'foo'"),
    ('DirectRunner', ['--direct_num_worker=2'], 'no option of Beam; did you mean --direct_num_workers?'),
    (
      'DirectRunner',
      ['--direct_num_workers=x'],
      r'an option of Beam is wrong \(argument --direct_num_workers: invalid',
    ),
    ('DirectRunner', ['2'], '2: no option of Beam; give --NAME=VALUE'),
  ],
)
def test_a_runner_or_an_option_that_beam_does_not_know(beam, tmp_path, runner, options, message):
  with pytest.raises(ConfigError, match=message):
    beam.Pipelines(runner, options, str(tmp_path))
