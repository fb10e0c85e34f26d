"""lmjax: pre-train language models (masked or causal), hand the checkpoint over, fine-tune."""

__version__ = '0.1.0'
