"""Scores of predictions against references, from text and numbers alone: no model, no JAX."""
