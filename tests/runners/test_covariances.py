"""The mode estimate with structured covariances: what it writes, and what a config that asks for too much is told."""

from __future__ import annotations

import numpy as np
import pytest
from score_sde_analytic.configs import mixture as mixture_config
from score_sde_analytic.runners.experiment import Experiment
from score_sde_analytic.runners.main import MODES

from score_sde_analytic.covariance import Diagonal


def small(name="auto"):
    config = mixture_config.get_config()
    config.data.split = (200, 300, 100)
    config.estimate.knots, config.estimate.batch_size = 16, 100
    config.estimate.min_draws = config.estimate.max_draws = 150
    config.grid.points, config.evaluate.predicted_steps = 60, (3, 5)
    config.sample.steps = config.evaluate.steps = (5,)
    config.covariance.name = name
    return config


@pytest.mark.slow
def test_recorded_covariances_are_written(tmp_path):
    config = small()
    written = MODES["estimate"](config, tmp_path)
    study = Experiment(config, tmp_path).study
    best = str(study.resolve("auto"))
    assert [str(name) for name in Experiment(config, tmp_path).covariances(("beta", "isotropic", "residual"))] == [
        "beta",
        "residual",
        best,
    ]
    files = [path for path in written if path.parent.name == "covariances"]
    assert {p.stem for p in files} == {b + s for b in ("scalar", "pixel", "pca") for s in ("", "_given_energy")}
    loaded = Diagonal.load(tmp_path / "covariances" / "pixel.safetensors", study.model.fingerprint())
    np.testing.assert_array_equal(loaded.spectrum.y, study.covariance("pixel").spectrum.y)
    table = (tmp_path / "covariances.md").read_text()
    assert all(line.count("|") == 7 for line in table.splitlines())  # no name ends a cell


def test_named_covariances_are_recorded_without_being_listed(tmp_path):
    config = small("pixel|energy")
    experiment = Experiment(config, tmp_path)
    assert list(experiment.study.recorders) == ["pixel"]
    assert isinstance(experiment.study.covariance(), Diagonal)
    assert experiment.study.chain(3).covariance is experiment.study.covariance("pixel|energy")
    config.covariance.bins = (1,)
    with pytest.raises(ValueError, match="must hold a number above 1"):
        Experiment(config, tmp_path).study.covariance()
