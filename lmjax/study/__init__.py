"""Studies: runs in stages, compared."""
