"""Tokenizers and token stores."""
