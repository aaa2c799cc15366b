"""Guidance: models around a model that push its samples toward a condition, or away from what an energy says of them.

    eps_w = eps_c + w (eps_c - eps_u),   w = scale - 1           `ClassifierFree` (Ho & Salimans, 2022)
    eps_s = eps - s sigma grad log p(c | x_t)                    `Classifier` (Dhariwal & Nichol, 2021)
    eps_E = eps + sigma sum_i w_i grad E_i(x_t)                  `Energies` (EGSDE: Zhao et al., NeurIPS 2022)

Each is another prediction, and so a `ScoreModel`: every sampler, table, grid, covariance and clamp takes it.
"""

from score_sde_analytic.guidance.classifier import Classifier
from score_sde_analytic.guidance.classifier_free import ClassifierFree
from score_sde_analytic.guidance.conditional import ConditionalMoments, estimate_guided
from score_sde_analytic.guidance.energies import Energies
from score_sde_analytic.guidance.experts import CosineFeatures, Energy, LowPass
from score_sde_analytic.guidance.prices import guidance_price, mutual_information

__all__ = [
    "Classifier",
    "ClassifierFree",
    "ConditionalMoments",
    "CosineFeatures",
    "Energies",
    "Energy",
    "LowPass",
    "estimate_guided",
    "guidance_price",
    "mutual_information",
]
