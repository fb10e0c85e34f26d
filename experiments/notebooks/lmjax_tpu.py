# ---
# jupyter:
#   accelerator: TPU
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
# On a CPU, a GPU or a TPU runtime, in minutes, with [lmjax](../../README.md). Nothing is downloaded but packages: the
# text is Python's own documentation. In Colab: *Runtime > Change runtime type > TPU*, then *Run all*.

# %% [markdown]
# ## Install
#
# Colab brings a jax that belongs to its accelerator. It is left as it is: pip is told its version as a constraint, and
# chooses the rest to go with it.

# %%
import importlib.metadata
import os
import pathlib
import subprocess
import sys

# The checkout: this notebook's own, or REPOSITORY cloned (Colab opens a notebook without the files around it).
REPOSITORY = os.environ.get('LMJAX_REPOSITORY', '')
folder = next(
  (p for p in [pathlib.Path.cwd(), *pathlib.Path.cwd().parents] if (p / 'lmjax' / 'main.py').exists()), None
)
if folder is None:
  subprocess.run(['git', 'clone', '--depth=1', REPOSITORY, 'lmjax'], check=True)
  folder = pathlib.Path.cwd() / 'lmjax'
os.chdir(folder)

kept = ('jax', 'jaxlib', 'libtpu')
versions = {name: importlib.metadata.version(name) for name in kept if importlib.util.find_spec(name)}
pathlib.Path('/tmp/constraints.txt').write_text(''.join(f'{name}=={version}\n' for name, version in versions.items()))
subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '-c', '/tmp/constraints.txt', '-e', '.'], check=True)
sys.path.insert(0, str(folder))
versions

# %% [markdown]
# ## Devices

# %%
import jax

jax.devices()

# %% [markdown]
# ## Pre-train
#
# A config file is Python; its `get_config` gives a `ConfigDict`, of which any leaf can be changed. The run prints a
# line every few steps. *Interrupt execution* saves; the same cell again goes on where it stopped.

# %%
from lmjax.command_line import load_config_file
from lmjax.train import train

config = load_config_file('configs/pretrain_clm.py')
results = train(config, 'runs/notebook_clm')

# %%
from IPython.display import Image

Image('runs/notebook_clm/curves.png')
