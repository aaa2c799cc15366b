"""What a reverse step adds to its mean."""

from score_sde_analytic.covariance.base import Covariance, StepCovariance
from score_sde_analytic.covariance.diagonal import Diagonal
from score_sde_analytic.covariance.head_networks import load_head
from score_sde_analytic.covariance.heads import Interpolated, LearnedDiagonal, covariance_of
from score_sde_analytic.covariance.isotropic import Beta, BetaTilde, Isotropic, StepVariances
from score_sde_analytic.covariance.plain import of_content
from score_sde_analytic.covariance.tweedie import Tweedie

__all__ = [
    "Beta",
    "BetaTilde",
    "Covariance",
    "Diagonal",
    "Interpolated",
    "Isotropic",
    "LearnedDiagonal",
    "StepCovariance",
    "StepVariances",
    "Tweedie",
    "covariance_of",
    "load_head",
    "of_content",
]
