"""What lmjax has trained gives the same in transformers, loaded with nothing added."""

import dataclasses

import jax
import numpy as np
import pytest

from lmjax import predict
from lmjax.inspect import masked_row
from lmjax.tasks.classification import TextLabels
from lmjax.training import reopen
from tests import runs
from tests.hf import exports
from tests.hf.exports import GOLDEN, LEARNED, SMALL, exported, fine_tuned, pre_trained, texts

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

pytestmark = [pytest.mark.slow, pytest.mark.parity]
TOLERANCE = 1e-5


def in_torch(model, tokenizer, *given):
  """What a model gives for a text, a pair, or several, padded on the right; and what it was given."""
  several = isinstance(given[0], list)
  more = dict(padding=True, padding_side='right') if several else {}
  encoded = tokenizer(*given, return_tensors='pt', **more)
  with torch.no_grad():
    return model.eval()(**encoded), {name: array.numpy() for name, array in encoded.items()}


def logits_of(trained, encoded) -> np.ndarray:
  """Ours, of the same rows."""

  @jax.jit
  def run(params):
    documents = dict(segments_BT=encoded['attention_mask'], segment_types_BT=encoded.get('token_type_ids'))
    x_BTD = trained.task.model.backbone.apply(params, encoded['input_ids'], **documents)
    return trained.task.model.logits(params, x_BTD)

  return np.asarray(run(trained.params))


def check_logits(model, tokenizer, trained) -> None:
  """Of real tokens: transformers computes something for padding, too."""
  found, encoded = in_torch(model, tokenizer, texts(12))
  difference = (found.logits.numpy() - logits_of(trained, encoded)) * encoded['attention_mask'][:, :, None]
  assert np.abs(difference).max() < TOLERANCE * max(1.0, float(found.logits.abs().max()))


def check_rows(tokenizer, task, pairs: bool) -> None:
  """Ids, types and masks of AutoTokenizer are those of the task, on 200 texts and pairs."""
  ours = texts()
  seconds = texts(seed=1) if pairs else [None] * len(ours)
  if isinstance(task, TextLabels):
    items = [{'id': str(i), 'text': a, 'text_pair': b} for i, (a, b) in enumerate(zip(ours, seconds))]
    wide = max(len(task.tokenizer.encode(a)) + len(task.tokenizer.encode(b or '')) for a, b in zip(ours, seconds)) + 8
    task = with_length(task, wide)
    rows = [task.example(row) for row in task.rows_of(items).rows]
  for number, (first, second) in enumerate(zip(ours, seconds)):
    found = tokenizer(first) if second is None else tokenizer(first, second)
    row = rows[number]
    size = int(row['segments'].sum())
    assert found['input_ids'] == row['inputs'][:size].tolist(), first
    assert found['attention_mask'] == [1] * size
    types = found.get('token_type_ids', [0] * size)
    assert types == row['segment_types'][:size].tolist()


def with_length(task, length: int):
  """The task with longer rows."""
  data = dataclasses.replace(task.data, length=length)
  return type(task)(task.model.backbone.config, task.objective, task.samples_config, data, task.tokenizer)


@pytest.mark.parametrize('preset, rows', [(None, 'concat'), (None, 'packed'), ('gpt2_small', 'concat')])
def test_texts(preset, rows, raw_config, tmp_path):
  """The default run of README in small: logits, and greedy texts through the pipeline."""
  workdir = pre_trained('causal_lm', raw_config, tmp_path, preset, **{'data.rows': rows})
  folder = exported(workdir, tmp_path / 'out')
  trained = reopen.load_run(workdir)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(folder)
  check_logits(model, tokenizer, trained)
  spec = trained.task.row_spec()
  for one in texts():
    assert tokenizer(one)['input_ids'] == [*(spec.begin or spec.end), *trained.tokenizer.encode(one)]
  prompts = ['The model', 'Snow falls in the north, §']
  pipeline = transformers.pipeline('text-generation', str(folder))
  written = pipeline(prompts, max_new_tokens=10, do_sample=False, batch_size=2, return_full_text=False)
  ids = [[*(spec.begin or spec.end), *trained.tokenizer.encode(prompt)] for prompt in prompts]
  greedy = dict(new_tokens=10, temperature=0.0, top_k=None, top_p=None)
  ours = trained.task.complete(trained.params, ids, jax.random.key(0), **greedy)
  assert [text['generated_text'] for [text] in written] == [trained.tokenizer.decode(one) for one in ours]


@pytest.mark.parametrize('preset', ['modernbert_base', 'mini_encoder', 'bert_base'])
def test_masks(preset, raw_config, tmp_path):
  workdir = pre_trained('masked_lm', raw_config, tmp_path, preset)
  folder = exported(workdir, tmp_path / 'out')
  trained = reopen.load_run(workdir)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForMaskedLM.from_pretrained(folder)
  check_logits(model, tokenizer, trained)
  prompt = 'the model reads[MASK] of text'
  row = masked_row(trained.task, prompt)
  assert tokenizer(prompt)['input_ids'] == row
  ours = trained.task.fill(trained.params, [row], 5)[0][0]
  filled = transformers.pipeline('fill-mask', str(folder))(prompt)
  assert [one['token'] for one in filled] == [token for token, _ in ours]
  np.testing.assert_allclose([one['score'] for one in filled], [p for _, p in ours], atol=TOLERANCE)


CLASSIFIERS = {
  'modernbert': ('modernbert_base', SMALL),
  'modernbert_cls': ('modernbert_base', SMALL | {'objective.pooling': 'cls'}),
  'bert': ('bert_base', LEARNED),
  'distilbert': ('bert_base', LEARNED | {'model.segment_types': None}),
  'qwen3': ('mini', SMALL),
  'gpt2': ('gpt2_small', LEARNED),
  'from_bert': (None, {'init_from.path': f'hf:{GOLDEN / "bert"}'}),
  'from_roberta': (None, {'init_from.path': f'hf:{GOLDEN / "roberta"}'}),
  'from_llama': (None, {}),
  'from_qwen': (None, {}),
}


@pytest.mark.parametrize('kind', list(CLASSIFIERS))
def test_labels(kind, tmp_path):
  preset, leaves = CLASSIFIERS[kind]
  if kind in ('from_llama', 'from_qwen'):
    leaves = {'init_from.path': f'hf:{exports.with_reserved_token(kind, tmp_path / "model")}'}
  workdir = fine_tuned('classification', tmp_path, preset, **leaves)
  folder = exported(workdir, tmp_path / 'out')
  trained = reopen.load_run(workdir)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  check_rows(tokenizer, trained.task, pairs=False)
  check_rows(tokenizer, trained.task, pairs=True)
  ours = texts(12)
  items = [{'id': str(i), 'text': text, 'text_pair': None} for i, text in enumerate(ours)]
  predicted = predictions(trained, items)
  pipeline = transformers.pipeline('text-classification', str(folder), batch_size=4, top_k=None)
  for found, prediction in zip(
    pipeline(ours, truncation=trained.task.model.backbone.config.max_length is not None), predicted
  ):
    for one in found:
      assert one['score'] == pytest.approx(prediction[one['label']], abs=TOLERANCE)


def predictions(trained, items, length: int = 128):
  """Ours, of rows as long as the position table, or `length`."""
  limit = trained.task.model.backbone.config.max_length
  task = with_length(trained.task, length if limit is None else limit)
  return predict.predict(dataclasses.replace(trained, task=task), task.rows_of(items))


@pytest.mark.parametrize('target', ['number', 'many'])
@pytest.mark.parametrize('preset', ['modernbert_base', 'bert_base'])
def test_numbers_and_many_labels(target, preset, tmp_path):
  labels = {'number': lambda i: str(3.0 + i % 5), 'many': lambda i: ('a', 'b', 'a;b', '')[i % 4]}[target]
  rows = {
    split: [(text, labels(i)) for i, text in enumerate(texts(n, s))]
    for split, n, s in (('train', 24, 0), ('valid', 8, 1))
  }
  rows = {split: [(' '.join(text.split()), label) for text, label in pairs] for split, pairs in rows.items()}
  leaves = {'objective.target': target} | ({'data.separator': ';'} if target == 'many' else {})
  leaves |= LEARNED if preset == 'bert_base' else SMALL
  raw = runs.classification_config(None, tmp_path, f'preset={preset}', rows=rows, **leaves | {'train.steps': 3})
  runs.train(raw, tmp_path / 'run')
  folder = exported(str(tmp_path / 'run'), tmp_path / 'out')
  trained = reopen.load_run(str(tmp_path / 'run'))
  ours = [' '.join(text.split()) for text in texts(8)]
  predicted = predictions(trained, [{'id': str(i), 'text': text, 'text_pair': None} for i, text in enumerate(ours)])
  pipeline = transformers.pipeline('text-classification', str(folder), top_k=None)
  for found, prediction in zip(pipeline(ours), predicted):
    if target == 'number':
      assert found[0]['score'] == pytest.approx(prediction, rel=1e-5)
    for one in found if target == 'many' else ():
      assert one['score'] == pytest.approx(prediction[one['label']], abs=TOLERANCE)


QUESTIONS = {
  'modernbert': ('modernbert_base', SMALL | {'model.segment_types': None}),
  'bert': ('bert_base', LEARNED),
  'qwen3': ('mini', SMALL | {'model.segment_types': None}),
  'from_roberta': (None, {'init_from.path': f'hf:{GOLDEN / "roberta"}', 'model.segment_types': 1}),
}


@pytest.mark.parametrize('kind', list(QUESTIONS))
def test_answers(kind, tmp_path):
  preset, leaves = QUESTIONS[kind]
  leaves = dict(leaves)
  if kind == 'bert':
    leaves['model.segment_types'] = 2
  if kind == 'from_roberta':
    patterns = ('embeddings/*', 'layers/*/kernel', 'layers/*/bias', 'layers/*/scale')
    leaves |= {'init_from.take': ','.join(patterns), 'init_from.fresh': 'span/*'}
    leaves |= {'init_from.drop': 'head/*'}
  workdir = fine_tuned('extractive_qa', tmp_path, preset, **leaves)
  folder = exported(workdir, tmp_path / 'out')
  trained = reopen.load_run(workdir)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
  record = {'id': '0', 'question': 'What § is it?', 'context': 'It returns a list, e\u0301 and more.'}
  task = with_length(trained.task, 64)
  [row] = task.rows_of([record]).rows
  batch = task.example(row)
  size = int(batch['segments'].sum())
  found, encoded = in_torch(model, tokenizer, record['question'], record['context'])
  assert encoded['input_ids'][0].tolist() == batch['inputs'][:size].tolist()
  if 'token_type_ids' in encoded:
    assert encoded['token_type_ids'][0].tolist() == batch['segment_types'][:size].tolist()
  ours = jax.jit(task.outputs)(trained.params, {name: np.asarray(array)[None] for name, array in batch.items()})
  allowed = batch['candidates'][:size] > 0
  for name in ('start', 'end'):  # ours are log-probabilities over the candidates
    theirs = torch.log_softmax(getattr(found, f'{name}_logits')[:, torch.from_numpy(allowed)], dim=-1).numpy()[0]
    mine = np.asarray(ours[name])[0, :size][allowed]
    np.testing.assert_allclose(mine - mine.max(), theirs - theirs.max(), atol=TOLERANCE)


@pytest.mark.parametrize('kind, beams', [('mini', 1), ('mini', 3), ('from_llama', 1)])
def test_summaries(kind, beams, tmp_path):
  leaves = {} if kind == 'from_llama' else dict(SMALL)
  leaves |= {'objective.decoding.beams': beams, 'objective.decoding.length_penalty': 1.0 if beams > 1 else None}
  leaves |= {'objective.decoding.no_repeat_ngram': None, 'objective.decoding.temperature': 0.0}
  source = f'hf:{GOLDEN / "llama_3_1"}' if kind == 'from_llama' else None
  workdir = fine_tuned('summarization', tmp_path, None if source else kind, source, **leaves)
  folder = exported(workdir, tmp_path / 'out')
  trained = reopen.load_run(workdir)
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(folder)
  documents = [text[:60] for text in texts(6)]
  task = with_length(trained.task, 128)
  items = [{'id': str(i), 'document': document} for i, document in enumerate(documents)]
  prompts = [task.prompt(task.tokenizer.encode(document)) for document in documents]
  assert tokenizer(documents)['input_ids'] == prompts
  encoded = tokenizer(documents, padding=True, return_tensors='pt')
  with torch.no_grad():
    made = model.generate(**encoded)[:, encoded['input_ids'].shape[1] :]
  ours = predict.predict(dataclasses.replace(trained, task=task), task.rows_of(items))
  assert [text.strip() for text in tokenizer.batch_decode(made, skip_special_tokens=True)] == ours


IMPORTED = sorted(folder.name for folder in GOLDEN.iterdir() if (folder / 'tokenizer.json').exists())


@pytest.mark.parametrize('name', IMPORTED)
def test_what_was_imported_loads_as_it_was(name, raw_config, tmp_path):
  """Exported unchanged: its config loads as the original's, and gives the same logits."""
  task = 'causal_lm' if name in ('llama_3_1', 'qwen3') else 'masked_lm'
  leaves = {'init_from.path': f'hf:{GOLDEN / name}', 'train.steps': 0, 'data.length': 32}
  runs.train(raw_config(task, **leaves), tmp_path / 'run')
  folder = exported(str(tmp_path / 'run'), tmp_path / 'out')
  kind = transformers.AutoModelForCausalLM if task == 'causal_lm' else transformers.AutoModelForMaskedLM
  models = [kind.from_pretrained(where, dtype=torch.float32) for where in (GOLDEN / name, folder)]
  tokenizers = [transformers.AutoTokenizer.from_pretrained(where) for where in (GOLDEN / name, folder)]
  first, second = (in_torch(model, tok, 'a short text')[0] for model, tok in zip(models, tokenizers))
  assert torch.equal(first.logits, second.logits)
  for one in exports.texts(60):
    assert tokenizers[0](one) == tokenizers[1](one)
