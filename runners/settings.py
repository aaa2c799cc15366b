"""What every field of the config may be. All of it is checked before any work, whatever the mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from score_sde_analytic.checks import (
    COUNT,
    COUNT_OR_NONE,
    LOG_SNR,
    SEED,
    Check,
    checks_of,
    each,
    flag,
    named,
    number,
    one_of,
    optional,
    text,
    whole,
)
from score_sde_analytic.compare import ComparisonSettings, Evaluation
from score_sde_analytic.compare.settings import FINALS
from score_sde_analytic.covariance.head_networks import HEADS
from score_sde_analytic.covariance.head_training import Recipe
from score_sde_analytic.errors import InputError, MissingFileError
from score_sde_analytic.likelihood.divergence import LAWS
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget
from score_sde_analytic.metrics.classifier_training import ClassifierRecipe
from score_sde_analytic.models.network_training import NetworkRecipe
from score_sde_analytic.models.ode_solvers import ADAPTIVE, FIXED
from score_sde_analytic.models.probability_flow import CLOCKS
from score_sde_analytic.study.names import COVARIANCE, GridName, choose
from score_sde_analytic.study.settings import Knots, Search, Settings, Structure
