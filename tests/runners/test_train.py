"""--mode=train: what it leaves, whatever is minimised, also after an interruption."""

import json

import numpy as np
import pytest
from score_sde_analytic.configs import digits_vp
from score_sde_analytic.runners import networks, train
from score_sde_analytic.runners.experiment import Experiment
from score_sde_analytic.runners.settings import validate

from score_sde_analytic.errors import UserError
from score_sde_analytic.grids import even_log_snr
from score_sde_analytic.models.network_training import NetworkTrainer
from score_sde_analytic.process.schedule import LinearVP
from score_sde_analytic.report.training import training


def tiny(**settings):
    config = digits_vp.get_config()
    config.data.split = (40, 40, 40)
    config.train.steps, config.train.batch_size = 6, 8
    config.train.log_every, config.train.validate_every, config.train.validate_draws = 2, 3, 40
    config.train.unet.block_out_channels = (8, 8)
    config.train.unet.norm_num_groups = 4
    config.train.unet.attention_head_dim = 4
    config.train.update(settings)
    validate(config)
    return config


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"loss": "bound", "times": "adaptive", "fourier": 2}, id="adaptive"),
        pytest.param({"loss": "bound", "times": "learned_net"}, id="learned_net", marks=pytest.mark.slow),
        pytest.param({"loss": "discrete", "grid_steps": 10}, id="discrete", marks=pytest.mark.slow),
    ],
)
def test_an_interruption_leaves_the_same_files(settings, tmp_path, monkeypatch):
    config = tiny(**settings)
    written = train.run(config, tmp_path / "whole")
    assert [path.name for path in written] == ["network", "train_state.safetensors", "training.jsonl", "training.png"]
    assert (tmp_path / "whole" / "training.png").read_bytes().startswith(b"\x89PNG")
    advance = NetworkTrainer.advance

    def interrupted(self):
        if self.step == 3:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(NetworkTrainer, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.run(config, tmp_path / "parts")
    monkeypatch.setattr(NetworkTrainer, "advance", advance)
    train.run(config, tmp_path / "parts")
    for name in ("network/diffusion_pytorch_model.safetensors", "network/score_model.json", "training.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "whole" / "training.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 3, 4, 6]
    assert ["validation_bits" in row for row in rows] == [False, True, False, True]


def test_a_network_with_fourier_features_is_measured_as_any_other(tmp_path):
    config = tiny(fourier=2)
    train.run(config, tmp_path)
    config.network.source = ""
    config.estimate.knots, config.estimate.most_knots = 3, 0
    config.estimate.min_draws = config.estimate.max_draws = 40
    assert networks.find(config, tmp_path).net.wrapped.frequencies == (3, 4)
    assert np.isfinite(Experiment(config, tmp_path).study.moments.residual).all()


def test_a_saved_grid_is_that_of_the_loss(tmp_path):
    grid = even_log_snr(LinearVP(), 5, 1e-2)
    grid.save(tmp_path / "grid.json")
    recipe = train.recipe(tiny(loss="discrete", grid=str(tmp_path / "grid.json")))
    np.testing.assert_allclose(sorted(recipe.grid), sorted(LinearVP().log_snr(t) for t in grid.times if t))
    assert len(train.recipe(tiny(loss="discrete", grid_steps=7)).grid) == 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "discrete", "times": "adaptive"}, "train: the loss of a grid draws each step as often"),
        ({"loss": "discrete", "grid": "none.json"}, "none.json"),
        ({"fourier": 5}, "train: 17 levels have 4 frequencies"),
        ({"times": "linear_vp", "log_snr": (-30.0, 9.0)}, "outside this schedule's range"),
        ({"loss": "elbo"}, "train.loss must be one of v, eps, bound, discrete"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        tiny(**settings)


def test_curves_of_training_need_no_held_out_rows(tmp_path):
    rows = [{"step": 1, "loss": 1.0, "train_bits": 3.0, "train_stderr": None}]
    assert training(tmp_path / "training.png", rows).stat().st_size > 1000
