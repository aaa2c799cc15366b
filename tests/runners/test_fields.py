"""The whole config is checked before any work: types, ranges, names, and what fields must be together."""

from __future__ import annotations

import numpy as np
import pytest
from ml_collections import ConfigDict
from score_sde_analytic.configs import digits_vp, mixture
from score_sde_analytic.runners import main as application
from score_sde_analytic.runners import networks
from score_sde_analytic.runners.settings import FIELDS, validate

from benchmarks.faults import config as campaign
from score_sde_analytic.errors import InputError
from score_sde_analytic.process import Density, Learned


@pytest.mark.parametrize("name", application.shipped())
def test_shipped_configs_are_right(name):
    config = application.parse(["", f"--config={name}"]).config
    before = config.to_dict()
    validate(config)
    assert config.to_dict() == before


def test_scalars_of_numpy_become_plain():
    config = digits_vp.get_config()
    with config.ignore_type():
        config.seed = np.int64(7)
        config.evaluate.flow.rtol = np.float32(0.5)
        config.sample.steps = [np.int64(5), 10]
    validate(config)
    assert (config.seed, config.evaluate.flow.rtol, config.sample.steps) == (7, 0.5, (5, 10))
    assert type(config.seed) is int


def test_a_misspelt_field_of_a_config_of_ones_own_is_found():
    config = mixture.get_config()
    config.estimate.tolerence = 0.1
    with pytest.raises(InputError, match=r"nothing reads a field 'estimate\.tolerence' .* did you mean 'estimate\.tolerance'"):
        validate(config)
    del config.estimate.tolerence, config.grid.points
    with pytest.raises(InputError, match=r"lacks grid\.points"):
        validate(config)


def test_every_field_has_a_check():
    assert set(FIELDS) == {name for name, _ in application.fields(digits_vp.get_config())} - {
        "schedule.beta_min",
        "schedule.beta_max",
    }


@pytest.mark.parametrize("form", ["{0}=(5,) {0}=(6,)", "{0}=(5,6) {0} (6,)", "{0} (5,) --mode=sample {0}=(6,)"])
def test_of_two_values_the_last_holds(form):
    assert application.parse(["", *form.format("--config.sample.steps").split()]).config.sample.steps == (6,)


def test_a_misspelt_field_of_the_command_line_has_a_suggestion():
    with pytest.raises(InputError, match=r"there is no config\.estimate\.nots; did you mean 'config\.estimate\.knots'\?"):
        application.parse(["", "--config=mixture", "--config.estimate.nots=3"])


def test_a_share_of_the_campaign():
    """Most are refused by the first check; the rest read the data and the network."""
    bad = [outcome for outcome in campaign.outcomes(12, seed=1) if outcome.verdict not in ("right", "refused")]
    assert bad == []


#: Settings of every schedule that needs some.
NEEDED = {"betas": {"betas": (0.1, 0.2, 1.0)}, "alpha_bar": {"alpha_bar": (0.9, 0.5)}, "sigmas": {"sigmas": (0.1, 1.0, 80.0)}}


@pytest.mark.parametrize("name", networks.SCHEDULES)
def test_every_schedule_has_a_name_in_the_config(name, tmp_path):
    config = mixture.get_config()
    Learned(Density.uniform(-9.0, 8.0)).save(tmp_path / "schedule.safetensors")
    needed = NEEDED | {"learned": {"path": str(tmp_path / "schedule.safetensors")}}
    config.schedule = ConfigDict({"name": name} | needed.get(name, {}))
    validate(config)
    assert networks.configured(config).log_snr(0.5) > networks.configured(config).log_snr(1.0)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rectified_flow", {"shift": 3.0}),
        ("cosine_vp", {"log_snr_min": -float("inf")}),
        ("ddpm_scaled_linear", {"steps": 1000, "zero_terminal_snr": True}),
    ],
)
def test_schedules_of_the_config_may_end_in_pure_noise(name, settings):
    config = mixture.get_config()
    config.schedule = ConfigDict({"name": name, **settings})
    validate(config)
    assert networks.configured(config).ends_in_noise


def test_a_word_that_is_no_truth_value_is_refused_in_plain_words():
    with pytest.raises(InputError, match=r"^flag --config.network.channels_last=maybe: Non-boolean argument to boolean flag$"):
        application.parse(["", "--config=digits_vp", "--config.network.channels_last=maybe"])
