"""From text to batches: sources, tokenizer, token shards, row layouts, transforms, pipeline. NumPy only, no
JAX."""
