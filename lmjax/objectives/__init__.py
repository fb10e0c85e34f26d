"""The loss functions: pure in (params, batch, key), sums and weights out."""
