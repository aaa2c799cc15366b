"""Optimal reverse variances, time grids and bits/dim of pretrained diffusion models, without training."""

from score_sde_analytic.basis import DCT, PCA, Basis, Channel, ColourDCT, Pixel, PixelChannel, Scalar
from score_sde_analytic.conditioning import Energy, GradientEnergy, HighFrequency, MeanLevel, Statistic
from score_sde_analytic.cost import Lattice, Reconstruction
from score_sde_analytic.covariance import Beta, BetaTilde, Covariance, Isotropic
from score_sde_analytic.curve import NoiseCurve, residual_bound
from score_sde_analytic.data import DataRange, DataStatistics
from score_sde_analytic.decoder import CategoricalDecoder, Decoder, GaussianDecoder, NoDecoder
from score_sde_analytic.diagonal import Diagonal
from score_sde_analytic.draws import Recorder, ResidualDraws
from score_sde_analytic.dynamic import ShortestPaths, StepCosts, is_monge, monge_path, monge_paths, plain_paths, shortest_paths
from score_sde_analytic.grid import Grid, even, even_log_snr, karras, optimal_paths, quadratic
from score_sde_analytic.heads import Interpolated, LearnedDiagonal, covariance_of, load_head
from score_sde_analytic.jacobian import Tweedie
from score_sde_analytic.kernel import Kernel, reverse_kernel
from score_sde_analytic.likelihood import (
    Adaptive,
    Bound,
    Chain,
    ContinuousTime,
    Diffused,
    Direct,
    ExactTrace,
    Fixed,
    Flow,
    Hutchinson,
    Predicted,
    Uniform,
    bits_per_dim,
    paper_chain,
    predict,
)
from score_sde_analytic.mixture import GaussianMixture
from score_sde_analytic.model import Continuous, LogSNR, OneBased, Prediction, ScoreModel, Sigma, ZeroBased
from score_sde_analytic.moments import Moments, estimate
from score_sde_analytic.networks import LearnedRange, WithFeatures
from score_sde_analytic.noise import BatchNoise, SampleNoise
from score_sde_analytic.optimal import Objective, budget_law, closed_form, entropic, refined, spread, steps_for
from score_sde_analytic.samplers import Ancestral, Sampler, generate, run
from score_sde_analytic.schedule import VE, CosineVP, Level, LinearVP, Schedule, SubVP, Tabulated
from score_sde_analytic.selection import Choice, HeldOut, choose
from score_sde_analytic.spectrum import Spectrum, fit

__all__ = [
    "DCT",
    "PCA",
    "VE",
    "Adaptive",
    "Ancestral",
    "Basis",
    "BatchNoise",
    "Beta",
    "BetaTilde",
    "Bound",
    "CategoricalDecoder",
    "Chain",
    "Channel",
    "Choice",
    "ColourDCT",
    "Continuous",
    "ContinuousTime",
    "CosineVP",
    "Covariance",
    "DataRange",
    "DataStatistics",
    "Decoder",
    "Diagonal",
    "Diffused",
    "Direct",
    "Energy",
    "ExactTrace",
    "Fixed",
    "Flow",
    "GaussianDecoder",
    "GaussianMixture",
    "GradientEnergy",
    "Grid",
    "HeldOut",
    "HighFrequency",
    "Hutchinson",
    "Interpolated",
    "Isotropic",
    "Kernel",
    "Lattice",
    "LearnedDiagonal",
    "LearnedRange",
    "Level",
    "LinearVP",
    "LogSNR",
    "MeanLevel",
    "Moments",
    "NoDecoder",
    "NoiseCurve",
    "Objective",
    "OneBased",
    "Pixel",
    "PixelChannel",
    "Predicted",
    "Prediction",
    "Reconstruction",
    "Recorder",
    "ResidualDraws",
    "SampleNoise",
    "Sampler",
    "Scalar",
    "Schedule",
    "ScoreModel",
    "ShortestPaths",
    "Sigma",
    "Spectrum",
    "Statistic",
    "StepCosts",
    "SubVP",
    "Tabulated",
    "Tweedie",
    "Uniform",
    "WithFeatures",
    "ZeroBased",
    "bits_per_dim",
    "budget_law",
    "choose",
    "closed_form",
    "covariance_of",
    "entropic",
    "estimate",
    "even",
    "even_log_snr",
    "fit",
    "generate",
    "is_monge",
    "karras",
    "load_head",
    "monge_path",
    "monge_paths",
    "optimal_paths",
    "paper_chain",
    "plain_paths",
    "predict",
    "quadratic",
    "refined",
    "residual_bound",
    "reverse_kernel",
    "run",
    "shortest_paths",
    "spread",
    "steps_for",
]
