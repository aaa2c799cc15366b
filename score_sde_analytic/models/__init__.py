"""Networks as score models, mixtures with exact scores, and the probability flow of either."""

from score_sde_analytic.models.building import load_torchscript, network_from
from score_sde_analytic.models.checkpoints import checkpoint_parts, read_state_dict
from score_sde_analytic.models.clamps import DynamicThreshold
from score_sde_analytic.models.conditions import Conditions, Constant
from score_sde_analytic.models.diffusers_folder import Training, from_diffusers, load_diffusers, training_of
from score_sde_analytic.models.fourier import FourierFeatures
from score_sde_analytic.models.free import FreeModel, LinearDenoiser
from score_sde_analytic.models.free_mixture import MixtureDenoiser
from score_sde_analytic.models.judged import Judged
from score_sde_analytic.models.latents import LatentDataset
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.monotone_net import MonotoneNet, fit_by_variance
from score_sde_analytic.models.networks import LearnedRange, WithFeatures, load_unet, save_unet
from score_sde_analytic.models.ode_solvers import Adaptive, Fixed
from score_sde_analytic.models.prediction import Prediction
from score_sde_analytic.models.recalibrated import Recalibrated, Stack
from score_sde_analytic.models.receipt import Receipt
from score_sde_analytic.models.times import Continuous, DescendingIndex, Interpolant, LogSNR, OneBased, Sigma, ZeroBased
from score_sde_analytic.models.weights import load_weights

__all__ = [
    "Adaptive",
    "Conditions",
    "Constant",
    "Continuous",
    "DescendingIndex",
    "DynamicThreshold",
    "Fixed",
    "FourierFeatures",
    "FreeModel",
    "GaussianMixture",
    "Interpolant",
    "Judged",
    "LatentDataset",
    "LearnedRange",
    "LinearDenoiser",
    "LogSNR",
    "MixtureDenoiser",
    "MonotoneNet",
    "OneBased",
    "Prediction",
    "Recalibrated",
    "Receipt",
    "ScoreModel",
    "Sigma",
    "Stack",
    "Training",
    "WithFeatures",
    "ZeroBased",
    "checkpoint_parts",
    "fit_by_variance",
    "from_diffusers",
    "load_diffusers",
    "load_torchscript",
    "load_unet",
    "load_weights",
    "network_from",
    "read_state_dict",
    "save_unet",
    "training_of",
]
