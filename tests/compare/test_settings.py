"""Settings of comparisons: presets, what they leave open, and what is refused."""

from __future__ import annotations

import pytest

from score_sde_analytic.compare import PRESETS, ComparisonSettings, compare
from score_sde_analytic.study import GridName


@pytest.mark.parametrize("budget", PRESETS)
def test_presets_are_complete_and_can_be_overridden(budget):
    settings = ComparisonSettings(budget).resolved()
    for name in PRESETS[budget]:
        assert getattr(settings, name)
    assert all(name.entry for name in settings.solver_names)
    assert set(PRESETS["quick"]["solvers"]) <= set(PRESETS["full"]["solvers"])
    assert ComparisonSettings(budget, calls=(7,)).resolved().calls == (7,)
    assert settings.resolved() == settings


def test_names_are_taken_once(asked):
    settings = asked(solvers=("ddim", "ancestral(pca)", "ddim", "ancestral( pca )".replace(" ", "")), grids=("dp", "dp"))
    assert [str(name) for name in settings.solver_names] == ["ddim", "ancestral(pca)"]
    assert settings.grid_names == (GridName("dp"),)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget": "huge"}, "unknown budget of compare 'huge'; choose one of quick, full"),
        ({"bits": "exact"}, "compare.bits must be"),
        ({"calls": (0,)}, "compare.calls must be values, each a whole number from 1"),
        ({"count": 9}, "need compare.count at least 10 samples, two for each of compare.groups, got 9"),
        ({"tolerances": (0.0,)}, "compare.tolerances must be values, each a finite number above 0"),
        ({"solvers": ("ddqm",)}, "unknown solver 'ddqm'"),
        ({"grids": ("evn",)}, "unknown grid 'evn'"),
        ({"grid_variance": "evn"}, "unknown covariance 'evn'"),
        ({"solvers": ("ancestral(nothing)",)}, "unknown covariance 'nothing'"),
        ({"reference": ("tests",)}, "unknown split of compare.reference 'tests'; choose one of train, validation, test"),
        (
            {"features": "nothing"},
            "unknown features 'nothing'; choose pixels, .*digits_classifier, fashion_mnist_classifier, mnist_classifier",
        ),
    ],
)
def test_bad_settings_are_refused_before_the_work(asked, changed, message, study, examples, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare(study, examples, asked(**changed), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_covariance_that_was_not_recorded_is_found_before_the_work(study, examples, asked, tmp_path):
    with pytest.raises(ValueError, match="basis 'pixel' was not recorded"):
        compare(study, examples, asked(solvers=("ddim", "ancestral(pixel)")), tmp_path)
    assert not list(tmp_path.iterdir())
