"""A network that is given the classes of the data, in every mode of the runner."""

import json

import numpy as np
import pytest
import torch
from score_sde_analytic.configs import digits_classes
from score_sde_analytic.runners import compare, datasets, evaluate, modes, sampling, train_head
from score_sde_analytic.runners.experiment import Experiment
from score_sde_analytic.runners.settings import validate

from score_sde_analytic.data.examples import as_dataset
from score_sde_analytic.data.sources import digit_labels, digits
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays
from score_sde_analytic.models.networks import build_unet, save_unet
from score_sde_analytic.samplers import Ancestral

WIRING = {"predicts": "v", "coordinates": "vp", "times": {"name": "log_snr", "scale": 1.0}}


@pytest.fixture
def config(tmp_path):
    """A small network that was not trained, told one of ten digits or none."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [8]}
    channels = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 4}
    net = build_unet(blocks | channels | {"num_class_embeds": 11, "add_attention": False})
    save_unet(net.eval(), tmp_path / "network", WIRING)
    config = digits_classes.get_config()
    config.device, config.network.source = "cpu", str(tmp_path / "network")
    config.data.split = (60, 40, 20)
    config.estimate.max_draws = config.estimate.min_draws = 40
    config.estimate.knots, config.estimate.most_knots, config.estimate.train_knots = 10, 10, 3
    config.estimate.condition_knots = 5
    config.grid.points, config.grid.max_steps = 60, 6
    config.sample.steps, config.sample.fewest, config.sample.count, config.sample.grids = (3,), (), 4, ("even",)
    config.evaluate.grids, config.evaluate.steps, config.evaluate.predicted_steps = ("even",), (3,), (3,)
    config.evaluate.methods = ("predicted", "bound", "continuous", "flow")
    config.evaluate.flow.steps, config.evaluate.flow.solver, config.evaluate.flow.probes = 2, "rk4", 1
    return config


def test_labels_stay_with_their_pictures(config):
    """In every part, whatever is taken of it."""
    splits, declared = datasets.splits(config), datasets.data_range(config)
    known = {tuple(x.flatten().tolist()): int(y) for x, y in zip(declared.encode(digits()), digit_labels(), strict=True)}
    for name in ("train", "validation", "test"):
        part = as_dataset(splits.some(name, 7))
        x_0, conditions = part.batch(range(7))
        assert [known[tuple(x.flatten().tolist())] for x in x_0] == conditions["class_labels"].tolist()
        assert torch.equal(splits.conditions(name, 7)["class_labels"], conditions["class_labels"])
        assert torch.equal(splits.held(name, 7), x_0)


@pytest.mark.parametrize("condition", ["", "class_label"])
def test_a_condition_that_is_not_named_is_told_in_one_line(config, condition, tmp_path):
    config.network.condition = condition
    experiment = Experiment(config, tmp_path / "work")
    with pytest.raises(RuntimeError, match=r"needs classes|takes no such condition") as caught:
        modes.estimate(experiment)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_every_mode_gives_them(config, tmp_path):
    validate(config)
    experiment = Experiment(config, tmp_path / "work")
    modes.check(experiment)
    written = [*modes.estimate(experiment), *sampling.run(experiment), *evaluate.run(experiment)]
    config.head.kinds, config.head.steps, config.head.batch_size = ("npr", "ocm"), 2, 8
    written += train_head.run(config, tmp_path / "work")
    config.compare.solvers, config.compare.calls, config.compare.count = ("analytic_ddpm", "ddim"), (3,), 20
    config.compare.paths = 0
    written += compare.run(Experiment(config, tmp_path / "work"))
    assert all(path.exists() for path in written)
    assert set(experiment.study.conditions) == {"class_labels"}
    known = json.loads((tmp_path / "work" / "report.json").read_text())["condition"]
    assert known["ceiling"] == pytest.approx(np.log2(10) / 64, rel=0.05)
    assert known["information_gap"]["value"] == experiment.condition.information().value
    assert known["cost"]["evaluations"] == 2 * 40 * len(known["log_snr"])


def test_guidance_is_that_of_the_study(config, tmp_path):
    """Samples of the mode are those of the guided study, two evaluations a call; without a condition it is refused."""
    config.sample.guidance, config.sample.steps, config.sample.grids, config.sample.variances = 2.0, (2,), ("dp",), ("beta",)
    config.sample.count = config.sample.batch_size = 3
    validate(config)
    experiment = Experiment(config, tmp_path / "work")
    sampling.run(experiment)
    x = load_arrays(tmp_path / "work" / "samples_dp.safetensors", "samples")[0]["beta_K2"]
    study = experiment.study.guided(2.0, {"class_labels": 10})
    plan = study.plan(Ancestral(study.model, study.covariance("beta")), study.grid(2, "dp"))
    assert np.array_equal(x, plan(3, config.sample.seed, 3).numpy())
    config.network.condition = ""
    with pytest.raises(InputError, match=r"set network\.condition"):
        _ = Experiment(config, tmp_path / "none").sampled
