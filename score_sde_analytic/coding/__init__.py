"""Lossless files at the rate that a chain's bound promises: bits back, in the order that a Markov chain allows."""

from score_sde_analytic.coding.codec import Codec, Compressed, header_of
from score_sde_analytic.coding.exact import exact_model, settled
from score_sde_analytic.coding.exact_arithmetic import ExactArithmetic

__all__ = ["Codec", "Compressed", "ExactArithmetic", "exact_model", "header_of", "settled"]
