"""Model shapes, layers and heads: the only place where Flax is used."""
