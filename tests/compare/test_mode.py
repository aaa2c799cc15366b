"""The mode of the application: config -> settings and examples, one pass for all covariances, what it leaves on disk."""

from __future__ import annotations

import json

import pytest
from score_sde_analytic.configs import digits_vp, mixture_2d
from score_sde_analytic.runners import compare
from score_sde_analytic.runners.experiment import Experiment

from score_sde_analytic.compare import PRESETS, ComparisonSettings, comparison


def small(**changed):
    config = mixture_2d.get_config()
    config.data.split = (1, 300, 200)
    config.estimate.knots, config.grid.points = 16, 80
    config.estimate.min_draws = config.estimate.max_draws = 200
    config.estimate.batch_size = 100
    settings = {"solvers": ("ddim", "ancestral(pca)"), "calls": (3,), "grids": ("log_snr",), "tolerances": (0.5,)}
    settings |= {"count": 30, "groups": 5, "reference_examples": 60, "paths": 6}
    for name, value in (settings | changed).items():
        config.compare[name] = value
    return config


def test_what_it_leaves_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "pictures", lambda content, folder: [])  # the whole comparison draws them
    config = small()
    written = compare.run(Experiment(config, tmp_path, command="score-sde-analytic --mode=compare"))
    assert len(written) == len(set(written))
    assert all(path.exists() for path in written)
    content = json.loads((tmp_path / "compare" / "compare.json").read_text())
    assert content["command"] == "score-sde-analytic --mode=compare"
    assert content["config"]["compare"]["bits"] == "predicted"  # filled in
    assert content["config"]["compare"]["solvers"] == ["ddim", "ancestral(pca)"]
    assert content["config"]["data"] == json.loads(config.data.to_json())
    assert content["data"]["range"] == [-4.0, 4.0]
    assert "density" in content["paths"]
    assert json.loads((tmp_path / "report.json").read_text())["compare"]["budgets"] == [3]


def test_the_defaults_of_the_config_are_those_of_the_settings():
    """But for the examples per network call, which the config says for its own data."""
    config = digits_vp.get_config()
    settings = compare.settings(config)
    assert settings.evaluation.batch_size == config.evaluate.batch_size
    config.evaluate.batch_size = ComparisonSettings().evaluation.batch_size
    assert compare.settings(config) == ComparisonSettings()
    config.compare.flow = True
    flow = compare.settings(config).flow
    assert flow.identity == config.evaluate.flow.to_dict()
    assert flow.divergence.probes_per_sample == 1


@pytest.mark.parametrize("budget", PRESETS)
def test_presets_fill_the_config(budget):
    config = digits_vp.get_config()
    config.compare.budget = budget
    assert compare.settings(config).resolved() == compare.settings(config).resolved().resolved()
    config.compare.calls = (7,)
    assert compare.settings(config).resolved().calls == (7,)


def test_bad_settings_are_refused_before_the_work(tmp_path):
    for changed, message in (
        ({"budget": "huge"}, "unknown budget of compare 'huge'; choose one of quick, full"),
        ({"bits": "exact"}, "compare.bits must be"),
        ({"solvers": ("ancestral(nothing)",)}, "unknown covariance 'nothing'"),
    ):
        with pytest.raises(ValueError, match=message):
            compare.run(Experiment(small(**changed), tmp_path))
    assert not list(tmp_path.iterdir())


def test_one_pass_serves_all_where_it_records_enough(tmp_path):
    config = small()
    experiment = Experiment(config, tmp_path)
    assert compare.recording(experiment, ()) is experiment
    assert set(compare.recording(experiment, ("pca", "tweedie")).recorded) == {"pca"}
    config.covariance.bases = ("pca",)
    experiment = Experiment(config, tmp_path)
    assert compare.recording(experiment, ("pca",)) is experiment
