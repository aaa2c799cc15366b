"""Likelihoods: variational bounds of any number of steps, measured and priced, and the probability-flow ODE."""

from score_sde_analytic.likelihood.bound import BITS, BitsPerDim, Bound, Priced
from score_sde_analytic.likelihood.chain import Chain, paper_chain
from score_sde_analytic.likelihood.continuous import ContinuousTime
from score_sde_analytic.likelihood.divergence import Divergence, ExactTrace, Hutchinson
from score_sde_analytic.likelihood.entries import Diffused, Direct, Entered, Entry, Gate, Uniform
from score_sde_analytic.likelihood.evaluation import bits_per_dim
from score_sde_analytic.likelihood.flow import Flow
from score_sde_analytic.likelihood.method import Method
from score_sde_analytic.likelihood.priced import Priceable, price
from score_sde_analytic.likelihood.variance import TimesPerExample, VarianceOfBound, times_per_example, variance_of_bound
from score_sde_analytic.models.ode_solvers import Adaptive, Fixed

__all__ = [
    "BITS",
    "Adaptive",
    "BitsPerDim",
    "Bound",
    "Chain",
    "ContinuousTime",
    "Diffused",
    "Direct",
    "Divergence",
    "Entered",
    "Entry",
    "ExactTrace",
    "Fixed",
    "Flow",
    "Gate",
    "Hutchinson",
    "Method",
    "Priceable",
    "Priced",
    "TimesPerExample",
    "Uniform",
    "VarianceOfBound",
    "bits_per_dim",
    "paper_chain",
    "price",
    "times_per_example",
    "variance_of_bound",
]
