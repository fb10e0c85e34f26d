"""A corpus as tokens: shards, what stands of them, and who makes them."""
