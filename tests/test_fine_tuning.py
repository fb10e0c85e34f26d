"""Fine-tuning: what moves, when it ends, which checkpoint counts, and what the examples become."""
