"""Scores of a causal model on tasks of lm-evaluation-harness (`pip install -e '.[harness]'`).

python -m lmjax.harness --workdir=DIR --tasks=hellaswag,wikitext     tasks by name; the harness downloads their data
    --include=FOLDER    also tasks of one's own: https://github.com/EleutherAI/lm-evaluation-harness/tree/main/docs
    --shots=N           solved examples before each question, where the task allows any; default: the task's
    --limit=N           the first N examples of each task
    --batch=N           rows at a time, 8 unless given
    --out=FILE.json     also writes all that the harness gives
    --step=N            another checkpoint than the best (fine-tuned) or newest (pre-training)
    --mesh=N            on N devices; default: all, laid out as in training
    --dtype=D           float32 (default) or bfloat16, faster on accelerators: what is computed in
"""

import json
import pathlib
import sys
from typing import Literal

from lmjax.errors import ConfigError, DataError, reason
from lmjax.schema import command_line
from lmjax.schema.types import NonNegativeInt, PositiveInt

FLAGS = {
  'tasks': tuple[str, ...],
  'include': str,
  'shots': NonNegativeInt,
  'limit': PositiveInt,
  'batch': PositiveInt,
  'out': str,
  'step': int,
  'mesh': PositiveInt,
  'dtype': Literal['float32', 'bfloat16'],
}

# Of a public model's generation_config.json, with the values that change nothing: transformers would heed them.
_IGNORED = {'repetition_penalty': 1.0, 'no_repeat_ngram_size': 0, 'num_beams': 1, 'suppress_tokens': None}


def main(argv: list[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  return command_line.command(run, argv, __doc__, FLAGS)


def run(flags: command_line.CommandLine) -> None:
  """Runs the harness on a run's model, and prints its table."""
  given = flags.values
  if not given['tasks']:
    raise ConfigError('--tasks: missing; name tasks, such as --tasks=hellaswag')
  try:
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import handle_non_serializable, make_table
  except ImportError as error:
    raise ConfigError("--tasks: lm-evaluation-harness is not installed; pip install 'lmjax[harness]'") from error
  import jax

  from lmjax.hosts import allocator
  from lmjax.training import reopen
  from lmjax.workdir.files import out_file, write_out

  out = None if given['out'] is None else out_file(given['out'])
  if given['include'] is not None and not pathlib.Path(given['include']).is_dir():
    raise ConfigError(f'--include = {given["include"]}: no such folder; name one of task files')
  allocator.keep_freed_memory()
  manager = TaskManager(include_path=given['include'])
  if unknown := [name for name in given['tasks'] if not manager.match_tasks([name])]:
    raise ConfigError(f'--tasks = {unknown[0]}: no such task; `lm-eval ls tasks` lists them, --include adds your own')
  opened = reopen.open_run(flags.workdir, given['step'])
  model, mesh = of_run(opened, given['mesh'], given['batch'] or 8, given['dtype'] or 'float32')
  names = manager.match_tasks(list(given['tasks']))
  try:
    tasks = list(manager.load(names)['tasks'].values())
  except Exception as error:  # of the task's file, its data set, the network
    raise DataError(f'--tasks = {",".join(names)}: cannot be loaded ({reason(error)}); see its file') from error
  with jax.set_mesh(mesh):
    results = lm_eval.simple_evaluate(
      model=model,
      tasks=tasks,
      num_fewshot=given['shots'],
      limit=given['limit'],
      task_manager=manager,
      log_samples=out is not None,
    )
  print(f'{flags.workdir}: {opened.config.task}, step {opened.step}')
  print(make_table(results))
  if model.cut:
    print(
      f'lmjax: {model.cut:,} contexts lost their beginning, to fit into {model.max_length:,} tokens', file=sys.stderr
    )
  if out is not None:
    write_out(out, json.dumps(results, default=handle_non_serializable, indent=2) + '\n')


def of_run(opened, devices: int | None, batch_size: int, dtype: str):
  """(the model of a run as the harness asks for one, its mesh). Raises ConfigError: it is of another task."""
  import dataclasses

  import tokenizers

  from lmjax.hf import export, tokens
  from lmjax.hf.harness import HarnessModel
  from lmjax.training import evaluator, reopen

  task = opened.task
  if task.NAME != 'causal_lm':
    raise ConfigError(f'--workdir: {task.NAME} is no model of texts from left to right; name a run of causal_lm')
  layout, model = export.layout_of(task), task.model
  config = model.backbone.config
  params, mesh = opened.params(devices)
  origin = opened.manifest.get('origin')
  longest = config.max_length or (origin or {'config': {}})['config'].get('max_position_embeddings') or task.data.length
  devices_of_rows = mesh.shape['data'] * mesh.shape['fsdp']
  size = -(-batch_size // devices_of_rows) * devices_of_rows
  backend = tokenizers.Tokenizer.from_str(tokens.files_of(task.tokenizer, layout)[tokens.FILE].decode())
  prefix = layout.begin if layout.begin is not None else layout.end
  backend.no_padding()
  backend.no_truncation()
  given = export.given_generation(task)
  ends = given.get('eos_token_id') or ()
  ends = tuple(dict.fromkeys((layout.end, *([ends] if isinstance(ends, int) else ends))))
  if ignored := sorted(name for name, usual in _IGNORED.items() if given.get(name, usual) != usual):
    print(f'lmjax: generation_config.json: {", ".join(ignored)} has no effect here', file=sys.stderr)
  model = dataclasses.replace(model, backbone=reopen.in_dtype(model.backbone, dtype))
  return HarnessModel(model, params, backend, prefix, ends, longest, size, evaluator.Runner(mesh)), mesh


if __name__ == '__main__':
  sys.exit(main())
