"""Exact worlds of guidance."""

from __future__ import annotations

import math

import numpy as np
import torch

from score_sde_analytic.data.examples import Examples
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.level import Level
from score_sde_analytic.process.schedule import LinearVP

VP = LinearVP()
#: Eight dimensions, three classes of two components each, variances from 0.4 to 0.01.
CLASS_OF = torch.tensor([0, 0, 1, 1, 2, 2])
NULL = {"component": 3}


def eight(seed: int = 0) -> GaussianMixture:
    rng = np.random.default_rng(seed)
    means = 0.7 * rng.normal(size=(6, 8))
    variances = np.geomspace(0.4, 0.01, 8) * rng.uniform(0.5, 1.5, size=(6, 1))
    return GaussianMixture(np.ones(6), means, variances)


EIGHT = eight()
CLASSES = EIGHT.conditional(VP, CLASS_OF)


def labelled(count: int, seed: int = 0) -> Examples:
    x_0, component = EIGHT.labelled(count, seed)
    return Examples(x_0, conditions={"component": CLASS_OF[component]})


def information(count: int, seed: int = 7) -> tuple[float, float]:
    """(I(x_0; c) in bits per dimension, its standard error), of exact posteriors."""
    x_0, component = EIGHT.labelled(count, seed)
    of = EIGHT.responsibilities(x_0, Level(0.0, 1.0, 0.0, math.inf))
    own = of.reshape(count, 3, 2).sum(2).gather(1, CLASS_OF[component][:, None])[:, 0]
    bits = (own * 3.0).log2() / 8
    return float(bits.mean()), float(bits.std()) / count**0.5
