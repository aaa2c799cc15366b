"""Lossless files at the rate that a chain's bound promises: bits back, in the order that a Markov chain allows."""

from score_sde_analytic.coding.codec import Codec, Compressed, header_of

__all__ = ["Codec", "Compressed", "header_of"]
