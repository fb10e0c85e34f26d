"""Where text and labelled examples come from."""
