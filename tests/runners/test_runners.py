"""The runner: whole modes on small settings, resumption, and errors that a user can cause."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from score_sde_analytic.configs import digits_cosine, digits_ve, digits_vp, mixture, mnist, patches
from score_sde_analytic.runners import datasets, evaluate, modes, networks, train
from score_sde_analytic.runners.experiment import Experiment
from score_sde_analytic.runners.main import MODES

from benchmarks.faults import kill
from score_sde_analytic.grids.grid import Grid
from score_sde_analytic.measure.moments import Moments
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.network_training import NetworkTrainer
from score_sde_analytic.models.recalibrated import Recalibrated

ROOT = Path(__file__).parents[2]


def small_mixture():
    config = mixture.get_config()
    config.data.split = (1, 400, 300)
    config.estimate.knots, config.estimate.most_knots = 20, 0
    config.estimate.min_draws = config.estimate.max_draws = 200
    config.estimate.batch_size = 100
    config.grid.points = 80
    config.sample.steps = config.evaluate.steps = (3, 6)
    config.evaluate.predicted_steps = (3, 10)
    config.sample.count = 50
    config.sample.batch_size = 20
    config.evaluate.flow.rtol = config.evaluate.flow.atol = 1e-3
    return config


def small_digits(config):
    config.estimate.knots, config.estimate.most_knots = 24, 0
    config.estimate.min_draws = config.estimate.max_draws = 100
    config.grid.points = 120
    config.evaluate.examples = 150
    config.evaluate.steps = (10,)
    config.evaluate.predicted_steps = (10,)
    config.evaluate.predicted_grids = ()
    config.evaluate.variances = ("beta", "beta_tilde", "residual")
    config.evaluate.methods = ("predicted", "bound")
    return config


@pytest.fixture(scope="module")
def mixture_demo(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("mixture")
    config = small_mixture()
    return config, workdir, MODES["demo"](config, workdir)


def test_demo_writes_what_it_names(mixture_demo):
    _, _, written = mixture_demo
    assert len(written) == len(set(written))
    for path in written:
        assert path.exists()
        if path.suffix == ".png":
            assert matplotlib.image.imread(path).std() > 0.01  # a picture, not a blank


def test_report_is_complete(mixture_demo):
    config, workdir, _ = mixture_demo
    report = json.loads((workdir / "report.json").read_text())
    knots = report["moments"]["knots"]
    assert report["moments"]["network_evaluations"] == 20 * 200
    assert len(knots["residual"]) == len(knots["residual_stderr"]) == 20
    cells = report["bits_per_dim"]["cells"]
    assert len(cells) == 3 * 4 * 3 + 4 * 2  # (even, dp, even_tuned) x variances x K, and the published convention
    for name, cell in cells.items():
        grid, _, steps = name.split("/")
        assert len(cell["times"]) == int(steps) + 1
        if grid in ("even", "dp", "paper") and int(steps) in config.evaluate.steps:
            parts = cell["measured"]
            assert sum(parts[p]["value"] for p in ("prior", "transitions", "reconstruction")) == pytest.approx(
                parts["total"]["value"]
            )
            assert parts["evaluations"] == 300 * int(steps)


def test_predicted_bounds_agree_with_measured(mixture_demo):
    # 32 correlated comparisons, each beyond 5 standard errors with probability 6e-7.
    _, workdir, _ = mixture_demo
    cells = json.loads((workdir / "report.json").read_text())["bits_per_dim"]["cells"]
    sizes = [c["disagreement_in_standard_errors"] for c in cells.values() if "disagreement_in_standard_errors" in c]
    assert len(sizes) >= 16
    assert max(map(abs, sizes)) < 5


def test_samplers_make_exactly_k_calls(mixture_demo):
    _, workdir, _ = mixture_demo
    calls = json.loads((workdir / "report.json").read_text())["samples"]["network_calls_per_batch"]
    assert len(calls) == 2 * 4 * 2
    for name, count in calls.items():
        assert count == int(name.split("K=")[1])


def test_saved_grids_can_be_read_back(mixture_demo):
    _, workdir, _ = mixture_demo
    assert Grid.load(workdir / "grids" / "dp_K6.json").steps == 6


@pytest.mark.slow
def test_a_finished_workdir_is_reused(mixture_demo):
    config, workdir, _ = mixture_demo
    before = {p: p.stat().st_mtime_ns for p in (workdir / "bounds").iterdir()}
    experiment = Experiment(config, workdir)
    with experiment.model.metered() as cost:
        evaluate.run(experiment)
    assert cost.calls == 0
    assert before == {p: p.stat().st_mtime_ns for p in (workdir / "bounds").iterdir()}


@pytest.mark.slow
def test_grid_mode_prices_grids_and_hands_one_to_the_sampler(mixture_demo, tmp_path):
    config, workdir, _ = mixture_demo
    config = config.copy_and_resolve_references()
    config.grid.steps_table, config.grid.max_steps, config.grid.shown_steps = (3, 8), 12, 5
    config.grid.name, config.grid.steps, config.grid.excess = "refined", 4, (0.5, 1e-6)
    written = MODES["grid"](config, workdir)
    assert {"grid.json", "grids.md", "grids.png", "excess.png", "invariance.png"} <= {path.name for path in written}
    report = json.loads((workdir / "report.json").read_text())["grids"]
    assert set(report["objectives"]) == set(config.grid.compare)
    for steps in ("3", "8"):
        values = {name: cost[steps][0] for name, cost in report["costs"].items()}
        # Of all grids priced by one curve, the refined one is best; 1e-3 bits for splines against tables of the last term.
        assert values["refined"] < min(values.values()) + 1e-3
    dp, limit = report["optimum"]["dp"][0], report["optimum"]["limit"][0]
    assert np.all(np.diff(dp) <= 1e-12)
    assert dp[-1] > limit
    assert "more than 12" in (workdir / "grids.md").read_text()
    config.sample.grids, config.sample.steps, config.sample.variances = (str(workdir / "grid.json"),), (4,), ("residual",)
    assert workdir / "samples_grid.png" in MODES["sample"](config, workdir)
    config.sample.steps = (5,)
    with pytest.raises(ValueError, match="has 4 steps, not 5"):
        MODES["sample"](config, workdir)


def test_a_workdir_of_another_experiment_is_refused(mixture_demo):
    _, workdir, _ = mixture_demo
    other = small_mixture()
    other.schedule.beta_end = 0.01
    with pytest.raises(ValueError, match=r"model\.schedule\.betas"):
        modes.estimate(Experiment(other, workdir))


@pytest.mark.parametrize(
    "module", [digits_vp, pytest.param(digits_ve, marks=pytest.mark.slow), pytest.param(digits_cosine, marks=pytest.mark.slow)]
)
def test_shipped_network_on_held_out_digits(module, tmp_path):
    """On the even grid analytic < beta < beta-tilde, and DP < even, paired, each beyond 5 standard errors.

    Even in VE's t is even in log-SNR, where beta is the worse of the handcrafted two.
    """
    experiment = Experiment(small_digits(module.get_config()), tmp_path)
    evaluate.run(experiment)
    report = json.loads((tmp_path / "report.json").read_text())["bits_per_dim"]
    size = {line["claim"]: line["standard_errors"] for line in report["orderings"]}
    assert size["even/residual/10 < even/beta/10"] > 5
    assert abs(size["even/beta/10 < even/beta_tilde/10"]) > 5
    assert (size["even/beta/10 < even/beta_tilde/10"] > 0) == (module is not digits_ve)
    assert size["even/residual/10 < even/beta_tilde/10"] > 5
    for variance in ("beta", "beta_tilde", "residual"):
        assert size[f"dp/{variance}/10 < even/{variance}/10"] > 5
    agreement = [c["disagreement_in_standard_errors"] for n, c in report["cells"].items() if n.startswith(("even", "dp"))]
    assert max(map(abs, agreement)) < 5


@pytest.mark.slow
def test_predictions_for_every_k_and_variance(tmp_path):
    """Predicted and measured bounds of the shipped network agree within 3 standard errors.

    On a lattice of 100 levels all 20 chains share 100 network calls per example. They share examples too: the largest of 20
    correlated differences exceeds 3 with probability at most 20 * 0.0027 = 5 %; the seed is fixed.
    """
    config = digits_vp.get_config()
    config.grid.points = 100
    config.evaluate.steps = config.evaluate.predicted_steps = (5, 10, 25, 50, 100)
    config.evaluate.grids, config.evaluate.predicted_grids = ("dp",), ()
    config.evaluate.methods, config.evaluate.examples = ("predicted", "bound"), 150
    config.estimate.min_draws = config.estimate.max_draws = 150
    experiment = Experiment(config, tmp_path)
    evaluate.run(experiment)
    cells = json.loads((tmp_path / "report.json").read_text())["bits_per_dim"]["cells"]
    chains = [cell for name, cell in cells.items() if name.startswith("dp/")]
    assert len(chains) == 5 * 4
    assert max(abs(cell["disagreement_in_standard_errors"]) for cell in chains) < 3


def test_agreement_of_all_methods(mixture_demo):
    """Chains fall towards the continuous bound, which meets the exact density; so does the flow. 5 SE: 6e-7 each."""
    _, workdir, _ = mixture_demo
    report = json.loads((workdir / "report.json").read_text())["likelihoods"]
    rows = report["methods"]
    assert report["reference"] == "exact"
    assert set(rows) == {"K = 3", "K = 6", "continuous", "flow", "exact"}
    for name in ("K = 3", "K = 6"):
        assert rows[name]["above_reference"]["value"] > 5 * rows[name]["above_reference"]["stderr"]
    for name in ("continuous", "flow"):
        above = rows[name]["above_reference"]
        assert abs(above["value"]) < 5 * above["stderr"] + 0.01  # prior mismatch and tolerance
    for name in ("K = 3", "K = 6", "continuous"):
        assert abs(rows[name]["disagreement_in_standard_errors"]) < 5
    assert rows["flow"]["vector_products_per_example"] > 20
    assert "probability flow" in (workdir / "likelihoods.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "entry"), [("categorical", "diffused"), ("gaussian", "uniform")])
def test_other_decoders_and_dequantisation(decoder, entry, tmp_path):
    config = small_digits(digits_vp.get_config())
    config.evaluate.examples, config.evaluate.steps, config.evaluate.grids = 6, (4,), ("dp",)
    config.evaluate.methods, config.evaluate.decoder = ("predicted", "bound", "continuous", "flow"), decoder
    config.evaluate.flow.entry, config.evaluate.flow.steps, config.evaluate.flow.solver = entry, 4, "midpoint"
    config.evaluate.variances = ("residual",)
    evaluate.run(Experiment(config, tmp_path))
    rows = json.loads((tmp_path / "report.json").read_text())["likelihoods"]["methods"]
    assert rows["K = 4"]["measured"]["evaluations"] == 6 * (4 - (decoder == "categorical"))
    assert np.isfinite(rows["flow"]["measured"]["total"]["value"])
    assert "dequantisation" in rows["flow"]["measured"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["predicted", "bound", "continuous", "flow", "exact"])
def test_every_method_alone(mixture_demo, method):
    config, workdir, _ = mixture_demo
    config = config.copy_and_resolve_references()
    config.evaluate.methods = (method,)
    written = evaluate.run(Experiment(config, workdir))
    assert all(path.exists() for path in written if path.name != "bounds")
    assert "|" in (workdir / "likelihoods.md").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("bond",)}, "evaluate.methods must be .* predicted, bound, .*; did you mean 'bound'"),
        ({"methods": ()}, "evaluate.methods must be at least one value"),
        ({"examples": -5}, "evaluate.examples must be a whole number from 0"),
        ({"flow.solver": "rk4"}, "set evaluate.flow.steps"),
        ({"flow.importance_samples": 4}, "set evaluate.flow.probes=0"),
        ({"continuous.times": 0}, "continuous.times must be a whole number from 1"),
    ],
)
def test_bad_evaluations_are_refused_before_the_work(mixture_demo, settings, message, tmp_path):
    config, workdir, _ = mixture_demo
    config = config.copy_and_resolve_references()
    config.evaluate.update_from_flattened_dict(settings)
    shutil.copy(workdir / "moments.safetensors", tmp_path)
    with pytest.raises(ValueError, match=message):
        MODES["evaluate"](config, tmp_path)
    assert not (tmp_path / "bounds").exists()


def tiny_training():
    config = digits_vp.get_config()
    config.data.split = (40, 40, 40)
    config.train.steps, config.train.batch_size = 6, 8
    config.train.checkpoint_seconds = 0.0
    config.train.unet.block_out_channels = (8, 8)
    config.train.unet.norm_num_groups = 4
    config.train.unet.attention_head_dim = 4
    return config


def test_interrupted_training_gives_the_identical_network(tmp_path, monkeypatch):
    config = tiny_training()
    train.run(config, tmp_path / "whole")
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
    weights = [(tmp_path / d / "network" / "diffusion_pytorch_model.safetensors").read_bytes() for d in ("whole", "parts")]
    assert weights[0] == weights[1]
    config.train.learning_rate = 0.5
    with pytest.raises(ValueError, match="another training run"):
        train.run(config, tmp_path / "parts")


def test_a_trained_network_is_used(tmp_path):
    config = tiny_training()
    train.run(config, tmp_path)
    config.network.source = ""
    config.estimate.knots, config.estimate.most_knots = 3, 0
    config.estimate.min_draws = config.estimate.max_draws = 40
    experiment = Experiment(config, tmp_path)
    assert np.isfinite(experiment.study.moments.residual).all()
    assert Moments.load(tmp_path / "moments.safetensors").evaluations == 3 * 40


def test_training_loss_that_explodes_is_caught(tmp_path):
    config = tiny_training()
    trainer = NetworkTrainer(train.recipe(config), torch.full((40, 1, 8, 8), torch.inf), 0, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="training loss became"):
        trainer.advance()


def write_idx(path: Path, images: np.ndarray) -> None:
    path.write_bytes(gzip.compress(struct.pack(">IIII", 0x803, *images.shape) + images.astype(np.uint8).tobytes()))


def test_mnist_reads_idx_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28))
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", images)
    config = mnist.get_config()
    config.data.directory, config.data.split = str(tmp_path), (10, 10, 10)
    splits = datasets.splits(config)
    assert splits.train.shape == (10, 1, 28, 28)
    everything = torch.cat([splits.train, splits.validation, splits.test]).sum().item()
    assert everything == pytest.approx((images / 127.5 - 1).sum(), rel=1e-4)


@pytest.mark.skipif(not (ROOT.parent / "shared/data/mnist").is_dir(), reason="needs the MNIST digits beside the project")
def test_real_mnist():
    config = mnist.get_config()
    config.data.directory = str(ROOT.parent / "shared/data/mnist")
    splits = datasets.splits(config)
    assert [len(x) for x in (splits.train, splits.validation, splits.test)] == [8000, 1000, 1000]
    assert splits.train.mean().item() == pytest.approx(2 * 0.1325 - 1, abs=0.01)  # MNIST's mean is 0.13 of full scale


def test_patches_are_split_in_space():
    config = patches.get_config()
    config.data.split, config.data.patch_size = (30, 20, 10), 32
    splits = datasets.splits(config)
    assert [tuple(x.shape) for x in (splits.train, splits.validation, splits.test)] == [(n, 3, 32, 32) for n in (30, 20, 10)]
    splits.data_range.check(splits.train)
    config.data.split = (30, 20, 10**6)
    with pytest.raises(ValueError, match="the test part has 20394 positions"):
        datasets.splits(config)


@torch.no_grad()
def test_shipped_network_on_held_out_patches(tmp_path):
    """The residual rises with log-SNR, and at log-SNR 9, noise of the size of a grey level, half of it is still known."""
    config = patches.get_config()
    config.data.split = (1, 64, 1)
    model, x = networks.model(config, tmp_path, torch.device("cpu")), datasets.splits(config).validation
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    residual = []
    for log_snr in (-4.0, 2.0, 9.0):
        level = model.schedule.level_at(log_snr)
        error = model.predict(level.alpha * x + level.sigma * eps, level).eps - eps
        residual.append(error.square().mean().item())
    assert residual == sorted(residual)
    assert residual[0] < 0.02
    assert residual[-1] < 0.7


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schedule.name", "cubic", "unknown schedule 'cubic'"),
        ("data.name", "cifar", "unknown data set 'cifar'"),
        ("data.split", (1, 2), "data.split must be 3 values"),
        ("data.split", (2000, 2, 2), "the split .* needs 2004 examples"),
        ("data.levels", 9, "do not fit 9 levels"),
        ("network.source", "nowhere", "there is no network nowhere: name a shipped one"),
        ("device", "cuda:77", "not available here"),
        ("device", "foo", "not available here"),
        ("sample.grids", ("cubic",), "unknown grid 'cubic'"),
        ("sample.variances", ("gamma",), "unknown covariance 'gamma'"),
    ],
)
def test_bad_settings_name_cause_and_remedy(field, value, message, tmp_path):
    config = small_digits(digits_vp.get_config())
    config.estimate.knots, config.estimate.most_knots = 2, 0
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        MODES["sample"](config, tmp_path)


def test_settings_of_another_schedule_are_refused():
    config = digits_vp.get_config()
    config.schedule.sigma_min = 0.1
    with pytest.raises(ValueError, match="does not take these settings"):
        networks.configured(config)


def test_image_sheets_are_drawn(tmp_path):
    config = small_digits(digits_vp.get_config())
    config.estimate.knots, config.estimate.most_knots = 4, 0
    config.sample.steps, config.sample.count, config.sample.grids = (1, 2), 5, ("even", "quadratic_tuned", "karras")
    config.sample.variances, config.sample.clip_pixels, config.sample.final = ("residual",), 1.0, "draw"
    written = MODES["sample"](config, tmp_path)
    assert {p.name for p in written} >= {f"samples_{grid}.png" for grid in config.sample.grids}
    assert matplotlib.image.imread(tmp_path / "samples_even.png")[..., :3].std() > 0.1


@pytest.mark.parametrize(("name", "damage"), [("diffusion_pytorch_model.safetensors", 1000), ("score_model.json", 30)])
def test_damaged_networks_are_refused(name, damage, tmp_path):
    config = digits_vp.get_config()
    shutil.copytree(networks.directory(config, tmp_path), tmp_path / "net")
    (tmp_path / "net" / name).write_bytes((tmp_path / "net" / name).read_bytes()[:damage])
    config.network.source = str(tmp_path / "net")
    with pytest.raises(ValueError, match="is truncated"):
        networks.model(config, tmp_path, torch.device("cpu"))


def test_a_damaged_training_state_is_refused(tmp_path):
    (tmp_path / "train_state.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="delete it to train from the start"):
        train.run(tiny_training(), tmp_path)


def test_grids_of_whole_indices(tmp_path):
    """A lattice of table times, for networks that take nothing else."""
    config = small_mixture()
    config.grid.table, config.grid.min_spacing = 50, 0.5
    experiment = Experiment(config, tmp_path)
    times = np.array(experiment.study.grid(6, "dp", "residual").times)
    np.testing.assert_allclose(times * 50, np.round(times * 50), atol=1e-9)
    assert np.diff(experiment.schedule.log_snr(times[:-1])).min() >= 0.5
    beta = np.array(experiment.study.grid(6, "dp", "beta").times)
    assert np.diff(experiment.schedule.log_snr(beta[:-1])).min() >= 0.5
    for steps in (40, 51):  # too many for the spacing, and for the table
        with pytest.raises(ValueError, match=f"no grid of {steps} steps fits the lattice"):
            experiment.study.grid(steps, "dp", "residual")


def test_a_network_must_say_how_it_is_fed(tmp_path):
    shutil.copytree(networks.directory(digits_vp.get_config(), tmp_path), tmp_path / "net")
    (tmp_path / "net" / "score_model.json").write_text("{}")
    config = digits_vp.get_config()
    config.network.source = str(tmp_path / "net")
    with pytest.raises(ValueError, match="predicts, coordinates, times"):
        networks.model(config, tmp_path, torch.device("cpu"))


@pytest.mark.slow
def test_reports_of_repeated_and_resumed_runs_are_the_same(tmp_path, monkeypatch):
    """What a result cost is kept with it: a run that only reads it again reports the same calls."""
    config = small_mixture()
    config.sample.steps, config.sample.grids, config.sample.variances = (3, 5), ("log_snr",), ("beta_tilde", "residual")
    for mode in ("estimate", "sample"):
        MODES[mode](config, tmp_path / "whole")
    whole = (tmp_path / "whole" / "report.json").read_text()
    section = json.loads(whole)["samples"]
    assert section["cost"]["evaluations"] == config.sample.count * 2 * (3 + 5)
    calls = json.loads(whole)["moments"]["network_calls"]
    assert calls == config.estimate.knots * -(-config.estimate.max_draws // config.estimate.batch_size)

    predict = ScoreModel.predict
    asked = []

    def interrupted(self, *arguments, **options):
        asked.append(self)
        if len(asked) in (4, 4 + calls):  # once in each mode
            raise KeyboardInterrupt
        return predict(self, *arguments, **options)

    monkeypatch.setattr(ScoreModel, "predict", interrupted)
    for mode in ("estimate", "sample"):
        with pytest.raises(KeyboardInterrupt) as caught:
            MODES[mode](config, tmp_path / "parts")
        assert str(tmp_path / "parts") in caught.value.__notes__[0]
        MODES[mode](config, tmp_path / "parts")
    assert (tmp_path / "parts" / "report.json").read_text() == whole
    asked.clear()
    monkeypatch.setattr(ScoreModel, "predict", predict)
    for mode in ("estimate", "sample"):
        MODES[mode](config, tmp_path / "parts")
    assert (tmp_path / "parts" / "report.json").read_text() == whole


@pytest.mark.slow
def test_kills_change_nothing():
    assert [outcome for outcome in kill.outcomes(21, seed=3) if outcome.verdict != "right"] == []


@pytest.mark.slow
def test_a_stacked_network_is_what_everything_uses(tmp_path):
    """Shares, moments and samples of the stacked network; a second run reads them; "off" is another model."""
    config = small_digits(digits_vp.get_config())
    config.network.recalibrate, config.network.recalibration_draws = "linear", 64
    experiment = Experiment(config, tmp_path)
    written = modes.estimate(experiment)
    assert {path.name for path in written} >= {"linear_denoiser.safetensors", "recalibration.safetensors"}
    better = Recalibrated.load(tmp_path / "recalibration", experiment.network)
    assert better.fingerprint() == experiment.study.model.fingerprint() == Experiment(config, tmp_path).model.fingerprint()
    content = json.loads((tmp_path / "report.json").read_text())["recalibration"]
    worse = [new["value"] - old["value"] for new, old in zip(content["stacked"], content["network"], strict=True)]
    assert max(worse) <= 0.0  # left alone where nothing is gained
    config.network.recalibrate = "off"
    assert Experiment(config, tmp_path / "off").model.fingerprint() != better.fingerprint()


def test_samples_of_the_fewest_calls(tmp_path, capsys):
    config = small_mixture()
    config.sample.grids, config.sample.variances, config.sample.fewest = (), (), (1, 2)
    config.sample.count = config.sample.batch_size = 20
    written = MODES["sample"](config, tmp_path)
    assert {"samples_fewest.png", "samples_fewest.safetensors", "fewest"} <= {path.name for path in written}
    assert "K = 2: " in capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())["samples"]
    assert "nearest to the examples" in report["fewest"]["2"]
    before = (tmp_path / "samples_fewest.safetensors").read_bytes()
    MODES["sample"](config, tmp_path)
    assert (tmp_path / "samples_fewest.safetensors").read_bytes() == before
