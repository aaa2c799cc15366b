"""--mode=schedule: its file is a schedule, its table has the least variance where theory says, its ends are the best ones."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from score_sde_analytic.configs import digits_vp
from score_sde_analytic.runners import networks, schedules
from score_sde_analytic.runners.experiment import Experiment
from score_sde_analytic.runners.main import MODES

from score_sde_analytic.errors import InputError
from score_sde_analytic.process import Learned


def small():
    config = digits_vp.get_config()
    config.estimate.knots, config.estimate.most_knots = 24, 0
    config.estimate.min_draws = config.estimate.max_draws = 64
    return config


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("schedule")
    return workdir, MODES["schedule"](small(), workdir)


def test_all_that_was_written_is_there(written):
    workdir, files = written
    assert {file.name for file in files} == {"schedule.safetensors", "schedule.md", "schedule.png", "report.json"}
    assert all(file.stat().st_size for file in files)
    assert (workdir / "schedule.md").read_text().count("\n") == 8


def test_the_best_density_is_best_in_the_table(written):
    table = json.loads((written[0] / "report.json").read_text())["schedule"]["variances"]
    for sampling, name in schedules.BEST.items():
        values = {other: by[sampling]["variance"]["value"] for other, by in table.items()}
        assert min(values, key=values.get) == name


def test_the_schedule_serves_the_network_that_is_fed_log_snr(written):
    workdir, _ = written
    schedule = Learned.load(workdir / "schedule.safetensors")
    used = json.loads((workdir / "report.json").read_text())["schedule"]["ends"]["used"]
    np.testing.assert_allclose(schedule.log_snr_range, used, atol=1e-12)
    config = small()
    config.schedule = ConfigDict({"name": "learned", "path": str(workdir / "schedule.safetensors")})
    assert networks.model(config, workdir, "cpu").schedule.config() == schedule.config()


def test_ends_of_the_config_are_used(written):
    workdir, _ = written
    config = small()
    config.learned.ends = (-8.0, 6.5)
    _, used = schedules.ends(Experiment(config, workdir))
    assert used == (-8.0, 6.5)
    config.learned.ends = (6.5, -8.0)
    with pytest.raises(InputError, match=r"learned\.ends"):
        schedules.ends(Experiment(config, workdir))
