"""What one Monte Carlo pass finds: moments, curves, and residuals in a basis."""

from score_sde_analytic.measure.basis import Basis, Channel, Pixel, PixelChannel, Scalar
from score_sde_analytic.measure.curve import NoiseCurve, residual_cap
from score_sde_analytic.measure.draws import Recorder, ResidualDraws
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.held_out import Choice, HeldOut
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.measure.spectrum import Spectrum
from score_sde_analytic.measure.statistics import Energy, GradientEnergy, HighFrequency, MeanLevel, Statistic
from score_sde_analytic.measure.transforms import DCT, PCA, ColourDCT

__all__ = [
    "DCT",
    "PCA",
    "Basis",
    "Budget",
    "Channel",
    "Choice",
    "ColourDCT",
    "Energy",
    "GradientEnergy",
    "HeldOut",
    "HighFrequency",
    "MeanLevel",
    "Moments",
    "NoiseCurve",
    "Pixel",
    "PixelChannel",
    "Reconstruction",
    "Recorder",
    "ResidualDraws",
    "Scalar",
    "Spectrum",
    "Statistic",
    "estimate",
    "residual_cap",
]
