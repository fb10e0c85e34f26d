"""Hand-off: the plan, what is refused and why, and that what is taken is what was there."""
