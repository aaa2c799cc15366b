"""One small mixture in the plane, measured once for all tests of comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from score_sde_analytic.compare import Comparison, ComparisonSettings, Examples
from score_sde_analytic.data.ranges import DataRange
from score_sde_analytic.measure.estimation import Budget
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import Tabulated
from score_sde_analytic.study import Knots, Search, Settings, Study, analyse


@pytest.fixture(scope="session")
def four() -> GaussianMixture:
    """Four separate Gaussians of unequal weights and widths."""
    means = [[-1.0, -0.8], [1.0, -0.7], [0.8, 0.9], [-0.9, 0.9]]
    stds = [[0.15, 0.1], [0.07, 0.2], [0.18, 0.18], [0.06, 0.06]]
    return GaussianMixture([0.3, 0.2, 0.3, 0.2], means, np.square(stds))


@pytest.fixture(scope="session")
def examples(four: GaussianMixture) -> Examples:
    train, validation, test = four.sample(501, seed=0).split([1, 300, 200])
    return Examples(train, validation, test, "mixture", four)


@pytest.fixture(scope="session")
def study(four: GaussianMixture, examples: Examples) -> Study:
    """With "pca" recorded."""
    return analyse(
        four.score_model(Tabulated.linear()),
        examples.validation,
        DataRange(-4.0, 4.0),
        record=("pca",),
        statistics=four.statistics(),
        settings=Settings(knots=Knots(count=16), search=Search(points=80)),
        budget=Budget(min_draws=200, max_draws=200),
        progress=False,
    )


@pytest.fixture(scope="session")
def asked():
    """Settings of a small comparison, but for those that are given."""

    def asked(**changed) -> ComparisonSettings:
        small = {"calls": (3, 6), "grids": ("log_snr",), "tolerances": (0.5,), "count": 30, "groups": 5}
        return ComparisonSettings(**(small | {"reference_examples": 60, "paths": 6} | changed))

    return asked


@pytest.fixture(scope="session")
def comparison(study, examples, asked):
    """A small comparison in a folder, without tables and pictures: `comparison(folder, solvers=..).cells()`."""

    def comparison(folder, study=study, **changed) -> Comparison:
        return Comparison.of(study, examples, asked(**changed), folder, progress=False)

    return comparison
