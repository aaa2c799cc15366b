"""What enters: numbers of any container, precisions that differ, data of any kind, and messages that name the way out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from benchmarks.faults.fuzz import outcomes
from score_sde_analytic import (
    VE,
    Budget,
    Chain,
    ContinuousTime,
    CosineVP,
    DataRange,
    Flow,
    Grid,
    LinearVP,
    LogSNR,
    OneBased,
    ScoreModel,
    Tabulated,
    ZeroBased,
    bits_per_dim,
    generate,
)
from score_sde_analytic.covariance import BetaTilde, Isotropic
from score_sde_analytic.data import DataStatistics, Examples
from score_sde_analytic.errors import InputError, RunError
from score_sde_analytic.grids import StepCosts, even, even_log_snr, steps_for
from score_sde_analytic.likelihood import Hutchinson
from score_sde_analytic.measure import NoiseCurve, estimate
from score_sde_analytic.metrics import Frechet, Precision
from score_sde_analytic.process import CategoricalDecoder
from score_sde_analytic.process.noise import SampleNoise, stream_seed
from score_sde_analytic.samplers import Ancestral, Heun

VP = LinearVP()
CURVE = NoiseCurve(np.array([-6.0, 6.0]), np.array([0.0, 1.0]))
CHAIN = Chain(even_log_snr(VP, 3, 1e-3), Isotropic(CURVE), 0.2)
FEW = Budget(min_draws=32, max_draws=32)
QUIET = {"progress": False}


# --- numbers of any container --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seven", [np.int64(7), np.uint8(7), torch.tensor(7), np.array(7)])
def test_a_seed_is_its_value(seven, planar):
    assert stream_seed(seven, 3) == stream_seed(7, 3)
    like = torch.empty(1, 4)
    assert torch.equal(SampleNoise(seven, [2]).draw(like), SampleNoise(7, [2]).draw(like))
    model, data = planar.score_model(VP), planar.sample(40)
    first, second = (estimate(model, data, [0.0, 2.0], FEW, seed=seed, **QUIET) for seed in (7, seven))
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.sums, second.sums)
    ancestral = Ancestral(model, BetaTilde())
    assert torch.equal(*(generate(ancestral, CHAIN.grid, (2,), 3, seed=seed) for seed in (7, seven)))
    assert torch.equal(planar.sample(5, seed=seven), planar.sample(5, seed=7))


@pytest.mark.parametrize(
    "given", [np.float32, lambda x: torch.tensor(x, dtype=torch.bfloat16), lambda x: torch.tensor(x, requires_grad=True)]
)
def test_numbers_of_any_container_make_curves_grids_and_budgets(given):
    log_snr, residual = [-4.0, 0.0, 4.0], [0.0625, 0.5, 0.875]
    lists, others = (NoiseCurve.from_residual(make(log_snr), make(residual)) for make in (list, given))
    assert np.array_equal(others.residual(np.zeros(1)), lists.residual(np.zeros(1)))
    assert StepCosts(given(log_snr[::-1]), given(residual[::-1])).columns.dtype == np.float64
    assert steps_for(0.25, given([2.0, 1.0, 0.5]), 0.5) == 3


@pytest.mark.parametrize("seed", [7.0, -1, None, "7", True])
def test_no_seed_is_guessed(seed, planar):
    with pytest.raises(InputError, match="whole number"):
        estimate(planar.score_model(VP), planar.sample(40), [0.0], FEW, seed=seed, **QUIET)


def test_saved_work_is_found_again_by_the_value_of_its_settings(planar, tmp_path: Path):
    """Settings as numpy has them, plain ones in the next run."""
    data = planar.sample(40)
    narrow = np.float32(0.5)
    for schedule, seed, t_min, times in (
        (VE(narrow, np.float32(50)), np.int64(1), narrow, np.int64(2)),
        (VE(0.5, 50.0), 1, 0.5, 2),
    ):
        model = planar.score_model(schedule)
        moments = estimate(model, data, np.array([0.0]), FEW, seed=seed, path=tmp_path / "moments", **QUIET)
        bits_per_dim(model, data, ContinuousTime(t_min, narrow, times), seed=seed, path=tmp_path / "bound", **QUIET)
    assert moments.fingerprint["seed"] == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "1", None, torch.ones(2)])
@pytest.mark.parametrize(
    "make",
    [
        lambda v: DataRange(lo=-1.0, hi=v),
        lambda v: LinearVP(beta_max=v),
        lambda v: CosineVP(offset=v),
        lambda v: VE(sigma_max=v),
        lambda v: Tabulated([0.1, v]),
        lambda v: LogSNR(shift=v),
        lambda v: ZeroBased(v),
        lambda v: Budget(tolerance=v),
        lambda v: even(3, v),
        lambda v: Grid((1.0, v, 0.0)),
        lambda v: Flow(t_min=v),
        lambda v: Hutchinson(v),
        lambda v: Heun(None, s_churn=v),
        lambda v: ScoreModel(nn.Identity(), VP, clamp=(-1.0, v)),
    ],
)
def test_what_is_no_number_passes_no_check(make, bad):
    with pytest.raises(InputError):
        make(bad)


# --- precision -----------------------------------------------------------------------------------------------------------


class Narrow(nn.Module):
    """A network of some precision that cannot be fed another."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 2).to(dtype)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x))


@pytest.mark.parametrize("of_data", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of_network", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_data_and_network_may_differ_in_precision(of_data, of_network, planar):
    """Moments and bits/dim are those of float64 but for the rounding of data and network."""
    data = planar.sample(64)
    values = []
    for dtype, precision in ((torch.float64, torch.float64), (of_data, of_network)):
        model = ScoreModel(Narrow(precision).eval(), VP)
        moments = estimate(model, data.to(dtype), [-2.0, 2.0], FEW, **QUIET)
        bits = bits_per_dim(model, data.to(dtype), {"chain": CHAIN, "time": ContinuousTime(0.01, 0.2, 2)}, **QUIET)
        sample = generate(Ancestral(model, BetaTilde()), CHAIN.grid, (2,), 2, dtype=dtype)
        assert sample.dtype == dtype
        values.append((moments.residual, bits["chain"].total.value, bits["time"].total.value))
    eps = max(torch.finfo(of_data).eps, torch.finfo(of_network).eps)
    streams = 0.5 if of_data != torch.float64 else 0.0  # float64 data have noise of their own
    for mine, exact in zip(values[1], values[0], strict=True):
        np.testing.assert_allclose(mine, exact, rtol=streams + 100 * eps)


def test_autocast_leaves_the_measurement_alone(planar):
    data, model = planar.sample(64).float(), ScoreModel(Narrow(torch.float32).eval(), VP)
    plain = estimate(model, data, [0.0], FEW, **QUIET)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = estimate(model, data, [0.0], FEW, **QUIET)
    np.testing.assert_allclose(cast.residual, plain.residual, rtol=0.05)


def test_views_of_half_precision_do_not_overflow():
    """(x - sigma eps) / alpha passes through numbers that float16 has not."""
    schedule = VE(0.01, 3e4)
    model = ScoreModel(lambda x, t: x / 3e4, schedule)
    assert torch.isfinite(model(torch.full((1, 2), 6e4, dtype=torch.float16), 1.0).x_0).all()


@pytest.mark.parametrize(("levels", "dtype"), [(65536, torch.float32), (256, torch.float16), (17, torch.bfloat16)])
def test_levels_are_checked_up_to_rounding(levels, dtype):
    data_range = DataRange(-1.0, 1.0, levels)
    x = data_range.encode(np.arange(levels)[:, None]).to(dtype)
    data_range.check(x)
    data_range.check(x.double() if dtype == torch.float32 else x)
    assert torch.equal(data_range.index(x)[:, 0], torch.arange(levels))
    with pytest.raises(InputError, match="off the grid"):
        DataRange(-1.0, 1.0, 5).check(x)


def test_too_coarse_a_precision_is_named():
    with pytest.raises(InputError, match="bfloat16 may be too coarse for 256 levels"):
        DataRange(levels=256).check(torch.zeros(1, 2, dtype=torch.bfloat16))


def test_many_levels_cost_no_more_than_few():
    """65,536 levels, over which the noise spreads: the table is log of the levels that it covers."""
    data_range = DataRange(-1.0, 1.0, 65536)
    for log_snr in (-5.0, 5.0, 18.0):
        level = VP.level_at(log_snr)
        table = CategoricalDecoder.table(level, data_range)
        x = data_range.encode(np.full((1, 400), 30_000))
        x_t = level.diffuse(x, torch.randn(1, 400, generator=torch.Generator().manual_seed(0)))
        nats = float(CategoricalDecoder().nats(x, x_t, None, level, data_range))
        assert nats == pytest.approx(table[30_000], abs=5 * 0.75 / 20)


# --- data of any kind ----------------------------------------------------------------------------------------------------


ROWS = torch.arange(24.0).reshape(6, 1, 2, 2) / 24


class Items(Dataset):
    """Items made from rows."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        return self.make(ROWS[index])


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        ROWS.numpy(),
        {"image": ROWS, "label": torch.zeros(6)},
        list(ROWS),
        TensorDataset(ROWS, torch.zeros(6)),
        Items(lambda x: (x, 3)),
        Items(lambda x: [x.numpy(), 3]),
        Items(lambda x: {"pixel_values": x, "label": 3}),
        Items(lambda x: {"x": x.tolist()}),
        ConcatDataset([Subset(TensorDataset(ROWS), [0, 1, 2]), TensorDataset(ROWS[3:])]),
        DataLoader(TensorDataset(ROWS), batch_size=4, shuffle=True),
    ],
)
def test_containers(data):
    examples = Examples(data)
    assert torch.equal(examples.take(range(6)).float(), ROWS)
    assert DataStatistics.of(data).variance == pytest.approx(float(ROWS.double().flatten(1).var(0, correction=0).mean()))


def test_pictures_become_values_of_their_range():
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
    pictures = [image.fromarray(p) for p in pixels]
    data_range = DataRange(-1.0, 1.0, 256)
    x = Examples(pictures, data_range).take(range(3))
    assert torch.equal(data_range.index(x), torch.from_numpy(pixels).permute(0, 3, 1, 2).long())
    assert Examples([p.convert("L") for p in pictures], data_range).shape == (1, 4, 5)
    assert DataStatistics.of(pictures, data_range).count == 3


class Stream(IterableDataset):
    def __iter__(self):
        return iter(ROWS)


class Unequal(Items):
    def __getitem__(self, index):
        return ROWS[index] if index != 4 else torch.zeros(1, 2, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Stream(), "collect the examples of an iterable first"),
        (DataLoader(Stream()), "collect the examples|sampler"),
        (Unequal(None), r"example 4 is \(1, 2, 3\) of torch.float32, example 0 \(1, 2, 2\)"),
        (Items(lambda x: {"a": x, "b": x}), "name it: score_sde_analytic.data.Examples"),
        (Items(lambda x: "path.png"), "an item of the data is str"),
        (DataLoader(TensorDataset(ROWS), collate_fn=lambda items: items), "collate_fn or sampler would be ignored"),
    ],
)
def test_other_data_are_refused_with_the_way_out(data, message):
    with pytest.raises(InputError, match=message):
        DataStatistics.of(data)


def test_a_key_may_be_named():
    assert Examples(Items(lambda x: {"a": x, "b": 2 * x}), key="b")[0].sum() == 2 * ROWS[0].sum()


def test_data_that_change_between_readings_are_told(planar):
    with pytest.raises(InputError, match=r"example \d+ changed between two readings"):
        model = ScoreModel(nn.Identity(), VP)
        estimate(ScoreModel(lambda x, t: x, VP, fingerprint="i"), Items(lambda x: x + torch.rand(())), [0.0], FEW, **QUIET)
    assert model.predicts == "eps"


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
def test_statistics_far_from_zero(offset):
    """Mean 1e8, standard deviations 0.3 and 0.6."""
    x = (
        torch.randn(3000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.3, 0.6])
        + offset
    )
    statistics = DataStatistics.of(x, batch_size=100)
    centred = (x - x.mean(0)).numpy()
    assert statistics.variance == pytest.approx((centred**2).mean(), rel=1e-6)
    np.testing.assert_allclose(statistics.eigenvalues, np.linalg.eigvalsh(centred.T @ centred / 3000), rtol=1e-6)


# --- messages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ScoreModel(nn.Identity(), Tabulated([0.1, 0.5, 1.0])), "pure noise.*betas below 1"),
        (lambda: Tabulated(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))), "as alphas_cumprod do; pass betas"),
        (lambda: Grid((999, 499, 0)), r"whole steps n of a table of N are the times n / N"),
        (lambda: Frechet()(torch.randn(10, 2), torch.randn(90, 2)), "set groups=5"),
        (lambda: Precision(k=5)(torch.randn(4, 2), torch.randn(90, 2)), "set k=3"),
    ],
)
def test_the_way_out_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return x + self.table(labels)


def test_networks_that_look_time_up_are_told_how():
    with pytest.raises(RunError, match=r"set times=ZeroBased\(N, integer=True\); Continuous.* feeds it torch.float32"):
        ScoreModel(Embedded(), VP)(torch.zeros(2, 2), 0.5)
    with pytest.raises(RunError, match="the network knows no such index"):
        ScoreModel(Embedded(), VP, times=OneBased(10, integer=True))(torch.zeros(2, 2), 1.0)
    ScoreModel(Embedded(), VP, times=ZeroBased(10, integer=True))(torch.zeros(2, 2), 1.0)


@pytest.mark.parametrize("steps", [7, 1000, 4000])
def test_labels_of_table_times_are_whole(steps):
    """A network that truncates sees index n - 1 of time n / N, for every n; one level or one per sample."""
    n = np.arange(1, steps + 1)
    levels = VP.level(torch.from_numpy(n / steps))
    assert ZeroBased(steps).label(levels).long().tolist() == (n - 1).tolist()
    assert [int(ZeroBased(steps).label(level)) for level in VP.levels(n / steps)] == (n - 1).tolist()
    assert OneBased(steps).label(levels).long().tolist() == n.tolist()


# --- any call ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hostile_calls_are_refused_or_right():
    """A part of the campaign `python -m benchmarks.faults fuzz`; shapes that the test run itself refuses do not count."""
    bad = [outcome for outcome in outcomes(300, seed=1) if outcome.verdict in ("silent", "raw")]
    assert [outcome for outcome in bad if not outcome.detail.startswith("TypeCheckError")] == []
