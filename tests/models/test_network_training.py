"""Training: the old losses to the bit, every objective at its closed form, resumption to the identical result."""

import json
import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from score_sde_analytic import DataRange, LinearVP, ScoreModel
from score_sde_analytic.errors import InputError
from score_sde_analytic.models import FourierFeatures, LogSNR, WithFeatures, load_unet, save_unet
from score_sde_analytic.models.fourier import fourier_of
from score_sde_analytic.models.identity import digest_of
from score_sde_analytic.models.network_training import LEARNED, LOSSES, NetworkRecipe, NetworkTrainer
from score_sde_analytic.models.networks import WIRING, Output, build_unet
from score_sde_analytic.models.proposals import PROPOSALS
from score_sde_analytic.models.training import Checkpoint, learning_rate, train
from score_sde_analytic.models.training_log import HeldOut
from score_sde_analytic.process.noise import stream_seed

CPU = torch.device("cpu")
UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "dropout": 0.1,
}
LOW, HIGH = -6.0, 6.0
#: Variance of the Gaussian data.
C = 0.2


def images(count=64):
    return C**0.5 * torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(3))


class Learning(nn.Module):
    """A layer that learns, and draws at random while it does."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(17, 16), nn.SiLU(), nn.Dropout(0.1), nn.Linear(16, 16))

    def forward(self, x, labels, class_labels=None):
        return Output(self.layers(torch.cat([x.flatten(1), labels[:, None] / 1000.0], 1)).view_as(x))


class Exact(nn.Module):
    """The best prediction for Gaussian data; its one weight changes nothing."""

    def __init__(self, predicts):
        super().__init__()
        self.predicts = predicts
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x, labels, class_labels=None):
        share = (labels / 1000.0).double()
        log_snr = labels.double() / -50.0 + 10.0 if self.predicts == "v" else -2.0 * torch.logit(share)
        alpha, sigma = (each.view(-1, 1, 1, 1) for each in LEARNED[self.predicts].scales(log_snr))
        x_0 = C * alpha * x / (C * alpha**2 + sigma**2)
        eps = (x - alpha * x_0) / sigma
        return Output(LEARNED[self.predicts].target(alpha, sigma, x_0, eps).to(x) + 0.0 * self.nothing)


@dataclass(frozen=True)
class LearningRecipe(NetworkRecipe):
    def build(self):
        return Learning()


@dataclass(frozen=True)
class ExactRecipe(NetworkRecipe):
    def build(self):
        return Exact(self.predicts)


# --- as before -----------------------------------------------------------------------------------------------------------


def old_training(recipe, data, seed):
    """The loop as it was when levels were even and the loss that of what is predicted, line by line."""
    torch.manual_seed(stream_seed(seed))
    net = build_unet(recipe.settings).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=1e-4)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    low, high = recipe.log_snr
    for step in range(recipe.steps):
        torch.manual_seed(stream_seed(seed, step + 1))
        x_0 = data[torch.randint(len(data), (recipe.batch_size,))]
        share = (torch.rand(recipe.batch_size) + torch.arange(recipe.batch_size)) / recipe.batch_size
        if recipe.predicts == "v":
            log_snr = low + (high - low) * share
        else:
            ends = torch.sigmoid(-0.5 * torch.tensor([high, low]))
            log_snr = -2.0 * torch.logit(ends[0] + (ends[1] - ends[0]) * share)
        eps = torch.randn(x_0.shape)
        learned = LEARNED[recipe.predicts]
        alpha, sigma = learned.scales(log_snr.view(-1, 1, 1, 1))
        found = net(alpha * x_0 + sigma * eps, learned.label(log_snr)).sample
        loss = (found - learned.target(alpha, sigma, x_0, eps)).square().mean()
        optimiser.param_groups[0]["lr"] = learning_rate(step, recipe.steps, recipe.learning_rate, recipe.warmup)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        ema.update_parameters(net)
    return ema.module


@pytest.mark.parametrize("predicts", ["v", "velocity"])
def test_the_loss_of_what_is_predicted_is_what_it_was(predicts):
    recipe = NetworkRecipe(UNET, (LOW, HIGH), predicts, steps=4, batch_size=8)
    data = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    trainer = NetworkTrainer(recipe, data, 7, CPU)
    train(trainer, None, CPU)
    assert digest_of(trainer.network()) == digest_of(old_training(recipe, data, 7))


# --- closed forms --------------------------------------------------------------------------------------------------------


def exact_residual(log_snr):
    """R of Gaussian data of variance C."""
    return C * np.exp(log_snr) / (1.0 + C * np.exp(log_snr))


GRID = tuple(np.linspace(LOW, HIGH, 41).tolist())
FINE = np.linspace(LOW, HIGH, 20_001)
#: 1/2 integral of R in closed form, bits per dimension.
TRANSITIONS = 0.5 * math.log((1.0 + C * math.exp(HIGH)) / (1.0 + C * math.exp(LOW))) / math.log(2.0)


def expected_loss(loss, predicts):
    """Of the exact network, over the range or the grid."""
    mean = np.trapezoid(exact_residual(FINE), FINE) / (HIGH - LOW)
    if loss == "bound":
        return mean
    if loss == "discrete":
        return float(np.sum(np.expm1(np.diff(GRID)) * exact_residual(np.array(GRID[:-1])))) / (HIGH - LOW)
    if loss == "eps":
        t = np.linspace(LinearVP().time(HIGH), LinearVP().time(LOW), 20_001)
        return np.trapezoid(exact_residual(LinearVP().log_snr(t)), t) / (t[-1] - t[0])
    if predicts == "v":
        return np.trapezoid(exact_residual(FINE) * (1.0 + np.exp(-FINE)), FINE) / (HIGH - LOW)
    t = np.linspace(1.0 / (1.0 + math.exp(0.5 * HIGH)), 1.0 / (1.0 + math.exp(0.5 * LOW)), 20_001)
    return np.trapezoid(exact_residual(2.0 * np.log((1.0 - t) / t)) / (1.0 - t) ** 2, t) / (t[-1] - t[0])


#: Combinations of `make test`; the others are for `make test-all`.
QUICK = [
    ("v", "even", "v"),
    ("bound", "adaptive", "v"),
    ("eps", "linear_vp", "v"),
    ("discrete", "even", "v"),
    ("v", "adaptive", "velocity"),
]
WAYS = [
    pytest.param(*way, marks=() if way in QUICK else pytest.mark.slow)
    for way in product(LOSSES, ("even", *PROPOSALS), ("v", "velocity"))
    if way[0] != "discrete" or way[1] == "even"
]


@pytest.mark.parametrize(("loss", "times", "predicts"), WAYS)
def test_every_loss_is_unbiased_wherever_levels_are_drawn(loss, times, predicts):
    """Of the exact network the mean loss and the bits of the log are closed forms, within 4.5 standard errors.

    78 comparisons of normal means: one is beyond by chance with probability 5e-4; seeds are fixed.
    """
    grid = GRID if loss == "discrete" else ()
    recipe = ExactRecipe({}, (LOW, HIGH), predicts, steps=120, batch_size=64, loss=loss, times=times, grid=grid)
    trainer = NetworkTrainer(recipe, images(20_000), 1, CPU)
    losses = np.array([trainer.advance()["loss"] for _ in range(120)])
    late = losses[40:]  # the density has settled, and weights no longer depend on what it forgets
    error = late.std(ddof=1) / len(late) ** 0.5
    assert abs(late.mean() - expected_loss(loss, predicts)) < 4.5 * error + 2e-3 * late.mean()
    bits = expected_loss("discrete", "v") * (HIGH - LOW) / 2 / math.log(2.0) if loss == "discrete" else TRANSITIONS
    assert [row["step"] for row in trainer.log.rows] == [100, 120]
    for row in trainer.log.rows:
        assert abs(row["train_bits"] - bits) < 4.5 * row["train_stderr"] + 2e-3 * bits
        assert 0.0 < row["train_stderr"] < 0.2 * bits


def test_the_discrete_bound_falls_to_the_continuous_one():
    """With the slope 1/T, in expectation over the steps."""
    excess = []
    for steps in (200, 400, 800):
        grid = np.linspace(LOW, HIGH, steps + 1)
        excess.append(0.5 * np.sum(np.expm1(np.diff(grid)) * exact_residual(grid[:-1])) - TRANSITIONS * math.log(2.0))
    np.testing.assert_allclose(np.divide(excess[:-1], excess[1:]), 2.0, rtol=0.05)


@pytest.mark.parametrize("loss", ["bound", "discrete"])
def test_held_out_bits_are_those_of_the_network(loss):
    grid = GRID if loss == "discrete" else ()
    recipe = ExactRecipe({}, (LOW, HIGH), steps=4, batch_size=16, loss=loss, grid=grid, validate_every=2)
    trainer = NetworkTrainer(recipe, images(), 0, CPU, held_out=HeldOut(images(4000), draws=8000))
    train(trainer, None, CPU)
    bits = expected_loss("discrete", "v") * (HIGH - LOW) / 2 / math.log(2.0) if loss == "discrete" else TRANSITIONS
    assert [row["step"] for row in trainer.log.rows] == [2, 4]
    for row in trainer.log.rows:
        assert abs(row["validation_bits"] - bits) < 4.0 * row["validation_stderr"] < 0.2 * bits


def test_combinations_without_a_meaning_are_refused():
    with pytest.raises(InputError, match="times='even' goes with it"):
        NetworkRecipe(UNET, (LOW, HIGH), loss="discrete", times="adaptive", grid=GRID)
    with pytest.raises(InputError, match="two or more different log-SNRs"):
        NetworkRecipe(UNET, (LOW, HIGH), loss="discrete")
    with pytest.raises(InputError, match="outside this schedule's range"):
        NetworkRecipe(UNET, (-30.0, HIGH), times="linear_vp")
    with pytest.raises(InputError, match="did you mean 'adaptive'"):
        NetworkRecipe(UNET, (LOW, HIGH), times="adaptve")


# --- resumption ----------------------------------------------------------------------------------------------------------


def trained(recipe, folder, until):
    """A trainer that was interrupted at the step, and what it left."""
    trainer = NetworkTrainer(recipe, images(), 0, CPU, held_out=HeldOut(images(30), draws=60), log=folder / "training.jsonl")
    checkpoint = Checkpoint(folder / "state.safetensors", {"of": "this"}, seconds=math.inf)
    advance = trainer.advance

    def interrupted():
        if trainer.step == until:
            raise KeyboardInterrupt
        return advance()

    trainer.advance = interrupted
    try:
        train(trainer, checkpoint, CPU)
    except KeyboardInterrupt:
        assert trainer.step == until
    return trainer


@pytest.mark.parametrize(("loss", "times", "predicts"), WAYS)
def test_an_interrupted_run_ends_in_the_identical_result(loss, times, predicts, tmp_path):
    grid = GRID if loss == "discrete" else ()
    recipe = LearningRecipe(
        {}, (LOW, HIGH), predicts, steps=9, batch_size=8, loss=loss, times=times, grid=grid, log_every=3, validate_every=4
    )
    whole = trained(recipe, tmp_path / "whole", None)
    for until in (4, 5):
        trained(recipe, tmp_path / "parts", until)
    parts = trained(recipe, tmp_path / "parts", None)
    assert digest_of(parts.network()) == digest_of(whole.network())
    states = [tmp_path / name / "state.safetensors" for name in ("whole", "parts")]
    assert states[0].read_bytes() == states[1].read_bytes()
    logs = [(tmp_path / name / "training.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == [3, 4, 6, 8, 9]


# --- Fourier features ----------------------------------------------------------------------------------------------------


def test_frequencies_are_those_of_the_paper():
    """n = 7, 8 of z = (2 k + 1) / 256 - 1 for 256 levels k, whatever the range of the data."""
    for declared in (DataRange(levels=256), DataRange(0.0, 1.0, levels=256)):
        net = FourierFeatures(nn.Identity(), **fourier_of(declared, 2))
        k = torch.arange(256, dtype=torch.float64) + 0.2
        x = (declared.lo + k * declared.bin_width).view(-1, 1, 1, 1)
        z = (2.0 * k + 1.0) / 256 - 1.0
        wanted = [f(2.0**n * math.pi * z) for f in (torch.sin, torch.cos) for n in (7, 8)]
        torch.testing.assert_close(net.features(x)[..., 0, 0], torch.stack(wanted, 1), rtol=0, atol=1e-9)


def test_the_highest_frequency_tells_levels_apart_from_what_lies_between():
    net = FourierFeatures(nn.Identity(), **fourier_of(DataRange(levels=17), 1))
    levels = torch.linspace(-1.0, 1.0, 17, dtype=torch.float64).view(-1, 1, 1, 1)
    assert net.frequencies == (4,)
    on, between = net.features(levels), net.features(levels[:-1] + 1.0 / 16)
    torch.testing.assert_close(on, on[:1].expand_as(on))
    torch.testing.assert_close(between, -on[:-1])


@pytest.fixture(scope="module")
def featured():
    recipe = NetworkRecipe(UNET, (LOW, HIGH), steps=2, batch_size=4, fourier=fourier_of(DataRange(levels=17), 2))
    trainer = NetworkTrainer(recipe, torch.rand(16, 1, 8, 8), 0, CPU)
    train(trainer, None, CPU)
    return trainer.network(), recipe.wiring


def test_a_network_with_features_is_kept_and_known(featured, tmp_path):
    net, wiring = featured
    save_unet(net, tmp_path, wiring)
    again, told = load_unet(tmp_path)
    assert digest_of(again) == digest_of(net) == told["fingerprint"] != digest_of(net.wrapped)
    model = ScoreModel(WithFeatures(again), LinearVP(), predicts="v", coordinates="vp", times=LogSNR(-50.0, -10.0))
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        prediction = model(x, 0.4)
        lam = float(LinearVP().log_snr(0.4))
        wanted = net(x, torch.full((3,), -50.0 * (lam - 10.0))).sample
    torch.testing.assert_close(prediction.v, wanted)
    assert prediction.extra.shape[1] == 8


def test_other_frequencies_are_another_network(featured, tmp_path):
    net, wiring = featured
    save_unet(net, tmp_path, wiring)
    record = tmp_path / WIRING
    other = FourierFeatures(net.wrapped, (2, 4), net.scale, net.shift)
    assert digest_of(other) != digest_of(net)
    save_unet(other, tmp_path / "other", wiring)
    record.write_bytes((tmp_path / "other" / WIRING).read_bytes())
    assert digest_of(load_unet(tmp_path)[0]) == digest_of(other)
    save_unet(net.wrapped, tmp_path / "bare", wiring)
    record.write_bytes((tmp_path / "bare" / WIRING).read_bytes())
    assert not isinstance(load_unet(tmp_path)[0], FourierFeatures)


def test_features_of_what_has_no_levels_are_refused():
    with pytest.raises(InputError, match=r"set data\.levels, or train\.fourier=0"):
        fourier_of(DataRange(), 2)
    with pytest.raises(InputError, match="17 levels have 4 frequencies, not 5"):
        fourier_of(DataRange(levels=17), 5)
