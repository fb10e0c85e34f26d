"""Doors to the world's models: Hugging Face folders in, and out."""
