"""From the command line and a ConfigDict to validated slices."""
