"""A task: a model, an objective, what becomes of a row, and how the result is shown.

Every task offers `init`, `axes`, `loss`, `row_spec`, `example`, `eval_example`, `samples` and the class attributes
`NAME`, `BEST` (the validation metric that checkpoints are ranked by; lower is better) and `MAIN_METRIC` (plotted).
"""

from lmjax.tasks.causal_lm import CausalLM
from lmjax.tasks.masked_lm import MaskedLM

TASKS = {'causal_lm': CausalLM, 'masked_lm': MaskedLM}


def build(config, tokenizer):
  """The task of a Config, for a tokenizer."""
  return TASKS[config.task](config.model, config.objective, config.samples, config.data, tokenizer)
