"""Checkpoints: how they are stored, verified, found and handed over."""
