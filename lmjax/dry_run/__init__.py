"""Whether a run fits, before devices are rented."""
