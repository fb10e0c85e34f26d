"""Scores of a causal model on tasks of lm-evaluation-harness (`pip install -e '.[harness]'`).

python -m lmjax.harness --workdir=DIR --tasks=hellaswag,wikitext     tasks by name; the harness downloads their data
    --include=FOLDER    also tasks of one's own: https://github.com/EleutherAI/lm-evaluation-harness/tree/main/docs
    --shots=N           solved examples before each question; default: the task's
    --limit=N           the first N examples of each task
    --batch=N           rows at a time, 8 unless given
    --out=FILE.json     also writes all that the harness gives
    --step=N            another checkpoint than the best (fine-tuned) or newest (pre-training)
    --mesh=N            on N devices; default: all, laid out as in training
"""

import json
import sys

from lmjax.errors import ConfigError
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
}


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
    from lm_eval.utils import make_table
  except ImportError as error:
    raise ConfigError("--tasks: lm-evaluation-harness is not installed; pip install 'lmjax[harness]'") from error
  import jax

  from lmjax.hosts import allocator
  from lmjax.training import reopen
  from lmjax.workdir.files import out_file, write_out

  out = None if given['out'] is None else out_file(given['out'])
  allocator.keep_freed_memory()
  manager = TaskManager(include_path=given['include'])
  if unknown := [name for name in given['tasks'] if not manager.match_tasks([name])]:
    raise ConfigError(f'--tasks = {unknown[0]}: no such task; `lm-eval ls tasks` lists them, --include adds your own')
  opened = reopen.open_run(flags.workdir, given['step'])
  model, mesh = of_run(opened, given['mesh'], given['batch'] or 8)
  with jax.set_mesh(mesh):
    results = lm_eval.simple_evaluate(
      model=model,
      tasks=list(given['tasks']),
      num_fewshot=given['shots'],
      limit=given['limit'],
      task_manager=manager,
      log_samples=out is not None,
    )
  print(f'{flags.workdir}: {opened.config.task}, step {opened.step}')
  print(make_table(results))
  if out is not None:
    write_out(out, json.dumps(results, default=str, indent=2) + '\n')


def of_run(opened, devices: int | None, batch_size: int):
  """(the model of a run as the harness asks for one, its mesh). Raises ConfigError: it writes no texts."""
  from lmjax.hf import export
  from lmjax.hf.harness import HarnessModel
  from lmjax.models.heads import LanguageModel
  from lmjax.training import evaluator

  task, config = opened.task, opened.task.model.backbone.config
  if not isinstance(task.model, LanguageModel) or config.attention != 'causal':
    raise ConfigError(
      f'--workdir: {opened.config.task} is no model of texts from left to right; name a run of causal_lm'
    )
  layout = export.layout_of(task)
  params, mesh = opened.params(devices)
  origin = opened.manifest.get('origin')
  longest = config.max_length or (origin or {'config': {}})['config'].get('max_position_embeddings') or task.data.length
  rows = mesh.shape['data'] * mesh.shape['fsdp']
  size = -(-batch_size // rows) * rows
  begin = (
    layout.single.begin if layout.single is not None else task.tokenizer.frame.begin if task.tokenizer.frame else ()
  )
  prefix = layout.begin if layout.begin is not None else layout.end
  run_ = evaluator.Runner(mesh)
  return HarnessModel(task.model, params, task.tokenizer, begin, prefix, layout.end, longest, size, run_), mesh


if __name__ == '__main__':
  sys.exit(main())
