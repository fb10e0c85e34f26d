"""Rows, their order, and batches."""
