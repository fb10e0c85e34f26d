"""Nothing outside lmjax/hf depends on the name of a family of public models."""

import ast
import pathlib
import re

PACKAGE = pathlib.Path(__file__).parent.parent.parent / 'lmjax'
FAMILY = re.compile(r'bert|electra|llama|gpt|gemma|qwen|mistral|smollm|phi\d|olmo|neox|pythia', re.IGNORECASE)
# Presets have names of models; the others are names that a format has.
ALLOWED = {
  'models/presets.py': FAMILY,
  **dict.fromkeys(('models/config.py', 'ops/positions.py'), re.compile('llama3')),  # a type of rotary scaling
  # types of post-processors
  **dict.fromkeys(
    ('data/tokens/published.py', 'data/tokens/fast_bpe.py'), re.compile('BertProcessing|RobertaProcessing')
  ),
}


def names_in(file: pathlib.Path) -> list[str]:
  """Identifiers and string literals, docstrings apart."""
  tree = ast.parse(file.read_text(encoding='utf-8'))
  documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
  docstrings = {
    id(node.body[0].value)
    for node in ast.walk(tree)
    if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
  }
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
      found.append(node.value)
    found += [
      getattr(node, field) for field in ('id', 'attr', 'arg', 'name') if isinstance(getattr(node, field, 0), str)
    ]
  return found


def test_no_code_outside_depends_on_a_family():
  for file in PACKAGE.rglob('*.py'):
    name = str(file.relative_to(PACKAGE))
    if not name.startswith('hf/'):
      found = [one for one in names_in(file) if FAMILY.search(one)]
      allowed = ALLOWED.get(name)
      assert [one for one in found if allowed is None or not allowed.search(one)] == [], name


def test_names_are_found_where_there_are_any():
  assert any('roberta' in name for name in names_in(PACKAGE / 'hf' / 'families.py'))
  assert 'gpt2_small' in names_in(PACKAGE / 'models' / 'presets.py')
