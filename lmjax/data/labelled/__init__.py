"""Labelled examples as tables: what their fields hold, columns, splits, and what is kept from one start to the next."""
