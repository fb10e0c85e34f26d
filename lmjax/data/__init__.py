"""From text to batches: sources, tokenizer, token store, row layouts, transforms, pipeline. NumPy only, no
JAX."""
