"""How far samples are from data: distances between features, with standard errors and intervals."""

from score_sde_analytic.metrics.base import Distance, Metric, Reference, evaluate
from score_sde_analytic.metrics.classifier import ClassifierFeatures, load_classifier, save_classifier
from score_sde_analytic.metrics.classifier_network import Classifier
from score_sde_analytic.metrics.embedding import Embedding
from score_sde_analytic.metrics.exact import cross_entropy_gap, energy_distance, kl_divergence, mixture_metrics
from score_sde_analytic.metrics.external import CleanFIDFeatures, TorchFidelityFeatures
from score_sde_analytic.metrics.features import Coefficients, Features, ModuleFeatures, Pixels, extract
from score_sde_analytic.metrics.frechet import ExtrapolatedFrechet, Frechet, GaussianSummary, frechet_distance
from score_sde_analytic.metrics.kernels import KID, Discrepancy, EnergyDistance, GaussianMMD
from score_sde_analytic.metrics.measured import Measured, difference, jackknife
from score_sde_analytic.metrics.neighbours import Precision, Recall, entropy
from score_sde_analytic.metrics.noisy_classifier import NoisyClassifier
from score_sde_analytic.metrics.similarity import low_pass_difference, root_mean_square, structural_similarity
from score_sde_analytic.metrics.transport import SlicedWasserstein, wasserstein_1d

__all__ = [
    "KID",
    "Classifier",
    "ClassifierFeatures",
    "CleanFIDFeatures",
    "Coefficients",
    "Discrepancy",
    "Distance",
    "Embedding",
    "EnergyDistance",
    "ExtrapolatedFrechet",
    "Features",
    "Frechet",
    "GaussianMMD",
    "GaussianSummary",
    "Measured",
    "Metric",
    "ModuleFeatures",
    "NoisyClassifier",
    "Pixels",
    "Precision",
    "Recall",
    "Reference",
    "SlicedWasserstein",
    "TorchFidelityFeatures",
    "cross_entropy_gap",
    "difference",
    "energy_distance",
    "entropy",
    "evaluate",
    "extract",
    "frechet_distance",
    "jackknife",
    "kl_divergence",
    "load_classifier",
    "low_pass_difference",
    "mixture_metrics",
    "root_mean_square",
    "save_classifier",
    "structural_similarity",
    "wasserstein_1d",
]
