"""Array functions in JAX alone."""
