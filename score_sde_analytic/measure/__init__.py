"""What one Monte Carlo pass finds: moments, curves, and residuals in a basis."""

from score_sde_analytic.measure.answers import reached
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.measure.by_class import estimate_by
from score_sde_analytic.measure.curve import NoiseCurve, residual_cap
from score_sde_analytic.measure.draws import Recorder, ResidualDraws
from score_sde_analytic.measure.empirical import EmpiricalStatistics
from score_sde_analytic.measure.end_points import EndPoints, end_points
from score_sde_analytic.measure.estimation import estimate
from score_sde_analytic.measure.held_out import Choice, HeldOut
from score_sde_analytic.measure.merging import merge_passes
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.measure.recalibration import Recalibration, recalibrate
from score_sde_analytic.measure.reconstruction import Reconstruction
from score_sde_analytic.measure.spectrum import Spectrum
from score_sde_analytic.measure.squared_error import SquaredError
from score_sde_analytic.measure.statistics import Energy, GradientEnergy, HighFrequency, MeanLevel, Statistic
from score_sde_analytic.measure.summed import SummedDraws, SummingRecorder
from score_sde_analytic.measure.wiring import Remembering, Wiring, WiringCost, wiring_costs

__all__ = [
    "Budget",
    "Choice",
    "EmpiricalStatistics",
    "EndPoints",
    "Energy",
    "GradientEnergy",
    "HeldOut",
    "HighFrequency",
    "MeanLevel",
    "Moments",
    "NoiseCurve",
    "Recalibration",
    "Reconstruction",
    "Recorder",
    "Remembering",
    "ResidualDraws",
    "Spectrum",
    "SquaredError",
    "Statistic",
    "SummedDraws",
    "SummingRecorder",
    "Wiring",
    "WiringCost",
    "end_points",
    "estimate",
    "estimate_by",
    "merge_passes",
    "reached",
    "recalibrate",
    "residual_cap",
    "wiring_costs",
]
