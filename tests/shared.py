"""Shared fixtures: the schedules, mixtures, moments and their curve."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from schedules import SCHEDULES
from score_sde_analytic.measure.curve import NoiseCurve
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import Schedule, Tabulated

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=12)
settings.register_profile("thorough", deadline=None, derandomize=True, max_examples=40)  # `make test-all`
settings.load_profile("quick")


#: Schedules of `make test`: alpha^2 + sigma^2 = 1, alpha = 1, and a table; the others are for `make test-all`.
QUICK = ("linear_vp", "ve", "table_cosine")


def _marked(name: str) -> Any:
    return pytest.param(SCHEDULES[name], id=name, marks=() if name in QUICK else pytest.mark.slow)


@pytest.fixture(params=[_marked(name) for name in SCHEDULES])
def schedule(request: pytest.FixtureRequest) -> Schedule:
    return request.param


@pytest.fixture(scope="session")
def mixture() -> GaussianMixture:
    """Eight components in 16 dimensions, anisotropic."""
    means = 0.6 * np.random.default_rng(0).normal(size=(8, 16))
    return GaussianMixture(np.ones(8), means, np.geomspace(0.5, 0.002, 16))


@pytest.fixture(scope="session")
def table() -> Tabulated:
    return Tabulated.linear()


@pytest.fixture(scope="session")
def moments(mixture: GaussianMixture, table: Tabulated) -> Moments:
    """At most 9,600 evaluations of the 16-d mixture's exact score."""
    return estimate(
        mixture.score_model(table),
        mixture.sample(20_000, seed=5),
        np.linspace(-10.0, 9.0, 32),
        Budget(max_draws=300),
        statistics=mixture.statistics(),
        progress=False,
    )


@pytest.fixture(scope="session")
def curve(moments: Moments) -> NoiseCurve:
    return NoiseCurve.fit(moments)


@pytest.fixture(scope="session")
def triple() -> GaussianMixture:
    """Three well separated Gaussians in one dimension."""
    return GaussianMixture([0.3, 0.45, 0.25], [[-1.2], [0.1], [1.0]], [0.02, 0.1, 0.005])


@pytest.fixture(scope="session")
def planar() -> GaussianMixture:
    """Three components with full, different covariances in two dimensions."""
    rng = np.random.default_rng(1)
    factors = 0.5 * rng.normal(size=(3, 2, 2))
    return GaussianMixture([0.2, 0.5, 0.3], rng.normal(size=(3, 2)), factors @ factors.transpose(0, 2, 1) + 0.05 * np.eye(2))
