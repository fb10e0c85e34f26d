"""Tasks: what is trained, on what, and how the result is shown."""
