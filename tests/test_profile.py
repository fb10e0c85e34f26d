"""Traces of training steps, read back, and the seconds of each part of a run."""

import glob
import json
import pathlib

import jax
import pytest

from tests import runs


def steps_in(workdir) -> tuple[list[int], set[str]]:
  """The steps that a trace names, and the names of everything in it."""
  [file] = glob.glob(f'{workdir}/profile/plugins/profile/*/*.xplane.pb')
  trace = jax.profiler.ProfileData.from_file(file)
  events = [event for plane in trace.planes for line in plane.lines for event in line.events]
  return sorted(dict(e.stats)['step_num'] for e in events if e.name == 'train'), {e.name for e in events}


@pytest.mark.slow
def test_a_trace_names_the_train_step(raw_config, tmp_path):
  said = []
  changes = {'profile.start': 2, 'profile.steps': 3}
  runs.train(raw_config('causal_lm', **changes), tmp_path / 'run', log=said.append)
  steps, names = steps_in(tmp_path / 'run')
  assert steps == [2, 3, 4]
  assert any('train_step' in name for name in names)
  assert any(f'step 4: trace in {tmp_path}/run/profile' in line and 'xprof' in line for line in said)


def test_no_trace_unasked_and_the_parts_of_the_time_are_told(raw_config, tmp_path_factory):
  workdir = pathlib.Path(runs.pre_trained('masked_lm', raw_config, tmp_path_factory))
  assert not (workdir / 'profile').exists()
  kept = json.loads((workdir / 'results.json').read_text())
  assert set(kept['time']) == {'compile', 'input', 'step', 'evaluate', 'checkpoint'}
  assert all(seconds > 0 for seconds in kept['time'].values())
  # the steps and what they waited for are the seconds of training that metrics.jsonl counts
  assert abs(kept['time']['input'] + kept['time']['step'] - kept['seconds']) < 0.01
  assert '\ntime: compile ' in (workdir.parent / 'log.txt').read_text()


@pytest.mark.slow
def test_a_trace_that_the_run_ends_within_is_written(raw_config, tmp_path):
  changes = {'profile.start': 5, 'profile.steps': 100}
  runs.train(raw_config('causal_lm', **changes), tmp_path / 'run')
  assert steps_in(tmp_path / 'run')[0] == [5, 6]
