"""The launch scripts: what they would do, that docs/tpu_vm.md says the same, and that a spot run is kept going."""

import os
import pathlib
import re
import shlex
import shutil
import stat
import subprocess
import sys

import pytest

from tests.conftest import ROOT

LAUNCH = ROOT / 'experiments' / 'launch'
PAGE = ROOT / 'docs' / 'tpu_vm.md'
BUCKET = 'gs://bucket/run'
ACTIONS = {
  'tpu_vm.sh': ['create', 'install', 'start', 'logs', 'status', 'stop', 'delete'],
  'tpu_pod.sh': ['create', 'install', 'start', 'logs', 'status', 'stop', 'delete'],
  'tpu_slices.sh': ['create', 'install', 'start', 'logs', 'status', 'stop', 'delete'],
  'tpu_spot.sh': ['keep', 'status', 'delete'],
  'slurm_gpu.sh': [''],
}


def launch(*command, cwd=ROOT, **environment):
  """Runs a command where no real gcloud, git or srun can be reached unless the test makes one."""
  kept = {name: os.environ[name] for name in ('PATH', 'HOME') if name in os.environ}
  environment = kept | {'BUNDLE': '/tmp/lmjax.bundle'} | environment
  return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60)


def would(script, action, **environment) -> list[list[str]]:
  """The commands that a dry run prints, as words."""
  words = [action] if action else []
  done = launch(str(LAUNCH / script), *words, '--dry_run', WORKDIR=BUCKET, **environment)
  assert (done.returncode, done.stderr) == (0, ''), done
  return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize('script,action', [(script, action) for script in ACTIONS for action in ACTIONS[script]])
def test_a_dry_run_prints_commands_and_runs_none(script, action, tmp_path):
  """With no program of those names on the PATH: anything that ran would fail."""
  only = tmp_path / 'bin'
  only.mkdir()
  for name in ('bash', 'dirname', 'sed', 'seq', 'env', 'git'):
    (only / name).symlink_to(shutil.which(name))
  commands = would(script, action, PATH=str(only), SOURCE='/checkout')
  assert commands
  for command in commands:
    assert command[0] in ('gcloud', 'git', 'srun'), command
    if command[:4] == ['gcloud', 'compute', 'tpus', 'tpu-vm'] and command[4] == 'ssh' and 'lmjax.main' in command[-1]:
      for part in re.findall(r'"([^"]*)"', command[-1]):
        assert subprocess.run(['bash', '-n', '-c', part]).returncode == 0


def test_every_script_is_known_and_can_be_run():
  scripts = {path.name for path in LAUNCH.glob('*.sh')} - {'settings.sh'}
  assert scripts == set(ACTIONS)
  assert all(os.stat(LAUNCH / name).st_mode & stat.S_IXUSR for name in scripts)


@pytest.mark.slow
def test_shellcheck_finds_nothing():
  checker = pathlib.Path(sys.executable).with_name('shellcheck')  # comes with the extra `dev`
  done = launch(str(checker), '--external-sources', *map(str, sorted(LAUNCH.glob('*.sh'))), cwd=LAUNCH)
  assert (done.returncode, done.stdout) == (0, '')


def test_the_same_command_goes_to_every_host_and_slice():
  pod = would('tpu_pod.sh', 'start', CONFIG='configs/pretrain_mlm.py')
  [ssh] = pod
  assert '--worker=all' in ssh
  assert f'.venv/bin/python -m lmjax.main --config=configs/pretrain_mlm.py --workdir={BUCKET} ' in ssh[-1]
  slices = would('tpu_slices.sh', 'start', SLICES='3', TPU='mine')
  assert [command[5] for command in slices] == ['mine-0', 'mine-1', 'mine-2']
  assert len({command[-1] for command in slices}) == 1
  [created] = would('tpu_slices.sh', 'create', SLICES='3', TPU='mine')
  assert {'--node-count=3', '--node-prefix=mine'} <= set(created)


def test_names_and_versions_stand_in_one_place():
  """No script but settings.sh says a zone, an image, a kind of machine (but a pod's and a slice's own) or a version."""
  settings = (LAUNCH / 'settings.sh').read_text(encoding='utf-8')
  for value in ('us-west4-a', 'v2-alpha-tpuv5-lite', '3.12', 'astral.sh'):
    assert value in settings
    assert [path.name for path in LAUNCH.glob('*.sh') if value in path.read_text(encoding='utf-8')] == ['settings.sh']


@pytest.mark.parametrize(
  'command,said',
  [
    (['tpu_vm.sh', 'fly'], "unknown action 'fly'"),
    (['tpu_vm.sh', '--fast', 'create'], 'unknown flag --fast'),
    (['tpu_vm.sh', 'create', 'start'], 'one action at a time'),
    (['tpu_pod.sh', 'start'], 'WORKDIR=runs/lmjax: must be a gs:// folder'),
    (['tpu_slices.sh', 'start'], 'WORKDIR=runs/lmjax: must be a gs:// folder'),
    (['tpu_spot.sh', 'keep'], 'WORKDIR=runs/lmjax: must be a gs:// folder'),
  ],
)
def test_mistakes_are_reported(command, said):
  done = launch(str(LAUNCH / command[0]), *command[1:], '--dry_run')
  assert done.returncode == 2 and done.stdout == '' and said in done.stderr


def test_the_page_shows_what_the_scripts_do():
  """Each command of the page that starts with `$` and ends with --dry_run is followed by what it prints."""
  shown = []
  for block in re.findall(r'```\n(.*?)```', PAGE.read_text(encoding='utf-8'), flags=re.DOTALL):
    for command, output in re.findall(r'^\$ (.*--dry_run)\n((?:(?!\$ ).*\n)*)', block, flags=re.MULTILINE):
      done = launch('bash', '-c', command, SOURCE='.')
      assert done.stdout == output and done.returncode == 0, command
      shown.append(command)
    for line in block.splitlines():
      if 'experiments/launch/' in line and '--dry_run' not in line and not line.startswith('sbatch'):
        assert launch('bash', '-c', f'{line} --dry_run').returncode == 0, line
  assert {word for command in shown for word in command.split() if word.endswith('.sh')} == {
    f'experiments/launch/{name}' for name in ACTIONS
  }


FAKE_GCLOUD = r"""#!/usr/bin/env bash
# A queue in a folder: `state` holds what `describe` says; taken away once, after the first start.
cd "$(dirname "$0")/.."
case "$*" in
  *"queued-resources describe"*) cat state 2>/dev/null || exit 1 ;;
  *"queued-resources create"*) echo create >> log; echo ACTIVE > state ;;
  *"queued-resources delete"*) echo delete >> log; rm state ;;
  *"tpu-vm scp"*) ;;
  *"storage ls"*) [ "$(grep -c start log 2>/dev/null)" = "${STARTS_TO_DONE-2}" ] ;;
  *has-session*) exit 1 ;;
  *"tail -n"*) echo "out of memory" ;;
  *"new-session"*) echo start >> log; [ -n "$CRASHES" ] || [ "$(grep -c start log)" = 2 ] || echo SUSPENDED > state ;;
  *astral*) echo install >> log ;;
  *"git init"*) ;;
  *) echo "unknown: $*" >&2; exit 1 ;;
esac
"""


def keep(tmp_path, **environment):
  (tmp_path / 'bin').mkdir()
  for name, text in (('gcloud', FAKE_GCLOUD), ('git', '#!/bin/sh\n')):
    (tmp_path / 'bin' / name).write_text(text)
    (tmp_path / 'bin' / name).chmod(0o755)
  path = f'{tmp_path}/bin:{os.environ["PATH"]}'
  return launch(str(LAUNCH / 'tpu_spot.sh'), 'keep', PATH=path, WORKDIR=BUCKET, POLL_SECONDS='0', **environment)


def test_a_spot_run_is_asked_for_again_until_it_is_done(tmp_path):
  done = keep(tmp_path)
  assert (done.returncode, done.stderr) == (0, '')
  once = ['create', 'install', 'start', 'delete']
  assert (tmp_path / 'log').read_text().split() == once + once


@pytest.mark.parametrize('there', [True, False])
def test_a_spot_run_that_is_done_rents_nothing(tmp_path, there):
  if there:
    (tmp_path / 'state').write_text('ACTIVE')
  done = keep(tmp_path, STARTS_TO_DONE='')
  assert done.returncode == 0 and 'this run is done; to go on with more steps, remove that file first' in done.stderr
  assert (tmp_path / 'log').exists() == there and not (tmp_path / 'state').exists()


def test_a_spot_run_that_ends_again_and_again_is_given_up_and_the_machine_given_back(tmp_path):
  done = keep(tmp_path, CRASHES='yes', STARTS_TO_DONE='never')
  assert done.returncode == 1 and 'ended 3 times' in done.stderr and 'out of memory' in done.stderr
  assert (tmp_path / 'log').read_text().split() == ['create', *['install', 'start'] * 3, 'delete']


def test_machines_can_be_given_back_without_a_workdir_and_flags_reach_the_run(tmp_path):
  for script in ('tpu_pod.sh', 'tpu_slices.sh', 'tpu_spot.sh'):
    done = launch(str(LAUNCH / script), 'delete', '--dry_run')
    assert done.returncode == 0 and ' delete lmjax ' in done.stdout
    assert launch(str(LAUNCH / script), '--help').stdout.count(script) == 1
  [ssh] = would(
    'tpu_vm.sh', 'start', FLAGS='--config.mesh.fsdp=8 --config.train.steps=9', CONFIG='c.py:data=/x/{a,b}*.txt'
  )
  words = shlex.split(shlex.split(ssh[-1].partition('=')[2])[-1])
  assert words[3:] == [
    '--config=c.py:data=/x/{a,b}*.txt',
    f'--workdir={BUCKET}',
    '--config.mesh.fsdp=8',
    '--config.train.steps=9',
    '>>lmjax.log',
    '2>&1',
  ]


FAKE_SRUN = r"""#!/usr/bin/env bash
trap 'echo saved >> log; exit 143' TERM
echo $$ > pid
echo "$*" > command
echo started >> log
while true; do sleep 0.1; done
"""


def test_a_slurm_job_saves_before_its_limit_and_queues_itself_again(tmp_path):
  """USR1, as SLURM sends it before the limit, becomes SIGTERM for the run and a requeue once that has ended."""
  (tmp_path / 'bin').mkdir()
  fakes = {
    'srun': FAKE_SRUN,
    'scancel': '#!/bin/sh\necho "$*" >> scancel\nkill -TERM $(cat pid)\n',
    'scontrol': '#!/bin/sh\necho "$*" >> log\n',
  }
  for name, text in fakes.items():
    (tmp_path / 'bin' / name).write_text(text)
    (tmp_path / 'bin' / name).chmod(0o755)
  # SLURM runs a copy of the script, elsewhere
  shutil.copy(LAUNCH / 'slurm_gpu.sh', tmp_path / 'job.sh')
  environment = {'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}', 'SLURM_JOB_ID': '7', 'SLURM_SUBMIT_DIR': str(ROOT)}
  script = './job.sh & job=$!; until grep -q started log 2>/dev/null; do sleep 0.1; done; kill -USR1 $job; wait $job'
  done = launch('bash', '-c', script, cwd=tmp_path, WORKDIR='/shared/run', **environment)
  assert done.returncode == 0, done
  assert (tmp_path / 'log').read_text().splitlines() == ['started', 'saved', 'requeue 7']
  assert (tmp_path / 'scancel').read_text() == '--signal=TERM 7.0\n'
  assert (tmp_path / 'command').read_text().endswith('--workdir=/shared/run\n')
