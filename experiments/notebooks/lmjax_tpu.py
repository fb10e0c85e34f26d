# ---
# jupyter:
#   accelerator: TPU
#   colab:
#     provenance: []
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Pre-train a language model, hand it over, fine-tune it
#
# On a CPU, GPU or TPU runtime, in minutes. Nothing is downloaded but packages: the text is Python's own documentation,
# and the labelled examples come with the code. In Colab: *Runtime > Change runtime type > TPU*, then *Run all*.
#
# Pre-training gives general knowledge once; fine-tuning, with far less labelled data, makes it precise.

# %% [markdown]
# ## Install
#
# Colab brings a jax that belongs to its accelerator. It is left as it is: pip is told the versions that are there, and
# chooses the rest to go with them.

# %%
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tempfile

REPOSITORY = ''  # @param {type:"string"} address to clone, where this notebook was opened without its checkout

here = pathlib.Path.cwd()
folder = next((p for p in [here / 'lmjax', here, *here.parents] if (p / 'lmjax' / 'main.py').exists()), None)
if folder is None:
  assert REPOSITORY, 'set REPOSITORY above to the address of the lmjax repository, and run this cell again'
  subprocess.run(['git', 'clone', '--depth=1', REPOSITORY, 'lmjax'], check=True)
  folder = here / 'lmjax'
os.chdir(folder)


def versions():
  """Of jax and what belongs to it: jaxlib, libtpu, the plugins of GPUs."""
  there = importlib.metadata.distributions()
  return {d.name: d.version for d in there if d.name.lower().startswith(('jax', 'libtpu'))}


before = versions()
with tempfile.NamedTemporaryFile('w', suffix='.txt') as constraints:
  constraints.writelines(f'{name}=={version}\n' for name, version in before.items())
  constraints.flush()
  pip = [sys.executable, '-m', 'pip', 'install', '-qq', '--constraint', constraints.name, '--editable', '.']
  subprocess.run(pip, check=True)
assert before.items() <= versions().items(), (before, versions())
sys.path.insert(0, str(folder))  # an editable install is found by new processes alone
before

# %% [markdown]
# ## Devices

# %%
import jax

jax.devices()

# %% [markdown]
# ## Pre-train
#
# A config file is Python: its `get_config` gives a `ConfigDict`, of which any leaf can be changed. *Interrupt
# execution* saves the run at its next step; the same cell again goes on from there.

# %%
from lmjax.schema.command_line import load_config_file
from lmjax.train import train

config = load_config_file('configs/pretrain_clm.py')
config.train.steps = 200
config.train.log_every = 25
pretrained = train(config, 'runs/notebook_clm')

# %% [markdown]
# The loss, and bits per byte of documents that it has not seen; dashed: what `gzip -9` needs.

# %%
from IPython.display import Image

Image('runs/notebook_clm/curves.png')

# %% [markdown]
# ## Generate
#
# Each command of lmjax is a function too: `run` takes the words of the command line.

# %%
from lmjax import inspect as lmjax_inspect

assert lmjax_inspect.main(['--workdir=runs/notebook_clm', '--prompt=Return the list of']) == 0

# %% [markdown]
# ## Fine-tune, with hand-off
#
# The same weights, a new head, 600 labelled sentences. Every parameter of both sides is accounted for: taken, resized,
# fresh or dropped.

# %%
config = load_config_file('configs/finetune_sentiment.py', 'demo')
config.init_from.path = 'runs/notebook_clm'
config.train.log_every = 25
finetuned = train(config, 'runs/notebook_sentiment')

# %%
Image('runs/notebook_sentiment/curves.png')

# %%
Image('runs/notebook_sentiment/confusion_test.png')

# %% [markdown]
# Did pre-training help? The control has the same model and tokenizer, and random weights (`take=()`).

# %%
config.init_from.take = ()
control = train(config, 'runs/notebook_control', log=lambda line: None)
for name, results in (('pre-trained', finetuned), ('random weights', control)):
  print(f'{name}: test accuracy {results["metrics"]["test/accuracy"]:.3f}')

# %% [markdown]
# ## Predict

# %%
from lmjax import predict as lmjax_predict

sentences = ['The examples are clear and correct.', 'This function is slow and its name is misleading.']
assert lmjax_predict.main(['--workdir=runs/notebook_sentiment', *sentences]) == 0

# %% [markdown]
# ## Inspect
#
# Parameters by group, and the tokens whose embeddings lie nearest to a word's.

# %%
assert lmjax_inspect.main(['--workdir=runs/notebook_clm', '--neighbors=list,error,True']) == 0

# %% [markdown]
# ## From here
#
# * Your own text: `load_config_file('configs/pretrain_clm.py', 'data=mytext/*.txt')`; a larger model:
#   `preset=gpt2_small`.
# * Does it fit a TPU that you have not rented? `python -m lmjax.main --config=... --dry_run=v5e:2x4`.
# * Where does a step's time go? `config.profile.start = 10`, then xprof on `runs/.../profile`.
# * `docs/tpu_vm.md`: TPU VMs, pod slices, spot VMs. `docs/new_task.md`: a task of your own.
