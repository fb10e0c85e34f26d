#!/usr/bin/env bash
# beam_direct_runner_is_prism: a pipeline that names DirectRunner is given to PrismRunner first, so the same line runs on one
# engine or on another. One would expect the runner that is part of the Python package, as its name has always meant. But
# `DirectRunner` is SwitchingDirectRunner: it asks PrismRunner (a program of its own, which is fetched where there is none) for all
# that Prism supports, plain Create, Map and GroupByKey among it, and takes the package's own runner where that fails, which
# the log says at the level INFO alone. A pipeline that says --allow_unsafe_triggers, though it has no triggers, stays in the package.
# Seen with apache-beam 2.77.0 on Python 3.11.7, on 2026-11-30. Output:
#   --runner=DirectRunner: PrismRunner is asked, result [('a', 2), ('b', 1)]
#   --runner=DirectRunner --allow_unsafe_triggers: PrismRunner is not asked, result [('a', 2), ('b', 1)]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q apache-beam==2.77.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability import prism_runner

asked = []


class Noted(prism_runner.PrismRunner):
  """Stands for a machine that cannot reach the network: nothing is downloaded."""

  def run_pipeline(self, pipeline, options):
    asked.append(options)
    raise RuntimeError('there is no program')


prism_runner.PrismRunner = Noted
found = []
for words in (['--runner=DirectRunner'], ['--runner=DirectRunner', '--allow_unsafe_triggers']):
  del asked[:]
  with beam.Pipeline(options=PipelineOptions(words)) as pipeline:
    pairs = pipeline | beam.Create(['a', 'b', 'a']) | beam.Map(lambda letter: (letter, 1))
    counted = pairs | beam.GroupByKey() | beam.MapTuple(lambda letter, ones: (letter, sum(ones)))
    counted | beam.combiners.ToList() | beam.Map(lambda rows: open('result', 'w').write(repr(sorted(rows))))
  found.append((bool(asked), open('result').read()))
  print(f'{" ".join(words)}: PrismRunner is {"" if asked else "not "}asked, result {found[-1][1]}')
assert found == [(True, "[('a', 2), ('b', 1)]"), (False, "[('a', 2), ('b', 1)]")], 'this has changed'
PYTHON
