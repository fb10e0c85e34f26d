"""Training of language models with torch, from the same batches and settings. Needs the `parity` extra."""

import numpy as np
import torch

LABEL_IGNORED = -100  # by the losses of transformers


def tensor(array):
  return torch.from_numpy(np.ascontiguousarray(array).astype(np.int64))


def causal_batch(batch: dict) -> dict:
  """What transformers takes for a batch of `causal_lm`: it shifts labels itself, so rows are one token longer."""
  row = np.concatenate([batch['inputs'], batch['targets'][:, -1:]], axis=1)
  assert (row[:, 1:] == batch['targets']).all()
  labels = np.concatenate([row[:, :1], np.where(batch['weights'] > 0, batch['targets'], LABEL_IGNORED)], axis=1)
  return dict(input_ids=tensor(row), labels=tensor(labels))


def masked_batch(batch: dict) -> dict:
  """What transformers takes for a batch of `masked_lm`."""
  labels = np.full_like(batch['inputs'], LABEL_IGNORED)
  row, slot = np.nonzero(batch['weights'])
  labels[row, batch['slots'][row, slot]] = batch['targets'][row, slot]
  visible = batch['segments'] > 0 if 'segments' in batch else np.ones_like(labels)
  return dict(input_ids=tensor(batch['inputs']), attention_mask=tensor(visible), labels=tensor(labels))


def train_torch(settings, model, batches: list[dict]) -> np.ndarray:
  """The loss of each step with the AdamW of torch; `settings` are those of `optim`, of a warm-up and a cosine."""
  embeddings = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
  decayed = [p for p in model.parameters() if p.ndim == 2 and not any(p is table for table in embeddings)]
  rest = [p for p in model.parameters() if not any(p is other for other in decayed)]
  groups = [dict(params=decayed, weight_decay=settings.weight_decay), dict(params=rest, weight_decay=0.0)]
  adamw = dict(lr=settings.learning_rate, betas=(settings.b1, settings.b2), eps=settings.eps)
  optimizer = torch.optim.AdamW(groups, **adamw)
  warmup, final = settings.warmup_steps, settings.final_rate

  def factor(step):  # linear rise, then a cosine down to `final`
    if step < warmup:
      return (step + 1) / warmup
    return final + (1 - final) * (1 + np.cos(np.pi * (step - warmup) / (len(batches) - warmup))) / 2

  schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
  losses = []
  for batch in batches:
    loss = model(**batch).loss
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    optimizer.step()
    schedule.step()
    losses.append(loss.item())
  return np.array(losses)
