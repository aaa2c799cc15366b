"""Likelihoods: variational bounds of any number of steps, measured and predicted, and the probability-flow ODE."""

from score_sde_analytic.likelihood.bound import BITS, Bound, Part, Predicted
from score_sde_analytic.likelihood.chain import Chain, paper_chain
from score_sde_analytic.likelihood.continuous import ContinuousTime
from score_sde_analytic.likelihood.evaluation import Method, bits_per_dim
from score_sde_analytic.likelihood.flow import Diffused, Direct, ExactTrace, Flow, Hutchinson, Uniform
from score_sde_analytic.likelihood.predicted import predict
from score_sde_analytic.models.ode_solvers import Adaptive, Fixed

__all__ = [
    "BITS",
    "Adaptive",
    "Bound",
    "Chain",
    "ContinuousTime",
    "Diffused",
    "Direct",
    "ExactTrace",
    "Fixed",
    "Flow",
    "Hutchinson",
    "Method",
    "Part",
    "Predicted",
    "Uniform",
    "bits_per_dim",
    "paper_chain",
    "predict",
]
