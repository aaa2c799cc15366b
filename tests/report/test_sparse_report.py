"""Reports of studies that have little to say: no covariance that saves, nothing drawn, a single example."""

import math
import re

import numpy as np
import pytest

from html_pages import whole
from score_sde_analytic.measure.budget import Budget
from score_sde_analytic.models.mixture import GaussianMixture
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.report import study_page
from score_sde_analytic.study import Knots, Search, Settings, Structure, analyse
from score_sde_analytic.study.report import Request, content

SETTINGS = Settings(
    knots=Knots(count=12, most=12),
    structure=Structure(bins=(1,), shrinkage=(0.0,), smooth=(False,)),
    search=Search(points=80, log_snr_max=7.0, most=15),
)
BUDGET = Budget(max_draws=64, min_draws=64, batch_size=64, groups=8)


@pytest.fixture(scope="module")
def isotropic():
    """A Gaussian whose coordinates are alike, so that none has more to save than another."""
    return GaussianMixture([1.0], np.zeros((1, 2)), [0.1])


@pytest.fixture(scope="module")
def study(isotropic):
    data = isotropic.sample(64, seed=1)
    model = isotropic.score_model(LinearVP())
    return analyse(model, data, record=("pixel",), settings=SETTINGS, budget=BUDGET, progress=False)


def test_a_page_says_that_no_covariance_saves(study, tmp_path):
    assert str(study.structures.best) == "residual"
    page = whole(study_page.render(content(study, request=Request((3,), (3,), count=4)), tmp_path))
    assert "No covariance in a basis saves bits/dim" in page.text
    assert "Best: isotropic." in page.text


def test_where_nothing_is_drawn_no_distance_is_measured(study, isotropic, tmp_path):
    told = content(study, isotropic.sample(40, seed=2), Request((3,), ()))
    assert told["quality"] is None
    assert told["cells"]["dp/residual/3"]["measured"]
    assert "Energy distance" not in whole(study_page.render(told, tmp_path)).text


def test_the_bits_of_one_example_have_no_error(study, isotropic, tmp_path):
    one = isotropic.sample(1, seed=2)
    bound = study.measure(one, 3, progress=False)[3].total
    assert math.isnan(bound.stderr)
    study.report(tmp_path, one, steps=(3,), samples_at=(3,), fewest=False)
    page = whole((tmp_path / "report.html").read_text())
    row = [entry for _, entry in page.cells["K = 3"]]
    assert row[1:] == [f"{bound.value:.3f}".replace("-", "−"), "–", "3"]
    assert not re.search(r"\bnan\b", page.text)
