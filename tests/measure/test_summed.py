"""Residuals summed in cells: the settings, curves and prices of every draw, from memory that does not grow with the draws."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from score_sde_analytic.data.transforms import DCT
from score_sde_analytic.errors import InputError
from score_sde_analytic.files import load_arrays
from score_sde_analytic.measure.draws import GROUPS, Recorder, ResidualDraws
from score_sde_analytic.measure.estimation import Budget, estimate
from score_sde_analytic.measure.held_out import PLAIN, Choice, HeldOut
from score_sde_analytic.measure.merging import merge_passes
from score_sde_analytic.measure.moments import KIND
from score_sde_analytic.measure.statistics import Energy, GradientEnergy, Statistic
from score_sde_analytic.measure.summed import WATCHED, SummedDraws, SummingRecorder
from score_sde_analytic.models.model import ScoreModel
from score_sde_analytic.models.times import LogSNR
from score_sde_analytic.process.schedule import LinearVP

SHAPE = (2, 8, 8)
KNOTS = np.array([-4.0, 0.0, 4.0])
BUDGET = Budget(min_draws=480, max_draws=480, batch_size=48)


@dataclass(frozen=True)
class Brightness(Statistic):
    """Whether the mean of x0_hat is positive: bins cannot cut it."""

    def __call__(self, prediction):
        return (prediction.x_0.flatten(1).mean(1) > 0).float()


def network():
    """Takes bright pictures for more diverse than they are."""

    def net(x, log_snr):
        alpha2, sigma2 = (torch.sigmoid(sign * log_snr)[:, None, None, None] for sign in (1, -1))
        variance = 0.1 + 0.3 * (4 * x.flatten(1).mean(1)).sigmoid()[:, None, None, None]
        return alpha2.sqrt() * variance / (alpha2 * variance + sigma2) * x

    return ScoreModel(net, LinearVP(), "x_0", LogSNR(), coordinates="vp", fingerprint="bright")


def pictures():
    generator = torch.Generator().manual_seed(0)
    level = 0.06 * torch.randn(160, 1, 1, 1, generator=generator)
    return level + 0.1 * torch.randn(160, *SHAPE, generator=generator).cumsum(-1)


def measured(statistics, bins, budget=BUDGET, **options):
    """(draws one by one, draws in cells) of one pass."""
    observers = {"kept": Recorder(DCT(), statistics), "summed": SummingRecorder(DCT(), statistics, bins)}
    moments = estimate(network(), pictures(), KNOTS, budget, observers=observers, progress=False, **options)
    return [recorder.result(moments.log_snr, moments.order) for recorder in observers.values()]


@pytest.fixture(scope="module")
def brightness():
    return measured({"bright": Brightness()}, 4)


@pytest.fixture(scope="module")
def energies():
    return measured({"energy": Energy()}, 4)


def test_cells_are_fewer_than_draws_and_hold_the_same_sums(brightness):
    kept, summed = brightness
    cells = summed.seen_by("bright")
    assert isinstance(summed, SummedDraws)
    assert len(cells.rms) <= 4 * GROUPS * len(KNOTS) < len(kept.rms)
    for m in range(len(KNOTS)):
        for g in range(GROUPS):
            rows = np.flatnonzero((kept.knot == m) & (kept.example % GROUPS == g))
            np.testing.assert_allclose(cells.square(rows).sum(0), kept.square(rows).sum(0), rtol=1e-5)


@pytest.mark.parametrize("statistic", ["brightness", "energies"])
def test_the_settings_chosen_are_those_of_every_draw(statistic, request):
    kept, summed = request.getfixturevalue(statistic)
    assert len(kept.sizes) > WATCHED
    assert HeldOut.choose(summed) == HeldOut.choose(kept)


CHOICES = [
    PLAIN,
    Choice("bright", 4, 0.0, False),
    Choice("bright", 2, 30.0, False),
    Choice("bright", 4, np.inf, False),
    Choice("bright", 4, 30.0, True),
]


@pytest.mark.parametrize("choice", CHOICES)
def test_curves_and_prices_are_those_of_every_draw(brightness, choice):
    kept, summed = brightness
    one, other = choice.fit(kept), choice.fit(summed)
    np.testing.assert_allclose(other.y, one.y, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(other.quantiles, one.quantiles)
    np.testing.assert_array_equal(other.mass, one.mass)
    np.testing.assert_allclose(HeldOut(summed, choice).chain(10), HeldOut(kept, choice).chain(10), rtol=1e-4)
    np.testing.assert_allclose(
        HeldOut(summed, choice).correction.table, HeldOut(kept, choice).correction.table, rtol=1e-3, atol=1e-6
    )


def test_bins_that_cells_cut_are_those_of_every_draw_but_for_a_few(energies):
    kept, summed = energies
    choice = Choice("energy", 4, 10.0, False)
    one, other = choice.fit(kept), choice.fit(summed)
    np.testing.assert_array_equal(other.quantiles, one.quantiles)
    assert np.abs(other.y - one.y).mean() < 0.15 * np.abs(one.y - PLAIN.fit(kept).y).mean() + 0.02
    assert HeldOut(summed, choice).chain(10)[0] == pytest.approx(HeldOut(kept, choice).chain(10)[0], rel=2e-3)


def test_coefficients_pooled_under_one_label_are_those_of_every_draw(brightness):
    kept, summed = brightness
    for fit in (PLAIN, Choice(None, 1, 0.0, False, pooled=True)):
        ours, theirs = (HeldOut(draws.pooled(), fit).chain(10) for draws in (summed, kept))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    ours, theirs = (HeldOut(draws, Choice(None, 1, 0.0, False, pooled=True)).chain(10)[0] for draws in (summed, kept))
    assert ours == pytest.approx(theirs, rel=1e-3)  # errors of labels are told by the scatter of cells


@pytest.mark.parametrize(
    ("rounds", "of"),
    [
        pytest.param(20, 3, id="all summed", marks=pytest.mark.slow),
        pytest.param(11, 2, id="one summed"),
        pytest.param(4, 5, id="one idle"),
    ],
)
def test_shards_put_together_are_every_draw_of_the_pass(tmp_path, rounds, of):
    statistics, path = {"bright": Brightness()}, tmp_path / "moments.safetensors"
    budget = {"min_draws": rounds * 48, "max_draws": rounds * 48, "batch_size": 48}
    kept, _ = measured(statistics, 4, Budget(**budget))
    recorder = SummingRecorder(DCT(), statistics, 4)
    for i in range(of):
        shard = Budget(**budget, shard=(i, of))
        estimate(network(), pictures(), KNOTS, shard, path=path, observers={"residuals": recorder}, progress=False)
    moments = merge_passes(path, {"residuals": recorder})
    merged = SummingRecorder(DCT(), statistics, 4)
    recorded = {name.removeprefix("residuals/"): a for name, a in load_arrays(path, KIND)[0].items() if "/" in name}
    merged.restore(recorded)
    again = merged.arrays()
    assert again.keys() == recorded.keys()
    assert all(np.array_equal(again[name], a) for name, a in recorded.items())
    draws = merged.result(moments.log_snr, moments.order)
    assert isinstance(draws, SummedDraws if of < 5 else ResidualDraws)
    for choice in (PLAIN, CHOICES[-1]):
        np.testing.assert_allclose(choice.fit(draws).y, choice.fit(kept).y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(HeldOut(draws, choice).chain(10), HeldOut(kept, choice).chain(10), rtol=1e-4)


def test_few_draws_are_kept_one_by_one():
    kept, summed = measured({"energy": Energy()}, 16, Budget(min_draws=96, max_draws=96, batch_size=48))
    assert isinstance(summed, ResidualDraws)
    for name in ("knot", "example", "rms", "sizes"):
        np.testing.assert_array_equal(getattr(summed, name), getattr(kept, name))


def test_folds_that_cut_cells_are_refused(brightness):
    with pytest.raises(InputError, match="32 groups of examples: take folds that divide it, not 5"):
        HeldOut(brightness[1], PLAIN, folds=5).chain(10)


def test_statistics_per_pixel_are_refused():
    with pytest.raises(InputError, match="'gradient' is a number per pixel, which only a Recorder"):
        SummingRecorder(DCT(), {"gradient": GradientEnergy()})


@pytest.mark.parametrize("statistics", [{}, {"energy": Energy()}])
def test_a_record_gone_on_with_ends_the_same(statistics):
    rng = np.random.default_rng(0)
    contributions = [
        (knot, rng.integers(0, 100, 20), {"rms": rng.random((20, 70)).astype(np.float16)} | _values(rng, statistics))
        for _ in range(12)
        for knot in (0, 1)
    ]
    whole, first, second = (SummingRecorder(DCT(), statistics, 2) for _ in range(3))
    for i, (knot, examples, contribution) in enumerate(contributions):
        whole.add(knot, examples, contribution)
        (first if i < 15 else second).add(knot, examples, contribution)
        if i == 14:
            second.restore(first.arrays())
    ours, theirs = whole.arrays(), second.arrays()
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("sums.0") for name in ours)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name])


def _values(rng, statistics):
    phi = {f"phi.{name}": rng.normal(size=(20, 1)).astype(np.float32) for name in statistics}
    return phi | {"sizes": np.ones(70, dtype=np.int64)}
