"""Lossless files at the rate that a chain's bound promises: bits back, in the order that a Markov chain allows."""

__all__: list[str] = []
