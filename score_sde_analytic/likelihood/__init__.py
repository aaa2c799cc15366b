"""Likelihoods: variational bounds of K-step chains."""

from score_sde_analytic.likelihood.bound import Bound, Chain, Part, measure, paper_chain, predict

__all__ = ["Bound", "Chain", "Part", "measure", "paper_chain", "predict"]
